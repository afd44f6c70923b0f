/** What a folder of an orchestrator holds: words in the bytes of its files; prompts and answers in a database that no orchestrator has, read with the content key that lies elsewhere. */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { contentKeyIn } from "../src/content-key.ts";
import { boundTo } from "../src/store/content.ts";
import type { JobTable, ProgressTable } from "../src/store/schema.ts";
import { unseal } from "../src/store/seal.ts";
import { SubjectKeys } from "../src/store/subject-keys.ts";
import { rowsIn } from "./database.ts";

export interface Kept {
  readonly jobs: JobTable[];
  readonly progress: ProgressTable[];
}

/** `content_key`: its file. What can't be read is empty. */
export function keptIn(database: string, content_key: string): Kept {
  const all = <T>(table: string) => rowsIn<T>(database, `select * from ${table}`);
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
  return { jobs, progress };
}

/** Where one of the words stands in any file of the folder, as UTF-8 or base64. */
export function wordsIn(dir: string, ...words: string[]): string[] {
  const looked_for = words.flatMap((word) => [Buffer.from(word), Buffer.from(Buffer.from(word).toString("base64").slice(0, -4))]);
  const files = readdirSync(dir, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  assert.ok(files.length >= 3, "database, log and keys");
  return files.flatMap(({ parentPath, name }) => {
    const bytes = readFileSync(join(parentPath, name));
    return looked_for.filter((word) => bytes.includes(word)).map((word) => `${name}: ${word}`);
  });
}
