/** Reads of files and batches, on SQLite. */
import { type Kysely, sql } from "kysely";
import type { BatchReads, FileRetention, FileRow, LineCounts, LineQuery, PageQuery } from "./batch-port.ts";
import type { BatchLineTable, BatchTable } from "./batch-schema.ts";
import { boundTo, type Content } from "./content.ts";
import { erasedAnswer, erasedLines } from "./erased-lines.ts";
import type { Database } from "./schema.ts";

const FILE_COLUMNS = ["id", "tenant", "key_id", "filename", "purpose", "bytes", "created_at_ms", "expires_at_ms", "batch_id"] as const;

const EXPIRED_MAX = 500;

export class SqliteBatches implements BatchReads {
  readonly #db: Kysely<Database>;
  readonly #content: Content | undefined;

  /** Without `content` nothing that people wrote can be read. */
  constructor(db: Kysely<Database>, content: Content | undefined) {
    this.#db = db;
    this.#content = content;
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
    const parts = await this.#db.selectFrom("file_parts").selectAll().where("file_id", "=", id).orderBy("line").execute();
    return parts
      .map(({ line, lines, subject, content }) => this.#text(subject, content, boundTo(id, `line ${line}`)) || erasedLines(lines))
      .join("");
  }

  /** Empty when it can't be read any more. */
  #text(subject: string, column: string, bound_to: string): string {
    return this.#content?.text(subject, column, bound_to) ?? "";
  }

  async fileBytes(): Promise<number> {
    const row = await this.#db
      .selectFrom("files")
      .select((of) => of.fn.coalesce(of.fn.sum<number>("bytes"), sql<number>`0`).as("bytes"))
      .executeTakeFirst();
    return row?.bytes ?? 0;
  }

  async expiredFiles({ now_ms, keep_ms, of_tenant }: FileRetention): Promise<FileRow[]> {
    const until = sql<number>`${now_ms} - coalesce((select value from json_each(${JSON.stringify(of_tenant)}) where key = files.tenant), ${keep_ms})`;
    // What was asked is kept as long as a batch has not ended that asks it; what no batch has asked, until its own end.
    const asked = sql<boolean>`batch_id is null and (select max(coalesce(ended_at_ms, 9e15)) from batches where input_file_id = files.id) <= ${until}`;
    const answered = sql<boolean>`batch_id is not null and created_at_ms <= ${until}`;
    return this.#db
      .selectFrom("files")
      .select(FILE_COLUMNS)
      .where((where) => where.or([where("expires_at_ms", "<=", now_ms), asked, answered]))
      .limit(EXPIRED_MAX)
      .execute();
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
    const rows = await query.orderBy("line").limit(limit).execute();
    return rows.map((row) => {
      const { id, subject } = row;
      const text = (column: "custom_id" | "request" | "output") => this.#text(subject, row[column] ?? "", boundTo(id, column));
      const output = row.output === null ? null : text("output") || erasedAnswer(id);
      return { ...row, custom_id: text("custom_id"), request: text("request"), output };
    });
  }

  async countLines(batch_id: string): Promise<LineCounts> {
    // With the line break that ends each.
    const size = sql<number>`output_bytes + 1`;
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
