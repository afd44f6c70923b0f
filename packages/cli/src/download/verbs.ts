/** `rbees-pool models download`, `info`, `verify` and `delete`. */
import { InvalidArgumentError } from "@commander-js/extra-typings";
import { EXIT, RbeesError } from "@rbees/contracts/errors";
import { readGgufFrom } from "@rbees/kit/gguf";
import { mergeParts, readModel } from "@rbees/kit/gguf-split";
import type { Context } from "../context.ts";
import { size } from "../look.ts";
import { catalogue, knownReference, resolveModel } from "../pool/catalogue.ts";
import { fitHere } from "../pool/measured.ts";
import { factsOf } from "../pool/model-file.ts";
import { diskOf } from "../pool/status.ts";
import { renderModelFacts, renderVerified } from "../render/pool.ts";
import { verb, whole } from "../verb.ts";
import { deleteModel } from "./delete.ts";
import { CONNECTIONS, download, referenceOf } from "./download.ts";
import { type FitOptions, fitOf } from "./fit.ts";
import { planDownload } from "./plan.ts";
import { isReference } from "./reference.ts";
import { RemoteFile } from "./remote-file.ts";
import { verifyModels } from "./verify.ts";
import { ATTEMPTS_MAX, STALL_MS_MAX, Web, type WebLimits } from "./web.ts";

function sha256(text: string): string {
  if (!/^[0-9a-f]{64}$/i.test(text)) throw new InvalidArgumentError("Give 64 hexadecimal digits.");
  return text.toLowerCase();
}

/** What a model's header says and whether it would fit, without the model. */
async function lookAt(context: Context, given: string, options: FitOptions & Partial<WebLimits> & { sha256?: string | undefined }) {
  const reference = referenceOf(given);
  if (reference.kind === "file") return localFacts(context, reference.path, options);
  const limits = { stall_ms_max: options.stall_ms_max ?? STALL_MS_MAX, attempts_max: options.attempts_max ?? ATTEMPTS_MAX };
  const web = await Web.open(context.env, limits, context.signal);
  try {
    const plan = await planDownload(web, reference, options.sha256);
    const headers = [];
    for (const { name, url, sha256: hash } of plan.files) {
      context.progress(`reading the header of ${name}`);
      headers.push(await readGgufFrom(await new RemoteFile(web, url, hash !== null).header(), name));
    }
    const gguf = mergeParts(headers);
    const disk = await diskOf(context.home.data);
    return {
      ...factsOf(gguf, plan.reference),
      license: gguf.license ?? plan.license,
      sha256: plan.files.length === 1 ? (plan.files[0]?.sha256 ?? null) : null,
      reference: plan.reference,
      fit: fitOf(gguf, options),
      disk_available_bytes: disk.available_bytes as number | null,
    };
  } finally {
    await web.close();
  }
}

async function localFacts(context: Context, given: string, options: FitOptions) {
  const { path } = await resolveModel(context, given);
  const model = (await catalogue(context)).find((one) => one.path === path);
  const gguf = await readModel(path);
  return {
    ...factsOf(gguf, path),
    sha256: model?.sha256 ?? null,
    reference: model?.reference ?? `file:${path}`,
    fit: await fitHere(context.home, path, gguf, options),
    disk_available_bytes: null,
  };
}

/** On this host when it is here, else where it would be downloaded from. */
async function infoOf(context: Context, given: string, options: FitOptions) {
  const absent = async (error: unknown) => {
    const elsewhere = (isReference(given) && !given.startsWith("file:")) || knownReference(given) !== undefined;
    if (!elsewhere || !(error instanceof RbeesError && error.status === 404)) throw error;
    return lookAt(context, given, options);
  };
  return localFacts(context, given, options).catch(absent);
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
        .option("--attempts-max <n>", "how often in a row a request may fail", whole(1, 100), ATTEMPTS_MAX),
    {
      async run(context, options, given) {
        const limits = { stall_ms_max: options.stallMsMax, attempts_max: options.attemptsMax };
        if (options.dryRun) {
          const facts = await lookAt(context, given, { ...limits, ctx: options.ctx, slots: options.slots, sha256: options.sha256 });
          return facts;
        }
        const { name, force, connections } = options;
        return download(context, { given, name, force, connections, sha256: options.sha256, ...limits });
      },
      render(result, look) {
        if (!("how" in result)) return renderModelFacts(result, look);
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
        .option("--slots <n>", "jobs at once", whole(1, 256)),
    { run: (context, options, given) => infoOf(context, given, options), render: renderModelFacts },
  ),
  verb(
    {
      path: "models verify",
      summary: "hash the files again: are they what they were",
      examples: ["rbees-pool models verify", "rbees-pool models verify qwen --json"],
    },
    (command) => command.argument("[names...]", "which models (default: all whose hash is known)"),
    {
      run: async (context, _, names) => ({ models: await verifyModels(context, names) }),
      render: ({ models }, look) => renderVerified(models, look),
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
      run: (context, { force = false }, name) => deleteModel(context, name, force),
      render: ({ name, bytes, kept_for }) =>
        kept_for === null
          ? `${name} is deleted; ${size(bytes)} are free again.\n`
          : `${name} is forgotten; its files stay for ${kept_for}.\n`,
    },
  ),
];
