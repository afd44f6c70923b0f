/**
 * What the store does with one subject: gives out everything that is kept of it, erases it, keeps what it consented to. Each of these is
 * called inside a transaction and writes its entry there.
 */
import type { AuditEntry, AuditValue } from "@rbees/kit/audit-chain";
import type Sqlite from "better-sqlite3";
import type { Content, SubjectName } from "./content.ts";
import type { ConsentTable, JobTable } from "./schema.ts";
import { type ExportCursor, eraseLines, exportLines, type SubjectLine } from "./subject-lines.ts";

/** An act on a subject: whose, by whom, when. */
export interface SubjectAct {
  readonly subject: SubjectName;
  readonly who?: string | undefined;
  readonly now_ms: number;
}

export interface ExportPage extends SubjectAct {
  /** Where the page before ended: after this row, of jobs first, then of what stands in files, then of lines of batches. */
  readonly after: ExportCursor;
  readonly limit: number;
}

export interface ErasedSubject {
  readonly subject_id: string;
  readonly jobs: number;
  /** Those of them that had ended since `recent_ms` and may be in memory still. */
  readonly recent: string[];
  /** Of files: uploaded, asked, and answered. */
  readonly lines: number;
  /** So much shorter are files now (or longer, below 0). */
  readonly file_bytes: number;
}

export interface SubjectPorts {
  readonly sqlite: Sqlite.Database;
  readonly content: Content;
  readonly note: (entry: AuditEntry) => void;
}

/** A page of the subject's jobs as they lie there, and of its lines in files; undefined when nothing is kept of it. */
export function exportSubject({ sqlite, content, note }: SubjectPorts, page: ExportPage) {
  const subject_id = content.idOf(page.subject);
  if (subject_id === undefined) return undefined;
  const { after, limit } = page;
  // The condition of the index `jobs_of_subject`, word for word: only so is it used.
  const rows =
    after.of === "jobs"
      ? (sqlite
          .prepare("select * from jobs where subject = ? and subject > 'sub_' and seq > ? order by seq limit ?")
          .all(subject_id, after.seq, limit + 1) as JobTable[])
      : [];
  const jobs = rows.slice(0, limit);
  const last = jobs.at(-1)?.seq ?? after.seq;
  const found: { lines: SubjectLine[]; next: ExportCursor | undefined } =
    rows.length > limit
      ? { lines: [], next: { of: "jobs", seq: last } }
      : exportLines(sqlite, content, {
          subject_id,
          after: after.of === "jobs" ? { of: "files", seq: 0 } : after,
          limit: limit - jobs.length,
        });
  note(entry(page, "subject.exported", subject_id, { jobs: jobs.length, lines: found.lines.length }));
  return { subject_id, jobs, ...found, consents: consentsOf(sqlite, subject_id) };
}

/** What was sealed can't be read from here on; `Content.destroy` follows the transaction. Undefined when nothing is kept of it. */
export function eraseSubject({ sqlite, content, note }: SubjectPorts, act: SubjectAct & { recent_ms: number }): ErasedSubject | undefined {
  const subject_id = content.idOf(act.subject);
  if (subject_id === undefined) return undefined;
  const of_subject = "subject = ? and subject > 'sub_'";
  const recent = sqlite
    .prepare(`select id from jobs where ${of_subject} and (ended_at_ms is null or ended_at_ms >= ?)`)
    .pluck()
    .all(subject_id, act.now_ms - act.recent_ms) as string[];
  sqlite.prepare(`delete from progress where job_id in (select id from jobs where ${of_subject})`).run(subject_id);
  const jobs = sqlite
    .prepare(`update jobs set request = '', text = '', said = null, content = 'erased' where ${of_subject}`)
    .run(subject_id).changes;
  const of_files = eraseLines(sqlite, subject_id);
  sqlite.prepare("delete from consents where subject = ?").run(subject_id);
  sqlite.prepare("update subjects set name_hash = null, erased_at_ms = ? where id = ?").run(act.now_ms, subject_id);
  note(entry(act, "subject.erased", subject_id, { jobs, lines: of_files.lines }));
  return { subject_id, jobs, recent, ...of_files };
}

/** Its id. Makes the subject, if there was none. */
export function recordConsent({ sqlite, content, note }: SubjectPorts, act: SubjectAct & { purpose: string; given: boolean }): string {
  const { id } = content.subject(act.subject);
  const { purpose, given, now_ms } = act;
  sqlite.prepare("insert into consents (subject, purpose, given, at_ms) values (?, ?, ?, ?)").run(id, purpose, Number(given), now_ms);
  note(entry(act, given ? "consent.given" : "consent.withdrawn", id, { purpose }));
  return id;
}

export function consentsOf(sqlite: Sqlite.Database, subject_id: string): ConsentTable[] {
  return sqlite.prepare("select * from consents where subject = ? order by seq").all(subject_id) as ConsentTable[];
}

/** Erasures whose keys were not destroyed yet when the orchestrator ended. */
export function finishErasures(sqlite: Sqlite.Database, content: Content): void {
  const pending = sqlite.prepare("select id from subjects where erased_at_ms is not null and key_destroyed = 0").pluck().all() as string[];
  for (const id of pending) destroyKey(sqlite, content, id);
}

/** After the erasure is durable. */
export function destroyKey(sqlite: Sqlite.Database, content: Content, subject_id: string): void {
  content.destroy(subject_id);
  sqlite.prepare("update subjects set key_destroyed = 1 where id = ?").run(subject_id);
}

function entry({ subject, who, now_ms }: SubjectAct, kind: string, subject_id: string, more: Record<string, AuditValue>): AuditEntry {
  const by = who === undefined ? {} : { who };
  return { at_ms: now_ms, kind, fields: { subject_id, tenant: subject.tenant, ...more, ...by } };
}
