/**
 * Fetches one file over several connections into a partial file, hashes it as its beginning grows, and gives it its name when all
 * of it is there and the hash is right. What was written stays written: the next run fetches only what is missing.
 */
import { createHash } from "node:crypto";
import { once } from "node:events";
import { type FileHandle, open, rename } from "node:fs/promises";
import { dirname } from "node:path";
import { RbeesError } from "@rbees/contracts/errors";
import { size } from "../look.ts";
import { type JournalHead, Partial, partialOf, removePartial } from "./journal.ts";
import type { Range } from "./ranges.ts";
import type { RemoteFile } from "./remote-file.ts";
import { createSweeper, shrinkHeap } from "./small-heap.ts";
import { brokenConnection, type Web } from "./web.ts";

/** One connection fetches this much at a time. */
const SEGMENT_BYTES_MAX = 16_777_216;
const SEGMENT_BYTES_MIN = 1_048_576;
/** Written and noted down at once: at most this much of each connection is fetched again after a kill. */
const WRITE_BYTES = 1_048_576;
const HASH_BYTES = 1_048_576;

export interface TransferOptions {
  web: Web;
  source: RemoteFile;
  path: string;
  head: JournalHead;
  connections: number;
  /** Called with all bytes that are there. */
  onBytes: (bytes: number) => void;
}

/** The SHA-256 of the finished file. */
export async function transfer(options: TransferOptions): Promise<string> {
  shrinkHeap("connecting");
  const { resumed, sha256 } = await fetchAndHash(options, false);
  const { head, path } = options;
  if (head.sha256 === null || sha256 === head.sha256) return finish(path, sha256);
  await removePartial(path);
  if (!resumed) throw wrongHash(options, sha256);
  // What an earlier run left may have been damaged on this disk: once from the start, then it is the server.
  const again = await fetchAndHash(options, true);
  if (again.sha256 === head.sha256) return finish(path, again.sha256);
  await removePartial(path);
  throw wrongHash(options, again.sha256);
}

function wrongHash({ head, source }: TransferOptions, sha256: string): RbeesError {
  return new RbeesError(
    "CONFLICT",
    `The file that came has the SHA-256 ${sha256}, but should have ${head.sha256}: ${new URL(source.url).host} or something on the way sends other bytes. They are deleted; try again, or another mirror.`,
  );
}

