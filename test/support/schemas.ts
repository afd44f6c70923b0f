/** JSON schemas of all kinds that can be kept to, made by chance; what they allow is short. */
import type { Random } from "./random.ts";

type Schema = Record<string, unknown>;

const PATTERNS = ["^[A-Z]{2}-\\d{3}$", '^(a|bc)?x"y\\\\z$', "^[^a-z\\s]{1,3}$", "^\\w{1,4}\\.(png|jpe?g)$", '^[äöü"\\\\]{2}$'];
const FORMATS = ["date", "time", "date-time", "uuid", "ipv4", "email", "duration"];
const KEYS = ["name", "a b", 'quo"te', "ünï", "x/y~z", "back\\slash", "n"];
const VALUES = ["red", 'gr"een', "b\\lue", 7, -1.5, true, null, { a: [1] }, ["x"], "ä🐝"];

/** A schema of an object, as structured answers have it. */
export function objectSchema(random: Random, depth: number): Schema {
  const names = KEYS.filter(() => random.chance(0.4));
  if (names.length === 0) names.push(random.pick(KEYS));
  const properties = Object.fromEntries(names.map((name) => [name, schemaOf(random, depth - 1)]));
  const required = random.chance(0.5) ? names : names.filter(() => random.chance(0.6));
  return { type: "object", properties, required, ...(random.chance(0.9) ? { additionalProperties: false } : {}) };
}

export function schemaOf(random: Random, depth: number): Schema {
  const leaves = [
    () => ({ type: "string", minLength: random.from(0, 3), maxLength: random.from(3, 9) }),
    () => ({ type: "string", pattern: random.pick(PATTERNS) }),
    () => ({ type: "string", format: random.pick(FORMATS) }),
    () => ({ type: "integer", ...bounds(random) }),
    () => ({ type: "number", ...bounds(random) }),
    () => ({ type: "boolean" }),
    () => ({ type: ["null", "boolean"] }),
    () => ({ enum: [random.pick(VALUES), random.pick(VALUES), "last"] }),
    () => ({ const: random.pick(VALUES) }),
  ];
  const inner = [
    () => objectSchema(random, depth),
    () => ({ type: "array", items: schemaOf(random, depth - 1), minItems: random.from(0, 1), maxItems: random.from(1, 3) }),
    () => ({
      type: "array",
      prefixItems: [schemaOf(random, depth - 1), { type: "integer", minimum: 0, maximum: 9 }],
      minItems: 2,
      maxItems: 2,
    }),
    () => ({ anyOf: [schemaOf(random, depth - 1), { type: "null" }], description: "says nothing of the value" }),
    () => ({
      oneOf: [
        { type: "string", maxLength: 4 },
        { type: "object", properties: {}, additionalProperties: false },
      ],
    }),
  ];
  return random.pick<() => Schema>(depth > 0 ? [...leaves, ...inner] : leaves)();
}

function bounds(random: Random): Schema {
  const low = random.from(-200, 200) / random.pick([1, 100]);
  const found: Schema = {};
  if (random.chance(0.8)) found[random.pick(["minimum", "exclusiveMinimum"])] = low;
  if (random.chance(0.8)) found[random.pick(["maximum", "exclusiveMaximum"])] = low + random.from(2, 1500);
  return found;
}
