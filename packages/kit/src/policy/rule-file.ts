/** A file of rules (TOML): read, checked and compiled as a whole, so that a set is loaded with everything that it says or not at all. */
import { hash } from "node:crypto";
import { fieldProblems } from "@rbees/contracts/error-body";
import { RbeesError } from "@rbees/contracts/errors";
import { Area } from "@rbees/contracts/regions";
import { BACKENDS, POLICY_MODES, PRIORITIES } from "@rbees/contracts/sets";
import { parse, TomlError } from "smol-toml";
import { z } from "zod";
import { CONDITION_CHARS_MAX, type Condition, compile, type Flaw } from "./condition.ts";
import { type Clock, clockIn, environmentOfRules } from "./facts.ts";
import { Policy } from "./policy.ts";

const RULES_MAX = 256;
const FILE_BYTES_MAX = 262_144;
/** Steps that all conditions of a file together may take, for one job or one job and worker. */
const FILE_COST_MAX = 50_000;

const RULE_NAME = /^[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}$/;

/** One, or several of which any will do. */
const anyOf = <T extends z.ZodType<string>>(one: T) =>
  z.union([one, z.array(one).min(1).max(32)]).transform((said): string[] => (Array.isArray(said) ? said : [said]));

const place = {
  region: anyOf(Area).optional(),
  backend: anyOf(z.enum(BACKENDS)).optional(),
  pool: z.string().min(1).max(128).optional(),
  labels: z.record(z.string().min(1).max(63), z.string().max(255)).optional(),
};
const someOf = (said: object) => Object.values(said).some((value) => value !== undefined);

const Rule = z.strictObject({
  name: z.string().regex(RULE_NAME, "up to 64 letters, digits, blanks and . _ -, beginning with a letter or digit"),
  when: z.string().min(1).max(CONDITION_CHARS_MAX),
  allow: z.literal(true).optional(),
  deny: z.string().min(1).max(500).optional(),
  require: z.strictObject(place).refine(someOf, "names nothing: give region, backend, pool or labels").optional(),
  prefer: z
    .union([z.int().min(1).max(100), z.strictObject({ weight: z.int().min(1).max(100).default(1), ...place })])
    .transform((said) => (typeof said === "number" ? { weight: said } : said))
    .optional(),
  set: z
    .strictObject({
      priority: z.enum(PRIORITIES).optional(),
      max_tokens: z.int().min(1).optional(),
      content_keep_ms: z.int().min(0).optional(),
    })
    .refine(someOf, "sets nothing: give priority, max_tokens or content_keep_ms")
    .optional(),
  log: z.literal(true).optional(),
});
type RuleText = z.infer<typeof Rule>;

const RuleFile = z.strictObject({
  mode: z.enum(POLICY_MODES).default("enforce"),
  timezone: z.string().default("UTC"),
  rule: z.array(Rule).max(RULES_MAX).default([]),
});

export interface CompiledRule extends RuleText {
  readonly condition: Condition;
}

/** `file`: how it is called in what is said of it. Throws one error with everything that is wrong with it. */
export function readPolicy(file: string, text: string): Policy {
  const refuse = (problems: readonly string[]): never => {
    throw new RbeesError("INVALID_REQUEST", `The rules in ${file} are not valid:\n${problems.join("\n")}`, { details: problems });
  };
  if (Buffer.byteLength(text) > FILE_BYTES_MAX) refuse([`${file}: it has more than ${FILE_BYTES_MAX} bytes`]);
  const written = tomlIn(file, text, refuse);
  const parsed = RuleFile.safeParse(written);
  const unformed = Map.groupBy(parsed.success ? [] : fieldProblems(parsed.error), ({ field }) => ruleOf(field)?.number);
  const problems = (unformed.get(undefined) ?? []).map(({ field, problem }) => `${file}: ${field}: ${problem}`);
  const { timezone, rules } = legible(written);
  const clock = clockOf(timezone, (problem) => problems.push(`${file}: ${problem}`));
  const environment = environmentOfRules();
  const names = new Set<string>();
  const compiled = rules.flatMap(({ name, when, whole }, number): CompiledRule[] => {
    const line = headerLine(text, number);
    const called = name === undefined ? `rule ${number + 1}` : `rule "${name}"`;
    const say = (problem: string) => void problems.push(`${file}:${line}: ${called}: ${problem}`);
    for (const { field, problem } of unformed.get(number) ?? []) say(`${ruleOf(field)?.inside ?? ""}${problem}`);
    if (name !== undefined && names.has(name)) say("another rule has this name");
    if (name !== undefined) names.add(name);
    if (when === undefined) return [];
    const condition = compile(environment, when);
    if ("message" in condition) {
      problems.push(shown({ file, text, line, called, when }, condition));
      return [];
    }
    if (whole === undefined) return [];
    for (const problem of contradictions(whole, condition)) say(problem);
    return [{ ...whole, condition }];
  });
  const cost = compiled.reduce((sum, { condition }) => sum + condition.cost, 0);
  if (cost > FILE_COST_MAX) problems.push(`${file}: all rules together may take ${cost} steps, and ${FILE_COST_MAX} are allowed`);
  if (!parsed.success || problems.length > 0) return refuse(problems);
  const { mode } = parsed.data;
  return new Policy({ file, sha256: hash("sha256", text, "hex"), mode, timezone, clock, rules: compiled });
}

