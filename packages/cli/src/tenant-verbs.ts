/** `rbees tenants …`: those who share the workers. */
import type { TenantList, TenantView } from "@rbees/contracts/tenant";
import type { Context } from "./context.ts";
import { DEFAULT, limitFacts, limitsIn, type OrDefault, settingOf, withLimits } from "./limit-flags.ts";
import { type Look, plural } from "./look.ts";
import { decimal, verb } from "./verb.ts";

/** Loaded when it is called: `--help` need not wait for it. */
const orchestratorOf = async (context: Context) => (await import("./orchestrator.ts")).orchestratorOf(context);

const RESIDENCY = [
  "--residency <area>",
  "its jobs never leave this area: EU, EEA, or a region such as de; none: they may run anywhere",
  (text: string): OrDefault<string> => (text === "none" ? DEFAULT : text),
] as const;
const WEIGHT = ["--weight <n>", "of its share while others wait too: 2 gets twice what 1 does (default 1)", decimal] as const;

const KEEP = [
  "--content-keep-days <n>",
  "how long its prompts and answers are kept after their job's end; default: as configured",
  days,
] as const;

const DAY_MS = 86_400_000;

function days(text: string): OrDefault<number> {
  return text === DEFAULT ? DEFAULT : Math.round(decimal(text) * DAY_MS);
}

type TenantFlags = Parameters<typeof limitsIn>[0] & {
  weight?: number | undefined;
  residency?: OrDefault<string> | undefined;
  contentKeepDays?: OrDefault<number> | undefined;
};

function settingsIn({ weight, residency, contentKeepDays, ...limits }: TenantFlags) {
  return { weight, residency: settingOf(residency), content_keep_ms: settingOf(contentKeepDays), ...limitsIn(limits) };
}

export const tenantVerbs = [
  verb(
    {
      path: "tenants create",
      summary: "make a tenant; its keys are made with `rbees keys create NAME --tenant TENANT`",
      examples: [
        "rbees tenants create acme",
        "rbees tenants create clinic --residency EU",
        "rbees tenants create lab --weight 2 --tokens-per-minute-max 20000 --over-limit queue",
      ],
    },
    (command) =>
      withLimits(
        command
          .argument("<name>", "lower-case letters, digits and . _ -")
          .option(...WEIGHT)
          .option(...RESIDENCY)
          .option(...KEEP),
      ),
    {
      run: async (context, flags, name) => (await orchestratorOf(context)).call("createTenant", { body: { name, ...settingsIn(flags) } }),
      render: ({ name }) => `${name} is a tenant now. \`rbees keys create NAME --role submit --tenant ${name}\` makes it a key.\n`,
    },
  ),
  verb(
    {
      path: "tenants list",
      summary: "tenants, by name",
      examples: ["rbees tenants list", "rbees tenants list --json"],
    },
    (command) => command,
    {
      run: async (context) => (await orchestratorOf(context)).call("listTenants", {}),
      render: renderTenants,
    },
  ),
  verb(
    {
      path: "tenants show",
      summary: "one tenant",
      examples: ["rbees tenants show acme"],
    },
    (command) => command.argument("<name>", "the tenant"),
    {
      run: async (context, _, name) => (await orchestratorOf(context)).call("showTenant", { params: { id: name } }),
      render: renderTenant,
    },
  ),
  verb(
    {
      path: "tenants set",
      summary: "change what the flags name; the rest stays as it is",
      examples: ["rbees tenants set acme --weight 0.5", "rbees tenants set acme --requests-per-minute-max 60 --models demo,qwen"],
    },
    (command) =>
      withLimits(
        command
          .argument("<name>", "the tenant")
          .option(...WEIGHT)
          .option(...RESIDENCY)
          .option(...KEEP),
      ),
    {
      run: async (context, flags, name) =>
        (await orchestratorOf(context)).call("setTenant", { params: { id: name }, body: settingsIn(flags) }),
      render: renderTenant,
    },
  ),
  verb(
    {
      path: "tenants delete",
      summary: "end a tenant whose keys are all revoked; its jobs stay in the record",
      examples: ["rbees tenants delete acme"],
    },
    (command) => command.argument("<name>", "the tenant"),
    {
      async run(context, _, name) {
        await (await orchestratorOf(context)).call("deleteTenant", { params: { id: name } });
        return { name };
      },
      render: ({ name }) => `${name} is no tenant any more.\n`,
    },
  ),
];

async function renderTenant(
  { name, weight, residency, limits, content_keep_ms, tokens_today, keys, created_at }: TenantView,
  look: Look,
): Promise<string> {
  const { facts } = await import("./render/table.ts");
  return facts(
    [
      ["tenant", name],
      ["weight", String(weight)],
      ["stays in", residency],
      ...limitFacts(limits),
      ["content kept", `${Number((content_keep_ms / DAY_MS).toFixed(3))} days`],
      ["tokens today", tokens_today.toLocaleString("en-US")],
      ["keys", String(keys)],
      ["created", created_at ?? "always there"],
    ],
    look,
  );
}

async function renderTenants({ tenants }: TenantList, look: Look): Promise<string> {
  const { table } = await import("./render/table.ts");
  return table(
    tenants,
    [
      { title: "TENANT", of: ({ name }) => name, name: true },
      { title: "WEIGHT", of: ({ weight }) => String(weight), right: true },
      { title: "TODAY", of: ({ tokens_today }) => plural(tokens_today, "token"), right: true },
      { title: "KEYS", of: ({ keys }) => String(keys), right: true },
      { title: "CREATED", of: ({ created_at }) => created_at ?? "always there" },
    ],
    look,
    "No tenants.",
  );
}
