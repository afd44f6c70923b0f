/** A trace from a file, plain or gzip: known by its first bytes, not by its name. The only file here that touches the system. */
import { once } from "node:events";
import { createReadStream } from "node:fs";
import { pipeline, type Readable } from "node:stream";
import { createGunzip } from "node:zlib";
import { type Request, TraceError, type TraceOptions, TraceReader } from "./trace.ts";

/** Far more than any request needs; what has longer lines is something else. */
const LINE_CHARS_MAX = 16 * 1024 * 1024;

/** Reads the requests of a trace; throws a TraceError for what is wrong in it, and the system's own error when it can't be read. */
export async function readTrace(file: string, options: TraceOptions = {}): Promise<Request[]> {
  const reader = new TraceReader(options);
  const text = new TextDecoder();
  let rest = "";
  try {
    for await (const chunk of await unpacked(file)) {
      const lines = (rest + text.decode(chunk as Buffer, { stream: true })).split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines) reader.take(line);
      if (rest.length > LINE_CHARS_MAX) throw new TraceError([`a line has more than ${LINE_CHARS_MAX} characters, so this is no trace`]);
      if (reader.full) break;
    }
  } catch (error) {
    if (error instanceof Error && String((error as NodeJS.ErrnoException).code).startsWith("Z_")) {
      throw new TraceError([`its gzip data are damaged or cut off (${error.message})`]);
    }
    throw error;
  }
  reader.take(rest + text.decode());
  return reader.requests();
}

async function unpacked(file: string): Promise<Readable> {
  const source = createReadStream(file);
  await once(source, "readable");
  const head = source.read() as Buffer | null;
  if (head === null) return source;
  source.unshift(head);
  // An error of the one reaches whoever reads the other.
  return head[0] === 0x1f && head[1] === 0x8b ? pipeline(source, createGunzip(), () => {}) : source;
}
