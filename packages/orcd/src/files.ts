/** The files of OpenAI's API: uploaded, made by batches, shown, deleted, and gone when their time is over. Owns how many bytes they hold. */
import { hash } from "node:crypto";
import type { FileObject, ListFiles, UploadedFile } from "@rbees/contracts/batch";
import { RbeesError } from "@rbees/contracts/errors";
import type { Caller } from "./caller.ts";
import { type FilePart, filePartsOf } from "./file-parts.ts";
import { mintId } from "./job-id.ts";
import { auditChange } from "./record.ts";
import type { FileRetention, FileRow } from "./store/batch-port.ts";
import type { BatchTable, FileTable } from "./store/batch-schema.ts";
import type { Change, Store } from "./store/port.ts";

export interface FileLimits {
  readonly batch_file_bytes_max: number;
  readonly batch_files_bytes_total_max: number;
  readonly batch_file_keep_ms: number;
  readonly batch_lines_max: number;
}

/** So much of a file is written in one transaction: jobs are written in between. */
const PIECE = { parts: 200, chars: 1_048_576 } as const;
/** So many parts are cut between two turns of the event loop. */
const PARTS_A_TURN = 16;

export class Files {
  readonly #store: Store;
  readonly #limits: FileLimits;
  #bytes: number;
  /** Those that are being deleted. */
  readonly #leaving = new Set<string>();

  private constructor(store: Store, limits: FileLimits, bytes: number) {
    this.#store = store;
    this.#limits = limits;
    this.#bytes = bytes;
  }

  static async open(store: Store, limits: FileLimits): Promise<Files> {
    return new Files(store, limits, await store.fileBytes());
  }

  async upload({ name, bytes }: UploadedFile, keep_s: number | undefined, caller: Caller): Promise<FileObject> {
    const { batch_file_bytes_max, batch_file_keep_ms } = this.#limits;
    if (bytes.length > batch_file_bytes_max) {
      const message = `The file has ${bytes.length} bytes, and ${batch_file_bytes_max} are allowed (batch_file_bytes_max); split it.`;
      throw new RbeesError("PAYLOAD_TOO_LARGE", message, { param: "file" });
    }
    this.checkRoom(bytes.length);
    const now_ms = Date.now();
    const keep_ms = keep_s === undefined ? batch_file_keep_ms : keep_s * 1000;
    const row: FileTable = {
      id: `file-${mintId(now_ms)}`,
      tenant: caller.tenant,
      key_id: caller.key_id,
      filename: name.slice(0, 255) || "batch.jsonl",
      purpose: "batch",
      bytes: bytes.length,
      created_at_ms: now_ms,
      expires_at_ms: keep_ms === 0 ? null : now_ms + keep_ms,
      batch_id: null,
    };
    const parts = await this.#partsOf(textOf(bytes));
    this.checkRoom(row.bytes);
    this.#bytes += row.bytes;
    await this.#write(row, parts);
    const said = { file_id: row.id, tenant: row.tenant, bytes: row.bytes, sha256: hash("sha256", bytes, "hex") };
    await this.#store.commit([{ table: "files", insert: row }, auditChange("file.created", said, { now_ms, who: caller.who })]);
    return fileObject(row);
  }

