/**
 * Changes on their way to the store's thread: one string for a turn's worth of them, flat, since cloning and taking apart
 * objects of two dozen members costs more than writing them down. Each row change names the statement that carries it out.
 */
import type { AuditEntry } from "@rbees/kit/audit-chain";
import { boundTo, type SubjectName } from "./content.ts";
import { ERASED_ANSWER_BYTES } from "./erased-lines.ts";
import type { Change } from "./port.ts";

type Value = string | number | null;
type RowChange = Exclude<Change, { table: "audit" }>;

/** Which of the values are content, to be sealed before they are written, and what each is bound to. */
export interface Sealing {
  readonly at: readonly (readonly [index: number, bound_to: string])[];
  /** Of a new row: whose it is; the subject's id is one more value, after all others. Else the row whose subject it is. */
  readonly of: SubjectName | RowRef;
}

export type RowRef = { readonly job_id: string } | { readonly line_id: string };

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
  if ("answer" in change) return answerOf(change);
  if ("gone" in change) return goneOf(change);
  const row = "insert" in change ? change.insert : change.update;
  const shape = `${"insert" in change ? "insert" : "update"} ${change.table} ${Object.keys(row)}`;
  const values: Value[] = Object.values(row);
  if ("id" in change) values.push(change.id);
  const sealing = sealingOf(change, Object.keys(row));
  return sealing === undefined ? [shape, values] : [shape, values, sealing];
}

function sealingOf(change: RowChange, columns: readonly string[]): Sealing | undefined {
  const sealed = <C extends string>(names: readonly C[], boundToColumn: (name: C) => string) =>
    names.flatMap((name) => {
      const index = columns.indexOf(name);
      return index === -1 ? [] : [[index, boundToColumn(name)] as const];
    });
  if (change.table === "progress" && "insert" in change) {
    const { job_id, first_event } = change.insert;
    return { at: sealed(["events"], () => boundTo(job_id, `events ${first_event}`)), of: { job_id } };
  }
  if (change.table === "file_parts" && "insert" in change) {
    const { file_id, line } = change.insert;
    return { at: sealed(["content"], () => boundTo(file_id, `line ${line}`)), of: change.subject };
  }
  if (change.table === "batch_lines" && "insert" in change)
    return { at: sealed(["custom_id", "request"], (name) => boundTo(change.insert.id, name)), of: change.subject };
  if (change.table !== "jobs") return undefined;
  const job_id = "insert" in change ? change.insert.id : change.id;
  const at = sealed(["request", "text", "said"], (name) => boundTo(job_id, name));
  if ("insert" in change) return { at, of: { tenant: change.insert.tenant, name: change.subject ?? null } };
  return at.length === 0 ? undefined : { at, of: { job_id } };
}

function answerOf({ id, answer: { output, ok } }: Extract<RowChange, { answer: unknown }>): [string, Value[], Sealing] {
  const bytes = output === "" ? ERASED_ANSWER_BYTES + id.length : Buffer.byteLength(output);
  return ["line answered", [output, bytes, ok, id], { at: [[0, boundTo(id, "output")]], of: { line_id: id } }];
}

function goneOf(change: Extract<RowChange, { gone: unknown }>): [string, Value[]] {
  if (change.table === "files") return ["file gone", [change.id]];
  if (change.table === "file_parts") return ["parts gone", [change.file_id]];
  if (change.table === "batch_lines") return [`lines gone ${change.gone}`, [change.batch_id]];
  return ["progress gone", [change.job_id]];
}

const GONE: Readonly<Record<string, string>> = {
  "progress gone": "delete from progress where job_id = ?",
  "file gone": "delete from files where id = ?",
  "parts gone": "delete from file_parts where file_id = ?",
  "lines gone requests": "update batch_lines set request = '', custom_id = '' where batch_id = ?",
  "lines gone answers": "delete from batch_lines where batch_id = ? and ok = 1",
  "lines gone errors": "delete from batch_lines where batch_id = ? and ok = 0",
};

/** Their subject is one more value of a new row. */
const OF_SUBJECTS: ReadonlySet<string> = new Set(["file_parts", "batch_lines"]);

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
  if (shape === "line answered") return "update batch_lines set output = ?, output_bytes = ?, ok = ? where id = ? and output is null";
  const [verb, table, names = ""] = shape.split(" ");
  const columns = names.split(",");
  if (verb === "update") return `update ${table} set ${columns.map((column) => `${column} = ?`).join(", ")} where id = ?`;
  if (table === "jobs") return `insert into jobs (${columns}, content, subject, seq) values (${columns.map(() => "?")}, 'kept', ?, ?)`;
  const all = OF_SUBJECTS.has(String(table)) ? [...columns, "subject"] : columns;
  return `insert into ${table} (${all}) values (${all.map(() => "?")}) ${table === "models" || table === "batch_lines" ? "on conflict do nothing" : ""}`;
}
