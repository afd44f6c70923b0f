/** Prompts and answers that lie in a database in clear, from before they were sealed: seals them, once, and leaves no trace of the text. */
import type Sqlite from "better-sqlite3";
import { subjectOf } from "../subject.ts";
import { boundTo, type Content, sealed } from "./content.ts";
import { sealFiles } from "./seal-clear-files.ts";

const AT_ONCE = 500;
/** `user_version` of a database in which nothing lies in clear, nor in its free pages: of jobs only, and of files too. */
const SEALED = { jobs: 1, files: 2 } as const;

interface ClearJob {
  seq: number;
  id: string;
  tenant: string;
  request: string;
  text: string;
  said: string | null;
}

/** May be stopped at any time: the next start goes on. */
export function sealClear(sqlite: Sqlite.Database, content: Content): void {
  const version = sqlite.pragma("user_version", { simple: true }) as number;
  if (version >= SEALED.files) return;
  if (version < SEALED.jobs) {
    sealJobs(sqlite, content);
    sealProgress(sqlite, content);
  }
  if (sealFiles(sqlite, content) || version < SEALED.jobs) sqlite.exec("vacuum");
  sqlite.pragma(`user_version = ${SEALED.files}`);
  sqlite.pragma("wal_checkpoint(TRUNCATE)");
}

function sealJobs(sqlite: Sqlite.Database, content: Content): void {
  const page = sqlite.prepare(
    `select seq, id, tenant, request, text, said from jobs where content = 'clear' and seq > ? order by seq limit ${AT_ONCE}`,
  );
  const write = sqlite.prepare("update jobs set request = ?, text = ?, said = ?, seed = ?, subject = ?, content = 'kept' where seq = ?");
  for (let after = 0; ; ) {
    const jobs = page.all(after) as ClearJob[];
    if (jobs.length === 0) return;
    after = jobs.at(-1)?.seq ?? after;
    sqlite.exec("begin immediate");
    for (const { seq, id, tenant, request, text, said } of jobs) {
      const { seed, metadata } = JSON.parse(request) as { seed?: number; metadata?: Record<string, string> };
      const subject = content.subject({ tenant, name: subjectOf(metadata) });
      const [asked, answer] = [sealed(subject.key, request, boundTo(id, "request")), sealed(subject.key, text, boundTo(id, "text"))];
      const beside = said === null ? null : sealed(subject.key, said, boundTo(id, "said"));
      write.run(asked, answer, beside, seed ?? null, subject.id, seq);
    }
    content.committing();
    sqlite.exec("commit");
  }
}

function sealProgress(sqlite: Sqlite.Database, content: Content): void {
  const rows = sqlite.prepare("select job_id, first_event, events from progress where typeof(events) = 'text'").all() as {
    job_id: string;
    first_event: number;
    events: string;
  }[];
  const write = sqlite.prepare("update progress set events = ? where job_id = ? and first_event = ?");
  sqlite.exec("begin immediate");
  for (const { job_id, first_event, events } of rows)
    write.run(sealed(content.keyOf({ job_id }), events, boundTo(job_id, `events ${first_event}`)), job_id, first_event);
  sqlite.exec("commit");
}
