/** A tar archive as a stream, of files from anywhere under names of our own choice: nothing is copied together first. */
import { createReadStream } from "node:fs";

export interface TarEntry {
  /** Relative, with `/`. */
  readonly path: string;
  readonly mode: number;
  readonly bytes: number;
  /** A file of this machine, or the content itself. */
  readonly from: { file: string } | { content: Buffer };
}

const BLOCK = 512;
const NAME_MAX = 100;
const PREFIX_MAX = 155;

export async function* tar(entries: Iterable<TarEntry>): AsyncGenerator<Buffer> {
  for (const entry of entries) {
    yield header(entry);
    let sent = 0;
    if ("content" in entry.from) {
      yield entry.from.content;
      sent = entry.from.content.length;
    } else {
      for await (const chunk of createReadStream(entry.from.file)) {
        sent += (chunk as Buffer).length;
        yield chunk as Buffer;
      }
    }
    if (sent !== entry.bytes) throw new Error(`${entry.path} changed while it was read: ${sent} bytes in place of ${entry.bytes}`);
    if (sent % BLOCK !== 0) yield Buffer.alloc(BLOCK - (sent % BLOCK));
  }
  yield Buffer.alloc(2 * BLOCK);
}

function header({ path, mode, bytes }: TarEntry): Buffer {
  const block = Buffer.alloc(BLOCK);
  const { prefix, name } = split(path);
  block.write(name, 0, "utf8");
  block.write(octal(mode, 7), 100);
  block.write(octal(0, 7), 108);
  block.write(octal(0, 7), 116);
  block.write(octal(bytes, 11), 124);
  block.write(octal(0, 11), 136);
  block.fill(0x20, 148, 156);
  block.write("0", 156);
  block.write("ustar\u000000", 257, "latin1");
  block.write(prefix, 345, "utf8");
  let sum = 0;
  for (const byte of block) sum += byte;
  block.write(`${octal(sum, 6)}\u0000 `, 148, "latin1");
  return block;
}

function octal(value: number, digits: number): string {
  return value.toString(8).padStart(digits, "0");
}

function split(path: string): { prefix: string; name: string } {
  if (Buffer.byteLength(path) <= NAME_MAX) return { prefix: "", name: path };
  for (let at = path.indexOf("/"); at !== -1; at = path.indexOf("/", at + 1)) {
    const [prefix, name] = [path.slice(0, at), path.slice(at + 1)];
    if (Buffer.byteLength(prefix) <= PREFIX_MAX && Buffer.byteLength(name) <= NAME_MAX) return { prefix, name };
  }
  throw new Error(`${path} is too long for a tar archive`);
}
