/** `models download`: from what was typed to a model in the catalogue. One process downloads a model, others wait for it. */
import { createHash } from "node:crypto";
import { mkdir, rm, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { RbeesError } from "@rbees/contracts/errors";
import type { PoolDownloaded, PoolModel } from "@rbees/contracts/pool";
import { canonicalModel } from "@rbees/contracts/sets";
import type { Context } from "../context.ts";
import { withLock } from "../local/lock.ts";
import { identify } from "../local/process-identity.ts";
import { size } from "../look.ts";
import {
  catalogue,
  knownName,
  knownReference,
  modelsFolder,
  nameOfFile,
  type Registered,
  readRecord,
  register,
  registrableName,
  unpinned,
  writeRecord,
} from "../pool/catalogue.ts";
import { countEvent } from "../pool/counters.ts";
import { checkFile, sha256Of } from "../pool/model-file.ts";
import { registerFile } from "../pool/register.ts";
import { diskOf } from "../pool/room.ts";
import { deleteReplaced, lockOf } from "./delete.ts";
import { readJournal } from "./journal.ts";
import { Meter } from "./meter.ts";
import { type Plan, planDownload } from "./plan.ts";
import { isReference, parseReference, REFERENCE_FORMS, type Reference } from "./reference.ts";
import { RemoteFile } from "./remote-file.ts";
import { transfer } from "./transfer.ts";
import { Web, type WebLimits } from "./web.ts";

export interface DownloadRequest extends WebLimits {
  given: string;
  name?: string | undefined;
  /** Of a file whose server says nothing about it. */
  sha256?: string | undefined;
  /** Also when it is here, or when the name stands for another model. */
  force?: boolean | undefined;
  connections: number;
}

const LOOK_MS = 250;
/** Left free beside the model: a disk that is full to the last byte stops more than us. */
const DISK_SPARE_BYTES = 134_217_728;

/** A name that everyone knows, or a reference. */
export function referenceOf(given: string): Reference {
  const known = knownReference(given);
  if (known !== undefined) return parseReference(known);
  if (isReference(given)) return parseReference(given);
  throw new RbeesError(
    "MODEL_NOT_FOUND",
    `"${given}" is no model that rbees knows by name; \`rbees-pool models catalog\` lists those. Or write ${REFERENCE_FORMS}.`,
  );
}

export async function download(context: Context, request: DownloadRequest): Promise<PoolDownloaded> {
  const { given, force = false } = request;
  if (request.name !== undefined) registrableName(request.name);
  const here = await alreadyHere(context, request);
  if (here !== undefined && !force) return { type: "downloaded", model: here, how: "already_here" };
  const reference = referenceOf(given);
  if (reference.kind === "file") {
    const { path } = reference;
    return { type: "downloaded", model: await registerFile(context, request.name ?? nameOfFile(path), path, force), how: "already_here" };
  }
  const web = await Web.open(context.env, request, context.signal);
  try {
    const plan = await planDownload(web, reference, request.sha256);
    const name = nameFor(request, plan);
    if (!force) await refuseOtherModel(context, name, plan);
    const before = (await catalogue(context)).find((model) => model.name === name);
    const done = await fetchPlan(context, web, request, plan, name);
    await deleteReplaced(context, before);
    return done;
  } catch (error) {
    await countEvent(context.home, "model_downloads", context.signal.aborted ? "interrupted" : "failed");
    throw error;
  } finally {
    await web.close();
  }
}

/** Without asking anybody: by its name, or by where it came from. */
async function alreadyHere(context: Context, { given, name }: DownloadRequest): Promise<PoolModel | undefined> {
  const models = (await catalogue(context)).filter(({ present }) => present);
  if (name === undefined && !isReference(given)) return models.find((model) => model.name === canonicalModel(given));
  const wanted = isReference(given) ? given : knownReference(given);
  return models.find(
    ({ name: has, reference }) =>
      (reference === wanted || unpinned(reference) === wanted) && (name === undefined || has === canonicalModel(name)),
  );
}

function nameFor({ given, name }: DownloadRequest, { hub, files }: Plan): string {
  if (name !== undefined) return registrableName(name);
  if (!isReference(given)) return canonicalModel(given);
  const known = hub && knownName(hub.repo, hub.file);
  return registrableName(known ?? nameOfFile(files[0]?.name ?? ""));
}

/** Before the first byte: a name stands for one model. */
async function refuseOtherModel(context: Context, name: string, plan: Plan): Promise<void> {
  const model = (await catalogue(context)).find((one) => one.name === name);
  if (model?.path === null || model === undefined || unpinned(model.reference) === unpinned(plan.reference)) return;
  throw new RbeesError(
    "CONFLICT",
    `"${name}" is another model here already, ${model.reference}: choose a name with --name, or add --force to give the name to this one.`,
  );
}

/** The same pinned reference always has the same folder: that is where processes meet. */
export function folderOf(context: Context, { reference, files }: Pick<Plan, "reference" | "files">): string {
  const short = createHash("sha256").update(reference).digest("hex").slice(0, 12);
  return join(modelsFolder(context.home), `${nameOfFile(files[0]?.name ?? "").slice(0, 100)}-${short}`);
}

async function fetchPlan(context: Context, web: Web, request: DownloadRequest, plan: Plan, name: string): Promise<PoolDownloaded> {
  const folder = folderOf(context, plan);
  const meter = new Meter(context, name, plan.bytes);
  let waited = false;
  const onWait = async (pid: number | undefined) => {
    if (!waited) context.say(`Another process (pid ${pid ?? "unknown"}) is downloading ${name}; waiting for it.`);
    waited = true;
    meter.show(total(await bytesHere(folder, plan)));
    await sleep(LOOK_MS, undefined, { signal: context.signal });
  };
  return withLock(lockOf(folder), { wait_ms_max: Number.POSITIVE_INFINITY, what: `downloading ${name}`, onWait }, async () => {
    const record = await readRecord(folder);
    const whole = record !== undefined && (await bytesHere(folder, plan)).every((bytes, i) => bytes === plan.files[i]?.bytes);
    const anew = request.force === true && !waited;
    const fetched = !whole || anew;
    if (fetched) await checkDisk(context, folder, plan, anew);
    const model = fetched ? await fetchFiles(web, { folder, plan, meter, connections: request.connections, name, anew }) : record;
    await register(context, name, model, true);
    context.progress(undefined);
    if (fetched) await countEvent(context.home, "model_downloads", "done");
    const listed = (await catalogue(context)).find((one) => one.name === name);
    if (listed === undefined) throw new RbeesError("CONFLICT", `Somebody has deleted "${name}" at this moment.`);
    return { type: "downloaded", model: listed, how: fetched ? "downloaded" : waited ? "by_another_process" : "already_here" };
  });
}

/** How much of each file is on the disk. `anew`: what is finished does not count. */
async function bytesHere(folder: string, { files }: Plan, anew = false): Promise<number[]> {
  return Promise.all(
    files.map(async ({ name }) => {
      const path = join(folder, name);
      const done = anew ? undefined : await stat(path).catch(() => undefined);
      return done?.size ?? (await readJournal(path))?.ranges.bytes ?? 0;
    }),
  );
}

async function checkDisk(context: Context, folder: string, plan: Plan, anew: boolean): Promise<void> {
  const missing = plan.bytes - total(await bytesHere(folder, plan, anew));
  const { available_bytes } = await diskOf(modelsFolder(context.home));
  const needed = missing + DISK_SPARE_BYTES;
  if (needed <= available_bytes) return;
  throw new RbeesError(
    "CONFLICT",
    `The disk has no room: ${size(missing)} are to come, ${size(DISK_SPARE_BYTES)} should stay free, and ${size(available_bytes)} are free at ${modelsFolder(context.home)}: ${size(needed - available_bytes)} are missing. RBEES_HOME chooses another folder.`,
    { details: { needed_bytes: needed, available_bytes, missing_bytes: needed - available_bytes } },
  );
}

function total(bytes: readonly number[]): number {
  return bytes.reduce((sum, some) => sum + some, 0);
}

interface Fetch {
  folder: string;
  plan: Plan;
  meter: Meter;
  connections: number;
  name: string;
  /** Also what is finished. */
  anew: boolean;
}

async function fetchFiles(
  web: Web,
  { folder, plan, meter, connections, name, anew }: Fetch,
): Promise<Omit<Registered, "name" | "registered_at">> {
  await mkdir(folder, { recursive: true });
  // Without a record it is no model: a crash from here on leaves only something to go on with.
  await rm(join(folder, "model.json"), { force: true });
  const boot_id = (await identify(process.pid))?.boot_id ?? "";
  const files: Registered["files"] = [];
  let before = 0;
  for (const { name: file, url, bytes, sha256, etag } of plan.files) {
    const path = join(folder, file);
    const onBytes = (here: number) => meter.show(before + here);
    const head = { version: 1 as const, name, reference: plan.reference, bytes, sha256, etag, boot_id };
    const source = new RemoteFile(web, url, sha256 !== null);
    const finished = anew ? undefined : await finishedEarlier(web.signal, path, bytes, sha256, onBytes);
    files.push({ path, bytes, sha256: finished ?? (await transfer({ web, source, path, head, connections, onBytes })) });
    before += bytes;
  }
  const path = files[0]?.path ?? "";
  const facts = await checkFile(path).catch(async (error: unknown) => {
    await rm(folder, { recursive: true, force: true });
    throw error instanceof RbeesError
      ? new RbeesError(error.code, `What came is no model, and is deleted. ${error.message.replace(path, basename(path))}`, {
          cause: error,
        })
      : error;
  });
  const { architecture, quantisation, context_size } = facts;
  const model = {
    reference: plan.reference,
    path,
    bytes: plan.bytes,
    sha256: files.length === 1 ? (files[0]?.sha256 ?? null) : null,
    revision: plan.revision,
    files,
    license: facts.license ?? plan.license,
    ...{ architecture, quantisation, context_size },
  };
  await writeRecord(folder, { ...model, name, registered_at: new Date().toISOString() });
  return model;
}

/** The hash of a part that an earlier run has finished, when it is still right. */
async function finishedEarlier(signal: AbortSignal, path: string, bytes: number, wanted: string | null, onBytes: (bytes: number) => void) {
  const found = await stat(path).catch(() => undefined);
  if (found?.size !== bytes) return undefined;
  const sha256 = await sha256Of(path, signal, onBytes);
  return wanted === null || wanted === sha256 ? sha256 : undefined;
}
