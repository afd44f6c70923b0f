/** `rbees up`: an orchestrator and a worker on this host, started unless they are there, and waited for. */
import { hostname } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { RbeesError } from "@rbees/contracts/errors";
import type { PoolWorker } from "@rbees/contracts/pool";
import { OrcdHealth } from "@rbees/contracts/routes";
import type { WorkerView } from "@rbees/contracts/worker";
import { authority, isLoopback, reachable } from "@rbees/kit/network";
import { CA_FILE, tlsFolder } from "@rbees/kit/tls";
import type { Context } from "../context.ts";
import { duration } from "../look.ts";
import { fetchFrom, orchestratorAt } from "../orchestrator.ts";
import { requireBackend } from "../pool/backends.ts";
import { DEMO, resolveModel } from "../pool/catalogue.ts";
import { invitation } from "../pool/handover.ts";
import { deathOf, spawnWorker } from "../pool/spawn.ts";
import { insist } from "../pool/stop.ts";
import { describeWorker, healthOf, readWorkers, removeWorker, type WorkerRecord } from "../pool/worker-record.ts";
import { commandLine } from "../remote/quote.ts";
import { checkOrchestrator, checkOtherWorkers, checkOwnWorker, type UpRequest } from "./as-asked.ts";
import { type Started, startDetached } from "./detach.ts";
import { withLock } from "./lock.ts";
import { isPortFree } from "./ports.ts";
import { isAlive } from "./process-identity.ts";
import { ensureKey, keyFile } from "./up-keys.ts";
import { isOfUp, ORCHESTRATOR_PORT, readUp, removeUp, type UpRecord, upLock, writeUp } from "./up-record.ts";

export interface UpReport {
  url: string;
  model: string;
  /** What this call started; neither: everything was up already. */
  started: { orchestrator: boolean; worker: boolean };
  orchestrator: { pid: number; log: string } | null;
  /** Null when the model is served by a worker that `up` did not start. */
  worker: PoolWorker | null;
  /** The file of the authority that its clients have to trust; null where it speaks in clear. */
  ca: string | null;
  /** Where the key is that this host shows; null where there is none. */
  key_file: string | null;
}

export const HOST = "127.0.0.1";
export const UP_LOCK_MS_MAX = 60_000;
const ORCHESTRATOR_MS_MAX = 30_000;
const REGISTER_MS_MAX = 30_000;
const LOOK_MS = 50;

type Orchestrator = UpRecord["orchestrator"];
type Model = Awaited<ReturnType<typeof resolveModel>>;

export async function up(context: Context, request: UpRequest): Promise<UpReport> {
  if (context.orchestrator !== undefined) {
    const spawn = commandLine([
      ...["rbees-pool", "worker", "spawn", request.backend ?? "cpu", "--model", request.model ?? DEMO],
      ...["--orchestrator", context.orchestrator],
    ]);
    throw new RbeesError(
      "INVALID_REQUEST",
      `\`rbees up\` starts an orchestrator here, so --orchestrator can name no other. To start a worker for that one: \`${spawn}\``,
    );
  }
  // Refusals first: nothing is started for a model or a backend that isn't here.
  const backend = await requireBackend(context, request.backend ?? "cpu", undefined);
  const named = request.model === undefined ? undefined : await resolveModel(context, request.model);
  return withLock(upLock(context.home), { wait_ms_max: UP_LOCK_MS_MAX, what: "starting or stopping" }, async () => {
    const record = (await readUp(context.home)) ?? { workers: [] };
    const model = named ?? (await modelOfUp(context, record)) ?? (await resolveModel(context, DEMO));
    // As it can be named in a command line: the file, where it has no name here.
    const asked = { ...request, model: request.model ?? (await nameOf(context, model)) };
    const { url, started, orchestrator } = await ensureOrchestrator(context, record, asked);
    try {
      const worker = await ensureWorker(context, { ...record, orchestrator }, url, { asked, backend, model });
      return {
        url,
        model: model.name,
        started: { orchestrator: started, worker: worker.started },
        orchestrator: orchestrator === undefined ? null : { pid: orchestrator.process.pid, log: orchestrator.log },
        ca: url.startsWith("https:") ? join(tlsFolder(context.home), CA_FILE) : null,
        key_file: keyFile(context.home),
        worker: worker.record === undefined ? null : await describeWorker(context.home, worker.record),
      };
    } catch (error) {
      // Half a system is of no use: what this call started ends with it.
      if (started && orchestrator !== undefined) {
        await insist(orchestrator.process, "the orchestrator");
        await forgetOrchestrator(context);
      }
      throw error;
    }
  });
}

