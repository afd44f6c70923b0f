/**
 * The store on SQLite: WAL, `synchronous=FULL`. Runs in its own thread (`thread.ts`), so that no fsync ever blocks the loop,
 * and carries out whatever commits have queued as one transaction.
 */
import { createPrivateKey, type KeyObject } from "node:crypto";
import { mkdirSync } from "node:fs";
import { dirname } from "node:path";
import { type AuditEntry, type ChainedEntry, chain, GENESIS } from "@rbees/kit/audit-chain";
import { HEAD, headEntry } from "@rbees/kit/audit-head";
import Sqlite from "better-sqlite3";
import { Kysely, SqliteDialect, sql } from "kysely";
import { Migrator } from "kysely/migration";
import { SqliteBatches } from "./batch-reads.ts";
import type { JobQuery, Recovered } from "./port.ts";
import {
  type AttemptTable,
  type Database,
  type JobTable,
  type JoinTokenTable,
  type KeyTable,
  migrations,
  type TenantTable,
  type UsageTable,
  type WorkerCredentialTable,
} from "./schema.ts";
import { type Order, sqlOf } from "./statement.ts";

export class SqliteStore {
  /** For what is not hot: migrations and reads. */
  readonly #db: Kysely<Database>;
  readonly #sqlite: Sqlite.Database;
  readonly batches: SqliteBatches;
  readonly #claim: Sqlite.Database;
  /** Signs heads of the audit trail; without it there are none. */
  readonly #audit_key: KeyObject | undefined;
  readonly #begin: Sqlite.Statement;
  readonly #commit: Sqlite.Statement;
  readonly #rollback: Sqlite.Statement;
  readonly #appendAudit: Sqlite.Statement;
  readonly #prepared = new Map<string, Sqlite.Statement>();
  #next_job_seq = 1;
  #next_audit_seq = 1;
  #last_hash = GENESIS;
  #last_kind = HEAD;

  private constructor(db: Kysely<Database>, sqlite: Sqlite.Database, claim: Sqlite.Database, audit_key: string | undefined) {
    this.#db = db;
    this.#sqlite = sqlite;
    this.batches = new SqliteBatches(db);
    this.#claim = claim;
    this.#audit_key = audit_key === undefined ? undefined : createPrivateKey(audit_key);
    [this.#begin, this.#commit, this.#rollback] = [sqlite.prepare("begin immediate"), sqlite.prepare("commit"), sqlite.prepare("rollback")];
    this.#appendAudit = sqlite.prepare("insert into audit (seq, at_ms, kind, record, previous, hash) values (?, ?, ?, ?, ?, ?)");
  }

  static async open(path: string, audit_key?: string): Promise<SqliteStore> {
    mkdirSync(dirname(path), { recursive: true });
    const claim = claimed(path);
    const sqlite = new Sqlite(path);
    sqlite.pragma("journal_mode = WAL");
    sqlite.pragma("synchronous = FULL");
    sqlite.pragma("busy_timeout = 1000");
    const db = new Kysely<Database>({ dialect: new SqliteDialect({ database: sqlite }) });
    const { error } = await new Migrator({ db, provider: migrations }).migrateToLatest();
    if (error !== undefined) throw error;
    const store = new SqliteStore(db, sqlite, claim, audit_key);
    await store.#readCounters();
    return store;
  }

  async #readCounters(): Promise<void> {
    const job = await this.#db.selectFrom("jobs").select("seq").orderBy("seq", "desc").limit(1).executeTakeFirst();
    const entry = await this.#db.selectFrom("audit").select(["seq", "hash", "kind"]).orderBy("seq", "desc").limit(1).executeTakeFirst();
    this.#next_job_seq = (job?.seq ?? 0) + 1;
    this.#next_audit_seq = (entry?.seq ?? 0) + 1;
    this.#last_hash = entry?.hash ?? GENESIS;
    this.#last_kind = entry?.kind ?? HEAD;
  }

