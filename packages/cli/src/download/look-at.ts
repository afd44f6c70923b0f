/** What a model is and whether it fits, read from its header alone: on this host, or where it would come from. */
import { RbeesError } from "@rbees/contracts/errors";
import { readGgufFrom } from "@rbees/kit/gguf";
import { mergeParts, readModel } from "@rbees/kit/gguf-split";
import type { Context } from "../context.ts";
import { backends } from "../pool/backends.ts";
import { catalogue, knownReference, resolveModel } from "../pool/catalogue.ts";
import { fitHere } from "../pool/measured.ts";
import { factsOf } from "../pool/model-file.ts";
import { diskOf } from "../pool/room.ts";
import { referenceOf } from "./download.ts";
import { type FitOptions, fitOf, fitOnDevices } from "./fit.ts";
import { ATTEMPTS_MAX, STALL_MS_MAX } from "./limits.ts";
import { planDownload } from "./plan.ts";
import { isReference } from "./reference.ts";
import { RemoteFile } from "./remote-file.ts";
import { Web, type WebLimits } from "./web.ts";

/** What a model's header says and whether it would fit, without the model. */
export async function lookAt(context: Context, given: string, options: FitOptions & Partial<WebLimits> & { sha256?: string | undefined }) {
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
    const here = (await catalogue(context)).find(({ present, reference }) => present && reference === plan.reference)?.path ?? undefined;
    // Of a model that is here a worker may have been measured.
    const fit = here === undefined ? fitOf(gguf, options) : await fitHere(context.home, here, gguf, options);
    return {
      ...factsOf(gguf, plan.reference),
      license: gguf.license ?? plan.license,
      sha256: plan.files.length === 1 ? (plan.files[0]?.sha256 ?? null) : null,
      reference: plan.reference,
      fit,
      devices: fitOnDevices(gguf, fit, await backends(context)),
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
  const fit = await fitHere(context.home, path, gguf, options);
  return {
    ...factsOf(gguf, path),
    sha256: model?.sha256 ?? null,
    reference: model?.reference ?? `file:${path}`,
    fit,
    devices: fitOnDevices(gguf, fit, await backends(context)),
    disk_available_bytes: null,
  };
}

/** On this host when it is here, else where it would be downloaded from. */
export async function infoOf(context: Context, given: string, options: FitOptions) {
  const absent = async (error: unknown) => {
    const elsewhere = (isReference(given) && !given.startsWith("file:")) || knownReference(given) !== undefined;
    if (!elsewhere || !(error instanceof RbeesError && error.status === 404)) throw error;
    return lookAt(context, given, options);
  };
  return localFacts(context, given, options).catch(absent);
}
