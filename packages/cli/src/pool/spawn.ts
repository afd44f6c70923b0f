/** Starting a worker: an id and a port that nobody has, a process that outlives us, and waiting until it can work. */
import { hostname } from "node:os";
import { dirname } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { type ErrorCode, RbeesError } from "@rbees/contracts/errors";
import { WORKER_ID } from "@rbees/contracts/job";
import type { WorkerHealth } from "@rbees/contracts/worker";
import { readModel } from "@rbees/kit/gguf-split";
import { isLoopback } from "@rbees/kit/network";
import type { Context } from "../context.ts";
import { fitOf } from "../download/fit.ts";
import { type Exit, newLog, type Started, startDetached } from "../local/detach.ts";
import { withLock } from "../local/lock.ts";
import { fieldsOf, LogTail, lastLines } from "../local/log-file.ts";
import { isPortFree, nextFreePort } from "../local/ports.ts";
import { ended, isAlive, signal } from "../local/process-identity.ts";
import { dropUnit, isUnit, releaseUnit, startUnit, unitFile, writeUnit } from "../local/systemd.ts";
import { duration, percent } from "../look.ts";
import { countEvent } from "./counters.ts";
import { dropHandover, type Handover, keepHandover } from "./handover.ts";
import { fitHere, remember } from "./measured.ts";
import { SpawnRequest } from "./spawn-request.ts";
import {
  forgetWorker,
  healthOf,
  readWorkers,
  removeWorker,
  type WorkerRecord,
  workerLog,
  workersLock,
  writeWorker,
} from "./worker-record.ts";
import { unitName, unitText } from "./worker-unit.ts";

export const FIRST_PORT = 8001;
const LOCK_MS_MAX = 15_000;
const LOOK_MS = 50;
const KILL_MS_MAX = 5000;
const LOG_LINES_SHOWN = 10;

/** How often a worker that may choose its port is started again because another program was quicker. */
const PORT_RACES_MAX = 5;

export interface SpawnOptions {
  readonly handover?: Handover | undefined;
  /** Called before the wait. */
  readonly onStarted?: (record: WorkerRecord) => Promise<void>;
  /** It was here before: what the orchestrator knows it by stays, also when it does not get ready. */
  readonly is_back?: boolean;
}

/** Throws when it did not get ready; then nothing of it is left but its log. */
export async function spawnWorker(context: Context, request: SpawnRequest, options: SpawnOptions = {}): Promise<WorkerRecord> {
  const lost = new Set<number>();
  for (;;) {
    try {
      return await spawnOnce(context, request, { ...options, lost, handover: options.handover ?? {} });
    } catch (error) {
      // Between the look at a port and the worker's own listen lies the loading of a model: somebody else may come first.
      const port = error instanceof RbeesError ? /:(\d+) is taken by another program/.exec(error.message)?.[1] : undefined;
      if (port === undefined || request.port !== undefined || lost.size === PORT_RACES_MAX) throw error;
      lost.add(Number(port));
    }
  }
}

interface Given extends SpawnOptions {
  readonly lost: ReadonlySet<number>;
  readonly handover: Handover;
}

async function spawnOnce(context: Context, request: SpawnRequest, given: Given): Promise<WorkerRecord> {
  const { home } = context;
  const { record, started, settle } = await withLock(workersLock(home), { wait_ms_max: LOCK_MS_MAX, what: "starting a worker" }, () =>
    launch(context, request, given),
  );
  try {
    await given.onStarted?.(record);
    await untilReady(context, record, started, request.ready_ms_max);
    if (request.registered_ms_max !== undefined && request.orchestrator !== "none")
      await untilRegistered(context, record, started, request.registered_ms_max);
    // It answers, so it has read them.
    await settle();
    await dropHandover(context, record.worker_id);
    const health = await healthOf(context.home, record);
    if (health !== undefined) await remember(home, health, "loaded");
    const ready = {
      ...record,
      ready_at: new Date().toISOString(),
      slots: health?.slots ?? record.slots,
      estimated_bytes: await estimateOf(record, health),
    };
    await writeWorker(home, ready);
    await countEvent(home, "worker_starts", "ready");
    return ready;
  } catch (error) {
    await undo(context, record, given);
    await countEvent(home, "worker_starts", context.signal.aborted ? "interrupted" : "failed");
    throw error;
  }
}

