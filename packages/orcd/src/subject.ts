/** Of whom the content of a job is: a person, a case, whatever the client calls so in `metadata.subject`. */

/** Null when the job names none: its content is its tenant's then. */
export function subjectOf(metadata: Readonly<Record<string, string>> = {}): string | null {
  return metadata["subject"] || null;
}

/** The same of a body that nobody has looked at yet: whatever says a subject is that subject's, whether it will be answered or not. */
export function subjectOfBody(body: unknown): string | null {
  const { metadata } = (body ?? {}) as { metadata?: unknown };
  const { subject } = (metadata ?? {}) as { subject?: unknown };
  return typeof subject === "string" && subject !== "" ? subject : null;
}

/** Of a line of a batch's input, whatever it is. */
export function subjectOfLine(line: string): string | null {
  try {
    return subjectOfBody(((JSON.parse(line) ?? {}) as { body?: unknown }).body);
  } catch {
    return null;
  }
}
