/** Prompts and answers in a database that no orchestrator has, read with the content key that lies elsewhere. */
import { DatabaseSync } from "node:sqlite";
import { contentKeyIn } from "../src/content-key.ts";
import { boundTo } from "../src/store/content.ts";
import type { JobTable, ProgressTable } from "../src/store/schema.ts";
import { unseal } from "../src/store/seal.ts";
import { SubjectKeys } from "../src/store/subject-keys.ts";

export interface Kept {
  readonly jobs: JobTable[];
  readonly progress: ProgressTable[];
}

/** `content_key`: its file. What can't be read is empty. */
export function keptIn(database: string, content_key: string): Kept {
  const db = new DatabaseSync(database, { readOnly: true });
  const all = <T>(table: string) => db.prepare(`select * from ${table}`).all() as unknown as T[];
  const keys = new SubjectKeys(contentKeyIn(content_key));
  const text = (subject: string | null | undefined, column: unknown, bound_to: string): string => {
    if (typeof column === "string") return column;
    const key = subject == null ? undefined : keys.get(subject);
    return (key === undefined ? undefined : unseal(key, column as Uint8Array, bound_to))?.toString("utf8") ?? "";
  };
  const jobs = all<JobTable>("jobs order by seq").map((row) => {
    const column = (name: "request" | "text") => text(row.subject, row[name], boundTo(row.id, name));
    return { ...row, request: column("request"), text: column("text") };
  });
  const subjects = new Map(jobs.map(({ id, subject }) => [id, subject]));
  const progress = all<ProgressTable>("progress order by job_id, first_event").map((row) => {
    const { job_id, first_event, events } = row;
    return { ...row, events: text(subjects.get(job_id), events, boundTo(job_id, `events ${first_event}`)) };
  });
  keys.close();
  db.close();
  return { jobs, progress };
}
