/**
 * Changes on their way to the store's thread: one string for a turn's worth of them, flat, since cloning and taking apart
 * objects of two dozen members costs more than writing them down. Each row change names the statement that carries it out.
 */
import type { AuditEntry } from "@rbees/kit/audit-chain";
import { boundTo, type SubjectName } from "./content.ts";
import type { Change } from "./port.ts";

type Value = string | number | null;
type RowChange = Exclude<Change, { table: "audit" }>;

/** Which of the values are content, to be sealed before they are written, and what each is bound to. */
export interface Sealing {
  readonly job_id: string;
  readonly at: readonly (readonly [index: number, bound_to: string])[];
  /** Of a new job: whose it is. Its id is one more value, after all others. */
  readonly of?: SubjectName;
}

export type AuditOrder = (AuditEntry & { readonly subject?: SubjectName | undefined }) | { readonly sign_at_ms: number };

/** What the thread is asked to do: run the statement of a shape with its values, append to the audit trail, or sign it. */
export type Order = readonly [shape: string, values: readonly Value[], sealing?: Sealing] | readonly [audit: AuditOrder];

/** As JSON; `ordersFrom` reads it back. */
export function encodeChanges(changes: readonly Change[]): string {
  return JSON.stringify(changes.map((change): Order => (change.table === "audit" ? [auditOf(change)] : statementOf(change))));
}

export function ordersFrom(json: string): Order[] {
  return JSON.parse(json) as Order[];
}

function auditOf(change: Exclude<Change, RowChange>): AuditOrder {
  return "append" in change ? { ...change.append, subject: change.subject } : { sign_at_ms: change.sign.at_ms };
}

/** The shape of a change (its statement without values: `sqlOf` makes SQL of it) and the values. */
function statementOf(change: RowChange): [string, Value[], Sealing?] {
  if (change.table === "attempts") return ["attempts", [change.over.ended_at_ms, change.over.outcome, change.job_id]];
  if (change.table === "usage") return ["usage", [change.add.day, change.add.level, change.add.id, change.add.tokens]];
  if ("answer" in change) return ["line answered", [change.answer.output, change.answer.ok, change.id]];
  if ("gone" in change) return goneOf(change);
  const row = "insert" in change ? change.insert : change.update;
  const shape = `${"insert" in change ? "insert" : "update"} ${change.table} ${Object.keys(row)}`;
  const values: Value[] = Object.values(row);
  if ("id" in change) values.push(change.id);
  const sealing = sealingOf(change, Object.keys(row));
  return sealing === undefined ? [shape, values] : [shape, values, sealing];
}

function sealingOf(change: RowChange, columns: readonly string[]): Sealing | undefined {
  if (change.table === "progress" && "insert" in change) {
    const { job_id, first_event } = change.insert;
    return { job_id, at: [[columns.indexOf("events"), boundTo(job_id, `events ${first_event}`)]] };
  }
  if (change.table !== "jobs") return undefined;
  const job_id = "insert" in change ? change.insert.id : change.id;
  const at = (["request", "text", "said"] as const).flatMap((column) => {
    const index = columns.indexOf(column);
    return index === -1 ? [] : [[index, boundTo(job_id, column)] as const];
  });
  if ("insert" in change) return { job_id, at, of: { tenant: change.insert.tenant, name: change.subject ?? null } };
  return at.length === 0 ? undefined : { job_id, at };
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

/** The statement of a shape. An insert into `jobs` has two values more than the shape says, last: its subject and the row's number. */
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
  if (table === "jobs") return `insert into jobs (${columns}, content, subject, seq) values (${columns.map(() => "?")}, 'kept', ?, ?)`;
  return `insert into ${table} (${columns}) values (${columns.map(() => "?")}) ${table === "models" || table === "batch_lines" ? "on conflict do nothing" : ""}`;
}
