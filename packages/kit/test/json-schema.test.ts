/** Schemas as grammars: whatever the grammar allows validates, and what can't be kept to is named with its place. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Ajv2020 } from "ajv/dist/2020.js";
import formats from "ajv-formats";
import { Random } from "../../../test/support/random.ts";
import { objectSchema, schemaOf } from "../../../test/support/schemas.ts";
import { type Alternatives, type Grammar, type Item, parseGbnf } from "../src/grammar/gbnf.ts";
import { compileSchema } from "../src/grammar/json-schema.ts";

const ajv = new Ajv2020({ strict: false });
formats.default(ajv);

/** Characters that are easily got wrong, and some others. */
const CHARACTERS = ['"', "\\", "/", "\u007f", "a", "Z", "0", "9", "-", " ", "é", "🐝", "\ue000", "\ud7ff", "{", ",", "u"];

/** A text that the grammar allows, by chance. */
function derive(grammar: Grammar, random: Random): string {
  let budget = 4000;
  const alternatives = (of: Alternatives): string => {
    // Out of breath: the alternative that names the fewest rules.
    const rules = (sequence: readonly Item[]) =>
      sequence.filter(({ of: { kind }, min }) => min > 0 && (kind === "rule" || kind === "group")).length;
    const chosen = budget > 0 ? random.pick(of) : [...of].sort((a, b) => rules(a) - rules(b))[0];
    return (chosen ?? []).map(item).join("");
  };
  const item = ({ of, min, max }: Item): string => {
    const most = budget > 0 ? (max ?? min + 3) : min;
    const times = random.pick([min, most, random.from(min, most)]);
    let text = "";
    for (let i = 0; i < times; i += 1) text += one(of);
    return text;
  };
  const one = (of: Item["of"]): string => {
    budget -= 1;
    if (of.kind === "text") return of.text;
    if (of.kind === "rule") return alternatives(grammar.get(of.name) ?? []);
    if (of.kind === "group") return alternatives(of.alternatives);
    if (of.kind === "any") return random.pick(CHARACTERS);
    const within = (code: number) => of.ranges.some(([from, to]) => from <= code && code <= to) !== of.negated;
    const edges = of.negated
      ? []
      : of.ranges.flatMap(([from, to]) => [from, to, random.from(from, to)]).map((code) => String.fromCodePoint(code));
    return random.pick([...CHARACTERS, ...edges].filter((character) => within(character.codePointAt(0) ?? 0)));
  };
  return alternatives(grammar.get("root") ?? []);
}

function grammarOf(schema: unknown): Grammar {
  const compiled = compileSchema(schema);
  assert.ok("grammar" in compiled, JSON.stringify([schema, compiled]));
  return parseGbnf(compiled.grammar);
}

function holds(schema: Record<string, unknown>, random: Random, texts = 8): void {
  const grammar = grammarOf(schema);
  const validate = ajv.compile(schema);
  for (let i = 0; i < texts; i += 1) {
    const text = derive(grammar, random);
    let value: unknown;
    try {
      value = JSON.parse(text);
    } catch (error) {
      assert.fail(`${error}: ${text} of ${JSON.stringify(schema)}`);
    }
    assert.ok(validate(value), `${text} of ${JSON.stringify(schema)}: ${JSON.stringify(validate.errors)}`);
  }
}

test("whatever the grammars of 500 schemas allow is JSON that validates", () => {
  for (let seed = 1; seed <= 500; seed += 1) holds(objectSchema(new Random(seed), 3), new Random(seed + 10_000));
});

