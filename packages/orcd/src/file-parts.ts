/** An uploaded file cut into what lies in the store: lines next to each other of one subject, so that each can be sealed with its key. */
import { subjectOfLine } from "./subject.ts";

export interface FilePart {
  /** The number of its first line, from 1. */
  readonly line: number;
  /** Lines with their ends; 0: the last one, without. */
  readonly lines: number;
  readonly subject: string | null;
  readonly text: string;
}

/** A part grows to so many characters, unless one line has more. */
const PART_CHARS_MAX = 65_536;

export function* filePartsOf(text: string): Generator<FilePart> {
  let [start, first, number] = [0, 1, 1];
  let subject: string | null = null;
  const cut = (end: number): FilePart => ({ line: first, lines: number - first, subject, text: text.slice(start, end) });
  for (let at = 0; at < text.length; number += 1) {
    const end = text.indexOf("\n", at);
    const of_line = subjectOfLine(text.slice(at, end < 0 ? text.length : end));
    if (at > start && (end < 0 || of_line !== subject || end + 1 - start > PART_CHARS_MAX)) {
      yield cut(at);
      [start, first] = [at, number];
    }
    subject = of_line;
    if (end < 0) break;
    at = end + 1;
  }
  if (start < text.length) yield cut(text.length);
}