  /** One transaction for all of it: durable together, or not at all. */
  async commit(orders: readonly Order[]): Promise<void> {
    const counters = [this.#next_job_seq, this.#next_audit_seq, this.#last_hash, this.#last_kind] as const;
    this.#begin.run();
    try {
      for (const order of orders) {
        if (order.length === 1) this.#audit(order[0]);
        else this.#run(order[0], order[1]);
      }
      this.#commit.run();
    } catch (error) {
      if (this.#sqlite.inTransaction) this.#rollback.run();
      [this.#next_job_seq, this.#next_audit_seq, this.#last_hash, this.#last_kind] = counters;
      throw error;
    }
  }

  #audit(order: AuditEntry | { sign_at_ms: number }): void {
    if (!("sign_at_ms" in order)) return this.#append(chain(order, this.#next_audit_seq, this.#last_hash));
    if (this.#audit_key === undefined || this.#last_kind === HEAD) return;
    this.#append(headEntry(order.sign_at_ms, this.#next_audit_seq, this.#last_hash, this.#audit_key));
  }

  #append({ seq, at_ms, kind, record, previous, hash }: ChainedEntry): void {
    this.#appendAudit.run(seq, at_ms, kind, record, previous, hash);
    this.#next_audit_seq += 1;
    this.#last_hash = hash;
    this.#last_kind = kind;
  }

  /** Each shape is prepared once: building and parsing a statement costs more than carrying it out. */
  #run(shape: string, values: readonly unknown[]): void {
    let statement = this.#prepared.get(shape);
    if (statement === undefined) {
      statement = this.#sqlite.prepare(sqlOf(shape));
      this.#prepared.set(shape, statement);
    }
    if (!shape.startsWith("insert jobs ")) {
      statement.run(values);
      return;
    }
    statement.run(values, this.#next_job_seq);
    this.#next_job_seq += 1;
  }

  async listJobs({ status, model, tenant, limit, before_seq }: JobQuery): Promise<JobTable[]> {
    let query = this.#db.selectFrom("jobs").selectAll().orderBy("seq", "desc").limit(limit);
    if (status !== undefined) query = query.where("status", "=", status);
    // The conditions of the partial indexes, word for word: only so are they used. Of `succeeded` there is enough anywhere.
    if (status === "queued" || status === "running") query = query.where("ended_at_ms", "is", null);
    if (status === "failed" || status === "cancelled") query = query.where("error_code", "is not", null);
    if (model !== undefined) query = query.where("model", "=", model);
    if (tenant !== undefined) query = query.where("tenant", "=", tenant);
    if (tenant !== undefined && tenant !== "default") query = query.where(sql<boolean>`tenant <> 'default'`);
    if (before_seq !== undefined) query = query.where("seq", "<", before_seq);
    return query.execute();
  }

  async showJob(id: string): Promise<{ job: JobTable; attempts: AttemptTable[] } | undefined> {
    const job = await this.#db.selectFrom("jobs").selectAll().where("id", "=", id).executeTakeFirst();
    if (job === undefined) return undefined;
    const attempts = await this.#db.selectFrom("attempts").selectAll().where("job_id", "=", id).orderBy("attempt").execute();
    const { attempt, worker_id, started_at_ms, ended_at_ms } = job;
    if (worker_id !== null && started_at_ms !== null && attempts.at(-1)?.attempt !== attempt) {
      const outcome = job.status === "succeeded" ? "done" : null;
      attempts.push({ job_id: id, attempt, worker_id, started_at_ms, ended_at_ms, outcome });
    }
    return { job, attempts };
  }

  async listKeys(): Promise<KeyTable[]> {
    return this.#db.selectFrom("keys").selectAll().orderBy("created_at_ms").orderBy("id").execute();
  }

  async listTenants(): Promise<TenantTable[]> {
    return this.#db.selectFrom("tenants").selectAll().execute();
  }

  async listJoinTokens(after_ms: number): Promise<JoinTokenTable[]> {
    return this.#db.selectFrom("join_tokens").selectAll().where("created_at_ms", ">", after_ms).execute();
  }

  async listWorkerCredentials(): Promise<WorkerCredentialTable[]> {
    return this.#db.selectFrom("worker_credentials").selectAll().execute();
  }

  async usageOf(day: number): Promise<UsageTable[]> {
    return this.#db.selectFrom("usage").selectAll().where("day", "=", day).execute();
  }

  async recover(now_ms: number): Promise<Recovered> {
    const { jobs, progress, models } = await this.#db.transaction().execute(async (db) => {
      const unfinished = () => db.selectFrom("jobs").where("ended_at_ms", "is", null);
      for (const { id } of await unfinished().select("id").where("status", "=", "running").execute()) {
        this.#run("attempts", [now_ms, "lost", id]);
      }
      await db
        .updateTable("jobs")
        .set((column) => ({ lives: column("lives", "+", 1) }))
        .where("ended_at_ms", "is", null)
        .execute();
      return {
        jobs: await unfinished().selectAll().orderBy("seq").execute(),
        progress: await db.selectFrom("progress").selectAll().orderBy("job_id").orderBy("first_event").execute(),
        models: await db.selectFrom("models").select("model").execute(),
      };
    });
    const ran = jobs.filter(({ status }) => status === "running");
    return { jobs: [...ran, ...jobs.filter(({ status }) => status !== "running")], progress, models: models.map(({ model }) => model) };
  }

  async close(): Promise<void> {
    await this.#db.destroy();
    this.#claim.close();
  }
}

/**
 * One writer a database: a second orchestrator on the same files must fail, not interleave. The lock is on a file beside it and is
 * gone with the process; the database itself can be read meanwhile (`rbees audit verify`).
 */
function claimed(path: string): Sqlite.Database {
  const claim = new Sqlite(`${path}-claim`, { timeout: 1000 });
  claim.exec("begin exclusive");
  return claim;
}
