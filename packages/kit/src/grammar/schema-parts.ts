/** What is asked of parts of a JSON schema: their types, and whether two of them could be met by one value. */

export type Schema = Readonly<Record<string, unknown>>;

export const TYPES = ["object", "array", "string", "number", "integer", "boolean", "null"] as const;
export type Type = (typeof TYPES)[number];

export function isObject(value: unknown): value is Schema {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

export function isOf(type: Type, value: unknown): boolean {
  if (type === "integer") return Number.isInteger(value);
  if (type === "null") return value === null;
  if (type === "array") return Array.isArray(value);
  if (type === "object") return isObject(value);
  return typeof value === type;
}

/** Whether no value can meet both, as far as that is plain: by their types, or by a constant that both require. */
export function differ(one: Schema, other: Schema): boolean {
  const [a, b] = [typesOf(one), typesOf(other)];
  if (a !== undefined && b !== undefined && !a.some((type) => b.includes(type))) return true;
  const required = (schema: Schema) => (Array.isArray(schema["required"]) ? (schema["required"] as unknown[]) : []);
  return required(one).some((name) => {
    const [mine, theirs] = [one, other].map((schema) => constants((schema["properties"] as Schema | undefined)?.[String(name)]));
    return required(other).includes(name) && mine !== undefined && theirs !== undefined && !mine.some((value) => theirs.includes(value));
  });
}

function typesOf({ type, const: only, enum: some }: Schema): string[] | undefined {
  const values = only !== undefined ? [only] : Array.isArray(some) ? some : undefined;
  const given = Array.isArray(type) ? type.map(String) : typeof type === "string" ? [type] : undefined;
  const types = given ?? values?.map((value) => (value === null ? "null" : Array.isArray(value) ? "array" : typeof value));
  return types?.map((one) => (one === "integer" ? "number" : one));
}

function constants(schema: unknown): string[] | undefined {
  if (!isObject(schema)) return undefined;
  const values =
    schema["const"] !== undefined ? [schema["const"]] : Array.isArray(schema["enum"]) ? (schema["enum"] as unknown[]) : undefined;
  return values?.map((value) => JSON.stringify(value));
}

export function resolve(root: unknown, pointer: string): unknown {
  let found = root;
  for (const step of pointer.split("/").slice(1)) {
    const name = step.replaceAll("~1", "/").replaceAll("~0", "~");
    if (typeof found !== "object" || found === null || !Object.hasOwn(found, name)) return undefined;
    found = (found as Schema)[name];
  }
  return found;
}

/** The JSON pointer in a reference: what stands after its #. */
export function pointerOf(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
