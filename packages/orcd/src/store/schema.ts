/**
 * The tables, in the subset that SQLite and PostgreSQL share: text ids, integer epoch milliseconds, JSON as text.
 * A new version of the schema is a new migration (`migrations.ts`).
 */
import type { BatchLineTable, BatchTable, FilePartTable, FileTable } from "./batch-schema.ts";

export interface JobTable {
  /** Order of acceptance; the cursor of lists. */
  seq: number;
  id: string;
  tenant: string;
  /** The key with which it was submitted; null when nobody was asked. */
  key_id: string | null;
  /** `generate` or `embed`. */
  kind: string;
  status: string;
  model: string;
  priority: string;
  /** The request as it was accepted, JSON of `SubmitJob`; its seed is the one that was drawn. On disk it is sealed (`seal.ts`). */
  request: string;
  correlation_id: string;
  attempt: number;
  spent: number;
  worker_id: string | null;
  /** How often an orchestrator has started with this job unfinished: event ids rise from life to life. */
  lives: number;
  submitted_at_ms: number;
  started_at_ms: number | null;
  first_token_at_ms: number | null;
  ended_at_ms: number | null;
  stop_reason: string | null;
  tokens_in: number | null;
  tokens_out: number | null;
  tokens_cached: number | null;
  prefill_ms: number | null;
  decode_ms: number | null;
  /** The answer; on disk it is sealed. */
  text: string;
  /** What the answer says beside its text, JSON of `reasoning` and `tool_calls`; null: nothing. On disk it is sealed. */
  said: string | null;
  error_code: string | null;
  error_message: string | null;
  error_retriable: number | null;
  /** Of the model and the engine that computed its answer, if its worker said. */
  model_digest: string | null;
  engine: string | null;
  /** Of its request, which is gone before it. */
  seed: number | null;
  /** Whose content it is, a row of `subjects`; null only of what is in clear. */
  subject: string | null;
  /** A rule says that its content is kept no longer than this after its end; null: none does. */
  content_keep_ms: number | null;
  /** Whether request and text are still there; `clear`: from before content was sealed. */
  content: "clear" | "kept" | "expired" | "erased" | "unreadable";
}

/** A job as lists have it, without its content. */
export type JobRow = Omit<JobTable, "request" | "text" | "said">;

export const JOB_COLUMNS = [
  "seq",
  "id",
  "tenant",
  "key_id",
  "kind",
  "status",
  "model",
  "priority",
  "correlation_id",
  "attempt",
  "spent",
  "worker_id",
  "lives",
  "submitted_at_ms",
  "started_at_ms",
  "first_token_at_ms",
  "ended_at_ms",
  "stop_reason",
  "tokens_in",
  "tokens_out",
  "tokens_cached",
  "prefill_ms",
  "decode_ms",
  "error_code",
  "error_message",
  "error_retriable",
  "model_digest",
  "engine",
  "seed",
  "subject",
  "content_keep_ms",
  "content",
] as const satisfies readonly (keyof JobRow)[];

/** What a new row has to say; the rest is as in a job that has not begun. */
export type NewJob = Pick<
  JobTable,
  "id" | "tenant" | "key_id" | "status" | "model" | "priority" | "request" | "correlation_id" | "lives" | "submitted_at_ms"
> &
  Partial<Omit<JobTable, "seq" | "subject" | "content">>;

/** Whose prompts and answers are sealed with one key. */
export interface SubjectTable {
  id: string;
  tenant: string;
  /** By which it is found (`SubjectKeys.nameHash`); null once it was erased. */
  name_hash: string | null;
  created_at_ms: number;
  erased_at_ms: number | null;
  /** After its erasure is durable; until then a start destroys its key. */
  key_destroyed: number;
}

/**
 * An attempt that ended otherwise than well. The last attempt of a job stands in the job's own row until then, and a job that
 * succeeds has no row here for it: most jobs write none at all.
 */
export interface AttemptTable {
  job_id: string;
  attempt: number;
  worker_id: string;
  started_at_ms: number;
  ended_at_ms: number | null;
  /** `done`, `failed`, `refused`, `lost`, `aborted`; null while it runs. */
  outcome: string | null;
}

export interface ModelTable {
  model: string;
  first_seen_at_ms: number;
}

/** One entry of the audit trail: `record` is canonical JSON, `hash` = SHA-256 of `previous` and `record`. */
export interface AuditTable {
  seq: number;
  at_ms: number;
  kind: string;
  record: string;
  previous: string;
  hash: string;
}

/**
 * What a running job has got so far, some events a row, in order; gone when the job ends. `events` are the lines of JSON that its
 * stream had from event `first_event` on, counted from 1 in each life of the job.
 */
export interface ProgressTable {
  job_id: string;
  first_event: number;
  /** The life in which these events were sent. */
  life: number;
  /** Of the model whose tokens the last of them are, if its worker said. */
  model_digest: string | null;
  events: string;
}

/** An API key, live or not: of its secret only the SHA-256. */
export interface KeyTable {
  id: string;
  name: string;
  /** Joined by commas. */
  roles: string;
  /** Whose it is; null: of no tenant. */
  tenant: string | null;
  /** JSON of the limits that were said of it. */
  limits: string;
  secret_sha256: string;
  created_at_ms: number;
  expires_at_ms: number | null;
  revoked_at_ms: number | null;
  /** The key that it was rotated to. */
  replaced_by: string | null;
}

/** A tenant, live or not. */
export interface TenantTable {
  /** Its name. */
  id: string;
  /** JSON of what was said of it. */
  settings: string;
  created_at_ms: number;
  deleted_at_ms: number | null;
}

/** What the jobs that were submitted on a day and have ended took, of a tenant or with a key. */
export interface UsageTable {
  /** Days since 1970, UTC. */
  day: number;
  level: "tenant" | "key";
  id: string;
  tokens: number;
  jobs: number;
}

/** A join token, used or not: of its secret only the SHA-256. */
export interface JoinTokenTable {
  id: string;
  secret_sha256: string;
  pool: string | null;
  worker_id: string | null;
  address: string | null;
  /** Where its worker stands; null: where it says itself. */
  region: string | null;
  created_at_ms: number;
  expires_at_ms: number;
  used_at_ms: number | null;
  used_by: string | null;
}

/** What a worker that has joined shows from then on; `id` is the worker's, since each has one. */
export interface WorkerCredentialTable {
  id: string;
  secret_sha256: string;
  pool: string | null;
  address: string | null;
  /** Of the token that it joined with. */
  region: string | null;
  joined_at_ms: number;
  ended_at_ms: number | null;
}

/** What a subject consented to, or withdrew; the last of a purpose is what holds. */
export interface ConsentTable {
  seq: number;
  subject: string;
  purpose: string;
  given: number;
  at_ms: number;
}

export interface Database {
  files: FileTable & { seq: number };
  file_parts: FilePartTable & { seq: number; subject: string };
  batches: BatchTable & { seq: number };
  batch_lines: BatchLineTable & { subject: string };
  jobs: JobTable;
  attempts: AttemptTable;
  models: ModelTable;
  progress: ProgressTable;
  audit: AuditTable;
  keys: KeyTable;
  tenants: TenantTable;
  usage: UsageTable;
  subjects: SubjectTable;
  consents: ConsentTable;
  join_tokens: JoinTokenTable;
  worker_credentials: WorkerCredentialTable;
}
