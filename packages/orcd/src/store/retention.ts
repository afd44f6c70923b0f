/** How long prompts and answers are kept: what is older goes, its job's row and entries stay. */
import type { AuditEntry } from "@rbees/kit/audit-chain";
import type Sqlite from "better-sqlite3";
import type { Retention } from "./port.ts";

/** Jobs whose content goes in one transaction: other commits wait for it. */
const AT_ONCE_MAX = 500;

/** Inside a transaction. True when so many were found that there may be more. */
export function expireContent(
  sqlite: Sqlite.Database,
  { now_ms, keep_ms, of_tenant }: Retention,
  note: (entry: AuditEntry) => void,
): boolean {
  // The conditions of the index `jobs_with_content`, word for word: only so is it used.
  const next = sqlite
    .prepare("select tenant from jobs where content = 'kept' and ended_at_ms is not null and tenant > ? order by tenant limit 1")
    .pluck();
  const due = sqlite
    .prepare(
      "select seq from jobs where content = 'kept' and ended_at_ms is not null and tenant = ? and ended_at_ms <= ? order by ended_at_ms limit ?",
    )
    .pluck();
  const take = sqlite.prepare("update jobs set request = '', text = '', said = null, content = 'expired' where seq = ?");
  let left = AT_ONCE_MAX - expireByRule(sqlite, now_ms, take, note);
  if (left === 0) return true;
  for (let tenant = next.get("") as string | undefined; tenant !== undefined; tenant = next.get(tenant) as string | undefined) {
    const until_ms = now_ms - (of_tenant[tenant] ?? keep_ms);
    const seqs = due.all(tenant, until_ms, left) as number[];
    if (seqs.length === 0) continue;
    for (const seq of seqs) take.run(seq);
    note({ at_ms: now_ms, kind: "content.expired", fields: { tenant, jobs: seqs.length, ended_until: new Date(until_ms).toISOString() } });
    left -= seqs.length;
    if (left === 0) return true;
  }
  return false;
}

/** Of jobs of which a rule has said so. How many there were. */
function expireByRule(sqlite: Sqlite.Database, now_ms: number, take: Sqlite.Statement, note: (entry: AuditEntry) => void): number {
  // The terms and conditions of the index `jobs_kept_by_rule`, word for word: only so is it used.
  const due = sqlite
    .prepare(
      `select seq, tenant from jobs where content = 'kept' and content_keep_ms is not null and ended_at_ms is not null
       and ended_at_ms + content_keep_ms <= ? order by ended_at_ms + content_keep_ms limit ?`,
    )
    .all(now_ms, AT_ONCE_MAX) as { seq: number; tenant: string }[];
  for (const { seq } of due) take.run(seq);
  for (const [tenant, rows] of Map.groupBy(due, (row) => row.tenant))
    note({ at_ms: now_ms, kind: "content.expired", fields: { tenant, jobs: rows.length, by: "rule" } });
  return due.length;
}