test("bounds of numbers are kept to, whatever their signs, digits and openness", () => {
  const random = new Random(1);
  const bound = () => Number(((random.next() - 0.5) * 10 ** random.from(0, 5)).toFixed(random.from(0, 3)));
  for (let i = 0; i < 400; i += 1) {
    const [a = 0, b = 0] = [bound(), bound()].sort((x, y) => x - y);
    for (const type of ["integer", "number"]) {
      const low = random.chance(0.2) ? {} : { [random.chance(0.5) ? "minimum" : "exclusiveMinimum"]: a };
      const high = random.chance(0.2) ? {} : { [random.chance(0.5) ? "maximum" : "exclusiveMaximum"]: b };
      const schema = { type, ...low, ...high };
      if ("grammar" in compileSchema(schema)) holds(schema, random);
      else assert.ok(type === "integer" || a === b, JSON.stringify(schema));
    }
  }
  assert.deepEqual(compileSchema({ type: "integer", exclusiveMinimum: 1, exclusiveMaximum: 2 }), {
    problems: [{ pointer: "", problem: "allows no number" }],
  });
});

/** All texts that a grammar of digits allows. */
function everything(grammar: Grammar): string[] {
  const alternatives = (of: Alternatives): string[] =>
    of.flatMap((items) => items.reduce((heads, item) => joined(heads, times(item)), [""]));
  const joined = (heads: readonly string[], tails: readonly string[]) => heads.flatMap((head) => tails.map((tail) => head + tail));
  const times = ({ of, min, max }: Item): string[] => {
    const all: string[] = [];
    for (let count = min, said = power(one(of), min); count <= (max ?? min); count += 1, said = joined(said, one(of))) all.push(...said);
    return all;
  };
  const power = (texts: readonly string[], count: number): string[] => (count === 0 ? [""] : joined(power(texts, count - 1), texts));
  const one = (of: Item["of"]): string[] => {
    if (of.kind === "text") return [of.text];
    if (of.kind === "rule") return alternatives(grammar.get(of.name) ?? []);
    if (of.kind === "group") return alternatives(of.alternatives);
    if (of.kind === "any") return [];
    return of.ranges.flatMap(([from, to]) => Array.from({ length: to - from + 1 }, (_, i) => String.fromCodePoint(from + i)));
  };
  return alternatives(grammar.get("root") ?? []);
}

test("every integer within bounds can be said, in one way", () => {
  for (const [minimum, maximum] of [
    [-12, 103],
    [0, 9],
    [7, 7],
    [995, 2011],
    [-1300, -98],
    [-1, 0],
  ] as const) {
    const said = everything(grammarOf({ type: "integer", minimum, maximum })).map(Number);
    const expected = Array.from({ length: maximum - minimum + 1 }, (_, i) => minimum + i);
    assert.deepEqual(
      said.sort((a, b) => a - b),
      expected,
    );
  }
});

test("a schema that refers to itself, and long strings and arrays, are kept to", () => {
  const tree = {
    type: "object",
    properties: { value: { $ref: "#/$defs/value" }, children: { type: "array", items: { $ref: "#" }, maxItems: 2 } },
    required: ["value", "children"],
    additionalProperties: false,
    $defs: {
      value: { anyOf: [{ type: "string" }, { $ref: "#/$defs/deep~1er" }] },
      "deep/er": { type: "object", properties: { v: { $ref: "#/$defs/value" } } },
    },
  };
  holds(tree, new Random(3));
  holds({ type: "string", minLength: 250, maxLength: 2600 }, new Random(4), 20);
  holds({ type: "array", items: { type: "boolean" }, minItems: 120, maxItems: 350 }, new Random(5), 20);
  holds({ type: "object", additionalProperties: { type: "integer" } }, new Random(6));
  holds({}, new Random(7));
  holds({ properties: { a: {} }, required: ["a", "not declared"] }, new Random(8));
  const random = new Random(9);
  for (let i = 0; i < 50; i += 1) assert.ok(JSON.parse(derive(grammarOf({ type: "object" }), random)) instanceof Object);
});

test("properties that are not required can be left out, each by itself", () => {
  const grammar = grammarOf({ type: "object", properties: { a: { const: 1 }, b: { const: 1 }, c: { const: 1 } }, required: ["b"] });
  const said = new Set<string>();
  const random = new Random(1);
  for (let i = 0; i < 300; i += 1) said.add(Object.keys(JSON.parse(derive(grammar, random)) as object).join(""));
  assert.deepEqual([...said].sort(), ["ab", "abc", "b", "bc"]);
});

