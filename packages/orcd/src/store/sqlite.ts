/**
 * The store on SQLite: WAL, `synchronous=FULL`. Runs in its own thread (`thread.ts`), so that no fsync ever blocks the loop,
 * and carries out whatever commits have queued as one transaction.
 */
import { createPrivateKey, type KeyObject } from "node:crypto";
import { mkdirSync } from "node:fs";
import { dirname } from "node:path";
import { type AuditEntry, type ChainedEntry, chain, exportLine, GENESIS } from "@rbees/kit/audit-chain";
import { HEAD, headEntry } from "@rbees/kit/audit-head";
import Sqlite from "better-sqlite3";
import { Kysely, SqliteAdapter, SqliteDialect, sql } from "kysely";
import { Migrator } from "kysely/migration";
import { type AuditRetention, expireAudit } from "./audit-retention.ts";
import { SqliteBatches } from "./batch-reads.ts";
import { boundTo, Content, type SubjectName, sealed } from "./content.ts";
import { migrations } from "./migrations.ts";
import type { AuditOrder, Order, Subject, Value } from "./orders.ts";
import type { JobQuery, Recovered, Retention, SubjectPage } from "./port.ts";
import { expireContent } from "./retention.ts";
import {
  type AttemptTable,
  type Database,
  JOB_COLUMNS,
  type JobRow,
  type JobTable,
  type JoinTokenTable,
  type KeyTable,
  type ProgressTable,
  type TenantTable,
  type UsageTable,
  type WorkerCredentialTable,
} from "./schema.ts";
import { sealClear } from "./seal-clear.ts";
import { type Sealing, type Shape, shapeOf } from "./statement.ts";
import type { ContentKey } from "./subject-keys.ts";
import {
  consentsOf,
  destroyKey,
  type ErasedSubject,
  type ExportPage,
  eraseSubject,
  exportSubject,
  finishErasures,
  recordConsent,
  type SubjectAct,
  type SubjectPorts,
} from "./subjects.ts";

/** The keys that the store is opened with. Without the first no head of the audit trail is signed, without the second no job is written or read. */
export interface StoreKeys {
  /** PEM. */
  readonly audit?: string | undefined;
  readonly content?: ContentKey | undefined;
}

type Prepared = Shape & { readonly statement: Sqlite.Statement };

/** SQLite takes changes of its tables in a transaction: a new schema is there as a whole or not at all, and with one sync, not one a table. */
class Adapter extends SqliteAdapter {
  override get supportsTransactionalDdl(): boolean {
    return true;
  }
}

class Dialect extends SqliteDialect {
  override createAdapter(): SqliteAdapter {
    return new Adapter();
  }
}

export class SqliteStore {
  /** For what is not hot: migrations and reads. */
  readonly #db: Kysely<Database>;
  readonly #sqlite: Sqlite.Database;
  readonly batches: SqliteBatches;
  readonly #claim: Sqlite.Database;
  /** Signs heads of the audit trail; without it there are none. */
  readonly #audit_key: KeyObject | undefined;
  readonly #content: Content | undefined;
  readonly #begin: Sqlite.Statement;
  readonly #commit: Sqlite.Statement;
  readonly #rollback: Sqlite.Statement;
  readonly #appendAudit: Sqlite.Statement;
  readonly #prepared = new Map<string, Prepared>();
  #next_job_seq = 1;
  #next_audit_seq = 1;
  #last_hash = GENESIS;
  #last_kind = HEAD;

