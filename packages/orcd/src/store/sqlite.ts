/**
 * The store on SQLite: WAL, `synchronous=FULL`. Runs in its own thread (`thread.ts`), so that no fsync ever blocks the loop,
 * and carries out whatever commits have queued as one transaction.
 */
import { mkdirSync } from "node:fs";
import { dirname } from "node:path";
import Sqlite from "better-sqlite3";
import { Kysely, SqliteDialect, type Transaction } from "kysely";
import { Migrator } from "kysely/migration";
import { type AuditEntry, chain, GENESIS } from "./audit-chain.ts";
import type { Change, JobQuery, Recovered } from "./port.ts";
import { type AttemptTable, type Database, type JobTable, migrations } from "./schema.ts";

export class SqliteStore {
  readonly #db: Kysely<Database>;
  #next_job_seq = 1;
  #next_audit_seq = 1;
  #last_hash = GENESIS;

  private constructor(db: Kysely<Database>) {
    this.#db = db;
  }

  static async open(path: string): Promise<SqliteStore> {
    mkdirSync(dirname(path), { recursive: true });
    const sqlite = new Sqlite(path);
    sqlite.pragma("journal_mode = WAL");
    sqlite.pragma("synchronous = FULL");
    // One writer a database: a second orchestrator on the same files must fail, not interleave.
    sqlite.pragma("locking_mode = EXCLUSIVE");
    sqlite.pragma("busy_timeout = 1000");
    const db = new Kysely<Database>({ dialect: new SqliteDialect({ database: sqlite }) });
    const { error } = await new Migrator({ db, provider: migrations }).migrateToLatest();
    if (error !== undefined) throw error;
    const store = new SqliteStore(db);
    await store.#readCounters();
    return store;
  }

  async #readCounters(): Promise<void> {
    const job = await this.#db.selectFrom("jobs").select("seq").orderBy("seq", "desc").limit(1).executeTakeFirst();
    const entry = await this.#db.selectFrom("audit").select(["seq", "hash"]).orderBy("seq", "desc").limit(1).executeTakeFirst();
    this.#next_job_seq = (job?.seq ?? 0) + 1;
    this.#next_audit_seq = (entry?.seq ?? 0) + 1;
    this.#last_hash = entry?.hash ?? GENESIS;
  }

  /** One transaction for all of it: durable together, or not at all. */
  async commit(changes: readonly Change[]): Promise<void> {
    const counters = [this.#next_job_seq, this.#next_audit_seq, this.#last_hash] as const;
    try {
      await this.#db.transaction().execute(async (transaction) => {
        for (const change of changes) await this.#apply(transaction, change);
      });
    } catch (error) {
      [this.#next_job_seq, this.#next_audit_seq, this.#last_hash] = counters;
      throw error;
    }
  }

  async #apply(db: Transaction<Database>, change: Change): Promise<void> {
    if (change.table === "audit") return this.#append(db, change.append);
    if (change.table === "models") {
      await db
        .insertInto("models")
        .values(change.insert)
        .onConflict((conflict) => conflict.column("model").doNothing())
        .execute();
    } else if (change.table === "attempts") {
      if ("insert" in change) await db.insertInto("attempts").values(change.insert).execute();
      else
        await db
          .updateTable("attempts")
          .set(change.update)
          .where("job_id", "=", change.job_id)
          .where("attempt", "=", change.attempt)
          .execute();
    } else if ("insert" in change) {
      await db
        .insertInto("jobs")
        .values({ ...change.insert, seq: this.#next_job_seq })
        .execute();
      this.#next_job_seq += 1;
    } else {
      await db.updateTable("jobs").set(change.update).where("id", "=", change.id).execute();
    }
  }

  async #append(db: Transaction<Database>, entry: AuditEntry): Promise<void> {
    const chained = chain(entry, this.#next_audit_seq, this.#last_hash);
    await db.insertInto("audit").values(chained).execute();
    this.#next_audit_seq += 1;
    this.#last_hash = chained.hash;
  }

  async listJobs({ status, model, limit, before_seq }: JobQuery): Promise<JobTable[]> {
    let query = this.#db.selectFrom("jobs").selectAll().orderBy("seq", "desc").limit(limit);
    if (status !== undefined) query = query.where("status", "=", status);
    if (model !== undefined) query = query.where("model", "=", model);
    if (before_seq !== undefined) query = query.where("seq", "<", before_seq);
    return query.execute();
  }

  async showJob(id: string): Promise<{ job: JobTable; attempts: AttemptTable[] } | undefined> {
    const job = await this.#db.selectFrom("jobs").selectAll().where("id", "=", id).executeTakeFirst();
    if (job === undefined) return undefined;
    const attempts = await this.#db.selectFrom("attempts").selectAll().where("job_id", "=", id).orderBy("attempt").execute();
    return { job, attempts };
  }

  async recover(now_ms: number): Promise<Recovered> {
    const unfinished = ["running", "queued"];
    const jobs = await this.#db.transaction().execute(async (db) => {
      await db.updateTable("attempts").set({ ended_at_ms: now_ms, outcome: "lost" }).where("ended_at_ms", "is", null).execute();
      await db
        .updateTable("jobs")
        .set((column) => ({ lives: column("lives", "+", 1) }))
        .where("status", "in", unfinished)
        .execute();
      return db.selectFrom("jobs").selectAll().where("status", "in", unfinished).orderBy("seq").execute();
    });
    const models = await this.#db.selectFrom("models").select("model").execute();
    const ran = jobs.filter(({ status }) => status === "running");
    return { jobs: [...ran, ...jobs.filter(({ status }) => status === "queued")], models: models.map(({ model }) => model) };
  }

  async close(): Promise<void> {
    await this.#db.destroy();
  }
}
