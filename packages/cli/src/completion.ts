/** Completion scripts for shells, and the suggestions that they ask for while somebody types: names that are known here, without a network. */
import tab from "@bomb.sh/tab/commander";
import { BACKENDS } from "@rbees/contracts/sets";
import { POLICIES } from "@rbees/sim/policies";
import type { Command } from "commander";
import type { World } from "./context.ts";
import { modelNames } from "./pool/catalogue.ts";
import { readWorkers } from "./pool/worker-record.ts";
import { readPools } from "./remote/pools.ts";
import type { Verb } from "./verb.ts";

export async function addCompletion(root: Command, verbs: readonly Verb[], world: World): Promise<void> {
  const [models, pools, workers] = await Promise.all([modelNames(world), readPools(world), readWorkers(world.home)]);
  const registered = Object.keys(pools).sort();
  const worker_ids = workers.map(({ worker_id }) => worker_id);
  const completion = tab(root, { completionCommandName: "completion" });
  for (const { path } of verbs) {
    const command = completion.commands.get(path);
    const option = (name: string, values: readonly string[], what: string) => {
      const found = command?.options.get(name);
      if (found !== undefined) found.handler = suggest(values, what);
    };
    const argument = (name: string, values: readonly string[], what: string) => {
      const found = command?.arguments.get(name);
      if (found !== undefined) found.handler = suggest(values, what);
    };
    for (const name of ["model", "models"]) option(name, models, "model");
    option("policy", POLICIES, "policy");
    option("backend", BACKENDS, "backend");
    option("backends", BACKENDS, "backend");
    for (const name of ["host", "pools"]) option(name, ["localhost", ...registered], "pool");
    argument("backend", BACKENDS, "backend");
    argument("model", models, "model");
    if (/^models (delete|unregister|verify)$/.test(path)) for (const name of ["name", "names"]) argument(name, models, "model");
    // Of another machine nobody here knows which workers it has.
    if (path.startsWith("worker ")) argument("id", worker_ids, "worker");
    if (path === "pool unregister") argument("name", registered, "pool");
  }
}

function suggest(values: readonly string[], what: string) {
  return (complete: (value: string, description: string) => void) => {
    for (const value of values) complete(value, what);
  };
}
