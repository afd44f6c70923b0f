/**
 * The tables, in the subset that SQLite and PostgreSQL share: text ids, integer epoch milliseconds, JSON as text.
 * A new version of the schema is a new migration at the end of the list; none is ever edited.
 */
import type { Kysely } from "kysely";
import type { Migration, MigrationProvider } from "kysely/migration";

export interface JobTable {
  /** Order of acceptance; the cursor of lists. */
  seq: number;
  id: string;
  status: string;
  model: string;
  priority: string;
  /** The request as it was accepted, JSON of `SubmitJob`; its seed is the one that was drawn. */
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
  text: string;
  error_code: string | null;
  error_message: string | null;
  error_retriable: number | null;
}

/** What a row says of a job that has not begun. */
export const NOT_BEGUN = {
  attempt: 0,
  spent: 0,
  worker_id: null,
  started_at_ms: null,
  first_token_at_ms: null,
  ended_at_ms: null,
  stop_reason: null,
  tokens_in: null,
  tokens_out: null,
  tokens_cached: null,
  prefill_ms: null,
  decode_ms: null,
  text: "",
  error_code: null,
  error_message: null,
  error_retriable: null,
} as const satisfies Partial<JobTable>;

export interface AttemptTable {
  job_id: string;
  attempt: number;
  worker_id: string;
  started_at_ms: number;
  ended_at_ms: number | null;
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

export interface Database {
  jobs: JobTable;
  attempts: AttemptTable;
  models: ModelTable;
  audit: AuditTable;
}

const first: Migration = {
  async up(db: Kysely<never>) {
    await db.schema
      .createTable("jobs")
      .addColumn("id", "text", (column) => column.primaryKey())
      .addColumn("seq", "bigint", (column) => column.notNull().unique())
      .addColumn("status", "text", (column) => column.notNull())
      .addColumn("model", "text", (column) => column.notNull())
      .addColumn("priority", "text", (column) => column.notNull())
      .addColumn("request", "text", (column) => column.notNull())
      .addColumn("correlation_id", "text", (column) => column.notNull())
      .addColumn("attempt", "integer", (column) => column.notNull())
      .addColumn("spent", "integer", (column) => column.notNull())
      .addColumn("worker_id", "text")
      .addColumn("lives", "integer", (column) => column.notNull())
      .addColumn("submitted_at_ms", "bigint", (column) => column.notNull())
      .addColumn("started_at_ms", "bigint")
      .addColumn("first_token_at_ms", "bigint")
      .addColumn("ended_at_ms", "bigint")
      .addColumn("stop_reason", "text")
      .addColumn("tokens_in", "integer")
      .addColumn("tokens_out", "integer")
      .addColumn("tokens_cached", "integer")
      .addColumn("prefill_ms", "double precision")
      .addColumn("decode_ms", "double precision")
      .addColumn("text", "text", (column) => column.notNull())
      .addColumn("error_code", "text")
      .addColumn("error_message", "text")
      .addColumn("error_retriable", "integer")
      .execute();
    await db.schema.createIndex("jobs_by_status").on("jobs").columns(["status", "seq"]).execute();
    await db.schema
      .createTable("attempts")
      .addColumn("job_id", "text", (column) => column.notNull())
      .addColumn("attempt", "integer", (column) => column.notNull())
      .addColumn("worker_id", "text", (column) => column.notNull())
      .addColumn("started_at_ms", "bigint", (column) => column.notNull())
      .addColumn("ended_at_ms", "bigint")
      .addColumn("outcome", "text")
      .addPrimaryKeyConstraint("attempts_key", ["job_id", "attempt"])
      .execute();
    await db.schema
      .createTable("models")
      .addColumn("model", "text", (column) => column.primaryKey())
      .addColumn("first_seen_at_ms", "bigint", (column) => column.notNull())
      .execute();
    await db.schema
      .createTable("audit")
      .addColumn("seq", "bigint", (column) => column.primaryKey())
      .addColumn("at_ms", "bigint", (column) => column.notNull())
      .addColumn("kind", "text", (column) => column.notNull())
      .addColumn("record", "text", (column) => column.notNull())
      .addColumn("previous", "text", (column) => column.notNull())
      .addColumn("hash", "text", (column) => column.notNull())
      .execute();
  },
};

export const migrations: MigrationProvider = {
  async getMigrations() {
    return { "0001-first": first };
  },
};