  async #partsOf(text: string): Promise<FilePart[]> {
    const { batch_lines_max } = this.#limits;
    const parts: FilePart[] = [];
    let named = 0;
    for (const part of filePartsOf(text)) {
      parts.push(part);
      if (part.subject !== null) named += 1;
      if (named > batch_lines_max) {
        const message = `file: more than ${batch_lines_max} requests name a subject, and a batch may have as many (batch_lines_max); split it`;
        throw new RbeesError("PAYLOAD_TOO_LARGE", message, { param: "file" });
      }
      if (parts.length % PARTS_A_TURN === 0) await new Promise((resolve) => setImmediate(resolve));
    }
    return parts;
  }

  /** Its parts; nobody sees them before its row is there, and without that they are gone at the next start. */
  async #write({ id, tenant }: FileTable, parts: readonly FilePart[]): Promise<void> {
    let piece: Change[] = [];
    let chars = 0;
    for (const { line, lines, subject, text } of parts) {
      const insert = { file_id: id, line, lines, bytes: Buffer.byteLength(text), content: text };
      piece.push({ table: "file_parts", insert, subject: { tenant, name: subject } });
      chars += text.length;
      if (piece.length < PIECE.parts && chars < PIECE.chars) continue;
      await this.#store.commit(piece);
      [piece, chars] = [[], 0];
    }
    if (piece.length > 0) await this.#store.commit(piece);
  }

  /** Some of what they said was erased. */
  shrink(bytes: number): void {
    this.#bytes -= bytes;
  }

  /** Refuses where files hold so much already that so many bytes more would be too many. */
  checkRoom(bytes: number): void {
    const { batch_files_bytes_total_max } = this.#limits;
    if (this.#bytes + bytes <= batch_files_bytes_total_max) return;
    const message = `Files hold ${this.#bytes} of ${batch_files_bytes_total_max} bytes (batch_files_bytes_total_max), too many for ${bytes} more: delete some.`;
    throw new RbeesError("QUOTA_EXCEEDED", message);
  }

  /** The file of a batch's answers or errors, as a change to commit with the end of the batch. */
  made(
    batch: Pick<BatchTable, "id" | "tenant" | "key_id">,
    kind: "output" | "error",
    bytes: number,
    now_ms: number,
  ): { id: string; change: Change } {
    const { batch_file_keep_ms } = this.#limits;
    const id = `file-${mintId(now_ms)}`;
    this.#bytes += bytes;
    const insert: FileTable = {
      ...{
        id,
        tenant: batch.tenant,
        key_id: batch.key_id,
        filename: `${batch.id}_${kind}.jsonl`,
        purpose: "batch_output",
        bytes,
        created_at_ms: now_ms,
      },
      ...{ expires_at_ms: batch_file_keep_ms === 0 ? null : now_ms + batch_file_keep_ms, batch_id: batch.id },
    };
    return { id, change: { table: "files", insert } };
  }

  async list({ purpose, limit, order, after }: ListFiles, { tenant, everywhere }: Caller): Promise<FileRow[]> {
    return await this.#store.listFiles({ tenant: everywhere ? undefined : tenant, purpose, order, after, limit: limit + 1 });
  }

  /** The file, if there is one that the caller may see; else the same refusal whether there is one or not. */
  async find(id: string, { tenant, everywhere }: Caller): Promise<FileRow> {
    const row = await this.#store.showFile(id);
    if (row === undefined || !(everywhere || row.tenant === tenant) || (row.expires_at_ms ?? Number.POSITIVE_INFINITY) <= Date.now())
      throw noFile(id);
    return row;
  }

  /** Before its content is given to others than those who made it: no entry, no content. */
  async disclose({ id, tenant, key_id }: FileRow, who: string | undefined): Promise<void> {
    if ((who ?? null) === key_id) return;
    await this.#store.commit([auditChange("content.read", { file_id: id, tenant, what: "file" }, { now_ms: Date.now(), who })]);
  }

  async content(id: string): Promise<string> {
    return await this.#store.fileContent(id);
  }

  async remove(id: string, who: string | undefined): Promise<void> {
    if (!(await this.#remove(id, who))) throw noFile(id);
  }

  /** Once, whoever else does so at the same time: looked up here, for what the caller knows of it may be over. */
  async #remove(id: string, who: string | undefined): Promise<boolean> {
    if (this.#leaving.has(id)) return false;
    this.#leaving.add(id);
    try {
      const row = await this.#store.showFile(id);
      if (row === undefined) return false;
      const now_ms = Date.now();
      this.#bytes -= row.bytes;
      await this.#store.commit([...gone(row), auditChange("file.deleted", { file_id: id, tenant: row.tenant }, { now_ms, who })]);
      return true;
    } finally {
      this.#leaving.delete(id);
    }
  }

  /** Lets go of the files whose time is over. */
  async sweep(kept: Omit<FileRetention, "now_ms">): Promise<void> {
    const expired = () => this.#store.expiredFiles({ now_ms: Date.now(), ...kept });
    for (let rows = await expired(); rows.length > 0; rows = await expired()) {
      for (const { id } of rows) await this.#remove(id, undefined);
    }
  }
}

/** With the lines that are its content, if it is of a batch. */
function gone({ id, batch_id, filename }: FileRow): Change[] {
  const file = { table: "files", id, gone: true } as const;
  if (batch_id === null) return [file, { table: "file_parts", file_id: id, gone: true }];
  return [file, { table: "batch_lines", batch_id, gone: linesOfFile({ filename }) }];
}

/** Which lines of its batch are the content of a file. */
export function linesOfFile({ filename }: Pick<FileRow, "filename">): "answers" | "errors" {
  return filename.endsWith("_output.jsonl") ? "answers" : "errors";
}

function noFile(id: string): RbeesError {
  return new RbeesError("NOT_FOUND", `There is no file ${id.slice(0, 64)}. GET /v1/files lists the files.`);
}

function textOf(bytes: Uint8Array): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new RbeesError("INVALID_REQUEST", "file: is not UTF-8 text", { param: "file" });
  }
}

export function fileObject({ id, bytes, created_at_ms, expires_at_ms, filename, purpose }: FileRow): FileObject {
  return {
    ...{ id, object: "file", bytes, created_at: seconds(created_at_ms) },
    ...(expires_at_ms === null ? {} : { expires_at: seconds(expires_at_ms) }),
    ...{ filename, purpose: purpose as FileObject["purpose"], status: "processed" },
  };
}

export function seconds(at_ms: number): number {
  return Math.floor(at_ms / 1000);
}
