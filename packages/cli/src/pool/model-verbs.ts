/** `rbees-pool models …` */
import type { PoolModel } from "@rbees/contracts/pool";
import { downloadVerbs } from "../download/verbs.ts";
import { renderCatalogue, renderModels, renderUnfinished } from "../render/pool.ts";
import { verb } from "../verb.ts";
import { catalogue, unregister } from "./catalogue.ts";
import { registerFile } from "./register.ts";

export const modelVerbs = [
  verb(
    {
      path: "models list",
      summary: "models whose file is on this host, and what is not wholly here yet",
      examples: ["rbees-pool models list", "rbees-pool models list --json | jq -r '.models[].name'"],
    },
    (command) => command,
    {
      run: async (context) => ({
        models: (await catalogue(context)).filter(({ present }) => present),
        unfinished: await (await import("../download/unfinished.ts")).unfinishedDownloads(context.home),
      }),
      // A host with an earlier rbees says nothing of these.
      render: ({ models, unfinished = [] }, look) => `${renderModels(models, look)}${renderUnfinished(unfinished, look)}`,
    },
  ),
  verb(
    {
      path: "models catalog",
      summary: "every known model, on this host or not",
      examples: ["rbees-pool models catalog"],
    },
    (command) => command,
    {
      run: async (context) => ({ models: await catalogue(context) }),
      render: ({ models }, look) => renderCatalogue(models, look),
    },
  ),
  verb(
    {
      path: "models register",
      summary: "give a GGUF file on this host a name",
      examples: [
        "rbees-pool models register mine ./mine.gguf",
        "rbees-pool models register tinyllama ~/models/tinyllama-1.1b-chat-v1.0.Q4_K_M.gguf",
      ],
    },
    (command) =>
      command
        .argument("<name>", "what workers and jobs will call it")
        .argument("<file>", "the file; it stays where it is")
        .option("--replace", "also when the name stands for another file"),
    {
      run: (context, { replace = false }, name, file): Promise<PoolModel> => registerFile(context, name, file, replace),
      render: ({ name, path }) => `${name} is ${path}\n`,
    },
  ),
  verb(
    {
      path: "models unregister",
      summary: "forget a registered name; the file stays",
      examples: ["rbees-pool models unregister mine"],
    },
    (command) => command.argument("<name>", "a registered model"),
    {
      run: async (context, _, name) => ({ name, path: await unregister(context, name) }),
      render: ({ name, path }) => `${name} is forgotten; ${path} stays.\n`,
    },
  ),
  ...downloadVerbs,
];
