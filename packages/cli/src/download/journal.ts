/**
 * The state file beside a partial file: whose bytes these are, then a line for each run of bytes that has been written. It is
 * only ever appended to, so a process that is killed loses nothing but the line it was writing.
 */
import { type FileHandle, open, readFile, rm } from "node:fs/promises";
import { z } from "zod";
import { Ranges } from "./ranges.ts";

const JournalHead = z.object({
  version: z.literal(1),
  /** What the model will be called. */
  name: z.string(),
  /** Where the bytes come from, pinned. */
  reference: z.string(),
  bytes: z.int().nonnegative(),
  sha256: z.string().nullable(),
  /** The server's name for this state of the file. */
  etag: z.string().nullable(),
  /** Without a hash to check, bytes from before a restart of the machine are not trusted: they may never have reached the disk. */
  boot_id: z.string(),
});
export type JournalHead = z.infer<typeof JournalHead>;

export function journalOf(path: string): string {
  return `${path}.progress`;
}

export function partialOf(path: string): string {
  return `${path}.partial`;
}

/** What is there already of a file, for disk space and for those who wait for it. */
export async function readJournal(path: string): Promise<{ head: JournalHead; ranges: Ranges } | undefined> {
  const text = await readFile(journalOf(path), "utf8").catch(() => "");
  // Whatever follows the last line break was being written when the process died.
  const [first = "", ...lines] = text.slice(0, text.lastIndexOf("\n") + 1).split("\n");
  const head = parseHead(first);
  if (head === undefined) return undefined;
  const ranges = new Ranges();
  for (const line of lines) {
    const [from, to] = line.split(" ").map(Number);
    if (from !== undefined && to !== undefined && Number.isInteger(from) && from >= 0 && to <= head.bytes) ranges.add(from, to);
  }
  return { head, ranges };
}

function parseHead(line: string): JournalHead | undefined {
  try {
    return JournalHead.safeParse(JSON.parse(line)).data;
  } catch {
    return undefined;
  }
}

function continues(had: JournalHead, now: JournalHead): boolean {
  if (had.reference !== now.reference || had.bytes !== now.bytes || had.sha256 !== now.sha256) return false;
  return now.sha256 !== null || (had.etag !== null && had.etag === now.etag && had.boot_id === now.boot_id);
}

/** A partial file and its journal, open for more. */
export class Partial {
  readonly file: FileHandle;
  readonly ranges: Ranges;
  readonly #journal: FileHandle;

  private constructor(file: FileHandle, journal: FileHandle, ranges: Ranges) {
    this.file = file;
    this.#journal = journal;
    this.ranges = ranges;
  }

  /** Goes on where a journal with the same head ends, otherwise begins anew. */
  static async open(path: string, head: JournalHead, anew = false): Promise<Partial> {
    const found = anew ? undefined : await readJournal(path);
    const kept = found !== undefined && continues(found.head, head) && (await exists(partialOf(path))) ? found.ranges : undefined;
    const file = await open(partialOf(path), kept === undefined ? "w+" : "r+", 0o644);
    const journal = await open(journalOf(path), kept === undefined ? "w" : "a", 0o600);
    // A torn last line gets an end of its own.
    await journal.appendFile(kept === undefined ? `${JSON.stringify(head)}\n` : "\n");
    return new Partial(file, journal, kept ?? new Ranges());
  }

  /** These bytes have been written. */
  async add(from: number, to: number): Promise<void> {
    await this.#journal.appendFile(`${from} ${to}\n`);
    this.ranges.add(from, to);
  }

  async close(): Promise<void> {
    await this.#journal.close();
    await this.file.close();
  }
}

export async function removePartial(path: string): Promise<void> {
  await rm(journalOf(path), { force: true });
  await rm(partialOf(path), { force: true });
}

async function exists(path: string): Promise<boolean> {
  return open(path, "r").then(
    (file) => file.close().then(() => true),
    () => false,
  );
}