async function finish(path: string, sha256: string): Promise<string> {
  const file = await open(partialOf(path), "r+");
  try {
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(partialOf(path), path);
  await removePartial(path);
  if (process.platform !== "win32") {
    const folder = await open(dirname(path), "r");
    await folder.sync().finally(() => folder.close());
  }
  return sha256;
}

async function fetchAndHash(options: TransferOptions, anew: boolean): Promise<{ resumed: boolean; sha256: string }> {
  const { source, head, path } = options;
  const probe = await source.probe();
  if (probe.bytes !== head.bytes)
    throw new RbeesError(
      "CONFLICT",
      `${new URL(source.url).host} offers ${size(probe.bytes)} (${probe.bytes} bytes), but the file should have ${head.bytes} bytes.`,
    );
  // Without ranges every beginning is a beginning from the first byte.
  const partial = await Partial.open(path, head, anew || !probe.ranged);
  const stop = new AbortController();
  const signal = AbortSignal.any([options.web.signal, stop.signal]);
  try {
    const resumed = partial.ranges.bytes > 0;
    options.onBytes(partial.ranges.bytes);
    const fetching = new Fetching(options, partial, probe.ranged, signal);
    const hashing = hashAsItGrows(partial, head.bytes, fetching, signal);
    const all = [hashing, fetching.run()] as const;
    // Whoever fails first ends the other, and is who is heard.
    for (const one of all) one.catch((error) => stop.abort(error));
    const [sha256] = await Promise.all(all).finally(() => Promise.allSettled(all));
    return { resumed, sha256 };
  } finally {
    await partial.close();
  }
}

class Fetching extends EventTarget {
  readonly #options: TransferOptions;
  readonly #partial: Partial;
  readonly #ranged: boolean;
  readonly #signal: AbortSignal;
  readonly #todo: Range[];
  readonly #sweep = createSweeper();

  constructor(options: TransferOptions, partial: Partial, ranged: boolean, signal: AbortSignal) {
    super();
    this.#options = options;
    this.#partial = partial;
    this.#ranged = ranged;
    this.#signal = signal;
    this.#todo = ranged ? segments(partial.ranges.missing(options.head.bytes), options.connections) : [[0, options.head.bytes]];
  }

  async run(): Promise<void> {
    const lanes = Math.min(this.#options.connections, this.#todo.length);
    await Promise.all(Array.from({ length: lanes }, () => this.#lane()));
  }

  async #lane(): Promise<void> {
    const memory = Buffer.allocUnsafeSlow(WRITE_BYTES);
    for (let next = this.#todo.shift(); next !== undefined; next = this.#todo.shift()) await this.#segment(next, memory);
  }

  async #segment([from, to]: Range, memory: Buffer): Promise<void> {
    let at = from;
    let farthest = from;
    for (let failed = 0; at < to; ) {
      try {
        // Without ranges a broken connection means the first byte again.
        if (!this.#ranged) at = 0;
        const body = await this.#options.source.open(at, to, this.#ranged, this.#signal);
        for await (const batch of batches(body, to - at, memory)) {
          await writeAll(this.#partial.file, batch, at);
          const end = at + batch.length;
          await this.#partial.add(at, end);
          this.#sweep(batch.length);
          at = end;
          this.#options.onBytes(this.#partial.ranges.bytes);
          this.dispatchEvent(new Event("grown"));
        }
        if (at < to) throw new Error("it ended early");
      } catch (error) {
        failed = at > farthest ? 1 : failed + 1;
        farthest = Math.max(farthest, at);
        await this.#options.web.backOff(this.#trouble(error), failed, this.#signal);
      }
    }
  }

  #trouble(error: unknown): unknown {
    this.#signal.throwIfAborted();
    const { code = "" } = error as NodeJS.ErrnoException;
    if (["ENOSPC", "EDQUOT"].includes(code))
      return new RbeesError("CONFLICT", "The disk is full. What came so far is kept: make room, and the same command goes on from there.");
    if (error instanceof RbeesError || (error instanceof Error && "syscall" in error && "path" in error)) return error;
    return brokenConnection(error, this.#options.source.url, this.#options.web.limits.stall_ms_max);
  }
}

/** Pieces that one connection fetches at a time: small enough that all connections end at about the same time. */
export function segments(missing: readonly Range[], connections: number): Range[] {
  const bytes = missing.reduce((sum, [from, to]) => sum + to - from, 0);
  const most = Math.min(SEGMENT_BYTES_MAX, Math.max(SEGMENT_BYTES_MIN, Math.ceil(bytes / (4 * connections))));
  return missing.flatMap(([from, to]) =>
    Array.from({ length: Math.ceil((to - from) / most) }, (_, i): Range => [from + i * most, Math.min(to, from + (i + 1) * most)]),
  );
}

/**
 * A body in batches worth writing, also the last one when the body breaks; no more than `most` bytes. Each batch lies in the same
 * memory, so it must be written before the next is asked for: what the socket's buffers hold is free at once.
 */
async function* batches(body: AsyncIterable<Buffer>, most: number, memory: Buffer): AsyncGenerator<Buffer> {
  let filled = 0;
  let left = most;
  let broken: unknown;
  try {
    for await (const chunk of body) {
      // Only who sends too much is hung up on: a body read to its end leaves a connection for the next piece.
      if (left === 0) break;
      for (let at = 0; at < chunk.length && left > 0; ) {
        const copied = chunk.copy(memory, filled, at, Math.min(chunk.length, at + left));
        filled += copied;
        at += copied;
        left -= copied;
        if (filled < memory.length) continue;
        yield memory;
        filled = 0;
      }
    }
  } catch (error) {
    broken = error;
  }
  if (filled > 0) yield memory.subarray(0, filled);
  if (broken !== undefined) throw broken;
}

async function writeAll(file: FileHandle, batch: Buffer, at: number): Promise<void> {
  for (let done = 0; done < batch.length; ) done += (await file.write(batch, done, batch.length - done, at + done)).bytesWritten;
}

/** Reads back what is on the disk from the first byte on, also what an earlier run left there. */
async function hashAsItGrows(partial: Partial, bytes: number, grows: EventTarget, signal: AbortSignal): Promise<string> {
  const hash = createHash("sha256");
  const window = Buffer.allocUnsafe(HASH_BYTES);
  for (let at = 0; at < bytes; ) {
    signal.throwIfAborted();
    const there = partial.ranges.prefix;
    // A server without ranges begins again from the first byte: the prefix never shrinks below what was hashed.
    if (there <= at) {
      await once(grows, "grown", { signal });
      continue;
    }
    const { bytesRead } = await partial.file.read(window, 0, Math.min(window.length, there - at), at);
    if (bytesRead === 0) throw new RbeesError("CONFLICT", "The partial file became shorter while it was read: somebody else changes it.");
    hash.update(window.subarray(0, bytesRead));
    at += bytesRead;
  }
  return hash.digest("hex");
}
