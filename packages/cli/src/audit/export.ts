/** `rbees audit export` and `list`: writes entries as they are read, never further ahead than its reader. */
import { type AuditRecord, type AuditValue, exportLine, type SealedEntry } from "@rbees/kit/audit-chain";
import type { Context } from "../context.ts";
import type { Look } from "../look.ts";
import type { ExportFormat } from "./export-formats.ts";
import { entryAt, type Trail } from "./trail.ts";

export interface Selection {
  /** From the first entry of this time on. */
  readonly from?: Date | undefined;
  /** Up to the first entry of this time, which is left out. */
  readonly to?: Date | undefined;
  /** Only the entries about this job. */
  readonly job?: string | undefined;
  /** Only the entries about this tenant and its jobs. */
  readonly tenant?: string | undefined;
}

type Writer = (entry: SealedEntry, record: AuditRecord) => string;

const WRITERS: Record<ExportFormat, { head: string; line: Writer }> = {
  ndjson: { head: "", line: (entry) => `${exportLine(entry)}\n` },
  csv: {
    head: "seq,at,kind,job_id,hash,previous,record\r\n",
    line: ({ hash, previous, record: json }, { seq, at, kind, job_id }) =>
      `${seq},${at},${quoted(kind)},${quoted(typeof job_id === "string" ? job_id : "")},${hash},${previous},${quoted(json)}\r\n`,
  },
};

export function exportTrail(context: Context, trail: Trail, selection: Selection, format: ExportFormat): Promise<void> {
  context.io.out(WRITERS[format].head);
  return write(context, trail, selection, WRITERS[format].line);
}

export function listTrail(context: Context, trail: Trail, selection: Selection): Promise<void> {
  const look = context.io.out_look;
  return write(context, trail, selection, ({ record: json }, record) => (context.json ? `${json}\n` : `${sentence(record, look)}\n`));
}

async function write({ io, signal }: Context, trail: Trail, { from, to, job, tenant }: Selection, line: Writer): Promise<void> {
  let begun = from === undefined;
  /** What must stand in a record that is about it: the quick look, before what the record says. */
  const words = [job, tenant].flatMap((word) => (word === undefined ? [] : [JSON.stringify(word)]));
  const isAsked = (record: AuditRecord) =>
    (job === undefined || record["job_id"] === job) && (tenant === undefined || record["tenant"] === tenant);
  for await (const items of trail.items(from?.getTime())) {
    signal.throwIfAborted();
    let text = "";
    let over = false;
    for (const item of items) {
      const { entry, record } = entryAt(trail, item);
      const at = Date.parse(record.at);
      begun ||= from === undefined || at >= from.getTime();
      over = begun && to !== undefined && at >= to.getTime();
      if (over) break;
      if (begun && words.every((word) => entry.record.includes(word)) && isAsked(record)) text += line(entry, record);
    }
    io.out(text);
    await io.flushed();
    if (over) return;
  }
}

/** `12  2026-11-26T10:00:00.000Z  job.ended  job_id=… status=succeeded` */
function sentence({ seq, at, kind, ...fields }: AuditRecord, look: Look): string {
  const facts = Object.entries(fields as Record<string, AuditValue>)
    .filter(([, value]) => value !== null)
    .map(
      ([name, value]) =>
        `${look.dim(`${name}=`)}${typeof value === "string" ? look.safe(value).replace(/[\r\n\t]/g, " ") : JSON.stringify(value)}`,
    );
  return [String(seq).padStart(6), at, look.accent(kind.padEnd(16)), facts.join(" ")].join("  ").trimEnd();
}

/** RFC 4180. A leading sign that a spreadsheet would run as a formula can't come: these begin with a letter, a brace or nothing. */
function quoted(text: string): string {
  return `"${text.replaceAll('"', '""')}"`;
}
