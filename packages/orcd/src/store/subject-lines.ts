/** What stands of one subject in files, uploaded or answered: given out and erased. Called inside a transaction, as `subjects.ts` is. */
import type Sqlite from "better-sqlite3";
import { boundTo, type Content } from "./content.ts";
import { ERASED_ANSWER_BYTES, ERASED_LINE } from "./erased-lines.ts";

/** Up to where of what is kept of a subject something was given out. */
export interface ExportCursor {
  readonly of: "jobs" | "files" | "batches";
  readonly seq: number;
}

/** One line of a file. */
export interface SubjectLine {
  /** Null of what a batch holds that has not ended: what it asks, and what it was answered. */
  readonly file_id: string | null;
  /** Null of what was uploaded. */
  readonly batch_id: string | null;
  /** Its number in the input. */
  readonly line: number;
  readonly text: string;
}

export interface LinesPage {
  readonly subject_id: string;
  readonly after: ExportCursor;
  /** Rows, of which one may have several lines. */
  readonly limit: number;
}

interface AskedLine {
  readonly seq: number;
  readonly id: string;
  readonly batch_id: string;
  readonly line: number;
  readonly request: string;
  readonly output: string | null;
  readonly file_id: string | null;
}

// The conditions of the indexes `file_parts_of_subject` and `batch_lines_of_subject`, word for word: only so are they used.
const OF_SUBJECT = "subject = ? and subject > 'sub_'";

/** Which file has the answer of a batch's line, by how it is named (`Files.made`). */
const FILE_OF_LINE = `select id from files where files.batch_id = batch_lines.batch_id
  and batch_lines.ok = (filename like '%!_output.jsonl' escape '!')`;

export function exportLines(
  sqlite: Sqlite.Database,
  content: Content,
  { subject_id, after, limit }: LinesPage,
): { lines: SubjectLine[]; next: ExportCursor | undefined } {
  const parts =
    after.of === "files"
      ? (sqlite
          .prepare(`select * from file_parts where ${OF_SUBJECT} and seq > ? order by seq limit ?`)
          .all(subject_id, after.seq, limit + 1) as { seq: number; file_id: string; line: number; content: string }[])
      : [];
  const lines = parts.slice(0, limit).flatMap(({ file_id, line, content: column }) => {
    const text = content.text(subject_id, column, boundTo(file_id, `line ${line}`)) ?? "";
    const each = text.replace(/\n$/, "").split("\n");
    return each.map((one, at): SubjectLine => ({ file_id, batch_id: null, line: line + at, text: one }));
  });
  if (parts.length > limit) return { lines, next: { of: "files", seq: parts[limit - 1]?.seq ?? after.seq } };
  const left = limit - parts.length;
  const from = after.of === "batches" ? after.seq : 0;
  const asked = sqlite
    .prepare(
      `select rowid as seq, id, batch_id, line, request, output, (${FILE_OF_LINE}) as file_id from batch_lines
       where ${OF_SUBJECT} and rowid > ? order by rowid limit ?`,
    )
    .all(subject_id, from, left + 1) as AskedLine[];
  for (const { id, batch_id, line, request, output, file_id } of asked.slice(0, left)) {
    const text = (column: string, name: "request" | "output") => content.text(subject_id, column, boundTo(id, name)) ?? "";
    if (request !== "") lines.push({ file_id: null, batch_id, line, text: text(request, "request") });
    if (output !== null) lines.push({ file_id, batch_id, line, text: text(output, "output") });
  }
  return { lines, next: asked.length > left ? { of: "batches", seq: asked[left - 1]?.seq ?? from } : undefined };
}

/** Its lines stay where they were and say nothing; a line that has no answer yet gets none. */
export function eraseLines(sqlite: Sqlite.Database, subject_id: string): { lines: number; file_bytes: number } {
  const count = (query: string) => sqlite.prepare(query).pluck().get(subject_id) as number;
  const files = `(select file_id from file_parts where ${OF_SUBJECT})`;
  const batches = `(select batch_id from batch_lines where ${OF_SUBJECT})`;
  const bytes = () =>
    sqlite
      .prepare(`select coalesce(sum(bytes), 0) from files where id in ${files} or batch_id in ${batches}`)
      .pluck()
      .get(subject_id, subject_id) as number;
  const before = bytes();
  const lines =
    count(`select coalesce(sum(max(lines, 1)), 0) from file_parts where ${OF_SUBJECT}`) +
    count(`select count(*) from batch_lines where ${OF_SUBJECT}`);
  const line_bytes = Buffer.byteLength(ERASED_LINE);
  sqlite.prepare(`update file_parts set content = '', bytes = max(lines, 1) * ${line_bytes} + lines where ${OF_SUBJECT}`).run(subject_id);
  sqlite
    .prepare(
      `update batch_lines set custom_id = '', request = '', output = '', ok = coalesce(ok, 0),
       output_bytes = length(id) + ${ERASED_ANSWER_BYTES} where ${OF_SUBJECT}`,
    )
    .run(subject_id);
  sqlite
    .prepare(`update files set bytes = (select sum(bytes) from file_parts where file_id = files.id) where id in ${files}`)
    .run(subject_id);
  sqlite
    .prepare(
      `update files set bytes = (select coalesce(sum(output_bytes + 1), 0) from batch_lines
       where batch_lines.batch_id = files.batch_id and ok = (filename like '%!_output.jsonl' escape '!')) where batch_id in ${batches}`,
    )
    .run(subject_id);
  return { lines, file_bytes: before - bytes() };
}