  private constructor(db: Kysely<Database>, sqlite: Sqlite.Database, claim: Sqlite.Database, keys: StoreKeys) {
    this.#db = db;
    this.#sqlite = sqlite;
    this.#claim = claim;
    this.#audit_key = keys.audit === undefined ? undefined : createPrivateKey(keys.audit);
    this.#content = keys.content === undefined ? undefined : new Content(sqlite, keys.content);
    this.batches = new SqliteBatches(db, this.#content);
    [this.#begin, this.#commit, this.#rollback] = [sqlite.prepare("begin immediate"), sqlite.prepare("commit"), sqlite.prepare("rollback")];
    this.#appendAudit = sqlite.prepare("insert into audit (seq, at_ms, kind, record, previous, hash) values (?, ?, ?, ?, ?, ?)");
  }

  static async open(path: string, keys: StoreKeys = {}): Promise<SqliteStore> {
    // Who asked for what, and when, is no affair of the machine's other users.
    mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
    const claim = claimed(path);
    const sqlite = new Sqlite(path);
    sqlite.pragma("journal_mode = WAL");
    sqlite.pragma("synchronous = FULL");
    sqlite.pragma("busy_timeout = 1000");
    const db = new Kysely<Database>({ dialect: new Dialect({ database: sqlite }) });
    const { error } = await new Migrator({ db, provider: migrations }).migrateToLatest();
    if (error !== undefined) throw error;
    // Of uploads that were broken off.
    sqlite.exec("delete from file_parts where file_id not in (select id from files)");
    const store = new SqliteStore(db, sqlite, claim, keys);
    if (store.#content !== undefined) {
      sealClear(sqlite, store.#content);
      finishErasures(sqlite, store.#content);
    }
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
    this.#together(() => {
      for (const order of orders) {
        if (order.length === 1) this.#audit(order[0]);
        else this.#run(order[0], order[1], order[2]);
      }
    });
  }

  /** All that `work` writes, or nothing. */
  #together<T>(work: () => T): T {
    const counters = [this.#next_job_seq, this.#next_audit_seq, this.#last_hash, this.#last_kind] as const;
    this.#begin.run();
    try {
      const done = work();
      this.#content?.committing();
      this.#commit.run();
      return done;
    } catch (error) {
      if (this.#sqlite.inTransaction) this.#rollback.run();
      this.#content?.rolledBack();
      [this.#next_job_seq, this.#next_audit_seq, this.#last_hash, this.#last_kind] = counters;
      throw error;
    }
  }

  /** The values as they are written: content sealed, for a new row with its subject. */
  #sealed(given: readonly Value[], sealing: Sealing, named: Subject | undefined): unknown[] {
    const content = this.#contentOrThrow();
    const of = sealing.of(given, named);
    const subject = "tenant" in of ? content.subject(of) : undefined;
    const key = "tenant" in of ? subject?.key : content.keyOf(of);
    const values: unknown[] = [...given];
    for (const [index, bindingOf] of sealing.content)
      if (given[index] !== null) values[index] = sealed(key, given[index] as string, bindingOf(given));
    if (subject !== undefined) values.push(subject.id);
    return values;
  }

  #contentOrThrow(): Content {
    if (this.#content === undefined) throw new Error("the store was opened without a content key: it neither writes nor reads jobs");
    return this.#content;
  }

  #audit(order: AuditOrder): void {
    if (!("sign_at_ms" in order)) {
      const { subject, ...entry } = order;
      if (subject === undefined) return this.#note(entry);
      return this.#note({ ...entry, fields: { ...entry.fields, subject_id: this.#contentOrThrow().subject(subject).id } });
    }
    if (this.#audit_key === undefined || this.#last_kind === HEAD) return;
    this.#append(headEntry(order.sign_at_ms, this.#next_audit_seq, this.#last_hash, this.#audit_key));
  }

  #note(entry: AuditEntry): void {
    this.#append(chain(entry, this.#next_audit_seq, this.#last_hash));
  }

  #append({ seq, at_ms, kind, record, previous, hash }: ChainedEntry): void {
    this.#appendAudit.run(seq, at_ms, kind, record, previous, hash);
    this.#next_audit_seq += 1;
    this.#last_hash = hash;
    this.#last_kind = kind;
  }

  /** Each shape is prepared once: building and parsing a statement costs more than carrying it out. */
  #run(shape: string, given: readonly Value[], subject?: Subject): void {
    let prepared = this.#prepared.get(shape);
    if (prepared === undefined) {
      const told = shapeOf(shape);
      prepared = { ...told, statement: this.#sqlite.prepare(told.sql) };
      this.#prepared.set(shape, prepared);
    }
    const { statement, numbered, sealing } = prepared;
    const values = sealing === undefined ? given : this.#sealed(given, sealing, subject);
    if (!numbered) {
      statement.run(values);
      return;
    }
    statement.run(...values, this.#next_job_seq);
    this.#next_job_seq += 1;
  }

  async listJobs({ status, model, tenant, limit, before_seq }: JobQuery): Promise<JobRow[]> {
    let query = this.#db.selectFrom("jobs").select(JOB_COLUMNS).orderBy("seq", "desc").limit(limit);
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
    const found = await this.#db.selectFrom("jobs").selectAll().where("id", "=", id).executeTakeFirst();
    if (found === undefined) return undefined;
    const job = this.#read(found);
    const attempts = await this.#db.selectFrom("attempts").selectAll().where("job_id", "=", id).orderBy("attempt").execute();
    const { attempt, worker_id, started_at_ms, ended_at_ms } = job;
    if (worker_id !== null && started_at_ms !== null && attempts.at(-1)?.attempt !== attempt) {
      const outcome = job.status === "succeeded" ? "done" : null;
      attempts.push({ job_id: id, attempt, worker_id, started_at_ms, ended_at_ms, outcome });
    }
    return { job, attempts };
  }

  /** The row with its content, as far as it can be read. */
  #read(row: JobTable): JobTable {
    if (row.content !== "kept") return row.content === "clear" ? row : { ...row, said: null };
    const content = this.#contentOrThrow();
    const request = content.text(row.subject, row.request, boundTo(row.id, "request"));
    const text = content.text(row.subject, row.text, boundTo(row.id, "text"));
    const said = content.text(row.subject, row.said ?? "", boundTo(row.id, "said"));
    return request === undefined || text === undefined || said === undefined
      ? { ...row, request: "", text: "", said: null, content: "unreadable" }
      : { ...row, request, text, said: said === "" ? null : said };
  }

  #readProgress(row: ProgressTable, subject: string | null): ProgressTable[] {
    const events = this.#contentOrThrow().text(subject, row.events, boundTo(row.job_id, `events ${row.first_event}`));
    return events === undefined ? [] : [{ ...row, events }];
  }

