/** How the tables came to be what `schema.ts` says. A new version of the schema is a new migration at the end of the list; none is ever edited. */
import { type Kysely, sql } from "kysely";
import type { Migration, MigrationProvider } from "kysely/migration";
import { batches, fileKeys, sealedFiles } from "./batch-schema.ts";

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

/**
 * A job that goes well touches fewer pages: rows lie in the order of their numbers (in SQLite an "integer primary key" is the row's
 * own number, so no further index is kept), the indexes are partial, so that such a job leaves nothing in them, and what a new
 * row does not say is a default.
 */
const fewerPages: Migration = {
  async up(db: Kysely<never>) {
    await sql`create table jobs_2 (
      seq integer primary key, id text not null unique, status text not null, model text not null, priority text not null,
      request text not null, correlation_id text not null, attempt integer not null default 0, spent integer not null default 0,
      worker_id text, lives integer not null, submitted_at_ms bigint not null, started_at_ms bigint, first_token_at_ms bigint,
      ended_at_ms bigint, stop_reason text, tokens_in integer, tokens_out integer, tokens_cached integer,
      prefill_ms double precision, decode_ms double precision, text text not null default '',
      error_code text, error_message text, error_retriable integer)`.execute(db);
    await sql`insert into jobs_2 select seq, id, status, model, priority, request, correlation_id, attempt, spent, worker_id, lives,
      submitted_at_ms, started_at_ms, first_token_at_ms, ended_at_ms, stop_reason, tokens_in, tokens_out, tokens_cached,
      prefill_ms, decode_ms, text, error_code, error_message, error_retriable from jobs`.execute(db);
    await sql`create table audit_2 (
      seq integer primary key, at_ms bigint not null, kind text not null, record text not null, previous text not null,
      hash text not null)`.execute(db);
    await sql`insert into audit_2 select seq, at_ms, kind, record, previous, hash from audit`.execute(db);
    // The attempt that runs or went well stands in the job's row.
    await sql`delete from attempts where outcome is null or outcome = 'done'`.execute(db);
    for (const table of ["jobs", "audit"]) {
      await db.schema.dropTable(table).execute();
      await db.schema.alterTable(`${table}_2`).renameTo(table).execute();
    }
    // `listJobs` names the same conditions.
    await sql`create index jobs_unfinished on jobs (seq) where ended_at_ms is null`.execute(db);
    await sql`create index jobs_in_error on jobs (status, seq) where error_code is not null`.execute(db);
  },
};

const progress: Migration = {
  async up(db: Kysely<never>) {
    await db.schema
      .createTable("progress")
      .addColumn("job_id", "text", (column) => column.notNull())
      .addColumn("first_event", "integer", (column) => column.notNull())
      .addColumn("life", "integer", (column) => column.notNull())
      .addColumn("model_digest", "text")
      .addColumn("events", "text", (column) => column.notNull())
      .addPrimaryKeyConstraint("progress_key", ["job_id", "first_event"])
      .execute();
  },
};

const keys: Migration = {
  async up(db: Kysely<never>) {
    await db.schema
      .createTable("keys")
      .addColumn("id", "text", (column) => column.primaryKey())
      .addColumn("name", "text", (column) => column.notNull())
      .addColumn("roles", "text", (column) => column.notNull())
      .addColumn("secret_sha256", "text", (column) => column.notNull())
      .addColumn("created_at_ms", "bigint", (column) => column.notNull())
      .addColumn("expires_at_ms", "bigint")
      .addColumn("revoked_at_ms", "bigint")
      .execute();
  },
};

/** Whose keys and jobs are. The index is for those who see one tenant's jobs, and costs nothing where there is only the one. */
const tenants: Migration = {
  async up(db: Kysely<never>) {
    await db.schema
      .createTable("tenants")
      .addColumn("id", "text", (column) => column.primaryKey())
      .addColumn("settings", "text", (column) => column.notNull())
      .addColumn("created_at_ms", "bigint", (column) => column.notNull())
      .addColumn("deleted_at_ms", "bigint")
      .execute();
    await db.schema.alterTable("keys").addColumn("tenant", "text").execute();
    await db.schema
      .alterTable("jobs")
      .addColumn("tenant", "text", (column) => column.notNull().defaultTo("default"))
      .execute();
    await db.schema.alterTable("jobs").addColumn("key_id", "text").execute();
    // `listJobs` names the same condition.
    await sql`create index jobs_of_tenant on jobs (tenant, seq) where tenant <> 'default'`.execute(db);
  },
};

const workerCredentials: Migration = {
  async up(db: Kysely<never>) {
    await db.schema
      .createTable("join_tokens")
      .addColumn("id", "text", (column) => column.primaryKey())
      .addColumn("secret_sha256", "text", (column) => column.notNull())
      .addColumn("pool", "text")
      .addColumn("worker_id", "text")
      .addColumn("address", "text")
      .addColumn("created_at_ms", "bigint", (column) => column.notNull())
      .addColumn("expires_at_ms", "bigint", (column) => column.notNull())
      .addColumn("used_at_ms", "bigint")
      .addColumn("used_by", "text")
      .execute();
    await db.schema
      .createTable("worker_credentials")
      .addColumn("id", "text", (column) => column.primaryKey())
      .addColumn("secret_sha256", "text", (column) => column.notNull())
      .addColumn("pool", "text")
      .addColumn("address", "text")
      .addColumn("joined_at_ms", "bigint", (column) => column.notNull())
      .addColumn("ended_at_ms", "bigint")
      .execute();
  },
};