/** The model of a worker that is up already. */
async function modelOfUp({ home }: Context, up: UpRecord): Promise<Model | undefined> {
  const records = (await readWorkers(home)).filter((record) => isOfUp(up, record));
  for (const { model, model_path, process } of records) if (await isAlive(process)) return { name: model, path: model_path };
  return undefined;
}

async function nameOf(context: Context, { name, path }: Model): Promise<string | undefined> {
  if (name === DEMO) return undefined;
  const known = await resolveModel(context, name).catch(() => undefined);
  return known?.path === path ? name : path;
}

async function ensureOrchestrator(
  context: Context,
  record: UpRecord,
  asked: UpRequest,
): Promise<{ url: string; started: boolean; orchestrator: Orchestrator }> {
  const ours = record.orchestrator;
  if (ours !== undefined && (await isAlive(ours.process))) {
    checkOrchestrator(ours, asked);
    await untilHealthy(context, ours, async () => undefined);
    return { url: ours.url, started: false, orchestrator: ours };
  }
  const { listen, insecure_no_auth = false, insecure_no_tls = false } = asked;
  const port = asked.port ?? ORCHESTRATOR_PORT;
  const host = listen ?? HOST;
  const tls = !isLoopback(host) && !insecure_no_tls;
  const url = `${tls ? "https" : "http"}://${authority(reachable(host), port)}`;
  if (await isOrchestrator(context, url)) return { url, started: false, orchestrator: undefined };
  if (!(await isPortFree(host, port))) {
    throw new RbeesError(
      "CONFLICT",
      `Port ${port} is taken by a program that is no orchestrator of rbees: stop it, or choose another port: rbees up --port ${port + 1}`,
    );
  }
  if (tls) await (await import("../tls/authority.ts")).ensureCertificate(context, host);
  const log = join(context.home.state, "logs", "orcd.log");
  const open = [...(insecure_no_auth ? ["--insecure-no-auth"] : []), ...(insecure_no_tls ? ["--insecure-no-tls"] : [])];
  if (!isLoopback(host) && !insecure_no_auth) await ensureKey(context);
  const flags = [`--host=${host}`, `--port=${port}`, "--log-format=json", ...open];
  const { process, exit } = await startDetached([...context.programs.orcd, ...flags], log, context.env);
  const orchestrator = { process, url, port, log, started_at: new Date().toISOString(), listen: host, insecure_no_auth, insecure_no_tls };
  await writeUp(context.home, { ...record, orchestrator });
  try {
    await untilHealthy(context, orchestrator, exit);
  } catch (error) {
    await insist(process, "the orchestrator");
    await forgetOrchestrator(context);
    throw error;
  }
  return { url, started: true, orchestrator };
}

/** Workers of an earlier `up` may be left; they stay on record for `down`. */
async function forgetOrchestrator({ home }: Context): Promise<void> {
  const workers = (await readUp(home))?.workers ?? [];
  if (workers.length === 0) await removeUp(home);
  else await writeUp(home, { workers });
}

export async function isOrchestrator(context: Context, url: string): Promise<boolean> {
  try {
    const send = url.startsWith("https:") ? fetchFrom(context) : fetch;
    const response = await send(`${url}/health`, { headers: { accept: "application/json" }, signal: AbortSignal.timeout(2000) });
    return OrcdHealth.safeParse(await response.json()).success;
  } catch {
    return false;
  }
}

async function untilHealthy(context: Context, { process, url, log }: NonNullable<Orchestrator>, exit: Started["exit"]): Promise<void> {
  await until(context, ORCHESTRATOR_MS_MAX, "starting the orchestrator", async () => {
    const healthy = await isOrchestrator(context, url);
    // Asked after: an answer on that port from another program is no answer of ours.
    if (!(await isAlive(process))) throw await deathOf({ what: "The orchestrator", log }, await exit());
    return healthy;
  });
}

