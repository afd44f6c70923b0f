/**
 * Changes on their way to the store's thread: one string for a turn's worth of them, flat, since cloning and taking apart
 * objects of two dozen members costs more than writing them down. A row change is the values of a statement; which statement that is, its
 * shape says (`statement.ts`), in words when the thread has not heard it yet, and from then on by its number.
 */
import type { AuditEntry } from "@rbees/kit/audit-chain";
import type { SubjectName } from "./content.ts";
import { ERASED_ANSWER_BYTES } from "./erased-lines.ts";
import type { Change } from "./port.ts";

export type Value = string | number | null;
type RowChange = Exclude<Change, { table: "audit" }>;

export type AuditOrder = (AuditEntry & { readonly subject?: SubjectName | undefined }) | { readonly sign_at_ms: number };

/** Carry out the statement of a shape with these values, whose content is of that subject, where its rows say; or append to the audit trail, or sign it. */
export type Order = RowOrder<string> | readonly [audit: AuditOrder];
type RowOrder<S> = readonly [shape: S, values: readonly Value[], subject?: Subject | undefined];

/** By name, of the row's own tenant; or of a tenant that the row does not say. */
export type Subject = string | SubjectName;

type Written = RowOrder<string | number> | readonly [audit: AuditOrder];

/** Of one thread: its reader numbers the shapes as this does. */
export class OrderWriter {
  readonly #numbers = new Map<string, number>();

  /** As JSON. */
  write(changes: readonly Change[]): string {
    return JSON.stringify(changes.map((change): Written => (change.table === "audit" ? [auditOf(change)] : this.#row(change))));
  }

  #row(change: RowChange): RowOrder<string | number> {
    const [shape, values, subject] = rowOf(change);
    const known = this.#numbers.get(shape);
    if (known === undefined) this.#numbers.set(shape, this.#numbers.size);
    return subject === undefined ? [known ?? shape, values] : [known ?? shape, values, subject];
  }
}

/** Has to read all that its writer writes, in that order. */
export class OrderReader {
  readonly #shapes: string[] = [];

  read(json: string): Order[] {
    return (JSON.parse(json) as Written[]).map((order) => {
      if (order.length === 1) return order;
      const [shape, values, subject] = order;
      if (typeof shape === "string") this.#shapes.push(shape);
      const text = typeof shape === "string" ? shape : this.#shapes[shape];
      if (text === undefined) throw new Error(`no shape has the number ${shape}`);
      return [text, values, subject];
    });
  }
}

function auditOf(change: Exclude<Change, RowChange>): AuditOrder {
  return "append" in change ? { ...change.append, subject: change.subject } : { sign_at_ms: change.sign.at_ms };
}

function rowOf(change: RowChange): [shape: string, values: Value[], subject?: Subject] {
  if (change.table === "attempts") return ["attempts", [change.over.ended_at_ms, change.over.outcome, change.job_id]];
  if (change.table === "usage") return ["usage", [change.add.day, change.add.level, change.add.id, change.add.tokens]];
  if ("answer" in change) return answerOf(change);
  if ("gone" in change) return goneOf(change);
  if ("update" in change)
    return [`update ${change.table} ${Object.keys(change.update)}`, [...(Object.values(change.update) as Value[]), change.id]];
  const shape = `insert ${change.table} ${Object.keys(change.insert)}`;
  const values = Object.values(change.insert) as Value[];
  const subject = "subject" in change ? change.subject : undefined;
  return subject == null ? [shape, values] : [shape, values, subject];
}

function answerOf({ id, answer: { output, ok } }: Extract<RowChange, { answer: unknown }>): [string, Value[]] {
  const bytes = output === "" ? ERASED_ANSWER_BYTES + id.length : Buffer.byteLength(output);
  return ["line answered", [output, bytes, ok, id]];
}

function goneOf(change: Extract<RowChange, { gone: unknown }>): [string, Value[]] {
  if (change.table === "files") return ["file gone", [change.id]];
  if (change.table === "file_parts") return ["parts gone", [change.file_id]];
  if (change.table === "batch_lines") return [`lines gone ${change.gone}`, [change.batch_id]];
  return ["progress gone", [change.job_id]];
}
