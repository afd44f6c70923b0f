/**
 * Changes on their way to the store's thread: one string for a turn's worth of them, flat, since cloning and taking apart
 * objects of two dozen members costs more than writing them down. Each row change names the statement that carries it out.
 */
import type { AuditEntry } from "@rbees/kit/audit-chain";
import type { Change } from "./port.ts";

type Value = string | number | null;
type RowChange = Exclude<Change, { table: "audit" }>;

/** What the thread is asked to do: run the statement of a shape with its values, append to the audit trail, or sign it. */
export type Order = readonly [shape: string, values: readonly Value[]] | readonly [audit: AuditEntry | { sign_at_ms: number }];

/** As JSON; `ordersFrom` reads it back. */
export function encodeChanges(changes: readonly Change[]): string {
  return JSON.stringify(changes.map((change): Order => (change.table === "audit" ? [auditOf(change)] : statementOf(change))));
}

export function ordersFrom(json: string): Order[] {
  return JSON.parse(json) as Order[];
}

function auditOf(change: Exclude<Change, RowChange>): AuditEntry | { sign_at_ms: number } {
  return "append" in change ? change.append : { sign_at_ms: change.sign.at_ms };
}

/** The shape of a change (its statement without values: `sqlOf` makes SQL of it) and the values. */
function statementOf(change: RowChange): [string, Value[]] {
  if (change.table === "attempts") return ["attempts", [change.over.ended_at_ms, change.over.outcome, change.job_id]];
  if (change.table === "usage") return ["usage", [change.add.day, change.add.level, change.add.id, change.add.tokens]];
  if ("answer" in change) return ["line answered", [change.answer.output, change.answer.ok, change.id]];
  if ("gone" in change) return goneOf(change);
  const row = "insert" in change ? change.insert : change.update;
  const shape = `${"insert" in change ? "insert" : "update"} ${change.table} ${Object.keys(row)}`;
  const values: Value[] = Object.values(row);
  if ("id" in change) values.push(change.id);
  return [shape, values];
}

function goneOf(change: Extract<RowChange, { gone: unknown }>): [string, Value[]] {
  if (change.table === "files") return ["file gone", [change.id]];
  if (change.table === "batch_lines") return [`lines gone ${change.gone}`, [change.batch_id]];
  return ["progress gone", [change.job_id]];
}

const GONE: Readonly<Record<string, string>> = {
  "progress gone": "delete from progress where job_id = ?",
  "file gone": "delete from files where id = ?",
  "lines gone requests": "update batch_lines set request = '' where batch_id = ?",
  "lines gone answers": "delete from batch_lines where batch_id = ? and ok = 1",
  "lines gone errors": "delete from batch_lines where batch_id = ? and ok = 0",
};

/** The statement of a shape. An insert into `jobs` has one value more than the shape says, last: the row's number. */
export function sqlOf(shape: string): string {
  if (shape === "attempts") {
    return `insert into attempts (job_id, attempt, worker_id, started_at_ms, ended_at_ms, outcome)
      select id, attempt, worker_id, started_at_ms, ?, ? from jobs where id = ? and status = 'running' on conflict do nothing`;
  }
  if (shape === "usage") {
    return `insert into usage (day, level, id, tokens, jobs) values (?, ?, ?, ?, 1)
      on conflict (day, level, id) do update set tokens = tokens + excluded.tokens, jobs = jobs + 1`;
  }
  const gone = GONE[shape];
  if (gone !== undefined) return gone;
  if (shape === "line answered") return "update batch_lines set output = ?, ok = ? where id = ? and output is null";
  const [verb, table, names = ""] = shape.split(" ");
  const columns = names.split(",");
  if (verb === "update") return `update ${table} set ${columns.map((column) => `${column} = ?`).join(", ")} where id = ?`;
  if (table === "jobs") columns.push("seq");
  return `insert into ${table} (${columns}) values (${columns.map(() => "?")}) ${table === "models" || table === "batch_lines" ? "on conflict do nothing" : ""}`;
}
