/** Files and lines of batches that lie in a database in clear, from before they were sealed: seals them, once (`seal-clear.ts`). */
import type Sqlite from "better-sqlite3";
import { filePartsOf } from "../file-parts.ts";
import { subjectOfBody } from "../subject.ts";
import { boundTo, type Content, type Subject, sealed } from "./content.ts";

const AT_ONCE = 500;

/** Whether there was any. */
export function sealFiles(sqlite: Sqlite.Database, content: Content): boolean {
  const next = sqlite.prepare("select id, tenant, content from files where content is not null limit 1");
  const insert = sqlite.prepare("insert into file_parts (file_id, line, lines, bytes, content, subject) values (?, ?, ?, ?, ?, ?)");
  const done = sqlite.prepare("update files set content = null where id = ?");
  let found = false;
  for (;;) {
    const file = next.get() as { id: string; tenant: string; content: string } | undefined;
    if (file === undefined) return sealLines(sqlite, content) || found;
    found = true;
    sqlite.exec("begin immediate");
    for (const { line, lines, subject: name, text } of filePartsOf(file.content)) {
      const { id, key } = content.subject({ tenant: file.tenant, name });
      insert.run(file.id, line, lines, Buffer.byteLength(text), sealed(key, text, boundTo(file.id, `line ${line}`)), id);
    }
    done.run(file.id);
    content.committing();
    sqlite.exec("commit");
  }
}

interface ClearLine {
  id: string;
  line: number;
  custom_id: string;
  request: string;
  output: string | null;
  tenant: string;
  input_file_id: string;
}

function sealLines(sqlite: Sqlite.Database, content: Content): boolean {
  const page = sqlite.prepare(
    `select l.id, line, custom_id, request, output, tenant, input_file_id from batch_lines l join batches b on b.id = batch_id
     where l.subject is null limit ${AT_ONCE}`,
  );
  const write = sqlite.prepare("update batch_lines set custom_id = ?, request = ?, output = ?, output_bytes = ?, subject = ? where id = ?");
  const ofPart = sqlite.prepare("select subject from file_parts where file_id = ? and line <= ? order by line desc limit 1").pluck();
  /** What was asked is gone once its batch has ended; its file may still say whose it was. */
  const subjectOf = ({ tenant, request, input_file_id, line }: ClearLine): Subject => {
    if (request !== "") return content.subject({ tenant, name: subjectOfBody(JSON.parse(request)) });
    const id = ofPart.get(input_file_id, line) as string | undefined;
    const key = id === undefined ? undefined : content.key(id);
    return id === undefined || key === undefined ? content.subject({ tenant, name: null }) : { id, key };
  };
  for (let found = false; ; found = true) {
    const lines = page.all() as ClearLine[];
    if (lines.length === 0) return found;
    sqlite.exec("begin immediate");
    for (const row of lines) {
      const { id, custom_id, request, output } = row;
      const subject = subjectOf(row);
      const [name, asked] = [
        sealed(subject.key, custom_id, boundTo(id, "custom_id")),
        sealed(subject.key, request, boundTo(id, "request")),
      ];
      const answer = output === null ? null : sealed(subject.key, output, boundTo(id, "output"));
      write.run(name, asked, answer, Buffer.byteLength(output ?? ""), subject.id, id);
    }
    content.committing();
    sqlite.exec("commit");
  }
}
