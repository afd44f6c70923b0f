/** What the verbs of `rbees-pool worker` do. */
import { existsSync } from "node:fs";
import { hostname } from "node:os";
import { resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { RbeesError } from "@rbees/contracts/errors";
import { WORKER_ID } from "@rbees/contracts/job";
import type { PoolWorker } from "@rbees/contracts/pool";
import { regionProblem } from "@rbees/contracts/regions";
import type { CacheType, EngineName } from "@rbees/contracts/sets";
import type { Backend } from "@rbees/contracts/worker";
import { isLoopback } from "@rbees/kit/network";
import type { Context } from "../context.ts";
import { fieldsOf, LogTail, readableLine } from "../local/log-file.ts";
import { isAlive } from "../local/process-identity.ts";
import { addressTowards, hostOf } from "../local/route.ts";
import { lingers, requireUserSystemd } from "../local/systemd.ts";
import { apiKey, httpUrl, orchestratorUrl } from "../orchestrator.ts";
import { requireBackend } from "./backends.ts";
import { resolveModel } from "./catalogue.ts";
import { type Handover, type Invited, invitation, joinTokenIn, readHandover } from "./handover.ts";
import { type Changes, type Restarted, restartWorker } from "./restart.ts";
import { spawnWorker } from "./spawn.ts";
import type { SpawnRequest } from "./spawn-request.ts";
import { type StopWay, stopWorker } from "./stop.ts";
import { describeWorker, listWorkers, readWorkers, requireWorker, type WorkerRecord, workerLog } from "./worker-record.ts";

export { listWorkers };

const LOG_LOOK_MS = 100;

/** The flags of `worker spawn`. */
export interface SpawnFlags {
  model: string;
  engine?: EngineName | undefined;
  enginePath?: string | undefined;
  engineFeatures?: string | undefined;
  engineUrl?: string | undefined;
  engineKeyFile?: string | undefined;
  gpu?: number | undefined;
  gpuLayers?: number | "auto" | undefined;
  port?: number | undefined;
  listen?: string | undefined;
  slots?: number | undefined;
  ctx?: number | undefined;
  cacheType?: CacheType | undefined;
  prefixCacheBytesMax?: number | undefined;
  lora?: Record<string, string> | undefined;
  speculate?: number | undefined;
  prefillChunkTokens?: number | undefined;
  prefillStretchMax?: number | undefined;
  prefixCacheDir?: string | undefined;
  threads?: number | undefined;
  deterministic?: true | undefined;
  orchestrator?: string | undefined;
  insecureNoAuth?: true | undefined;
  insecureNoTls?: true | undefined;
  tokenFile?: string | undefined;
  handover?: true | undefined;
  advertise?: string | undefined;
  systemd?: true | undefined;
  name?: string | undefined;
  region?: string | undefined;
  labels?: Record<string, string> | undefined;
  readyMsMax: number;
  registeredMsMax?: number | undefined;
}

/** Whoever brings a token wants the worker to join: one that was refused is not ready. */
const REGISTERED_MS_MAX = 20_000;

export async function spawn(context: Context, backend: string, options: SpawnFlags): Promise<PoolWorker> {
  const nowhere = options.region === undefined ? undefined : regionProblem(options.region);
  if (nowhere !== undefined) throw new RbeesError("INVALID_REQUEST", `--region ${nowhere}.`, { param: "region" });
  if (options.systemd) await requireUserSystemd();
  const orchestrator = await orchestratorFor(context, options.orchestrator);
  const listen = await listenFor(context, orchestrator, options);
  const handover = await handoverFor(context, orchestrator, options);
  const request = {
    backend: requireGpuFor(options.gpuLayers, await requireBackend(context, backend, options.gpu, options.engine)),
    // Another server's models are not of this host: it says itself whether it has this one.
    model: options.engine === "openai" ? { name: options.model, path: options.model } : await resolveModel(context, options.model),
    engine: options.engine,
    engine_path: options.enginePath && resolve(options.enginePath),
    engine_url: options.engineUrl,
    engine_features: options.engineFeatures,
    engine_key_file: options.engineKeyFile && resolve(options.engineKeyFile),
    gpu: options.gpu,
    gpu_layers: options.gpuLayers,
    host: listen,
    port: options.port,
    slots: options.slots,
    ctx: options.ctx,
    cache_type: options.cacheType,
    prefix_cache_bytes_max: options.prefixCacheBytesMax,
    loras: options.lora && Object.fromEntries(Object.entries(options.lora).map(([name, path]) => [name, resolve(path)])),
    speculate: options.speculate,
    prefill_chunk_tokens: options.prefillChunkTokens,
    prefill_stretch_max: options.prefillStretchMax,
    prefix_cache_dir: options.prefixCacheDir && resolve(options.prefixCacheDir),
    threads: options.threads,
    deterministic: options.deterministic,
    orchestrator,
    advertise_host: options.advertise,
    insecure_no_auth: options.insecureNoAuth,
    systemd: options.systemd,
    insecure_no_tls: options.insecureNoTls,
    name: options.name,
    region: options.region,
    labels: options.labels,
    ready_ms_max: options.readyMsMax,
    registered_ms_max: options.registeredMsMax ?? (handover?.join_token === undefined ? undefined : REGISTERED_MS_MAX),
  };
  const record = await spawnWorker(context, request, { handover });
  if (record.unit !== null) await sayWhenItStarts(context, record.unit);
  return describeWorker(context.home, record);
}

async function handoverFor(context: Context, orchestrator: string, options: SpawnFlags): Promise<Handover | undefined> {
  if (options.tokenFile !== undefined) return { join_token: joinTokenIn(options.tokenFile) };
  if (options.handover) return readHandover(context);
  if (orchestrator === "none") return undefined;
  return invitation(context, orchestrator, {
    pool: hostname(),
    worker_id: options.name,
    address: options.advertise,
    region: options.region,
  });
}

/** For a worker that comes back: it has a credential, which may do; so nothing is asked for in vain. */
async function wayIn(
  context: Context,
  orchestrator: string,
  { tokenFile, handover }: RestartFlags,
  is_known: boolean,
  whom: Invited,
): Promise<Handover> {
  if (tokenFile !== undefined) return { join_token: joinTokenIn(tokenFile) };
  if (handover) return readHandover(context);
  if (is_known || orchestrator === "none" || apiKey(context) === undefined) return {};
  return (await invitation(context, orchestrator, whom)) ?? {};
}

/** One that only this machine could reach must be where another machine's orchestrator finds it. */
async function listenAgain(context: Context, orchestrator: string, request: SpawnRequest | null): Promise<string> {
  const before = request?.host ?? "127.0.0.1";
  return isLoopback(before) ? listenFor(context, orchestrator, { insecureNoAuth: request?.insecure_no_auth }) : before;
}

async function sayWhenItStarts(context: Context, unit: string): Promise<void> {
  const when = (await lingers())
    ? "starts again with this machine"
    : "starts again when you log in; `loginctl enable-linger` makes that the start of this machine, and keeps it when you log out";
  context.say(`systemd keeps it as ${unit}: it ${when}.`);
}

function requireGpuFor(layers: SpawnFlags["gpuLayers"], backend: Backend): Backend {
  if (backend !== "cpu" || layers === undefined || layers === "auto" || layers === 0) return backend;
  throw new RbeesError(
    "INVALID_REQUEST",
    `--gpu-layers ${layers} needs a GPU, and cpu computes every layer on the processor. Leave it out, or spawn on cuda or metal; \`rbees-pool backends list\` shows what works here.`,
  );
}

export interface Stopped {
  worker_id: string;
  ended: StopWay;
}

export async function stop(context: Context, worker_id: string, now: boolean): Promise<Stopped> {
  return { worker_id, ended: await stopWorker(context, await requireWorker(context.home, worker_id), { now }) };
}

/** The flags of `worker restart`. */
export interface RestartFlags {
  port?: number | undefined;
  now?: true | undefined;
  orchestrator?: string | undefined;
  tokenFile?: string | undefined;
  handover?: true | undefined;
}

export async function restart(context: Context, options: RestartFlags, worker_id: string | undefined): Promise<Restarted> {
  const { port, now = false } = options;
  if ((worker_id === undefined) === (port === undefined)) {
    throw new RbeesError("INVALID_REQUEST", "Say which worker: its id, or --port. `rbees-pool worker list` shows both.");
  }
  const record = worker_id === undefined ? await workerOnPort(context, port) : await requireWorker(context.home, worker_id);
  return restartWorker(context, record, { now }, await changesFor(context, record, options));
}

/** The orchestrator that it is to belong to from now on, and what it needs to be let in where it may not be known. */
async function changesFor(context: Context, record: WorkerRecord, options: RestartFlags): Promise<Changes> {
  const { request } = record;
  const named = options.orchestrator === undefined ? undefined : await orchestratorFor(context, options.orchestrator);
  const orchestrator = named ?? record.orchestrator;
  const { registered, joins } = await describeWorker(context.home, record);
  const is_known = named === undefined ? registered === true : named === "none";
  const whom = { pool: joins?.pool ?? hostname(), worker_id: record.worker_id, address: joins?.address, region: joins?.region };
  const handover = await wayIn(context, orchestrator, options, is_known, whom);
  const moved = named === undefined ? {} : { orchestrator: named, host: await listenAgain(context, named, request) };
  const waits = handover.join_token !== undefined || (named !== undefined && named !== "none");
  const ms_max = request?.registered_ms_max ?? (waits ? REGISTERED_MS_MAX : undefined);
  return { request: { ...moved, registered_ms_max: ms_max }, handover };
}

async function workerOnPort({ home }: Context, port: number | undefined): Promise<WorkerRecord> {
  const records = await readWorkers(home);
  const found = records.find((record) => record.port === port);
  if (found !== undefined) return found;
  const known = records.map((record) => record.port).join(", ");
  throw new RbeesError(
    "NOT_FOUND",
    `There is no worker on port ${port} of this host; there ${known === "" ? "are none" : `are workers on: ${known}`}.`,
  );
}

export async function stopAll(context: Context, now: boolean): Promise<{ stopped: Stopped[] }> {
  const records = await readWorkers(context.home);
  const stopping = records.map(async (record) => ({ worker_id: record.worker_id, ended: await stopWorker(context, record, { now }) }));
  return { stopped: await Promise.all(stopping) };
}

async function orchestratorFor(context: Context, given: string | undefined): Promise<string> {
  if (given === "none") return given;
  return given === undefined ? orchestratorUrl(context) : httpUrl(given, "--orchestrator");
}

/**
 * An orchestrator on another machine can call a worker only at an address of the network: the one from which this host talks to that
 * orchestrator, and no other.
 */
async function listenFor(
  context: Context,
  orchestrator: string,
  { listen, insecureNoAuth }: { listen?: string | undefined; insecureNoAuth?: boolean | undefined },
): Promise<string> {
  const host = orchestrator === "none" ? "127.0.0.1" : hostOf(orchestrator);
  if (listen !== undefined || isLoopback(host)) return listen ?? "127.0.0.1";
  const address = await addressTowards(host);
  if (isLoopback(address)) return address;
  const whom = insecureNoAuth ? "anybody" : "its orchestrator alone";
  context.say(`The worker listens on ${address}: others on that network can reach it too; it answers ${whom}.`);
  return address;
}

export async function showLog(context: Context, worker_id: string, { follow, lines }: { follow: boolean; lines: number }): Promise<void> {
  const { io, home, signal } = context;
  const record = (await readWorkers(home)).find((one) => one.worker_id === worker_id);
  const path = record?.log ?? workerLog(home, worker_id);
  // What is no worker's id could be a path to elsewhere.
  if (!WORKER_ID.test(worker_id) || !existsSync(path))
    throw new RbeesError("NOT_FOUND", `There is no worker "${worker_id}" on this host, and no log of one.`);
  const show = (line: string) => io.out(`${context.json ? jsonOf(line) : readableLine(line, io.out_look)}\n`);
  const tail = new LogTail(path);
  const past = await tail.read();
  for (const line of past.slice(Math.max(0, past.length - lines))) show(line);
  if (!follow || record === undefined) return;
  for (let alive = true; alive; ) {
    // Looked at before reading: what it wrote last is still shown.
    alive = await isAlive(record.process);
    for (const line of await tail.read()) show(line);
    if (alive) await sleep(LOG_LOOK_MS, undefined, { signal });
  }
  context.say(io.err_look.dim(`${worker_id} has ended.`));
}

function jsonOf(line: string): string {
  return JSON.stringify(fieldsOf(line) ?? { msg: line });
}
