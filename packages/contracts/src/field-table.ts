/**
 * What becomes of each field of an API that others defined: done as asked, taken as a hint that changes nothing, or refused by
 * name. Schemas and pages of the doors are put together from these tables.
 */
import { z } from "zod";

type Fields = Readonly<Record<string, z.ZodType>>;

/** The fields of one body, by what becomes of them. Each has its description. */
export interface FieldTable {
  readonly supported: Fields;
  readonly hints: Fields;
  readonly refused: Fields;
}

/** A field that may be left out; null says the same, as in OpenAI's own API. */
export function may<T extends z.ZodType>(type: T, says: string) {
  return type.nullish().describe(says);
}

/** A field that must not ask for anything: null, or one of `nothing`. */
export function refused(why: string, ...nothing: readonly unknown[]) {
  const accepted = nothing.length === 0 ? "" : ` (only ${nothing.map((value) => JSON.stringify(value)).join(" or ")})`;
  const refusal = `is not supported${accepted}: ${why}`;
  return z
    .unknown()
    .refine((value) => value === undefined || value === null || nothing.some((one) => same(one, value)), refusal)
    .optional()
    .describe(`${why}${accepted}`);
}

/** Whether the value is this one; goes only as deep as `expected` does. */
function same(expected: unknown, value: unknown): boolean {
  if (typeof expected !== "object" || expected === null || typeof value !== "object" || value === null) return expected === value;
  if (Array.isArray(expected) !== Array.isArray(value)) return false;
  const keys = Object.keys(value);
  return (
    keys.length === Object.keys(expected).length &&
    keys.every((key) => Object.hasOwn(expected, key) && same((expected as Fields)[key], (value as Fields)[key]))
  );
}
