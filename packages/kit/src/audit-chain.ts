/**
 * The audit trail's chain: each entry is canonical JSON (RFC 8785 for the values we use: strings, integers, booleans, null,
 * objects, arrays) and its hash covers the hash before it, so that a changed, removed or reordered entry shows. Also how an entry is
 * written in an export; `audit-check.ts` says whether a trail is whole.
 */
import { hash } from "node:crypto";

/** What the first entry calls its predecessor. */
export const GENESIS = "0".repeat(64);

export type AuditValue = string | number | boolean | null | readonly AuditValue[] | { readonly [key: string]: AuditValue };

/** An entry before it is chained. Prompts and answers never enter it: only their hashes and lengths. */
export interface AuditEntry {
  readonly at_ms: number;
  readonly kind: string;
  readonly fields: { readonly [key: string]: AuditValue };
}

export interface ChainedEntry {
  readonly seq: number;
  readonly at_ms: number;
  readonly kind: string;
  readonly record: string;
  readonly previous: string;
  readonly hash: string;
}

export type AuditRecord = { readonly seq: number; readonly at: string; readonly kind: string } & { readonly [field: string]: AuditValue };

export function chain(entry: AuditEntry, seq: number, previous: string): ChainedEntry {
  const { at_ms, kind, fields } = entry;
  const record = canonicalJson({ ...fields, seq, at: isoTime(at_ms), kind });
  return { seq, at_ms, kind, record, previous, hash: linkHash(previous, record) };
}

let latest = { at_ms: 0, text: new Date(0).toISOString() };

/** Entries of one commit are mostly of the same moment. */
function isoTime(at_ms: number): string {
  if (at_ms !== latest.at_ms) latest = { at_ms, text: new Date(at_ms).toISOString() };
  return latest.text;
}

/** What is kept of an entry wherever the trail lies: the rest can be made from it. */
export type SealedEntry = Pick<ChainedEntry, "record" | "previous" | "hash">;

/** An entry's line in an export, without its end. */
export function exportLine({ hash, previous, record }: SealedEntry): string {
  return `{"hash":"${hash}","previous":"${previous}","record":${record}}`;
}

const EXPORT_LINE = /^\{"hash":"([0-9a-f]{64})","previous":"([0-9a-f]{64})","record":(\{.*\})\}$/;

/** Undefined for what `exportLine` would not have written: there is one way to write an entry, so that no byte is free to change. */
export function entryOfLine(line: string): SealedEntry | undefined {
  const [, hash, previous, record] = EXPORT_LINE.exec(line) ?? [];
  return hash === undefined || previous === undefined || record === undefined ? undefined : { hash, previous, record };
}

/** What every record says; undefined for what is no record. */
export function recordOf({ record }: Pick<SealedEntry, "record">): AuditRecord | undefined {
  let value: unknown;
  try {
    value = JSON.parse(record);
  } catch {
    return undefined;
  }
  if (typeof value !== "object" || value === null) return undefined;
  const { seq, at, kind } = value as Record<string, unknown>;
  if (!Number.isSafeInteger(seq) || typeof at !== "string" || Number.isNaN(Date.parse(at)) || typeof kind !== "string") return undefined;
  return value as AuditRecord;
}

export function linkHash(previous: string, record: string): string {
  return hash("sha256", `${previous}\n${record}`, "hex");
}

/**
 * RFC 8785: members in the order of their names' UTF-16 units, and otherwise what JSON.stringify writes, which follows the same
 * rules for strings and numbers. A RangeError for a number that JSON does not have.
 */
export function canonicalJson(value: AuditValue): string {
  if (typeof value === "number" && !Number.isFinite(value)) throw new RangeError("canonical JSON has no NaN and no infinity");
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  if (Array.isArray(value)) return `[${value.map(canonicalJson).join(",")}]`;
  const object = value as { readonly [key: string]: AuditValue };
  const { names, plain } = shapeOf(object);
  return (
    (plain ? stringifiedInOrder(object, names) : undefined) ??
    `{${names.map((name) => `${JSON.stringify(name)}:${canonicalJson(object[name] as AuditValue)}`).join(",")}}`
  );
}

/** Names that an object does not keep where they were put, or that could not be told apart in a list of names. */
const ODD_NAME = /^(\d|__proto__$)|\n/;
const SHAPES_MAX = 1000;

interface RecordShape {
  /** In canonical order. */
  readonly names: readonly string[];
  /** None of them is odd. */
  readonly plain: boolean;
}

/** By the names as they were put: records come in few shapes, and sorting the names of one costs as much as writing it. */
const shapes = new Map<string, RecordShape>();

function shapeOf(object: object): RecordShape {
  const given = Object.keys(object);
  const key = given.join("\n");
  const known = shapes.get(key);
  if (known !== undefined && known.names.length === given.length) return known;
  const shape = { names: given.sort(), plain: !given.some((name) => ODD_NAME.test(name)) };
  if (shape.plain && shapes.size < SHAPES_MAX) shapes.set(key, shape);
  return shape;
}

/** The usual record, flat and with plain names, in half the time; undefined for any other. */
function stringifiedInOrder(object: { readonly [key: string]: AuditValue }, names: readonly string[]): string | undefined {
  const ordered: Record<string, AuditValue> = {};
  for (const name of names) {
    const value = object[name] as AuditValue;
    if ((typeof value === "object" && value !== null) || (typeof value === "number" && !Number.isFinite(value))) return undefined;
    ordered[name] = value;
  }
  return JSON.stringify(ordered);
}
