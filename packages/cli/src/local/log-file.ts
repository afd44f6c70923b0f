/** Reading the log of a detached program: its last lines, what is new in it, and a line as people read it. */
import { open } from "node:fs/promises";
import { type Look, withoutControls } from "../look.ts";

const TAIL_BYTES_MAX = 1_048_576;

/** The last `count` whole lines. No file: none. */
export async function lastLines(path: string, count: number): Promise<string[]> {
  return count === 0 ? [] : (await new LogTail(path).read()).slice(-count);
}

/** What was added to a file since the last look; the first look goes back only so far. A file that shrank was begun anew. */
export class LogTail {
  readonly #path: string;
  #at: number | undefined;
  #rest: Buffer = Buffer.alloc(0);

  constructor(path: string) {
    this.#path = path;
  }

  async read(): Promise<string[]> {
    const file = await open(this.#path, "r").catch(() => undefined);
    if (file === undefined) return [];
    try {
      const { size } = await file.stat();
      const at = this.#at === undefined ? Math.max(0, size - TAIL_BYTES_MAX) : size < this.#at ? 0 : this.#at;
      const in_a_line = this.#at === undefined && at > 0;
      if (at === 0) this.#rest = Buffer.alloc(0);
      const bytes = Buffer.alloc(size - at);
      const { bytesRead } = await file.read(bytes, 0, bytes.length, at);
      this.#at = at + bytesRead;
      const all = Buffer.concat([this.#rest, bytes.subarray(0, bytesRead)]);
      const end = all.lastIndexOf(0x0a) + 1;
      this.#rest = all.subarray(end);
      const lines = all.subarray(0, end).toString("utf8").split("\n").slice(0, -1);
      return in_a_line ? lines.slice(1) : lines;
    } finally {
      await file.close();
    }
  }
}

/** The fields of a line that is JSON, as the programs' logs are; undefined for anything else, such as a stack trace. */
export function fieldsOf(line: string): Record<string, unknown> | undefined {
  if (!line.startsWith("{")) return undefined;
  try {
    const value: unknown = JSON.parse(line);
    return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : undefined;
  } catch {
    return undefined;
  }
}

const LEVELS: Readonly<Record<number, string>> = { 10: "trace", 20: "debug", 30: "info", 40: "warn", 50: "error", 60: "fatal" };
const LEAD = new Set(["level", "time", "msg", "name", "pid", "hostname"]);

/** `12:03:04.120  info  ready  slots=4`. */
export function readableLine(line: string, look: Look): string {
  const fields = fieldsOf(line);
  if (fields === undefined) return withoutControls(line);
  const level = LEVELS[Number(fields["level"])] ?? "";
  const time = /T(\d\d:\d\d:\d\d\.\d{3})/.exec(String(fields["time"] ?? ""))?.[1] ?? "";
  const rest = Object.entries(fields)
    .filter(([key]) => !LEAD.has(key))
    .map(([key, value]) => look.dim(`${key}=${withoutControls(typeof value === "string" ? value : JSON.stringify(value))}`));
  const shown = level === "error" || level === "fatal" ? look.bad(level.padEnd(5)) : level.padEnd(5);
  return [look.dim(time), shown, withoutControls(String(fields["msg"] ?? "")), ...rest].filter((part) => part !== "").join("  ");
}
