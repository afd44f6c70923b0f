/** `rbees-pool models …` */
import { resolve } from "node:path";
import { RbeesError } from "@rbees/contracts/errors";
import type { PoolModel } from "@rbees/contracts/pool";
import { percent, size } from "../look.ts";
import { renderCatalogue, renderModelFacts, renderModels } from "../render/pool.ts";
import { verb } from "../verb.ts";
import { catalogue, register, registerInstead, registrableName, resolveModel, unregister } from "./catalogue.ts";
import { checkFile, describeFile, sha256Of } from "./model-file.ts";

export const modelVerbs = [
  verb(
    {
      path: "models list",
      summary: "models whose file is on this host",
      examples: ["rbees-pool models list", "rbees-pool models list --json | jq -r '.models[].name'"],
    },
    (command) => command,
    {
      run: async (context) => ({ models: (await catalogue(context)).filter(({ present }) => present) }),
      render: ({ models }, look) => renderModels(models, look),
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
      async run(context, { replace = false }, given, file): Promise<PoolModel> {
        const name = registrableName(given);
        const path = resolve(file);
        const { bytes, architecture, quantisation, context_size, license } = await checkFile(path);
        const sha256 = await sha256Of(path, context.signal, (done) =>
          context.progress(`hashing ${file}`, `${percent(done, bytes)} of ${size(bytes)}`),
        );
        context.progress(undefined);
        const model = { reference: `file:${path}`, path, bytes, sha256, architecture, quantisation, context_size, license };
        await register(context, name, model, replace);
        return { name, aliases: [], present: true, ...model };
      },
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
  verb(
    {
      path: "models info",
      summary: "what the header of a model's file says",
      examples: ["rbees-pool models info demo", "rbees-pool models info ./some.gguf --json"],
    },
    (command) => command.argument("<model>", "a name or a file"),
    {
      async run(context, _, given) {
        const { path } = await resolveModel(context, given);
        const registered = (await catalogue(context)).find((model) => model.path === path);
        return { ...(await describeFile(path)), sha256: registered?.sha256 ?? null };
      },
      render: renderModelFacts,
    },
  ),
  verb(
    {
      path: "models download",
      summary: "not available yet: register a file instead",
      examples: ["rbees-pool models register tinyllama ./tinyllama-1.1b-chat-v1.0.Q4_K_M.gguf"],
    },
    (command) => command.argument("<model>", "a known model or a reference"),
    {
      async run(_context, _options, given): Promise<never> {
        throw new RbeesError("CONFLICT", `"${given}" was not downloaded. ${registerInstead(/^[\w.-]+$/.test(given) ? given : "<name>")}`);
      },
    },
  ),
];