/** Ends what was started and takes away what it wrote, but its log. */
async function undo(context: Context, { worker_id, process, unit }: WorkerRecord, { handover, is_back }: Given): Promise<void> {
  if (unit !== null) await releaseUnit(unit);
  await signal(process, "SIGTERM");
  if (!(await ended(process, KILL_MS_MAX))) await signal(process, "SIGKILL");
  if (unit !== null) await dropUnit(unit);
  // One that came without a token may have been let in before, and finds its way back by what it has.
  await (is_back || handover.join_token === undefined ? removeWorker : forgetWorker)(context.home, worker_id);
  await dropHandover(context, worker_id);
}

/** What its header lets expect of the context and slots that it has. */
async function estimateOf({ backend, model_path }: WorkerRecord, health: WorkerHealth | undefined): Promise<number | null> {
  if (backend !== "cpu" || health === undefined) return null;
  const gguf = await readModel(model_path).catch(() => undefined);
  return gguf === undefined
    ? null
    : fitOf(gguf, { ctx: health.context_size, slots: health.slots, cache_type: health.cache_type }).estimated_bytes;
}

/** What a worker of this kind was seen to take here. */
async function measuredFor({ home }: Context, { backend, model, ctx, slots, cache_type }: SpawnRequest): Promise<number | undefined> {
  if (backend !== "cpu") return undefined;
  const gguf = await readModel(model.path).catch(() => undefined);
  // A context that the model can't have is the worker's to refuse.
  if (gguf === undefined || (ctx ?? 0) > (gguf.context_size ?? Number.POSITIVE_INFINITY)) return undefined;
  return (await fitHere(home, model.path, gguf, { ctx, slots, cache_type })).measured_bytes ?? undefined;
}

async function launch(
  context: Context,
  request: SpawnRequest,
  given: Given,
): Promise<{ record: WorkerRecord; started: Started; settle: () => Promise<void> }> {
  const { home, programs } = context;
  const { lost, handover } = given;
  const records = await readWorkers(home);
  const living: WorkerRecord[] = [];
  for (const record of records) if (await isAlive(record.process)) living.push(record);
  const port = await choosePort(request, living, lost);
  const worker_id =
    request.name ??
    `${
      hostname()
        .replace(/[^A-Za-z0-9.-]/g, "-")
        .replace(/^[^A-Za-z0-9]+/, "") || "worker"
    }-${port}`;
  if (!WORKER_ID.test(worker_id))
    throw new RbeesError("INVALID_REQUEST", `--name "${worker_id}" is no worker id: use letters, digits and . _ : -`);
  const twin = living.find((record) => record.worker_id === worker_id);
  if (twin !== undefined) {
    throw new RbeesError(
      "CONFLICT",
      `A worker "${worker_id}" is running already (pid ${twin.process.pid}, port ${twin.port}); choose another --name.`,
    );
  }
  const log = workerLog(home, worker_id);
  const argv = [...programs.workerd, ...flagsOf(request, { worker_id, port, measured_bytes: await measuredFor(context, request) })];
  const unit = request.systemd ? unitName(worker_id) : null;
  if (unit !== null && isUnit(unit) && !records.some((record) => record.unit === unit)) {
    throw new RbeesError(
      "CONFLICT",
      `There is a unit ${unit} already, and it is not of this rbees home; choose another --name, or take it away if nobody needs it: \`systemctl --user disable --now ${unit}\`, then \`rm ${unitFile(unit)}\`.`,
    );
  }
  const first = [...argv, ...keepHandover(context, worker_id, handover)];
  const launching = unit === null ? detached(context, first, log) : underSystemd(context, { worker_id, unit, log, first, argv });
  const launched = await launching.catch(async (error) => {
    await dropHandover(context, worker_id);
    throw error;
  });
  const record: WorkerRecord = {
    worker_id,
    process: launched.started.process,
    unit,
    backend: request.backend,
    gpu: request.gpu ?? null,
    model: request.model.name,
    model_path: request.model.path,
    host: request.host,
    port,
    tls: !isLoopback(request.host) && request.insecure_no_tls !== true,
    slots: request.slots ?? null,
    orchestrator: request.orchestrator,
    log,
    started_at: new Date().toISOString(),
    ready_at: null,
    estimated_bytes: null,
    request: SpawnRequest.parse(request),
  };
  try {
    await writeWorker(home, record);
  } catch (error) {
    // Nobody would find it again.
    await undo(context, record, given);
    throw error;
  }
  return { record, ...launched };
}

