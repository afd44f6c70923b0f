/**
 * Kept prefixes in a file: written when a worker stops, read by its next life. The file is read once and is then gone, so that it is
 * there only while the worker is not. It holds what was asked: nobody but its owner may read it, and a file that somebody else could have
 * written is not read, because llama.cpp trusts what is in it.
 *
 * A mark, the header's length, the header as JSON, tokens and state of each prefix, and the SHA-256 of all that.
 */
import { createHash, type Hash } from "node:crypto";
import { closeSync, fstatSync, fsyncSync, mkdirSync, openSync, readSync, renameSync, rmSync, writeSync } from "node:fs";
import { dirname } from "node:path";
import { z } from "zod";
import { bytesOf, type KeptPrefix } from "./prefix-cache.ts";

/** What a state depends on: one that was computed otherwise is of no use, or wrong. */
export type Binding = Readonly<Record<string, string | number | boolean>>;

const MARK = Buffer.from("RBEESPF1");
const DIGEST_BYTES = 32;
const HEADER_BYTES_MAX = 1_048_576;
const TOKEN_BYTES = 4;
const OTHERS = 0o077;
/** As much is read, written and hashed at once: none of these takes more than 2 GiB. */
const PIECE_BYTES = 67_108_864;

const Header = z.object({
  binding: z.record(z.string(), z.union([z.string(), z.number(), z.boolean()])),
  prefixes: z.array(z.object({ tokens: z.int().positive(), bytes: z.int().positive(), kind: z.string() })),
});
type Header = z.infer<typeof Header>;

/** With no prefixes there is no file. */
export function writePrefixes(path: string, binding: Binding, prefixes: readonly KeptPrefix[]): void {
  const unfinished = `${path}.part`;
  rmSync(unfinished, { force: true });
  if (prefixes.length === 0) return rmSync(path, { force: true });
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  const header: Header = {
    binding: { ...binding },
    prefixes: prefixes.map(({ tokens, state, kind }) => ({ tokens: tokens.length, bytes: state.byteLength, kind })),
  };
  const text = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(4);
  length.writeUInt32LE(text.byteLength);
  const hash = createHash("sha256");
  const file = openSync(unfinished, "wx", 0o600);
  try {
    const put = (bytes: Uint8Array) => {
      for (const piece of pieces(bytes)) {
        hash.update(piece);
        writeAll(file, piece);
      }
    };
    for (const bytes of [MARK, length, text]) put(bytes);
    for (const { tokens, state } of prefixes) {
      put(new Uint8Array(tokens.buffer, tokens.byteOffset, tokens.byteLength));
      put(state);
    }
    writeAll(file, hash.digest());
    fsyncSync(file);
  } catch (error) {
    rmSync(unfinished, { force: true });
    throw error;
  } finally {
    closeSync(file);
  }
  renameSync(unfinished, path);
}

/** What the file holds, and undefined when there is none. Throws an `Error` that says why it can't be used. */
export function readPrefixes(path: string, binding: Binding, bytes_max: number): KeptPrefix[] | undefined {
  rmSync(`${path}.part`, { force: true });
  let file: number;
  try {
    file = openSync(path, "r");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
  try {
    const { mode, uid, size } = fstatSync(file);
    if ((mode & OTHERS) !== 0 || (process.getuid !== undefined && uid !== process.getuid()))
      throw new Error("others than its owner can read or write it");
    rmSync(path);
    return contents(new Reader(file, size), binding, bytes_max);
  } finally {
    closeSync(file);
  }
}

function contents(reader: Reader, binding: Binding, bytes_max: number): KeptPrefix[] {
  if (!reader.take(MARK.byteLength).equals(MARK)) throw new Error("it is no file of prefixes, or of another version");
  const length = reader.take(4).readUInt32LE();
  if (length > HEADER_BYTES_MAX) throw new Error("it is damaged");
  const header = headerIn(reader.take(length).toString("utf8"));
  const other = Object.entries(binding).find(([name, value]) => header.binding[name] !== value);
  if (other !== undefined) throw new Error(`its ${other[0]} is ${header.binding[other[0]]}, and here that is ${other[1]}`);
  const sizes = header.prefixes.map(({ tokens, bytes }) => tokens * TOKEN_BYTES + bytes);
  const together = sizes.reduce((sum, bytes) => sum + bytes, 0);
  if (together !== reader.left - DIGEST_BYTES) throw new Error("it is damaged");
  if (together > bytes_max) throw new Error(`it holds ${together} bytes, more than --prefix-cache-bytes-max`);
  const found = header.prefixes.map(({ tokens, bytes, kind }) => {
    const numbers = reader.take(tokens * TOKEN_BYTES);
    return { tokens: new Int32Array(numbers.buffer, numbers.byteOffset, tokens), state: reader.take(bytes), kind };
  });
  const digest = reader.digest();
  if (!reader.take(DIGEST_BYTES).equals(digest)) throw new Error("it is damaged");
  return found;
}

function headerIn(text: string): Header {
  try {
    return Header.parse(JSON.parse(text));
  } catch (error) {
    throw new Error("it is damaged", { cause: error });
  }
}

/** A file from its beginning on, and the digest of what was taken of it. */
class Reader {
  readonly #file: number;
  readonly #hash: Hash = createHash("sha256");
  left: number;

  constructor(file: number, size: number) {
    this.#file = file;
    this.left = size;
  }

  take(length: number): Buffer {
    if (length > this.left) throw new Error("it is damaged");
    const bytes = Buffer.allocUnsafeSlow(length);
    for (const piece of pieces(bytes)) {
      for (let at = 0; at < piece.byteLength; ) {
        const read = readSync(this.#file, piece, at, piece.byteLength - at, null);
        if (read === 0) throw new Error("it is damaged");
        at += read;
      }
      this.#hash.update(piece);
    }
    this.left -= length;
    return bytes;
  }

  digest(): Buffer {
    return this.#hash.copy().digest();
  }
}

function pieces(bytes: Uint8Array): Uint8Array[] {
  return Array.from({ length: Math.ceil(bytes.byteLength / PIECE_BYTES) }, (_, i) =>
    bytes.subarray(i * PIECE_BYTES, (i + 1) * PIECE_BYTES),
  );
}

function writeAll(file: number, bytes: Uint8Array): void {
  for (let at = 0; at < bytes.byteLength; ) at += writeSync(file, bytes, at);
}

/** How much of a file they are, without its head and its end. */
export function bytesOfAll(prefixes: readonly KeptPrefix[]): number {
  return prefixes.reduce((sum, prefix) => sum + bytesOf(prefix), 0);
}