test("what can't be kept to is a problem with its place, and all problems come at once", () => {
  const compiled = compileSchema({
    type: "object",
    properties: {
      list: { type: "array", items: { type: "string", pattern: "(?=x)a" }, uniqueItems: true },
      "a/b": { not: {} },
      date: { type: "string", format: "week" },
      loop: { $ref: "#/$defs/loop" },
      away: { $ref: "https://example.com/x" },
      nowhere: { $ref: "#/$defs/none" },
      kind: { type: "strng" },
      choice: { oneOf: [{ type: "string" }, { type: "string", minLength: 2 }] },
      sum: { allOf: [{}, {}] },
      never: false,
      map: { type: "object", patternProperties: {} },
      long: { type: "string", maxLength: 1e9 },
      both: { enum: ["a"], minLength: 3 },
    },
    $defs: { loop: { anyOf: [{ $ref: "#/$defs/loop" }] } },
  });
  assert.ok("problems" in compiled);
  assert.deepEqual(compiled.problems.map(({ pointer }) => pointer).sort(), [
    "/$defs/loop/anyOf/0/$ref",
    "/properties/away/$ref",
    "/properties/a~1b/not",
    "/properties/both/minLength",
    "/properties/choice/oneOf",
    "/properties/date/format",
    "/properties/kind/type",
    "/properties/list/items/pattern",
    "/properties/list/uniqueItems",
    "/properties/long/maxLength",
    "/properties/map/patternProperties",
    "/properties/never",
    "/properties/nowhere/$ref",
    "/properties/sum/allOf",
  ]);
  for (const wrong of [null, 7, "string", []]) assert.ok("problems" in compileSchema(wrong), JSON.stringify(wrong));
});

test("a part that must hold itself for ever is refused; one that may is not", () => {
  const list = (required: string[], next: unknown) => ({
    type: "object",
    properties: { list: { $ref: "#/$defs/list" }, leaf: { $ref: "#/$defs/leaf" } },
    required: ["list"],
    $defs: { list: { type: "object", properties: { next }, required, additionalProperties: false }, leaf: { type: "integer" } },
  });
  const inside = { $ref: "#/$defs/list" };
  const compiled = compileSchema(list(["next"], inside));
  assert.ok("problems" in compiled);
  assert.deepEqual(compiled.problems, [
    { pointer: "/$defs/list", problem: "never ends: each value of it must hold another of the same kind" },
  ]);
  assert.ok("problems" in compileSchema(list(["next"], { type: "array", items: inside, minItems: 1 })));
  for (const ends of [
    list([], inside),
    list(["next"], { anyOf: [inside, { type: "null" }] }),
    list(["next"], { type: "array", items: inside }),
  ])
    assert.ok("grammar" in compileSchema(ends), JSON.stringify(ends));
});

test("a schema that is too large or too deep is refused, not compiled for ever", () => {
  let deep: unknown = { type: "string" };
  for (let i = 0; i < 100; i += 1) deep = { type: "array", items: deep };
  assert.match(JSON.stringify(compileSchema(deep)), /more than 64 levels deep/);
  const wide = { type: "object", properties: Object.fromEntries(Array.from({ length: 6000 }, (_, i) => [`p${i}`, { type: "string" }])) };
  assert.match(JSON.stringify(compileSchema(wide)), /has more than 5000 parts/);
});

test("alternatives that are told apart by a constant or by their types may be oneOf", () => {
  const variant = (kind: string) => ({
    type: "object",
    properties: { kind: { const: kind }, n: schemaOf(new Random(1), 0) },
    required: ["kind"],
  });
  holds({ oneOf: [variant("a"), variant("b"), { type: "null" }] }, new Random(1));
  assert.ok("problems" in compileSchema({ oneOf: [variant("a"), variant("a")] }));
});
