/**
 * Where an audit trail lies: a database, which may be in use, or an export of one. Both are read some entries at a time, in the
 * order in which they lie there; what is no entry is passed on as such.
 */
import { createReadStream } from "node:fs";
import { open, stat } from "node:fs/promises";
import { join } from "node:path";
import type { DatabaseSync } from "node:sqlite";
import { pathToFileURL } from "node:url";
import { RbeesError } from "@rbees/contracts/errors";
import { type AuditRecord, entryOfLine, recordOf } from "@rbees/kit/audit-chain";
import type { FoundEntry } from "@rbees/kit/audit-check";
import type { Context } from "../context.ts";

/** What stands at one place of the trail. */
export type Item = { readonly where: string } & ({ readonly entry: FoundEntry } | { readonly unreadable: string });

export interface Trail {
  readonly file: string;
  readonly kind: "database" | "export";
  /** `from_ms`: what lies before may be left out, since nobody asks for it. */
  items(from_ms?: number): AsyncIterable<readonly Item[]>;
}

/** The entry at a place of the trail, and what its record says. CONFLICT where there is none to be read. */
export function entryAt(trail: Trail, item: Item): { entry: FoundEntry; record: AuditRecord } {
  const record = "entry" in item ? recordOf(item.entry) : undefined;
  if ("entry" in item && record !== undefined) return { entry: item.entry, record };
  throw new RbeesError(
    "CONFLICT",
    `${trail.file}, ${item.where}: there is no entry to be read. rbees audit verify says what happened to the trail.`,
  );
}

const BATCH_ENTRIES = 250;
/** Far more than any entry has. A file without line ends must not be read into memory. */
const LINE_BYTES_MAX = 4_194_304;

/** The trail in `file`, or in the database of this host's orchestrator. */
export async function trailIn(context: Context, file = join(context.home.data, "orcd", "orcd.sqlite")): Promise<Trail> {
  const kind = (await isDatabase(file)) ? "database" : "export";
  return { file, kind, items: (from_ms) => (kind === "database" ? rowsOf(file, from_ms) : linesOf(file)) };
}

async function isDatabase(file: string): Promise<boolean> {
  try {
    await using handle = await open(file, "r");
    const { buffer } = await handle.read({ buffer: Buffer.alloc(15), position: 0 });
    return buffer.toString("latin1") === "SQLite format 3";
  } catch (error) {
    throw unreadable(file, error);
  }
}

/** Each batch is a transaction of its own: a reader that takes its time must not keep the orchestrator from tidying its log. */
async function* rowsOf(file: string, from_ms?: number): AsyncGenerator<Item[]> {
  const db = await opened(file);
  try {
    // As bytes: a string would have one look for all that is no UTF-8.
    const page = db.prepare(
      `select seq, at_ms, kind, cast(record as blob) as record, previous, hash from audit where seq > ? order by seq limit ${BATCH_ENTRIES}`,
    );
    let after = Number.MIN_SAFE_INTEGER;
    if (from_ms !== undefined) {
      const { seq } = db.prepare("select min(seq) as seq from audit where at_ms >= ?").get(from_ms) as { seq: number | null };
      if (seq === null) return;
      after = seq - 1;
    }
    for (;;) {
      const rows = page.all(after) as unknown as (Omit<Required<FoundEntry>, "record"> & { record: Uint8Array })[];
      if (rows.length === 0) return;
      yield rows.map((row) => {
        const where = `row ${row.seq}`;
        const record = decoded(row.record);
        return record === undefined ? { where, unreadable: NOT_UTF8 } : { where, entry: { ...row, record } };
      });
      after = rows.at(-1)?.seq ?? after;
    }
  } catch (error) {
    throw notReadableAsDatabase(file, error);
  } finally {
    db.close();
  }
}