const limits: Migration = {
  async up(db: Kysely<never>) {
    await db.schema
      .alterTable("keys")
      .addColumn("limits", "text", (column) => column.notNull().defaultTo("{}"))
      .execute();
    await db.schema
      .createTable("usage")
      .addColumn("day", "integer", (column) => column.notNull())
      .addColumn("level", "text", (column) => column.notNull())
      .addColumn("id", "text", (column) => column.notNull())
      .addColumn("tokens", "bigint", (column) => column.notNull())
      .addColumn("jobs", "bigint", (column) => column.notNull())
      .addPrimaryKeyConstraint("usage_key", ["day", "level", "id"])
      .execute();
  },
};

/** What a job asks for. */
const kinds: Migration = {
  async up(db: Kysely<never>) {
    await db.schema
      .alterTable("jobs")
      .addColumn("kind", "text", (column) => column.notNull().defaultTo("generate"))
      .execute();
  },
};

const said: Migration = {
  async up(db: Kysely<never>) {
    await db.schema.alterTable("jobs").addColumn("said", "text").execute();
  },
};

/** Prompts and answers are sealed. What lies there in clear is sealed when the store is opened with its content key (`seal-clear.ts`). */
const content: Migration = {
  async up(db: Kysely<never>) {
    await db.schema
      .createTable("subjects")
      .addColumn("id", "text", (column) => column.primaryKey())
      .addColumn("tenant", "text", (column) => column.notNull())
      .addColumn("name_hash", "text")
      .addColumn("created_at_ms", "bigint", (column) => column.notNull())
      .addColumn("erased_at_ms", "bigint")
      .addColumn("key_destroyed", "integer", (column) => column.notNull().defaultTo(0))
      .execute();
    await sql`create index subjects_to_destroy on subjects (id) where erased_at_ms is not null and key_destroyed = 0`.execute(db);
    await sql`create unique index subjects_by_name on subjects (tenant, name_hash) where name_hash is not null`.execute(db);
    await db.schema.alterTable("jobs").addColumn("seed", "bigint").execute();
    await db.schema.alterTable("jobs").addColumn("subject", "text").execute();
    await db.schema
      .alterTable("jobs")
      .addColumn("content", "text", (column) => column.notNull().defaultTo("clear"))
      .execute();
    // `retention.ts` and `erasure.ts` name the same conditions.
    await sql`create index jobs_with_content on jobs (tenant, ended_at_ms) where content = 'kept' and ended_at_ms is not null`.execute(db);
    await sql`create index jobs_of_subject on jobs (subject, seq) where subject > 'sub_'`.execute(db);
  },
};

const consents: Migration = {
  async up(db: Kysely<never>) {
    await sql`create table consents (seq integer primary key, subject text not null, purpose text not null, given integer not null,
      at_ms bigint not null)`.execute(db);
    await db.schema.createIndex("consents_of_subject").on("consents").columns(["subject", "seq"]).execute();
  },
};

/** With what an answer was computed: what a replay needs. */
const builds: Migration = {
  async up(db: Kysely<never>) {
    await db.schema.alterTable("jobs").addColumn("model_digest", "text").execute();
    await db.schema.alterTable("jobs").addColumn("engine", "text").execute();
  },
};

/** Rules may say how long a job's content is kept. The index costs nothing where none does. */
const keptByRule: Migration = {
  async up(db: Kysely<never>) {
    await db.schema.alterTable("jobs").addColumn("content_keep_ms", "bigint").execute();
    // `retention.ts` names the same terms and conditions.
    await sql`create index jobs_kept_by_rule on jobs ((ended_at_ms + content_keep_ms))
      where content = 'kept' and content_keep_ms is not null and ended_at_ms is not null`.execute(db);
  },
};

/** Where a worker stands may be said by whoever invites it. */
const boundRegions: Migration = {
  async up(db: Kysely<never>) {
    for (const table of ["join_tokens", "worker_credentials"]) await db.schema.alterTable(table).addColumn("region", "text").execute();
  },
};

/** A key that is being replaced says by which. */
const replacedKeys: Migration = {
  async up(db: Kysely<never>) {
    await db.schema.alterTable("keys").addColumn("replaced_by", "text").execute();
  },
};

export const migrations: MigrationProvider = {
  async getMigrations() {
    return {
      "0001-first": first,
      "0002-fewer-pages": fewerPages,
      "0003-progress": progress,
      "0004-keys": keys,
      "0005-tenants": tenants,
      "0006-worker-credentials": workerCredentials,
      "0007-limits": limits,
      "0008-kinds": kinds,
      "0009-said": said,
      "0010-batches": batches,
      "0011-content": content,
      "0012-consents": consents,
      "0013-builds": builds,
      "0014-sealed-files": sealedFiles,
      "0015-kept-by-rule": keptByRule,
      "0016-bound-regions": boundRegions,
      "0017-file-keys": fileKeys,
      "0018-replaced-keys": replacedKeys,
    };
  },
};
