/** The statement of each shape that an order may have (`orders.ts`): its SQL, and which of its values are content, to be sealed before they are written. */
import { boundTo, type RowRef, type SubjectName } from "./content.ts";
import type { Subject, Value } from "./orders.ts";

export interface Shape {
  /** An insert into `jobs` has one value more than the order gives, last: the row's number. */
  readonly sql: string;
  readonly numbered: boolean;
  readonly sealing: Sealing | undefined;
}

export interface Sealing {
  /** What is content, and what it is bound to. */
  readonly content: readonly (readonly [index: number, bindingOf: (values: readonly Value[]) => string])[];
  /** Of a new row: whose it is; its subject's id is one more value, after all others. Else the row whose subject it is. */
  of(values: readonly Value[], subject: Subject | undefined): SubjectName | RowRef;
}

export function shapeOf(text: string): Shape {
  const [verb = "", table = "", names = ""] = text.split(" ");
  const row = { verb, table, columns: names.split(",") };
  const sealing = text === "line answered" ? OF_ANSWERS : verb === "insert" || verb === "update" ? sealingOf(row) : undefined;
  return { sql: sqlOf(text, row), numbered: verb === "insert" && table === "jobs", sealing };
}

const OF_ANSWERS: Sealing = {
  content: [[0, ([, , , id]) => boundTo(String(id), "output")]],
  of: ([, , , id]) => ({ line_id: String(id) }),
};

function sealingOf({ verb, table, columns }: RowShape): Sealing | undefined {
  const has = (name: string) => columns.includes(name);
  const columnOf = (name: string) => {
    const index = columns.indexOf(name);
    return (values: readonly Value[]) => String(values[index]);
  };
  const sealed = <C extends string>(names: readonly C[], bound: (values: readonly Value[], name: C) => string): Sealing["content"] =>
    names.filter(has).map((name) => [columns.indexOf(name), (values) => bound(values, name)]);
  // The id that says which row is changed is the last value.
  const id = verb === "update" ? (values: readonly Value[]) => String(values.at(-1)) : columnOf("id");
  if (table === "jobs") {
    const content = sealed(["request", "text", "said"], (values, name) => boundTo(id(values), name));
    if (verb === "update") return content.length === 0 ? undefined : { content, of: (values) => ({ job_id: id(values) }) };
    const tenant = columnOf("tenant");
    return { content, of: (values, name) => ({ tenant: tenant(values), name: (name as string | undefined) ?? null }) };
  }
  if (verb === "update") return undefined;
  if (table === "progress") {
    const [job_id, first_event] = [columnOf("job_id"), columnOf("first_event")];
    const content = sealed(["events"], (values) => boundTo(job_id(values), `events ${Number(first_event(values))}`));
    return { content, of: (values) => ({ job_id: job_id(values) }) };
  }
  const whose = (_: readonly Value[], subject: Subject | undefined) => subject as SubjectName;
  if (table === "file_parts") {
    const [file_id, line] = [columnOf("file_id"), columnOf("line")];
    return { content: sealed(["content"], (values) => boundTo(file_id(values), `line ${Number(line(values))}`)), of: whose };
  }
  if (table === "batch_lines") return { content: sealed(["custom_id", "request"], (values, name) => boundTo(id(values), name)), of: whose };
  return undefined;
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

interface RowShape {
  readonly verb: string;
  readonly table: string;
  readonly columns: readonly string[];
}

function sqlOf(text: string, { verb, table, columns }: RowShape): string {
  if (text === "attempts") {
    return `insert into attempts (job_id, attempt, worker_id, started_at_ms, ended_at_ms, outcome)
      select id, attempt, worker_id, started_at_ms, ?, ? from jobs where id = ? and status = 'running' on conflict do nothing`;
  }
  if (text === "usage") {
    return `insert into usage (day, level, id, tokens, jobs) values (?, ?, ?, ?, 1)
      on conflict (day, level, id) do update set tokens = tokens + excluded.tokens, jobs = jobs + 1`;
  }
  const gone = GONE[text];
  if (gone !== undefined) return gone;
  if (text === "line answered") return "update batch_lines set output = ?, output_bytes = ?, ok = ? where id = ? and output is null";
  if (verb === "update") return `update ${table} set ${columns.map((column) => `${column} = ?`).join(", ")} where id = ?`;
  if (table === "jobs") return `insert into jobs (${columns}, content, subject, seq) values (${columns.map(() => "?")}, 'kept', ?, ?)`;
  const all = OF_SUBJECTS.has(table) ? [...columns, "subject"] : columns;
  return `insert into ${table} (${all}) values (${all.map(() => "?")}) ${table === "models" || table === "batch_lines" ? "on conflict do nothing" : ""}`;
}
