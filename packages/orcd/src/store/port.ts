/** What the orchestrator asks of its store: one `commit` for everything that must be true together, and a few reads. */
import type { AuditEntry } from "@rbees/kit/audit-chain";
import type { AuditRetention } from "./audit-retention.ts";
import type { BatchReads } from "./batch-port.ts";
import type { BatchLineTable, BatchTable, FilePartTable, FileTable } from "./batch-schema.ts";
import type { SubjectName } from "./content.ts";
import type {
  AttemptTable,
  ConsentTable,
  JobRow,
  JobTable,
  JoinTokenTable,
  KeyTable,
  NewJob,
  ProgressTable,
  TenantTable,
  UsageTable,
  WorkerCredentialTable,
} from "./schema.ts";
import type { ExportCursor, SubjectLine } from "./subject-lines.ts";
import type { ErasedSubject, ExportPage, SubjectAct } from "./subjects.ts";

/** One row that changes. All changes of a commit become durable together, in order, or none does. */
export type Change =
  /** `subject`: by whose name its content is, if by any. */
  | { table: "jobs"; insert: NewJob; subject?: string | null }
  | { table: "jobs"; id: string; update: Partial<Omit<JobTable, "seq" | "id" | "request" | "subject" | "content">> }
  /** The running attempt of the job, if there is one, is over; before the change of the job's row that says what follows. */
  | { table: "attempts"; job_id: string; over: { ended_at_ms: number; outcome: string } }
  | { table: "progress"; insert: ProgressTable }
  /** The job has ended. */
  | { table: "progress"; job_id: string; gone: true }
  | { table: "models"; insert: { model: string; first_seen_at_ms: number } }
  | { table: "keys"; insert: KeyTable }
  | { table: "keys"; id: string; update: Partial<Pick<KeyTable, "expires_at_ms" | "revoked_at_ms" | "limits" | "replaced_by">> }
  | { table: "tenants"; insert: TenantTable }
  | { table: "tenants"; id: string; update: Pick<TenantTable, "settings"> | Pick<TenantTable, "deleted_at_ms"> }
  | { table: "join_tokens"; insert: JoinTokenTable }
  | { table: "join_tokens"; id: string; update: Pick<JoinTokenTable, "used_at_ms" | "used_by"> }
  | { table: "worker_credentials"; insert: WorkerCredentialTable }
  | { table: "worker_credentials"; id: string; update: Partial<Omit<WorkerCredentialTable, "id">> }
  | { table: "files"; insert: FileTable }
  | { table: "files"; id: string; gone: true }
  | { table: "file_parts"; insert: FilePartTable; subject: SubjectName }
  | { table: "file_parts"; file_id: string; gone: true }
  | { table: "batches"; insert: BatchTable }
  | { table: "batches"; id: string; update: Partial<Omit<BatchTable, "id">> }
  /** A line that is there already stays as it is. */
  | { table: "batch_lines"; insert: Pick<BatchLineTable, "id" | "batch_id" | "line" | "custom_id" | "request">; subject: SubjectName }
  /** The first answer of a line stays. An empty output: its subject is erased. */
  | { table: "batch_lines"; id: string; answer: { output: string; ok: 0 | 1 } }
  /** `requests`: what was asked is not needed any more; `answers`, `errors`: these lines go. */
  | { table: "batch_lines"; batch_id: string; gone: "requests" | "answers" | "errors" }
  /** One more job of that day has ended. */
  | { table: "usage"; add: Omit<UsageTable, "jobs"> }
  /** With `subject` the entry says its `subject_id`, which tells nobody its name. */
  | { table: "audit"; append: AuditEntry; subject?: SubjectName }
  /** Signs the trail as it is here, unless nothing was added since that was last done. */
  | { table: "audit"; sign: { at_ms: number } };

export interface JobQuery {
  status?: string | undefined;
  model?: string | undefined;
  tenant?: string | undefined;
  limit: number;
  before_seq?: number | undefined;
}

/** What survives a restart. */
export interface Recovered {
  /** Jobs that had not ended, those that ran first, each in order of acceptance; their `lives` already count this start. */
  jobs: JobTable[];
  /** What those that ran had got, job by job, each in order. */
  progress: ProgressTable[];
  models: string[];
}

/** What is kept for how long after its job's end. */
export interface Retention {
  readonly now_ms: number;
  readonly keep_ms: number;
  /** Tenants of which another time was said. */
  readonly of_tenant: Readonly<Record<string, number>>;
}

/** Some of what is kept of a subject. */
export interface SubjectPage {
  readonly subject_id: string;
  readonly jobs: JobTable[];
  readonly lines: SubjectLine[];
  /** Where the next page begins; undefined when this was the last. */
  readonly next: ExportCursor | undefined;
  readonly consents: ConsentTable[];
}

export interface Store extends BatchReads {
  /** Resolves when the changes are on disk (fsync). Commits are carried out in the order of the calls. */
  commit(changes: readonly Change[]): Promise<void>;
  listJobs(query: JobQuery): Promise<JobRow[]>;
  /** The job and all of its attempts, oldest first, the present or last one among them. */
  showJob(id: string): Promise<{ job: JobTable; attempts: AttemptTable[] } | undefined>;
  /** All that were ever made, oldest first. */
  listKeys(): Promise<KeyTable[]>;
  /** All that were ever made. */
  listTenants(): Promise<TenantTable[]>;
  usageOf(day: number): Promise<UsageTable[]>;
  /** Those that were made after that time. */
  listJoinTokens(after_ms: number): Promise<JoinTokenTable[]>;
  /** Of every worker that ever joined. */
  listWorkerCredentials(): Promise<WorkerCredentialTable[]>;
  /** Called once at start: the attempts that ran are over (their connections died with the last process). */
  recover(now_ms: number): Promise<Recovered>;
  /** A page of what is kept of the subject, and an entry that says so; undefined when nothing is. */
  exportSubject(page: ExportPage): Promise<SubjectPage | undefined>;
  /** What is kept of it can't be read any more, in no copy of the database; undefined when nothing is. */
  eraseSubject(act: SubjectAct & { recent_ms: number }): Promise<ErasedSubject | undefined>;
  recordConsent(act: SubjectAct & { purpose: string; given: boolean }): Promise<void>;
  listConsents(subject: SubjectName): Promise<Pick<SubjectPage, "subject_id" | "consents"> | undefined>;
  /** Takes away prompts and answers whose time is over, some of them; true when there may be more. */
  expireContent(retention: Retention): Promise<boolean>;
  /** Takes away entries of the audit trail whose time is over, whole signed segments; true when there may be more. */
  expireAudit(retention: AuditRetention): Promise<boolean>;
  /** The last signed head, as a line of an export. */
  lastHead(): Promise<string | undefined>;
  close(): Promise<void>;
}
