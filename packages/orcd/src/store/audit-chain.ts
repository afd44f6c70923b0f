/**
 * The audit trail's chain: each entry is canonical JSON (RFC 8785 for the values we use: strings, integers, booleans, null,
 * objects, arrays) and its hash covers the hash before it, so that a changed, removed or reordered entry shows.
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

export function chain(entry: AuditEntry, seq: number, previous: string): ChainedEntry {
  const { at_ms, kind, fields } = entry;
  const record = canonicalJson({ ...fields, seq, at: new Date(at_ms).toISOString(), kind });
  return { seq, at_ms, kind, record, previous, hash: linkHash(previous, record) };
}

export function linkHash(previous: string, record: string): string {
  return hash("sha256", `${previous}\n${record}`, "hex");
}

/** The first entry that does not follow from the one before it, or undefined when the chain is whole. */
export function firstBroken(entries: Iterable<ChainedEntry>): { seq: number; why: string } | undefined {
  let previous = GENESIS;
  let expected = 1;
  for (const entry of entries) {
    if (entry.seq !== expected) return { seq: entry.seq, why: `entry ${expected} is missing` };
    if (entry.previous !== previous) return { seq: entry.seq, why: "it does not name the entry before it" };
    if (linkHash(previous, entry.record) !== entry.hash) return { seq: entry.seq, why: "its record does not have its hash" };
    previous = entry.hash;
    expected += 1;
  }
  return undefined;
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
  const names = Object.keys(object).sort();
  return (
    stringifiedInOrder(object, names) ??
    `{${names.map((name) => `${JSON.stringify(name)}:${canonicalJson(object[name] as AuditValue)}`).join(",")}}`
  );
}

/** Names that an object does not keep where they were put. */
const ODD_NAME = /^(\d|__proto__$)/;

/** The usual record, flat and with plain names, in half the time; undefined for any other. */
function stringifiedInOrder(object: { readonly [key: string]: AuditValue }, names: readonly string[]): string | undefined {
  const ordered: Record<string, AuditValue> = {};
  for (const name of names) {
    const value = object[name] as AuditValue;
    if (typeof value === "object" && value !== null) return undefined;
    if ((typeof value === "number" && !Number.isFinite(value)) || ODD_NAME.test(name)) return undefined;
    ordered[name] = value;
  }
  return JSON.stringify(ordered);
}
