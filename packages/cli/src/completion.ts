/** Completion scripts for shells, and the suggestions that they ask for while somebody types. */
import tab from "@bomb.sh/tab/commander";
import { BACKENDS } from "@rbees/contracts/sets";
import { POLICIES } from "@rbees/sim/policies";
import type { Command } from "commander";
import type { World } from "./context.ts";
import { modelNames } from "./pool/catalogue.ts";
import type { Verb } from "./verb.ts";

export async function addCompletion(root: Command, verbs: readonly Verb[], world: World): Promise<void> {
  const names = await modelNames(world);
  const completion = tab(root, { completionCommandName: "completion" });
  for (const { path } of verbs) {
    const command = completion.commands.get(path);
    const model = command?.options.get("model");
    if (model !== undefined) model.handler = suggest(names, "model");
    const policy = command?.options.get("policy");
    if (policy !== undefined) policy.handler = suggest(POLICIES, "policy");
    const backend = command?.arguments.get("backend");
    if (backend !== undefined) backend.handler = suggest(BACKENDS, "backend");
  }
}

function suggest(values: readonly string[], what: string) {
  return (complete: (value: string, description: string) => void) => {
    for (const value of values) complete(value, what);
  };
}
