/** Of whom the content of a job is: a person, a case, whatever the client calls so in `metadata.subject`. */

/** Null when the job names none: its content is its tenant's then. */
export function subjectOf(metadata: Readonly<Record<string, string>> = {}): string | null {
  return metadata["subject"] || null;
}
