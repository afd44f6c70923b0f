/** `rbees-pool models …` */
import type { PoolModel } from "@rbees/contracts/pool";
import { downloadVerbs } from "../download/verbs.ts";
import { verb } from "../verb.ts";

/** Loaded when they are called: `--help` need not wait for them. */
const catalogued = () => import("./catalogue.ts");
const rendering = () => import("../render/pool.ts");

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
        models: (await (await catalogued()).catalogue(context)).filter(({ present }) => present),
        unfinished: await (await import("../download/unfinished.ts")).unfinishedDownloads(context.home),
      }),
      // A host with an earlier rbees says nothing of these.
      async render({ models, unfinished = [] }, look) {
        const { renderModels, renderUnfinished } = await rendering();
        return `${renderModels(models, look)}${renderUnfinished(unfinished, look)}`;
      },
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
      run: async (context) => ({ models: await (await catalogued()).catalogue(context) }),
      render: async ({ models }, look) => (await rendering()).renderCatalogue(models, look),
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
      run: async (context, { replace = false }, name, file): Promise<PoolModel> =>
        (await import("./register.ts")).registerFile(context, name, file, replace),
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
      run: async (context, _, name) => {
        const { isFile, unregister } = await catalogued();
        const path = await unregister(context, name);
        return { name, path, present: await isFile(path) };
      },
      render: ({ name, path, present }) => `${name} is forgotten; ${path} ${present === false ? "was gone already" : "stays"}.\n`,
    },
  ),
  ...downloadVerbs,
];