/** The module is loaded when a database is read, not by each command: it takes its time, and Node.js 22 warns of it. */
async function opened(file: string): Promise<DatabaseSync> {
  const { DatabaseSync } = await import("node:sqlite");
  const read = (at: string | URL) => {
    const db = new DatabaseSync(at, { readOnly: true, timeout: 5000 });
    try {
      db.prepare("select name from sqlite_schema").get();
      return db;
    } catch (error) {
      db.close();
      throw error;
    }
  };
  try {
    return read(file);
  } catch (error) {
    // Where no file can be made beside it, SQLite wants to be told that nobody writes. With a log beside it its end would be missing then.
    if ((error as { errcode?: number }).errcode !== SQLITE_CANTOPEN || (await bytesOf(`${file}-wal`)) > 0)
      throw notReadableAsDatabase(file, error);
    const unchanging = pathToFileURL(file);
    unchanging.searchParams.set("immutable", "1");
    return read(unchanging);
  }
}

const SQLITE_CANTOPEN = 14;

async function bytesOf(file: string): Promise<number> {
  return (await stat(file).catch(() => undefined))?.size ?? 0;
}

function notReadableAsDatabase(file: string, error: unknown): unknown {
  const { code, message } = error as NodeJS.ErrnoException;
  if (code !== "ERR_SQLITE_ERROR") return error;
  const todo = /locked/.test(message)
    ? "It is held by an orchestrator of an earlier build: stop that one, or start it with this build."
    : /no such table/.test(message)
      ? "Give the database of an orchestrator: orcd.sqlite in its --data-dir."
      : "Give a whole copy of the database, with the files beside it (-wal), or an export.";
  return new RbeesError("CONFLICT", `${file} can't be read: ${message}. ${todo}`, { cause: error });
}

async function* linesOf(file: string): AsyncGenerator<Item[]> {
  let line = 0;
  /** The bytes of a line whose end has not come yet. */
  let begun: Buffer[] = [];
  const item = (bytes: Uint8Array): Item => {
    line += 1;
    const where = `line ${line}`;
    const string = decoded(bytes);
    if (string === undefined) return { where, unreadable: NOT_UTF8 };
    const entry = entryOfLine(string);
    return entry === undefined ? { where, unreadable: "it is not written as an export writes it" } : { where, entry };
  };
  for await (const chunk of createReadStream(file, { highWaterMark: 65_536 }) as AsyncIterable<Buffer>) {
    const items: Item[] = [];
    let start = 0;
    for (let end = chunk.indexOf(10); end !== -1; end = chunk.indexOf(10, start)) {
      const piece = chunk.subarray(start, end);
      items.push(item(begun.length === 0 ? piece : Buffer.concat([...begun, piece])));
      begun = [];
      start = end + 1;
    }
    if (start < chunk.length) begun.push(chunk.subarray(start));
    if (begun.reduce((sum, { length }) => sum + length, 0) > LINE_BYTES_MAX) {
      throw new RbeesError(
        "INVALID_REQUEST",
        `${file} is no export of an audit trail: line ${line + 1} does not end. Give a file of rbees audit export.`,
      );
    }
    yield items;
  }
  if (begun.length > 0) yield [{ where: `line ${line + 1}`, unreadable: CUT_OFF }];
}

export const CUT_OFF = "the file ends in the middle of it";
const NOT_UTF8 = "it is not UTF-8";

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** One string for one row of bytes, and none for what is no UTF-8. */
function decoded(bytes: Uint8Array): string | undefined {
  try {
    return utf8.decode(bytes);
  } catch {
    return undefined;
  }
}

/** Why a file of an audit trail, or of what it is verified by, could not be read. */
export function unreadable(file: string, error: unknown): unknown {
  switch ((error as NodeJS.ErrnoException).code) {
    case "ENOENT":
    case "ENOTDIR":
      return new RbeesError("NOT_FOUND", `There is no file ${file}; give the path of one that is there.`, {
        cause: error,
      });
    case "EISDIR":
      return new RbeesError("INVALID_REQUEST", `${file} is a folder; give the database (orcd.sqlite) or the export in it.`, {
        cause: error,
      });
    case "EACCES":
    case "EPERM":
      return new RbeesError(
        "FORBIDDEN",
        `The system does not let you read ${file}; ask for an export, or be the user who runs the orchestrator.`,
        {
          cause: error,
        },
      );
    default:
      return error;
  }
}