interface Launched {
  started: Started;
  /** To be called when it has read what it was given for its first start. */
  settle: () => Promise<void>;
}

async function detached({ env }: Context, argv: readonly string[], log: string): Promise<Launched> {
  return { started: await startDetached(argv, log, env), settle: async () => {} };
}

interface Unit {
  worker_id: string;
  unit: string;
  log: string;
  /** With what it is given once, and as it is started again. */
  first: readonly string[];
  argv: readonly string[];
}

async function underSystemd({ env }: Context, { worker_id, unit, log, first, argv }: Unit): Promise<Launched> {
  await (await newLog(log)).close();
  const text = (words: readonly string[]) => unitText({ worker_id, argv: words, env, log, folder: dirname(log) });
  await writeUnit(unit, text(first));
  const process = await startUnit(unit).catch(async (error) => {
    await dropUnit(unit);
    throw error;
  });
  return {
    // How it ended is in systemd's own journal; its log says why.
    started: { process, exit: async () => undefined },
    settle: () => writeUnit(unit, text(argv)),
  };
}

async function choosePort({ host, port }: SpawnRequest, living: readonly WorkerRecord[], lost: ReadonlySet<number>): Promise<number> {
  if (port === undefined) return nextFreePort(host, FIRST_PORT, new Set([...lost, ...living.map((record) => record.port)]));
  const holder = living.find((record) => record.port === port);
  if (holder !== undefined) {
    throw new RbeesError(
      "CONFLICT",
      `Port ${port} is taken by worker ${holder.worker_id} (pid ${holder.process.pid}); leave the port out to get a free one.`,
    );
  }
  if (!(await isPortFree(host, port))) {
    throw new RbeesError(
      "CONFLICT",
      `Port ${port} on ${host} is taken by a program that rbees did not start; leave the port out to get a free one.`,
    );
  }
  return port;
}

interface Decided {
  worker_id: string;
  port: number;
  measured_bytes: number | undefined;
}

function flagsOf(request: SpawnRequest, { worker_id, port, measured_bytes }: Decided): string[] {
  const values: [string, string | number | undefined][] = [
    ["--model", request.model.path],
    ["--model-name", request.model.name],
    ["--worker-id", worker_id],
    ["--backend", request.backend],
    ["--engine", request.engine],
    ["--engine-path", request.engine_path],
    ["--engine-url", request.engine_url],
    ["--engine-features", request.engine_features],
    ["--engine-key-file", request.engine_key_file],
    ["--gpu", request.gpu],
    ["--gpu-layers", request.gpu_layers],
    ["--host", request.host],
    ["--port", port],
    ["--slots", request.slots],
    ["--ctx", request.ctx],
    ["--cache-type", request.cache_type],
    ["--prefix-cache-bytes-max", request.prefix_cache_bytes_max],
    ["--lora", listOf(request.loras)],
    ["--speculate", request.speculate],
    ["--prefill-chunk-tokens", request.prefill_chunk_tokens],
    ["--prefill-stretch-max", request.prefill_stretch_max],
    ["--prefix-cache-dir", request.prefix_cache_dir],
    ["--measured-bytes", measured_bytes],
    ["--threads", request.threads],
    ["--orchestrator", request.orchestrator],
    ["--advertise-host", request.advertise_host],
    ["--region", request.region],
    ["--labels", listOf(request.labels)],
    ["--log-format", "json"],
  ];
  const flags = values.filter(([, value]) => value !== undefined).map(([flag, value]) => `${flag}=${value}`);
  return [
    ...flags,
    ...(request.deterministic ? ["--deterministic"] : []),
    ...(request.insecure_no_auth ? ["--insecure-no-auth"] : []),
    ...(request.insecure_no_tls ? ["--insecure-no-tls"] : []),
  ];
}

function listOf(pairs: Readonly<Record<string, string>> = {}): string | undefined {
  const list = Object.entries(pairs).map((pair) => pair.join("="));
  return list.length === 0 ? undefined : list.join(",");
}