interface WorkerWish {
  asked: UpRequest;
  backend: Awaited<ReturnType<typeof requireBackend>>;
  model: Model;
}

async function ensureWorker(
  context: Context,
  record: UpRecord,
  url: string,
  { asked, backend, model }: WorkerWish,
): Promise<{ record: WorkerRecord | undefined; started: boolean }> {
  const orchestrator = orchestratorAt(context, url);
  const listed = async () => (await orchestrator.call("listWorkers", {})).workers;

  const { mine, living, dead } = await ownWorkers(context, record, model.name);
  if (mine !== undefined) checkOwnWorker(mine, await healthOf(context.home, mine), { asked, model, ours: record.orchestrator });
  const there = await listed();
  const drained = mine !== undefined && there.some(({ worker_id, status }) => worker_id === mine.worker_id && status === "draining");
  // The orchestrator may not have noticed yet that a worker died; here that is known.
  const serves = (worker: WorkerView) => worker.model === model.name && worker.status === "ready" && !dead.includes(worker.worker_id);
  const others = mine === undefined || drained ? there.filter(serves) : [];
  if (others.length > 0) {
    checkOtherWorkers(others, asked);
    return { record: undefined, started: false };
  }
  if (drained) {
    throw new RbeesError(
      "CONFLICT",
      `rbees is up already, but ${mine.worker_id}, which serves ${model.name}, was drained and takes no new jobs. To have it take them again: \`rbees-pool worker restart ${mine.worker_id}\``,
    );
  }
  const { worker_port, slots, ctx, threads, deterministic, ready_ms_max } = asked;
  const worker =
    mine ??
    (await spawnWorker(
      context,
      { ...{ backend, model, slots, ctx, threads, deterministic, ready_ms_max }, host: HOST, port: worker_port, orchestrator: url },
      {
        onStarted: async (started) => {
          const workers = [...living, started].map(({ worker_id, process }) => ({ worker_id, process }));
          await writeUp(context.home, { ...record, workers });
        },
        handover: await invitation(context, url, { pool: hostname(), worker_id: undefined, address: undefined, region: undefined }),
      },
    ));
  const ms_max = worker.ready_at === null ? ready_ms_max : REGISTER_MS_MAX;
  await until(context, ms_max, `waiting for ${worker.worker_id} to register`, async () => {
    // The worker's own word too: what the orchestrator lists may be an earlier one with the same id.
    const registered =
      (await healthOf(context.home, worker))?.registered === true &&
      (await listed()).some(({ worker_id }) => worker_id === worker.worker_id);
    if (!(await isAlive(worker.process))) throw await deathOf({ what: `Worker ${worker.worker_id}`, log: worker.log }, undefined);
    return registered;
  });
  return { record: worker, started: mine === undefined };
}

/** The workers of `up` that live, and the one among them with the model. What died is forgotten. */
async function ownWorkers(
  { home }: Context,
  up: UpRecord,
  model: string,
): Promise<{ mine: WorkerRecord | undefined; living: WorkerRecord[]; dead: string[] }> {
  const living: WorkerRecord[] = [];
  const dead: string[] = [];
  for (const record of await readWorkers(home)) {
    if (!isOfUp(up, record)) continue;
    if (await isAlive(record.process)) {
      living.push(record);
    } else {
      dead.push(record.worker_id);
      await removeWorker(home, record.worker_id);
    }
  }
  return { mine: living.find((record) => record.model === model), living, dead };
}

async function until(context: Context, ms_max: number, what: string, done: () => Promise<boolean>): Promise<void> {
  const began = performance.now();
  while (!(await done())) {
    const passed_ms = performance.now() - began;
    if (passed_ms > ms_max) throw new RbeesError("DEADLINE_EXCEEDED", `Gave up after ${duration(passed_ms)} of ${what}.`);
    context.progress(what, duration(passed_ms));
    await sleep(LOOK_MS, undefined, { signal: context.signal });
  }
  context.progress(undefined);
}
