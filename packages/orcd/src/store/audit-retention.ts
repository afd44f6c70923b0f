/** How long the audit trail itself is kept: whole signed segments go, and the head after them, which signed them, becomes its beginning. */
import type { AuditEntry } from "@rbees/kit/audit-chain";
import { EXPIRED, HEAD } from "@rbees/kit/audit-head";
import type Sqlite from "better-sqlite3";

export interface AuditRetention {
  readonly now_ms: number;
  readonly keep_ms: number;
  /** Nothing goes before so much is over its time. */
  readonly segment_ms: number;
}

/** Entries that go in one transaction: other commits wait for it. A segment that is longer goes whole. */
const AT_ONCE_MAX = 20_000;

interface Row {
  seq: number;
  at_ms: number;
  hash: string;
}

/** Inside a transaction. True when there may be more. */
export function expireAudit(
  sqlite: Sqlite.Database,
  { now_ms, keep_ms, segment_ms }: AuditRetention,
  note: (entry: AuditEntry) => void,
): boolean {
  const until_ms = now_ms - keep_ms;
  const first = sqlite.prepare("select seq, at_ms, hash from audit order by seq limit 1").get() as Row | undefined;
  if (first === undefined || first.at_ms + segment_ms > until_ms) return false;
  const last = lastUntil(sqlite, first.seq, until_ms);
  const head = headBefore(sqlite, first.seq, Math.min(last, first.seq + AT_ONCE_MAX)) ?? headAfter(sqlite, first.seq + AT_ONCE_MAX, last);
  if (head === undefined) return false;
  sqlite.prepare("delete from audit where seq < ?").run(head.seq);
  const gone = { from_seq: first.seq, to_seq: head.seq - 1, from: iso(first.at_ms), to: iso(head.at_ms) };
  note({ at_ms: now_ms, kind: EXPIRED, fields: { ...gone, head_seq: head.seq, head_hash: head.hash } });
  return head.seq < last;
}

/** The last entry of that time or before; times rise with the numbers, but for a clock that was set back. */
function lastUntil(sqlite: Sqlite.Database, first: number, until_ms: number): number {
  const at = sqlite.prepare("select at_ms from audit where seq = ?").pluck();
  let [low, high] = [first, sqlite.prepare("select max(seq) from audit").pluck().get() as number];
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if ((at.get(middle) as number) <= until_ms) low = middle;
    else high = middle - 1;
  }
  return low;
}

function headBefore(sqlite: Sqlite.Database, after: number, until: number): Row | undefined {
  return sqlite
    .prepare("select seq, at_ms, hash from audit where seq > ? and seq <= ? and kind = ? order by seq desc limit 1")
    .get(after, until, HEAD) as Row | undefined;
}

function headAfter(sqlite: Sqlite.Database, after: number, until: number): Row | undefined {
  return sqlite
    .prepare("select seq, at_ms, hash from audit where seq > ? and seq <= ? and kind = ? order by seq limit 1")
    .get(after, until, HEAD) as Row | undefined;
}

function iso(at_ms: number): string {
  return new Date(at_ms).toISOString();
}
