/** What stands in a file where a line was, once its subject is erased: as many lines as before, and none of them says anything of it. */

const ERASED = { code: "subject_erased", message: "This line is gone: its subject was erased, or its key is not here." };

/** In place of a line that was uploaded, without its line break. */
export const ERASED_LINE = JSON.stringify({ error: ERASED });

/** In place of the answer to a line of a batch. */
export function erasedAnswer(line_id: string): string {
  return JSON.stringify({ id: line_id, custom_id: null, response: null, error: ERASED });
}

/** Its length, but for the id. */
export const ERASED_ANSWER_BYTES = Buffer.byteLength(erasedAnswer(""));

/** `lines` as of a part of a file (`FilePartTable`). */
export function erasedLines(lines: number): string {
  return lines === 0 ? ERASED_LINE : `${ERASED_LINE}\n`.repeat(lines);
}
