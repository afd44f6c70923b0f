/** `rbees pool …`: every verb of `rbees-pool` on another machine, and the register of machines. */
import { EXIT } from "@rbees/contracts/errors";
import type { Context } from "../context.ts";
import { pool } from "../pool-verbs.ts";
import { type Errand, type Verb, verb } from "../verb.ts";

/** Loaded when it is called: `--help` need not wait for it. */
const rendering = () => import("../render/remote.ts");

/** How long a machine may take when all are asked. */
const STATUS_MS_MAX = 5000;

/** From the one table: what `rbees-pool` learns, `rbees pool` can do. */
const carried: Verb[] = pool.verbs.map((local) =>
  local.elsewhere(
    {
      path: `pool ${local.path}`,
      summary: local.summary.replace("this host", "a pool's machine"),
      examples: local.examples.map((line) => line.replace(/^rbees-pool ([^|>]*?)(?=\s*(?:[|>]|$))/, "rbees pool $1 --host atlas")),
    },
    async (context, errand) => {
      const { carry } = await import("./errand.ts");
      if (local.path === "status" && errand.host === undefined) return allPools(context);
      const { recorded } = await import("./recorded.ts");
      return recorded(context, errand, async () => carry(context, await prepared(local.path, context, errand)));
    },
  ),
);

/** What an errand takes along from here. */
async function prepared(path: string, context: Context, errand: Errand): Promise<Errand> {
  switch (path) {
    case "worker spawn":
      return (await import("./spawn.ts")).withOrchestrator(context, errand);
    case "worker restart":
      return (await import("./spawn.ts")).withWayBack(context, errand);
    case "models download":
    case "models info":
      return (await import("../download/hub-account.ts")).withHubAccount(context, errand);
    default:
      return errand;
  }
}

/** `rbees pool status` without a machine is about all of them. */
async function allPools(context: Context): Promise<number> {
  const { overview } = await import("./overview.ts");
  const found = await overview(context, STATUS_MS_MAX);
  context.io.out(context.json ? `${JSON.stringify(found)}\n` : (await rendering()).renderOverview(found, context.io.out_look));
  return found.pools.every(({ status }) => status !== null) ? EXIT.done : EXIT.unreachable;
}

const host = ["--host <host>", "the machine: a registered name, an SSH alias or user@host[:port]"] as const;

function installer(path: string, summary: string, upgrade: boolean): Verb {
  return verb(
    { path, summary, examples: [`rbees ${path} --host atlas`, `rbees ${path} --host me@192.168.1.20 --json`] },
    (command) =>
      command
        .requiredOption(...host)
        .option("--cuda", "also the engine for NVIDIA GPUs, half a gigabyte, fetched with npm if it is not here"),
    {
      async run(context, { host, cuda = false }) {
        const [{ install }, { targetOf }] = await Promise.all([import("./install.ts"), import("./target.ts")]);
        return install(context, await targetOf(context, host), { cuda, upgrade });
      },
      render: async (installed) => (await rendering()).renderInstalled(installed),
    },
  );
}

const ownVerbs: Verb[] = [
  verb(
    {
      path: "pool register",
      summary: "give a machine a name, and see what it lacks",
      examples: ["rbees pool register atlas --host 192.168.1.20 --user me", "rbees pool register mac --host studio.local"],
    },
    (command) =>
      command
        .argument("<name>", "what you will call it")
        .requiredOption("--host <host>", "an address, an SSH alias or user@host[:port]")
        .option("--user <user>", "who to log in as"),
    {
      async run(context, { host, user }, name) {
        return (await import("./register.ts")).registerPool(context, name, host, user);
      },
      render: async (registered, look) => (await rendering()).renderRegistered(registered, look),
    },
  ),
  verb(
    {
      path: "pool unregister",
      summary: "forget a machine; what runs there goes on",
      examples: ["rbees pool unregister atlas"],
    },
    (command) => command.argument("<name>", "a registered machine"),
    {
      async run(context, _, name) {
        return (await import("./register.ts")).unregisterPool(context, name);
      },
      render: ({ name, host }) => `${name} (${host}) is forgotten; what runs there goes on.\n`,
    },
  ),
  verb(
    {
      path: "pool list",
      summary: "the machines that are registered",
      examples: ["rbees pool list", "rbees pool list --json | jq -r '.pools[].name'"],
    },
    (command) => command,
    {
      async run(context) {
        return (await import("./register.ts")).listPools(context);
      },
      render: async (pools, look) => (await rendering()).renderPools(pools, look),
    },
  ),
  installer("pool install", "bring rbees to a machine that has Node.js", false),
  installer("pool upgrade", "bring this version of rbees to a machine that has another", true),
];

export const remoteVerbs: Verb[] = [...ownVerbs, ...carried];

export const remoteGroups = Object.fromEntries([
  ["pool", "the machines of your pool, over SSH"],
  ...Object.entries(pool.groups).map(([group, summary]) => [`pool ${group}`, summary.replace("this host", "a pool's machine")]),
]);