/** Until it answers under its own id. Its log says how far loading is, and why it died. */
async function untilReady(context: Context, record: WorkerRecord, { exit }: Started, ready_ms_max: number): Promise<void> {
  const began = performance.now();
  const tail = new LogTail(record.log);
  let share: number | undefined;
  for (;;) {
    context.signal.throwIfAborted();
    for (const line of await tail.read()) share = shareLoaded(line) ?? share;
    const passed_ms = performance.now() - began;
    context.progress(
      `loading ${record.model} on ${record.backend}`,
      share === undefined ? duration(passed_ms) : `${percent(share, 1)}  ${duration(passed_ms)}`,
      share,
    );
    if ((await healthOf(context.home, record)) !== undefined) return context.progress(undefined);
    if (!(await isAlive(record.process))) throw await deathOf({ what: `Worker ${record.worker_id}`, log: record.log }, await exit());
    if (passed_ms > ready_ms_max) {
      throw new RbeesError(
        "DEADLINE_EXCEEDED",
        `Worker ${record.worker_id} was not ready within ${duration(ready_ms_max)} and has been stopped; --ready-ms-max allows more. Its log: ${record.log}`,
      );
    }
    await sleep(LOOK_MS, undefined, { signal: context.signal });
  }
}

/** Refusals that waiting does not change: of another's name or address, of a version too far away. */
const FINAL = new Set<unknown>(["FORBIDDEN", "PROTOCOL_MISMATCH"] satisfies ErrorCode[]);

/** Until the orchestrator has accepted it, which includes that it could call it back. */
async function untilRegistered(context: Context, record: WorkerRecord, { exit }: Started, ms_max: number): Promise<void> {
  const began = performance.now();
  const tail = new LogTail(record.log);
  let reason = "it does not say why";
  for (;;) {
    for (const line of await tail.read()) {
      const fields = fieldsOf(line);
      reason = String(fields?.["reason"] ?? reason);
      if (FINAL.has(fields?.["code"])) {
        const who = `The orchestrator at ${record.orchestrator} does not accept worker ${record.worker_id}`;
        throw new RbeesError("CONFLICT", `${who}, so it has been stopped: ${reason}`);
      }
    }
    const passed_ms = performance.now() - began;
    context.progress(`waiting for ${record.orchestrator} to accept ${record.worker_id}`, duration(passed_ms));
    if ((await healthOf(context.home, record))?.registered === true) return context.progress(undefined);
    if (!(await isAlive(record.process))) throw await deathOf({ what: `Worker ${record.worker_id}`, log: record.log }, await exit());
    if (passed_ms > ms_max) {
      throw new RbeesError(
        "UNREACHABLE",
        `The orchestrator at ${record.orchestrator} has not accepted worker ${record.worker_id} within ${duration(ms_max)}, so it has been stopped. The worker's last news: ${reason}`,
      );
    }
    await sleep(LOOK_MS, undefined, { signal: context.signal });
  }
}

function shareLoaded(line: string): number | undefined {
  const fields = fieldsOf(line);
  return fields?.["msg"] === "loading" && typeof fields["progress"] === "number" ? fields["progress"] : undefined;
}

/** Why a program ended before it was ready, with the end of its log. */
export async function deathOf({ what, log }: { what: string; log: string }, exit: Exit | undefined): Promise<RbeesError> {
  const lines = await lastLines(log, LOG_LINES_SHOWN);
  const how = exit === undefined ? "" : exit.signal === null ? ` (exit code ${exit.code})` : ` (${exit.signal})`;
  const shown = lines.length < 2 ? `Its log: ${log}` : `The end of its log, ${log}:\n${lines.map((line) => `  ${line}`).join("\n")}`;
  return new RbeesError("ENGINE_FAILED", `${what} ended before it was ready${how}: ${reasonIn(lines)}\n${shown}`);
}

/** A program that can't go on says why on its last plain line; otherwise its last error in JSON does. */
function reasonIn(lines: readonly string[]): string {
  const last_first = lines.toReversed();
  const plain = last_first.find((line) => line.trim() !== "" && fieldsOf(line) === undefined && !/^\s+at /.test(line));
  const error = last_first.map(fieldsOf).find((fields) => Number(fields?.["level"]) >= 50)?.["msg"];
  return plain?.replace(/^rbees-\w+: /, "") ?? (typeof error === "string" ? error : "it did not say why.");
}
