/** `rbees pool …`: every verb of `rbees-pool` on another machine, and the register of machines. */
import { pool } from "../pool-verbs.ts";
import type { Verb } from "../verb.ts";

/** From the one table: what `rbees-pool` learns, `rbees pool` can do. */
const carried: Verb[] = pool.verbs.map((verb) =>
  verb.elsewhere(
    {
      path: `pool ${verb.path}`,
      summary: verb.summary.replace("this host", "a pool's machine"),
      examples: verb.examples.map((line) => line.replace(/^rbees-pool ([^|>]*?)(?=\s*(?:[|>]|$))/, "rbees pool $1 --host atlas")),
    },
    async (context, errand) => {
      const { carry } = await import("./errand.ts");
      return carry(context, verb.path === "worker spawn" ? await (await import("./spawn.ts")).withOrchestrator(context, errand) : errand);
    },
  ),
);

export const remoteVerbs: Verb[] = [...carried];

export const remoteGroups = Object.fromEntries([
  ["pool", "the machines of your pool, over SSH"],
  ...Object.entries(pool.groups).map(([group, summary]) => [`pool ${group}`, summary.replace("this host", "a pool's machine")]),
]);