/** The rule that a field is in, and how the field is called there. */
function ruleOf(field: string): { number: number; inside: string } | undefined {
  const [, number, inside] = /^rule\.(\d+)(?:\.(.+))?$/.exec(field) ?? [];
  return number === undefined ? undefined : { number: Number(number), inside: inside === undefined ? "" : `${inside}: ` };
}

/** What can be looked at, whatever is wrong beside it. */
interface Legible {
  readonly timezone: string;
  readonly rules: readonly { readonly name: string | undefined; readonly when: string | undefined; readonly whole: RuleText | undefined }[];
}

function legible(written: unknown): Legible {
  const { timezone, rule: rules } = (written ?? {}) as { timezone?: unknown; rule?: unknown };
  return {
    timezone: RuleFile.shape.timezone.safeParse(timezone).data ?? "UTC",
    rules: (Array.isArray(rules) ? rules : []).slice(0, RULES_MAX).map((rule: unknown) => {
      const { name, when } = (rule ?? {}) as { name?: unknown; when?: unknown };
      return {
        name: Rule.shape.name.safeParse(name).data,
        when: Rule.shape.when.safeParse(when).data,
        whole: Rule.safeParse(rule).data,
      };
    }),
  };
}

function tomlIn(file: string, text: string, refuse: (problems: readonly string[]) => never): unknown {
  try {
    return parse(text);
  } catch (error) {
    if (!(error instanceof TomlError)) throw error;
    const [first = ""] = error.message.replace("Invalid TOML document: ", "").split("\n");
    return refuse([`${file}:${error.line}:${error.column}: ${first}`]);
  }
}

function clockOf(timezone: string, say: (problem: string) => void): Clock {
  try {
    return clockIn(timezone);
  } catch {
    say(`timezone: there is no ${timezone.slice(0, 64)}; write it as Europe/Berlin`);
    return clockIn("UTC");
  }
}

/** What does not go together, whatever the condition says. */
function contradictions({ allow, deny, require, prefer, set, log }: RuleText, { asks_worker }: Condition): string[] {
  const decides = [allow, deny].filter((effect) => effect !== undefined).length;
  const others = [require, prefer, set].filter((effect) => effect !== undefined).length;
  return [
    ...(decides + others + (log === undefined ? 0 : 1) === 0 ? ["it does nothing: give allow, deny, require, prefer, set or log"] : []),
    ...(decides === 2 || (decides === 1 && others > 0) ? ["allow and deny stand alone, or with log"] : []),
    ...(asks_worker && require !== undefined
      ? ["require says itself what the worker must have: its condition can't ask about the worker"]
      : []),
    ...(asks_worker && set !== undefined ? ["set is done when the job comes: its condition can't ask about the worker"] : []),
    ...(!asks_worker && prefer !== undefined && !someOf({ ...prefer, weight: undefined })
      ? ["it prefers all workers alike: ask about the worker, or name region, backend, pool or labels"]
      : []),
  ];
}

/** The line of a file in which its n-th rule begins. */
function headerLine(text: string, number: number): number {
  let left = number;
  for (const [at, line] of text.split("\n").entries()) {
    if (!/^\s*\[\[\s*rule\s*\]\]/.test(line)) continue;
    if (left === 0) return at + 1;
    left -= 1;
  }
  return 1;
}

/** Where in the file a condition is wrong, with the line of the condition and a caret under the place. */
function shown(
  { file, text, line, called, when }: { file: string; text: string; line: number; called: string; when: string },
  { message, at }: Flaw,
): string {
  const before = when.slice(0, at);
  const column = at - (before.lastIndexOf("\n") + 1);
  const source = when.split("\n")[before.split("\n").length - 1] ?? "";
  const from = text.split("\n").slice(0, line).join("\n").length;
  const found = text.indexOf(when, from);
  const place = found < 0 ? `${line}` : placeOf(text, found + at);
  const start = Math.max(0, column - 60);
  return `${file}:${place}: ${called}, column ${column + 1} of when: ${message}\n  ${source.slice(start, start + 120)}\n  ${" ".repeat(column - start)}^`;
}

function placeOf(text: string, at: number): string {
  const lines = text.slice(0, at).split("\n");
  return `${lines.length}:${(lines.at(-1) ?? "").length + 1}`;
}
