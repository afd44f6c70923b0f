/** Reads of files and batches, on SQLite. */
import { type Kysely, sql } from "kysely";
import type { BatchReads, FileRow, LineCounts, LineQuery, PageQuery } from "./batch-port.ts";
import type { BatchLineTable, BatchTable } from "./batch-schema.ts";
import type { Database } from "./schema.ts";

const FILE_COLUMNS = ["id", "tenant", "filename", "purpose", "bytes", "created_at_ms", "expires_at_ms", "batch_id"] as const;

export class SqliteBatches implements BatchReads {
  readonly #db: Kysely<Database>;

  constructor(db: Kysely<Database>) {
    this.#db = db;
  }

  async listFiles({ tenant, purpose, order, after, limit }: PageQuery): Promise<FileRow[]> {
    let query = this.#db.selectFrom("files").select(FILE_COLUMNS).orderBy("seq", order).limit(limit);
    if (tenant !== undefined) query = query.where("tenant", "=", tenant);
    if (purpose !== undefined) query = query.where("purpose", "=", purpose);
    if (after !== undefined) {
      const seq = this.#db.selectFrom("files").select("seq").where("id", "=", after);
      query = query.where("seq", order === "asc" ? ">" : "<", seq);
    }
    return query.execute();
  }

  async showFile(id: string): Promise<FileRow | undefined> {
    return this.#db.selectFrom("files").select(FILE_COLUMNS).where("id", "=", id).executeTakeFirst();
  }

  async fileContent(id: string): Promise<string> {
    const row = await this.#db.selectFrom("files").select("content").where("id", "=", id).executeTakeFirst();
    return row?.content ?? "";
  }

  async fileBytes(): Promise<number> {
    const row = await this.#db
      .selectFrom("files")
      .select((of) => of.fn.coalesce(of.fn.sum<number>("bytes"), sql<number>`0`).as("bytes"))
      .executeTakeFirst();
    return row?.bytes ?? 0;
  }

  async expiredFiles(now_ms: number): Promise<FileRow[]> {
    return this.#db.selectFrom("files").select(FILE_COLUMNS).where("expires_at_ms", "<=", now_ms).execute();
  }

  async listBatches({ tenant, order, after, limit }: PageQuery): Promise<BatchTable[]> {
    let query = this.#db.selectFrom("batches").selectAll().orderBy("seq", order).limit(limit);
    if (tenant !== undefined) query = query.where("tenant", "=", tenant);
    if (after !== undefined) query = query.where("seq", "<", this.#db.selectFrom("batches").select("seq").where("id", "=", after));
    return query.execute();
  }

  async showBatch(id: string): Promise<BatchTable | undefined> {
    return this.#db.selectFrom("batches").selectAll().where("id", "=", id).executeTakeFirst();
  }

  async liveBatches(): Promise<BatchTable[]> {
    return this.#db.selectFrom("batches").selectAll().where("ended_at_ms", "is", null).orderBy("seq").execute();
  }

  async batchLines({ batch_id, which, after, limit }: LineQuery): Promise<BatchLineTable[]> {
    let query = this.#db.selectFrom("batch_lines").selectAll().where("batch_id", "=", batch_id).where("line", ">", after);
    if (which === "waiting") query = query.where("output", "is", null);
    else query = which === "answers" ? query.where("ok", "=", 1) : query.where("ok", "=", 0);
    return query.orderBy("line").limit(limit).execute();
  }

  async countLines(batch_id: string): Promise<LineCounts> {
    // In bytes, and with the line break that ends each.
    const size = sql<number>`length(cast(output as blob)) + 1`;
    const row = await this.#db
      .selectFrom("batch_lines")
      .where("batch_id", "=", batch_id)
      .select([
        sql<number>`count(*)`.as("total"),
        sql<number>`count(*) filter (where ok = 1)`.as("completed"),
        sql<number>`count(*) filter (where ok = 0)`.as("failed"),
        sql<number>`coalesce(sum(${size}) filter (where ok = 1), 0)`.as("output_bytes"),
        sql<number>`coalesce(sum(${size}) filter (where ok = 0), 0)`.as("error_bytes"),
      ])
      .executeTakeFirst();
    return row ?? { total: 0, completed: 0, failed: 0, output_bytes: 0, error_bytes: 0 };
  }
}
