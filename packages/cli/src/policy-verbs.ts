/** `rbees policy …`: the rules that say who may run what where. */
import { EXIT, invalidRequest, RbeesError } from "@rbees/contracts/errors";
import type { PolicyView } from "@rbees/contracts/policy";
import type { TryOut } from "@rbees/kit/policy/try-out";
import type { Context } from "./context.ts";
import { type Look, plural } from "./look.ts";
import { verb } from "./verb.ts";

/** Loaded when it is called: `--help` need not wait for it. */
const orchestratorOf = async (context: Context) => (await import("./orchestrator.ts")).orchestratorOf(context);

async function policyIn(file: string) {
  const [{ readFileSync }, { readPolicy }] = await Promise.all([import("node:fs"), import("@rbees/kit/policy/rule-file")]);
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch (error) {
    throw new RbeesError("INVALID_REQUEST", `${file} can't be read: ${(error as Error).message}.`, { cause: error });
  }
  return readPolicy(file, text);
}

/** What a flag says of a job or a worker, in JSON. */
async function made<T>(flag: string, text: string, schema: { safeParse(value: unknown): { data?: T; error?: unknown } }): Promise<T> {
  const { fieldProblems } = await import("@rbees/contracts/error-body");
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new RbeesError("INVALID_REQUEST", `${flag} must be JSON, such as '{"tenant":"acme"}': ${(error as Error).message}.`);
  }
  const { data, error } = schema.safeParse(value);
  if (data === undefined) throw invalidRequest(fieldProblems(error as Parameters<typeof fieldProblems>[0]), flag);
  return data;
}

export const policyVerbs = [
  verb(
    {
      path: "policy check",
      summary: "whether a file of rules is valid, as the orchestrator checks it",
      examples: ["rbees policy check policy.toml"],
    },
    (command) => command.argument("<file>", "the rules"),
    {
      async run(_, __, file) {
        const { mode, sha256, rules } = await policyIn(file);
        return { file, mode, sha256, rules: rules.map(({ name }) => name) };
      },
      render: ({ file, mode, rules }) => `${file} is valid: ${plural(rules.length, "rule")}, mode ${mode}.\n`,
    },
  ),
  verb(
    {
      path: "policy test",
      summary: "what a file of rules says of a job, and of it on a worker; nothing is asked of an orchestrator",
      examples: [
        `rbees policy test policy.toml --job '{"tenant":"clinic"}' --worker '{"region":"us"}'`,
        `rbees policy test policy.toml --job '{"priority":"batch","at":"2026-11-26T22:30:00Z"}'`,
      ],
    },
    (command) =>
      command
        .argument("<file>", "the rules")
        .option("--job <json>", "tenant, key, model, priority, prompt_tokens, max_tokens, deadline_ms, metadata, labels, at", "{}")
        .option("--worker <json>", "id, region, backend, pool, trust, slots, context_size, labels"),
    {
      async run(_, { job, worker }, file): Promise<TryOut> {
        const { TriedJob, TriedWorker, tryOut } = await import("@rbees/kit/policy/try-out");
        const policy = await policyIn(file);
        const on = worker === undefined ? undefined : await made("--worker", worker, TriedWorker);
        return tryOut(policy, await made("--job", job, TriedJob), on, Date.now());
      },
      render: renderTryOut,
      exit: ({ outcome }) => (outcome === "allowed" ? EXIT.done : EXIT.not_allowed),
    },
  ),
  verb(
    {
      path: "policy show",
      summary: "the rules in force, and for how many jobs each has held",
      examples: ["rbees policy show", "rbees policy show --json"],
    },
    (command) => command,
    {
      run: async (context) => (await orchestratorOf(context)).call("showPolicy", {}),
      render: renderPolicy,
    },
  ),
  verb(
    {
      path: "policy reload",
      summary: "load the orchestrator's file of rules again; when it is not valid, those in force stay",
      examples: ["rbees policy reload"],
    },
    (command) => command,
    {
      run: async (context) => (await orchestratorOf(context)).call("reloadPolicy", {}),
      render: ({ file, mode, rules }) =>
        `${plural(rules.length, "rule")} of ${file} ${rules.length === 1 ? "is" : "are"} in force, mode ${mode}.\n`,
    },
  ),
];

async function renderTryOut(
  { outcome, rule, message, mode, priority, max_tokens, content_keep_ms, preference, rules }: TryOut,
  look: Look,
): Promise<string> {
  const { facts } = await import("./render/table.ts");
  return facts(
    [
      ["outcome", outcome],
      ["by rule", rule],
      ["why", message],
      ["mode", mode],
      ["priority", priority],
      ["max_tokens", String(max_tokens)],
      ["content_keep_ms", content_keep_ms === null ? null : String(content_keep_ms)],
      ["preference", preference === 0 ? null : String(preference)],
      ["rules that hold", rules.length === 0 ? "none" : rules.join(", ")],
    ],
    look,
  );
}

async function renderPolicy({ file, sha256, mode, timezone, loaded_at, rules }: PolicyView, look: Look): Promise<string> {
  const { facts, table } = await import("./render/table.ts");
  if (file === null) return "There are no rules: start the orchestrator with --policy-file FILE.\n";
  const head = facts(
    [
      ["file", file],
      ["sha256", sha256],
      ["mode", mode],
      ["time zone", timezone],
      ["loaded", loaded_at],
    ],
    look,
  );
  const listed = table(
    rules,
    [
      { title: "RULE", of: ({ name }) => name, name: true },
      { title: "DOES", of: ({ effects }) => effects.join(", ") },
      { title: "JOBS", of: ({ jobs }) => String(jobs), right: true },
      { title: "WHEN", of: ({ when }) => when.replace(/\s+/g, " ") },
    ],
    look,
    "It has no rules.",
  );
  return `${head}\n${listed}`;
}
