/** `rbees keys …`: who may ask the orchestrator, and for what. */
import { Option } from "@commander-js/extra-typings";
import { invalidRequest, RbeesError } from "@rbees/contracts/errors";
import type { KeyList, NewKey, Role } from "@rbees/contracts/key";
import { ROLES } from "@rbees/contracts/sets";
import type { Context } from "./context.ts";
import { limitFacts, limitsIn, withLimits } from "./limit-flags.ts";
import type { Look } from "./look.ts";
import { aboveZero, decimal, verb } from "./verb.ts";

const DAY_MS = 86_400_000;
const HOUR_MS = 3_600_000;

/** Loaded when it is called: `--help` need not wait for it. */
const orchestratorOf = async (context: Context) => (await import("./orchestrator.ts")).orchestratorOf(context);

export const keyVerbs = [
  verb(
    {
      path: "keys create",
      summary: "make an API key; it is shown this once",
      examples: [
        "rbees keys create alice --role submit",
        "rbees keys create acme-app --role submit --tenant acme",
        "rbees keys create grafana --role observe --expires-days 90",
      ],
    },
    (command) =>
      withLimits(
        command
          .argument("<name>", "who or what uses it")
          .addOption(new Option("--role <role…>", `what it may: ${ROLES.join(", ")}; several joined by commas`).makeOptionMandatory())
          .option("--tenant <tenant>", "whose it is: it sees this tenant's jobs and no others (default: nobody's)")
          .option("--expires-days <n>", "how long it lasts (default: until it is revoked)", aboveZero),
      ),
    {
      run: async (context, { role, tenant, expiresDays, ...flags }, name) => {
        const body = {
          name,
          roles: rolesIn(String(role)),
          ...(tenant === undefined ? {} : { tenant }),
          ...limitsIn(flags),
          ...(expiresDays === undefined ? {} : { expires_in_ms: Math.round(expiresDays * DAY_MS) }),
        };
        return shown(context, await (await orchestratorOf(context)).call("createKey", { body }));
      },
      render: ({ key }) => `${key}\n`,
    },
  ),
  verb(
    {
      path: "keys list",
      summary: "API keys, their roles, and which still work",
      examples: ["rbees keys list", "rbees keys list --json"],
    },
    (command) => command,
    {
      run: async (context) => (await orchestratorOf(context)).call("listKeys", {}),
      render: renderKeys,
    },
  ),
  verb(
    {
      path: "keys set",
      summary: "change a key's own limits, beside those of its tenant; what no flag names stays as it is",
      examples: ["rbees keys set 3k9fz0c1q8xw --requests-per-minute-max 60", "rbees keys set 3k9fz0c1q8xw --models demo,qwen"],
    },
    (command) => withLimits(command.argument("<id>", "the key's id: what follows rbk_")),
    {
      run: async (context, flags, id) =>
        (await orchestratorOf(context)).call("setKey", { params: { id: idOf(id) }, body: limitsIn(flags) }),
      render: async (key, look) => {
        const { facts } = await import("./render/table.ts");
        return facts([["key", `${key.key_id} (${key.name})`], ["tenant", key.tenant], ...limitFacts(key.limits)], look);
      },
    },
  ),
  verb(
    {
      path: "keys rotate",
      summary: "a new key of the same name and roles in place of this one",
      examples: ["rbees keys rotate 3k9fz0c1q8xw", "rbees keys rotate 3k9fz0c1q8xw --overlap-hours 24"],
    },
    (command) =>
      command
        .argument("<id>", "the key's id: what follows rbk_")
        .option("--overlap-hours <n>", "how long the old one still works (default 0)", decimal),
    {
      run: async (context, { overlapHours = 0 }, id) => {
        const body = { overlap_ms: Math.round(overlapHours * HOUR_MS) };
        return shown(context, await (await orchestratorOf(context)).call("rotateKey", { params: { id: idOf(id) }, body }));
      },
      render: ({ key }) => `${key}\n`,
    },
  ),
  verb(
    {
      path: "keys revoke",
      summary: "end a key at once",
      examples: ["rbees keys revoke 3k9fz0c1q8xw"],
    },
    (command) => command.argument("<id>", "the key's id: what follows rbk_"),
    {
      run: async (context, _, id) => (await orchestratorOf(context)).call("revokeKey", { params: { id: idOf(id) } }),
      render: ({ key_id, name }) => `${key_id} (${name}) opens nothing any more.\n`,
    },
  ),
];

/** stdout has the key alone, for a file or a variable. */
function shown(context: Context, made: NewKey): NewKey {
  const ends = made.expires_at === null ? "" : ` It ends at ${made.expires_at}.`;
  context.say(`This is the only time the key is shown; its id is ${made.key_id}, its roles: ${made.roles.join(", ")}.${ends}`);
  return made;
}

function rolesIn(text: string): Role[] {
  const wrong = text.split(",").filter((part) => !(ROLES as readonly string[]).includes(part));
  if (wrong.length > 0)
    throw invalidRequest([{ field: "--role", problem: `"${wrong[0]}" is none of ${ROLES.join(", ")}` }], "command line");
  return text.split(",") as Role[];
}

/** Whoever pastes the whole key means its id; its secret goes nowhere. */
function idOf(given: string): string {
  if (!given.startsWith("rbk_")) return given;
  const id = given.split("_")[1];
  if (id === undefined || id === "") throw new RbeesError("INVALID_REQUEST", "That is no key's id; `rbees keys list` lists them.");
  return id;
}

async function renderKeys({ keys }: KeyList, look: Look): Promise<string> {
  const { table } = await import("./render/table.ts");
  return table(
    keys,
    [
      { title: "ID", of: ({ key_id }) => key_id, name: true },
      { title: "NAME", of: ({ name }) => name },
      { title: "ROLES", of: ({ roles }) => roles.join(",") },
      { title: "TENANT", of: ({ tenant }) => tenant ?? "-", spare: 2 },
      { title: "STATUS", of: ({ status }) => status },
      { title: "CREATED", of: ({ created_at }) => created_at, spare: 3 },
      { title: "EXPIRES", of: ({ expires_at }) => expires_at ?? "never" },
    ],
    look,
    "No keys.",
  );
}
