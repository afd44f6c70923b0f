/**
 * The store on SQLite: WAL, `synchronous=FULL`. Runs in its own thread (`thread.ts`), so that no fsync ever blocks the loop,
 * and carries out whatever commits have queued as one transaction.
 */
import { mkdirSync } from "node:fs";
import { dirname } from "node:path";
import Sqlite from "better-sqlite3";
import { Kysely, SqliteDialect } from "kysely";
import { Migrator } from "kysely/migration";
import { chain, GENESIS } from "./audit-chain.ts";
import type { Change, JobQuery, Recovered } from "./port.ts";
import { type AttemptTable, type Database, type JobTable, migrations } from "./schema.ts";

export class SqliteStore {
  /** For what is not hot: migrations and reads. */
  readonly #db: Kysely<Database>;
  readonly #sqlite: Sqlite.Database;
  readonly #begin: Sqlite.Statement;
  readonly #commit: Sqlite.Statement;
  readonly #rollback: Sqlite.Statement;
  readonly #prepared = new Map<string, Sqlite.Statement>();
  #next_job_seq = 1;
  #next_audit_seq = 1;
  #last_hash = GENESIS;

  private constructor(db: Kysely<Database>, sqlite: Sqlite.Database) {
    this.#db = db;
    this.#sqlite = sqlite;
    [this.#begin, this.#commit, this.#rollback] = [sqlite.prepare("begin immediate"), sqlite.prepare("commit"), sqlite.prepare("rollback")];
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
    const store = new SqliteStore(db, sqlite);
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
    this.#begin.run();
    try {
      for (const change of changes) this.#apply(change);
      this.#commit.run();
    } catch (error) {
      if (this.#sqlite.inTransaction) this.#rollback.run();
      [this.#next_job_seq, this.#next_audit_seq, this.#last_hash] = counters;
      throw error;
    }
  }

  #apply(change: Change): void {
    if (change.table === "audit") {
      const chained = chain(change.append, this.#next_audit_seq, this.#last_hash);
      this.#insert("audit", chained);
      this.#next_audit_seq += 1;
      this.#last_hash = chained.hash;
    } else if (change.table === "models") {
      this.#insert("models", change.insert, "on conflict do nothing");
    } else if (change.table === "attempts") {
      if ("insert" in change) this.#insert("attempts", change.insert);
      else this.#update("attempts", change.update, { job_id: change.job_id, attempt: change.attempt });
    } else if ("insert" in change) {
      this.#insert("jobs", { ...change.insert, seq: this.#next_job_seq });
      this.#next_job_seq += 1;
    } else {
      this.#update("jobs", change.update, { id: change.id });
    }
  }

  #insert(table: keyof Database, row: object, conflict: "on conflict do nothing" | "" = ""): void {
    const columns = Object.keys(row);
    this.#run(
      `insert ${table} ${columns}`,
      () => `insert into ${table} (${columns}) values (${columns.map(() => "?")}) ${conflict}`,
      Object.values(row),
    );
  }

  #update(table: keyof Database, row: object, key: object): void {
    const [set, where] = [Object.keys(row), Object.keys(key)];
    const sql = () =>
      `update ${table} set ${set.map((column) => `${column} = ?`)} where ${where.map((column) => `${column} = ?`).join(" and ")}`;
    this.#run(`update ${table} ${set}`, sql, [...Object.values(row), ...Object.values(key)]);
  }

  /** Each shape of change is prepared once: building and parsing the statement costs more than carrying it out. */
  #run(shape: string, sql: () => string, values: readonly unknown[]): void {
    let statement = this.#prepared.get(shape);
    if (statement === undefined) {
      statement = this.#sqlite.prepare(sql());
      this.#prepared.set(shape, statement);
    }
    statement.run(values);
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