  async exportSubject(page: ExportPage): Promise<SubjectPage | undefined> {
    const found = this.#together(() => exportSubject(this.#subjectPorts(), page));
    return found === undefined ? undefined : { ...found, jobs: found.jobs.map((row) => this.#read(row)) };
  }

  async eraseSubject(act: SubjectAct & { recent_ms: number }): Promise<ErasedSubject | undefined> {
    const ports = this.#subjectPorts();
    const erased = this.#together(() => eraseSubject(ports, act));
    if (erased !== undefined) destroyKey(ports.sqlite, ports.content, erased.subject_id);
    return erased;
  }

  async recordConsent(act: SubjectAct & { purpose: string; given: boolean }): Promise<void> {
    this.#together(() => recordConsent(this.#subjectPorts(), act));
  }

  async listConsents(subject: SubjectName): Promise<Pick<SubjectPage, "subject_id" | "consents"> | undefined> {
    const subject_id = this.#contentOrThrow().idOf(subject);
    return subject_id === undefined ? undefined : { subject_id, consents: consentsOf(this.#sqlite, subject_id) };
  }

  #subjectPorts(): SubjectPorts {
    return { sqlite: this.#sqlite, content: this.#contentOrThrow(), note: (entry) => this.#note(entry) };
  }

  async expireContent(retention: Retention): Promise<boolean> {
    return this.#together(() => expireContent(this.#sqlite, retention, (entry) => this.#note(entry)));
  }

  async expireAudit(retention: AuditRetention): Promise<boolean> {
    return this.#together(() => expireAudit(this.#sqlite, retention, (entry) => this.#note(entry)));
  }

  async lastHead(): Promise<string | undefined> {
    const head = await this.#db.selectFrom("audit").selectAll().where("kind", "=", HEAD).orderBy("seq", "desc").limit(1).executeTakeFirst();
    return head === undefined ? undefined : exportLine(head);
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
    const read = jobs.map((job) => this.#read(job));
    this.#endUnreadable(read, now_ms);
    const subjects = new Map(jobs.map(({ id, subject }) => [id, subject]));
    const left = read.filter(({ content }) => content === "kept");
    const ran = left.filter(({ status }) => status === "running");
    return {
      jobs: [...ran, ...left.filter(({ status }) => status !== "running")],
      progress: progress.flatMap((row) => this.#readProgress(row, subjects.get(row.job_id) ?? null)),
      models: models.map(({ model }) => model),
    };
  }

  /** What was asked can't be read, so nobody can answer it: its subject was erased, or the keys were left elsewhere. */
  #endUnreadable(jobs: readonly JobTable[], now_ms: number): void {
    const unreadable = jobs.filter(({ content }) => content !== "kept");
    if (unreadable.length === 0) return;
    this.#together(() => {
      for (const { id, tenant, correlation_id } of unreadable) {
        const [code, message] = ["GONE", "The key of its prompt is gone, so it can't be run."];
        this.#run("update jobs status,ended_at_ms,error_code,error_message,error_retriable", ["failed", now_ms, code, message, 0, id]);
        this.#run("progress gone", [id]);
        this.#note({ at_ms: now_ms, kind: "job.ended", fields: { job_id: id, correlation_id, tenant, status: "failed", code } });
      }
    });
  }

  async close(): Promise<void> {
    await this.#db.destroy();
    this.#content?.keys.close();
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
