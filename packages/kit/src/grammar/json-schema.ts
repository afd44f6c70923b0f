/**
 * A JSON schema as a grammar: whatever the grammar allows validates against the schema, and is written as JSON. Where a schema
 * allows more than is easily said, the grammar allows a part of it: properties come in the order in which they are declared, and none
 * besides them. What can't be kept to is a problem with the place in the schema, and all problems come at once.
 */
import { AnyJson, listRule } from "./any-json.ts";
import { FORMATS } from "./formats.ts";
import { endlessRules, readGbnf } from "./gbnf.ts";
import { type Bounds, integers, numbers } from "./number-range.ts";
import { NoPattern, patternRule } from "./pattern.ts";
import { literal, oneOf, Rules } from "./rules.ts";
import { differ, isObject, isOf, pointerOf, resolve, type Schema, TYPES, type Type } from "./schema-parts.ts";

/** Bounds of a schema, so that compiling one stays cheap. */
export const SCHEMA_LIMITS = { nodes_max: 5000, depth_max: 64, grammar_chars_max: 262_144, length_max: 100_000, digits_max: 20 } as const;

export interface SchemaProblem {
  /** JSON pointer to the part of the schema; empty for the whole. */
  readonly pointer: string;
  readonly problem: string;
}

export type Compiled = { readonly grammar: string } | { readonly problems: readonly SchemaProblem[] };

export function compileSchema(schema: unknown): Compiled {
  return new Compiler(schema).compiled();
}

