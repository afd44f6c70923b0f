/**
 * `rbees audit prove`: the part of a trail that proves one job's entries, from its first one to the first signed head after its last.
 * It can be verified like any part; the entries of others in between belong to it, since each hash covers a whole record.
 */
import { RbeesError } from "@rbees/contracts/errors";
import { type AuditValue, exportLine } from "@rbees/kit/audit-chain";
import { HEAD } from "@rbees/kit/audit-head";
import type { Context } from "../context.ts";
import { plural } from "../look.ts";
import { entryAt, type Trail } from "./trail.ts";
import { ERASED } from "./verify.ts";

interface Range {
  readonly from: number;
  readonly to: number;
  readonly from_ms: number;
  /** Entries about the job. */
  readonly count: number;
  /** When the subject of the job was erased, if it was. */
  readonly erased?: string;
}

export async function proveJob(context: Context, trail: Trail, job: string): Promise<void> {
  const { from, to, from_ms, count, erased } = await rangeOf(context, trail, job);
  for await (const items of trail.items(from_ms)) {
    context.signal.throwIfAborted();
    let text = "";
    let last = from;
    for (const item of items) {
      const { entry, record } = entryAt(trail, item);
      last = record.seq;
      if (last >= from && last <= to) text += `${exportLine(entry)}\n`;
    }
    context.io.out(text);
    await context.io.flushed();
    if (last >= to) break;
  }
  context.say(
    `${plural(count, "entry", "entries")} about ${job}, proven by entries ${from} to ${to}: rbees audit verify FILE --part --public-key audit-key.pub.pem`,
  );
  if (erased !== undefined)
    context.say(`The subject of the job was erased at ${erased}: of its prompt and answer only hash and length are left.`);
}

async function rangeOf(context: Context, trail: Trail, job: string): Promise<Range> {
  const about = JSON.stringify(job);
  let found: Range | undefined;
  let head_due = false;
  let subject: AuditValue | undefined;
  for await (const items of trail.items()) {
    context.signal.throwIfAborted();
    for (const item of items) {
      const looked_for =
        "unreadable" in item ||
        item.entry.record.includes(about) ||
        (head_due && item.entry.record.includes(HEAD)) ||
        (subject !== undefined && item.entry.record.includes(ERASED));
      if (!looked_for) continue;
      const { record } = entryAt(trail, item);
      const { seq, at, kind } = record;
      if (record["job_id"] === job) {
        found = { from: seq, from_ms: Date.parse(at), ...found, to: seq, count: (found?.count ?? 0) + 1 };
        head_due = true;
        subject ??= record["subject_id"];
      } else if (found !== undefined && subject !== undefined && kind === ERASED && record["subject_id"] === subject) {
        found = { ...found, erased: at };
      } else if (found !== undefined && head_due && kind === HEAD) {
        found = { ...found, to: seq };
        head_due = false;
      }
    }
  }
  if (found === undefined)
    throw new RbeesError("NOT_FOUND", `There is no entry about ${job} in ${trail.file}. rbees audit list shows what there is.`);
  if (!head_due) return found;
  throw new RbeesError(
    "CONFLICT",
    `The last entry about ${job} is not signed yet: the orchestrator does that every audit_head_ms and when it stops. Try again then.`,
  );
}
