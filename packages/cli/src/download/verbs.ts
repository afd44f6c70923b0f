/** `rbees-pool models download`, `info`, `verify` and `delete`. */
import { InvalidArgumentError, Option } from "@commander-js/extra-typings";
import { EXIT } from "@rbees/contracts/errors";
import type { Context } from "../context.ts";
import { size } from "../look.ts";
import { verb, whole } from "../verb.ts";
import { ATTEMPTS_MAX, CONNECTIONS, STALL_MS_MAX } from "./limits.ts";

/** Loaded when they are called: `--help` need not wait for them. */
const looking = () => import("./look-at.ts");
const rendering = () => import("../render/pool.ts");

/** Called from afar, by somebody whose environment names a hub or has a token for it. */
const fromAfar = () => new Option("--hub-account", "read HF_ENDPOINT and HF_TOKEN from stdin, as JSON").hideHelp();

async function asked(context: Context, { hubAccount }: { hubAccount?: true | undefined }): Promise<Context> {
  return hubAccount === true ? (await import("./hub-account.ts")).withHubFromStdin(context) : context;
}

function sha256(text: string): string {
  if (!/^[0-9a-f]{64}$/i.test(text)) throw new InvalidArgumentError("Give 64 hexadecimal digits.");
  return text.toLowerCase();
}

export const downloadVerbs = [
  verb(
    {
      path: "models download",
      summary: "fetch a model, or what is missing of it",
      examples: [
        "rbees-pool models download qwen",
        "rbees-pool models download hf:org/repo-GGUF:Q5_K_M --name mine",
        "rbees-pool models download mistral --dry-run --ctx 4096 --slots 2",
      ],
    },
    (command) =>
      command
        .argument("<model>", "a known model, hf:org/repo[@revision][::file=path], hf:org/repo:Q4_K_M, https://… or file:/…")
        .option("--name <name>", "what workers and jobs will call it (default: the known name, else the file's)")
        .option("--dry-run", "read only the header: what it is, and whether it fits this host")
        .option("--ctx <tokens>", "with --dry-run: tokens that one slot shall hold", whole(1))
        .option("--slots <n>", "with --dry-run: jobs at once", whole(1, 256))
        .option("--force", "also when it is here already, or the name stands for another model")
        .option("--sha256 <hex>", "what the file must have, where the server does not say", sha256)
        .option("--connections <n>", "how many at once", whole(1, 16), CONNECTIONS)
        .option("--stall-ms-max <ms>", "a connection without a byte for so long is replaced", whole(1), STALL_MS_MAX)
        .option("--attempts-max <n>", "how often in a row a request may fail", whole(1, 100), ATTEMPTS_MAX)
        .addOption(fromAfar()),
    {
      async run(called, options, given) {
        const context = await asked(called, options);
        const limits = { stall_ms_max: options.stallMsMax, attempts_max: options.attemptsMax };
        if (options.dryRun) {
          const { lookAt } = await looking();
          return lookAt(context, given, { ...limits, ctx: options.ctx, slots: options.slots, sha256: options.sha256 });
        }
        const { name, force, connections } = options;
        return (await import("./download.ts")).download(context, { given, name, force, connections, sha256: options.sha256, ...limits });
      },
      async render(result, look) {
        if (!("how" in result)) return (await rendering()).renderModelFacts(result, look);
        const { how, model } = result;
        const said =
          how === "already_here" ? "is here already" : how === "downloaded" ? "is here" : "is here: another process has downloaded it";
        return `${model.name} ${said}, ${size(model.bytes)}: ${model.path}\n`;
      },
    },
  ),
  verb(
    {
      path: "models info",
      summary: "what the header of a model's file says, and whether it fits this host",
      examples: [
        "rbees-pool models info demo",
        "rbees-pool models info ./some.gguf --json",
        "rbees-pool models info hf:org/repo-GGUF --ctx 4096",
      ],
    },
    (command) =>
      command
        .argument("<model>", "a name, a file, or a reference to what is not here yet")
        .option("--ctx <tokens>", "tokens that one slot shall hold", whole(1))
        .option("--slots <n>", "jobs at once", whole(1, 256))
        .addOption(fromAfar()),
    {
      run: async (context, options, given) => (await looking()).infoOf(await asked(context, options), given, options),
      render: async (facts, look) => (await rendering()).renderModelFacts(facts, look),
    },
  ),
  verb(
    {
      path: "models verify",
      summary: "hash the files again: are they what they were",
      examples: ["rbees-pool models verify", "rbees-pool models verify qwen --json"],
    },
    (command) => command.argument("[names...]", "which models (default: all whose hash is known)"),
    {
      run: async (context, _, names) => ({ models: await (await import("./verify.ts")).verifyModels(context, names) }),
      render: async ({ models }, look) => (await rendering()).renderVerified(models, look),
      exit: ({ models }) => (models.every(({ ok }) => ok) ? EXIT.done : EXIT.failed),
    },
  ),
  verb(
    {
      path: "models delete",
      summary: "delete a downloaded model, or what came of it",
      examples: ["rbees-pool models delete qwen"],
    },
    (command) => command.argument("<name>", "a downloaded model").option("--force", "also while a worker uses it"),
    {
      run: async (context, { force = false }, name) => (await import("./delete.ts")).deleteModel(context, name, force),
      render: ({ name, bytes, kept_for }) =>
        kept_for === null
          ? `${name} is deleted; ${size(bytes)} are free again.\n`
          : `${name} is forgotten; its files stay for ${kept_for}.\n`,
    },
  ),
];