/** Keywords that say something of one type of value only, and which of them can be kept to. */
const KEYWORDS: Readonly<Record<Exclude<Type, "boolean" | "null" | "integer">, { kept: readonly string[]; others: readonly string[] }>> = {
  object: {
    kept: ["properties", "required", "additionalProperties"],
    others: ["patternProperties", "propertyNames", "dependentRequired", "dependentSchemas", "dependencies", "unevaluatedProperties"],
  },
  array: {
    kept: ["items", "prefixItems", "minItems", "maxItems"],
    others: ["contains", "minContains", "maxContains", "unevaluatedItems", "additionalItems"],
  },
  string: { kept: ["minLength", "maxLength", "pattern", "format"], others: [] },
  number: { kept: ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"], others: [] },
};
const OF_ANY_TYPE = ["not", "if", "then", "else", "$dynamicRef", "$recursiveRef"];
/** What speaks of the value, whatever its type: beside `$ref`, `enum` and `const` it would have to be kept to as well. */
const ASSERTIONS = [
  ...Object.values(KEYWORDS).flatMap(({ kept, others }) => [...kept, ...others]),
  ...["minProperties", "maxProperties", "uniqueItems", "multipleOf"],
  ...["$ref", "enum", "const", "anyOf", "oneOf", "allOf"],
];

class Compiler {
  readonly #root: unknown;
  readonly #rules = new Rules();
  readonly #any = new AnyJson(this.#rules);
  readonly #problems: SchemaProblem[] = [];
  /** By pointer: the rule of a part that something refers to. */
  readonly #referred = new Map<string, string>();
  #nodes = 0;

  constructor(root: unknown) {
    this.#root = root;
  }

  compiled(): Compiled {
    const root = this.#rule(this.#root, "", new Set(), 0);
    const problems = new Map(this.#problems.map((one) => [`${one.pointer} ${one.problem}`, one]));
    if (problems.size > 0) return { problems: [...problems.values()].sort((a, b) => (a.pointer < b.pointer ? -1 : 1)) };
    const grammar = this.#rules.text(root);
    const { grammar_chars_max } = SCHEMA_LIMITS;
    if (grammar.length <= grammar_chars_max) return this.#ending(grammar);
    return { problems: [{ pointer: "", problem: `makes a grammar of ${grammar.length} characters, and ${grammar_chars_max} may be` }] };
  }

  /** A part may hold itself, but not must. */
  #ending(grammar: string): Compiled {
    if (this.#referred.size === 0) return { grammar };
    const endless = endlessRules(readGbnf(grammar));
    const problems = [...this.#referred].filter(([, rule]) => endless.has(rule)).map(([pointer]) => ({ pointer, problem: ENDLESS }));
    return problems.length > 0 ? { problems } : { grammar };
  }

  #problem(pointer: string, problem: string): string {
    this.#problems.push({ pointer, problem });
    return this.#any.value;
  }

  /** What stands for a part of the schema. `through`: the references on the way to it since the last object or array began. */
  #rule(schema: unknown, pointer: string, through: ReadonlySet<string>, depth: number): string {
    this.#nodes += 1;
    const { nodes_max, depth_max } = SCHEMA_LIMITS;
    if (this.#nodes === nodes_max + 1) return this.#problem("", `has more than ${nodes_max} parts`);
    if (this.#nodes > nodes_max) return this.#any.value;
    if (depth > depth_max) return this.#problem(pointer, `is more than ${depth_max} levels deep`);
    if (schema === true) return this.#any.value;
    if (schema === false) return this.#problem(pointer, "allows no value");
    if (!isObject(schema)) return this.#problem(pointer, "must be a schema: an object, true or false");
    for (const keyword of OF_ANY_TYPE) if (schema[keyword] !== undefined) this.#problem(`${pointer}/${keyword}`, CANT);
    const next = depth + 1;
    if (schema["$ref"] !== undefined) return this.#reference(schema, pointer, through, next);
    if (schema["const"] !== undefined || schema["enum"] !== undefined) return this.#values(schema, pointer);
    for (const keyword of ["anyOf", "oneOf", "allOf"]) {
      if (schema[keyword] !== undefined) return this.#combined(schema, keyword, pointer, through, next);
    }
    const types = this.#types(schema, pointer);
    return this.#rules.add(oneOf(types.map((type) => this.#typed(schema, type, pointer, next))));
  }

  #reference(schema: Schema, pointer: string, through: ReadonlySet<string>, depth: number): string {
    const reference = schema["$ref"];
    const at = `${pointer}/$ref`;
    this.#alone(schema, "$ref", pointer);
    if (typeof reference !== "string" || !/^#(\/|$)/.test(reference)) return this.#problem(at, 'must point into this schema: "#/$defs/…"');
    const target = pointerOf(reference.slice(1));
    if (through.has(target)) return this.#problem(at, "leads back to itself with nothing between");
    const known = this.#referred.get(target);
    if (known !== undefined) return known;
    const found = resolve(this.#root, target);
    if (found === undefined) return this.#problem(at, `points to nothing: ${reference.slice(0, 200)}`);
    const name = this.#rules.reserve();
    this.#referred.set(target, name);
    return this.#rules.define(name, this.#rule(found, target, new Set([...through, target]), depth));
  }

  /** A keyword beside which no other may speak of the value. */
  #alone(schema: Schema, keyword: string, pointer: string): void {
    for (const other of ASSERTIONS)
      if (other !== keyword && schema[other] !== undefined) this.#problem(`${pointer}/${other}`, `can't be kept to beside ${keyword}`);
  }

  #values(schema: Schema, pointer: string): string {
    const keyword = schema["const"] === undefined ? "enum" : "const";
    this.#alone(schema, keyword, pointer);
    const given = keyword === "const" ? [schema["const"]] : schema["enum"];
    if (!Array.isArray(given)) return this.#problem(`${pointer}/enum`, "must be an array");
    const types = schema["type"] === undefined ? undefined : this.#types(schema, pointer);
    const values = given.filter((value) => types === undefined || types.some((type) => isOf(type, value)));
    if (values.length === 0) return this.#problem(`${pointer}/${keyword}`, "allows no value");
    return this.#rules.add(oneOf(values.map((value) => literal(JSON.stringify(value)))));
  }

  #combined(schema: Schema, keyword: string, pointer: string, through: ReadonlySet<string>, depth: number): string {
    const at = `${pointer}/${keyword}`;
    const branches = schema[keyword];
    if (!Array.isArray(branches) || branches.length === 0) return this.#problem(at, "must be an array of schemas, at least one");
    if (keyword === "allOf" && branches.length > 1) return this.#problem(at, "can't be kept to with more than one schema");
    const { [keyword]: _, ...beside } = schema;
    const whole = branches.map((branch, i) => this.#merged(beside, branch, `${at}/${i}`));
    if (keyword === "oneOf" && branches.length > 1 && !this.#apart(whole))
      return this.#problem(
        at,
        "could be met by more than one of its schemas: use anyOf, or tell them apart by type or by a required constant",
      );
    return this.#rules.add(oneOf(whole.map((branch, i) => this.#rule(branch, `${at}/${i}`, through, depth))));
  }

  /** A branch with what is said beside all branches. */
  #merged(beside: Schema, branch: unknown, pointer: string): unknown {
    const said = Object.keys(beside).filter((name) => name === "type" || ASSERTIONS.includes(name));
    if (said.length === 0) return branch;
    if (!isObject(branch)) return branch === true ? beside : branch;
    const both = said.find((name) => branch[name] !== undefined && !(name === "type" && branch[name] === beside[name]));
    const split = ["properties", "additionalProperties", "$ref"].find((name) => said.includes("properties") && branch[name] !== undefined);
    if (both !== undefined || split !== undefined)
      this.#problem(`${pointer}/${both ?? split}`, "can't be kept to beside what is said outside");
    return { ...Object.fromEntries(said.map((name) => [name, beside[name]])), ...branch };
  }

  /** Whether no value can meet two of them. */
  #apart(branches: readonly unknown[]): boolean {
    const resolved = branches.map((branch) => {
      const reference = isObject(branch) ? branch["$ref"] : undefined;
      return typeof reference === "string" ? resolve(this.#root, pointerOf(reference.slice(1))) : branch;
    });
    return resolved.every((one, i) => resolved.slice(i + 1).every((other) => isObject(one) && isObject(other) && differ(one, other)));
  }

  #types(schema: Schema, pointer: string): Type[] {
    const { type } = schema;
    if (type !== undefined) {
      const given = Array.isArray(type) ? type : [type];
      const unknown = given.find((one) => !TYPES.includes(one as Type));
      if (unknown === undefined && given.length > 0) return [...new Set(given)] as Type[];
      this.#problem(`${pointer}/type`, `must be one of ${TYPES.join(", ")}, or an array of these`);
      return ["null"];
    }
    const told = Object.entries(KEYWORDS).find(([, { kept, others }]) => [...kept, ...others].some((name) => schema[name] !== undefined));
    if (told !== undefined) return [told[0] as Type];
    return ["object", "array", "string", "number", "boolean", "null"];
  }

  #typed(schema: Schema, type: Type, pointer: string, depth: number): string {
    const of = type === "integer" ? "number" : type;
    if (of !== "boolean" && of !== "null") {
      for (const name of KEYWORDS[of].others) if (schema[name] !== undefined) this.#problem(`${pointer}/${name}`, CANT);
    }
    switch (type) {
      case "null":
        return '"null"';
      case "boolean":
        return '("true" | "false")';
      case "string":
        return this.#string(schema, pointer);
      case "integer":
      case "number":
        return this.#number(schema, type, pointer);
      case "array":
        return this.#array(schema, pointer, depth);
      case "object":
        return this.#object(schema, pointer, depth);
    }
  }

  #string(schema: Schema, pointer: string): string {
    const { pattern, format } = schema;
    const [min, max] = this.#counts(schema, "minLength", "maxLength", pointer);
    const special = pattern === undefined ? "format" : "pattern";
    if (pattern === undefined && format === undefined) {
      if (min === 0 && max === undefined) return this.#any.string;
      return this.#rules.add(`"\\"" ${this.#rules.repeat(this.#any.character, min, max)} "\\""`);
    }
    const beside = [...(pattern === undefined ? [] : ["format"]), "minLength", "maxLength"].filter((name) => schema[name] !== undefined);
    for (const name of beside) this.#problem(`${pointer}/${name}`, `can't be kept to beside ${special}`);
    const source = pattern ?? FORMATS.get(String(format));
    if (typeof source !== "string")
      return this.#problem(
        `${pointer}/${special}`,
        pattern === undefined ? `must be one of ${[...FORMATS.keys()].join(", ")}` : "must be a string",
      );
    try {
      return this.#rules.add(`"\\"" ${patternRule(source, this.#rules)} "\\""`);
    } catch (error) {
      if (!(error instanceof NoPattern)) throw error;
      return this.#problem(`${pointer}/pattern`, `${error.message}, which a grammar can't say`);
    }
  }

  #number(schema: Schema, type: "integer" | "number", pointer: string): string {
    const { multipleOf } = schema;
    if (multipleOf !== undefined && !(type === "integer" && multipleOf === 1)) this.#problem(`${pointer}/multipleOf`, CANT);
    const bounds: Bounds = {};
    for (const name of KEYWORDS.number.kept as readonly (keyof Bounds)[]) {
      const bound = schema[name];
      if (bound === undefined) continue;
      const is_short = typeof bound === "number" && (bound === 0 || (Math.abs(bound) < 1e20 && Math.abs(bound) >= 1e-12));
      if (!is_short)
        this.#problem(`${pointer}/${name}`, `must be a number with at most ${SCHEMA_LIMITS.digits_max} digits before the point`);
      else bounds[name] = bound;
    }
    if (Object.keys(bounds).length === 0) return type === "integer" ? this.#any.integer : this.#any.number;
    return (type === "integer" ? integers(bounds) : numbers(bounds)) ?? this.#problem(pointer, "allows no number");
  }

  #array(schema: Schema, pointer: string, depth: number): string {
    const { items, prefixItems, uniqueItems } = schema;
    if (uniqueItems === true) this.#problem(`${pointer}/uniqueItems`, CANT);
    const [min, max] = this.#counts(schema, "minItems", "maxItems", pointer);
    const first = Array.isArray(prefixItems) ? prefixItems : [];
    if (prefixItems !== undefined && first.length === 0)
      this.#problem(`${pointer}/prefixItems`, "must be an array of schemas, at least one");
    const inner = new Set<string>();
    const { space } = this.#any;
    if (first.length === 0) {
      if (max === 0 || items === false) return this.#rules.add(listRule(this.#rules, space, ["[", "]"], "", 0, 0));
      const item = items === undefined ? this.#any.value : this.#rule(items, `${pointer}/items`, inner, depth);
      return this.#rules.add(listRule(this.#rules, space, ["[", "]"], item, min, max));
    }
    // As many of the first items as there must be, and no others: that is always enough.
    if (min > first.length) return this.#problem(`${pointer}/minItems`, "is more than there are prefixItems");
    const count = Math.min(first.length, max ?? first.length);
    const rules = first.slice(0, count).map((item, i) => this.#rule(item, `${pointer}/prefixItems/${i}`, inner, depth));
    return this.#rules.add(`"[" ${space} ${rules.join(` "," ${space} `)} ${space} "]"`);
  }

  #object(schema: Schema, pointer: string, depth: number): string {
    const { properties = {}, required = [], additionalProperties: more, minProperties, maxProperties } = schema;
    if (!isObject(properties)) return this.#problem(`${pointer}/properties`, "must be an object of schemas");
    if (!Array.isArray(required)) return this.#problem(`${pointer}/required`, "must be an array of names");
    const names = [...new Set([...Object.keys(properties), ...required.map(String)])];
    if (typeof minProperties === "number" && minProperties > required.length) this.#problem(`${pointer}/minProperties`, CANT);
    if (typeof maxProperties === "number" && maxProperties < names.length) this.#problem(`${pointer}/maxProperties`, CANT);
    const { space, string, value } = this.#any;
    const inner = new Set<string>();
    const of_others = () => (more === undefined ? value : this.#rule(more, `${pointer}/additionalProperties`, inner, depth));
    if (names.length === 0) {
      if (more === false || maxProperties === 0) return '"{" "}"';
      if (maxProperties !== undefined) this.#problem(`${pointer}/maxProperties`, CANT);
      return this.#rules.add(listRule(this.#rules, space, ["{", "}"], `${string} ":" ${space} ${of_others()}`, 0, undefined));
    }
    // From the last property to the first: what may follow, with and without a comma before it.
    let [after, begin] = ["", ""];
    for (const name of names.reverse()) {
      const own = properties[name];
      const at = `${pointer}/properties/${name.replaceAll("~", "~0").replaceAll("/", "~1")}`;
      const of_value = Object.hasOwn(properties, name) ? this.#rule(own, at, inner, depth) : of_others();
      const property = `${literal(JSON.stringify(name))} ":" ${space} ${of_value} ${after}`.trim();
      const skipped = required.includes(name) ? undefined : [after || '""', begin || '""'];
      after = this.#rules.add(`"," ${space} ${property}${skipped === undefined ? "" : ` | ${skipped[0]}`}`);
      begin = this.#rules.add(`${property}${skipped === undefined ? "" : ` | ${skipped[1]}`}`);
    }
    return this.#rules.add(`"{" ${space} ${begin} ${space} "}"`);
  }

  #counts(schema: Schema, least: string, most: string, pointer: string): [number, number | undefined] {
    const { length_max } = SCHEMA_LIMITS;
    const read = (name: string): number | undefined => {
      const value = schema[name];
      if (value === undefined) return undefined;
      if (Number.isInteger(value) && (value as number) >= 0 && (value as number) <= length_max) return value as number;
      this.#problem(`${pointer}/${name}`, `must be a whole number of at most ${length_max}`);
      return undefined;
    };
    const [min, max] = [read(least) ?? 0, read(most)];
    if (max === undefined || max >= min) return [min, max];
    this.#problem(`${pointer}/${most}`, `is less than ${least}`);
    return [min, min];
  }
}

const CANT = "can't be kept to by a grammar";
const ENDLESS = "never ends: each value of it must hold another of the same kind";
