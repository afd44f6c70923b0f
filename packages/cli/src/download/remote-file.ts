/** One file on a server: its size, and any range of its bytes. Remembers where redirects led, so that the hub is asked once. */
import type { Readable } from "node:stream";
import { RbeesError } from "@rbees/contracts/errors";
import type { GgufSource } from "@rbees/kit/gguf";
import { type Answer, brokenConnection, Passing, type Web } from "./web.ts";

/** A header is a few megabytes; more than this is somebody's joke. */
const HEADER_BYTES_MAX = 134_217_728;

export interface Probe {
  bytes: number;
  /** Whether the server gives ranges. */
  ranged: boolean;
  etag: string | null;
}

export class RemoteFile {
  readonly url: string;
  readonly #web: Web;
  readonly #hash_known: boolean;
  #direct: string | undefined;
  #etag: string | null | undefined;

  /** `hash_known`: then the hash says whether it was one and the same file all the time, not the server's tag. */
  constructor(web: Web, url: string, hash_known: boolean) {
    this.#web = web;
    this.url = url;
    this.#hash_known = hash_known;
  }

  async probe(): Promise<Probe> {
    return this.#web.retrying(async () => {
      const answer = await this.#get("bytes=0-0");
      const ranged = answer.status === 206;
      answer.body.on("error", () => {});
      // One byte is read, and the connection stays; a whole file is not.
      if (ranged) answer.body.resume();
      else answer.body.destroy();
      const bytes = ranged
        ? Number(/\/(\d+)$/.exec(answer.header("content-range") ?? "")?.[1])
        : Number(answer.header("content-length") ?? Number.NaN);
      if (!Number.isSafeInteger(bytes))
        throw new RbeesError(
          "CONFLICT",
          `${new URL(answer.url).host} does not say how large the file is, so nobody could tell whether all of it came.`,
        );
      this.#etag = etagOf(answer);
      return { bytes, ranged, etag: this.#etag };
    });
  }

  /** The bytes from `from` until before `to`; the whole file when `ranged` is false. May end early: count. */
  async open(from: number, to: number, ranged: boolean, signal: AbortSignal): Promise<Readable> {
    const answer = await this.#get(ranged ? `bytes=${from}-${to - 1}` : undefined, signal);
    const begins = answer.status === 206 ? Number(/^bytes (\d+)-/.exec(answer.header("content-range") ?? "")?.[1]) : 0;
    const etag = etagOf(answer);
    const changed = !this.#hash_known && this.#etag !== undefined && etag !== this.#etag;
    if (begins === from && !changed) return answer.body;
    answer.body.on("error", () => {});
    answer.body.destroy();
    const { host } = new URL(answer.url);
    if (changed) throw new RbeesError("CONFLICT", `${host} has another file there now than a moment ago; run the command again.`);
    // One machine of many behind an address may know no ranges.
    throw new Passing("UNREACHABLE", `${host} sends other bytes than it was asked for.`);
  }

  /** For reading the header without the rest. */
  async header(): Promise<GgufSource> {
    const { bytes, ranged } = await this.probe();
    if (!ranged)
      throw new RbeesError(
        "CONFLICT",
        `${new URL(this.url).host} gives no parts of files, so the header can't be read without downloading all of it.`,
      );
    let fetched = 0;
    const read = async (window: Buffer, at: number) => {
      fetched += window.length;
      if (fetched > HEADER_BYTES_MAX)
        throw new RbeesError("INVALID_REQUEST", `The header of ${this.url} does not end within ${HEADER_BYTES_MAX} bytes: it is damaged.`);
      return this.#web.retrying(async () => {
        let filled = 0;
        try {
          for await (const chunk of await this.open(at, at + window.length, true, this.#web.signal))
            filled += (chunk as Buffer).copy(window, filled);
        } catch (error) {
          if (error instanceof RbeesError) throw error;
          throw brokenConnection(error, this.url, this.#web.limits.stall_ms_max);
        }
        if (filled < window.length) throw brokenConnection(new Error("the answer ended early"), this.url, this.#web.limits.stall_ms_max);
        return true;
      });
    };
    return { bytes, read };
  }

  async #get(range: string | undefined, signal?: AbortSignal): Promise<Answer> {
    // Compressed on the way, ranges would mean something else.
    const headers = { "accept-encoding": "identity", ...(range === undefined ? {} : { range }) };
    const direct = this.#direct;
    if (direct !== undefined) {
      try {
        return await this.#web.get(direct, headers, signal);
      } catch (error) {
        // Signed addresses expire; the hub gives a new one.
        if (!(error instanceof RbeesError && ["FORBIDDEN", "UNAUTHORIZED", "NOT_FOUND"].includes(error.code))) throw error;
        this.#direct = undefined;
      }
    }
    const answer = await this.#web.get(this.url, headers, signal);
    if (answer.url !== this.url) this.#direct = answer.url;
    return answer;
  }
}

function etagOf(answer: Answer): string | null {
  return answer.header("etag") ?? answer.header("last-modified") ?? null;
}
