/** The workers that were started on this host: one record each in the state folder, and the truth about them. */
import { readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { createClient } from "@rbees/contracts/client";
import { RbeesError } from "@rbees/contracts/errors";
import type { PoolWorker } from "@rbees/contracts/pool";
import { workerdRoutes } from "@rbees/contracts/routes";
import { Backend, type WorkerHealth } from "@rbees/contracts/worker";
import type { Home } from "@rbees/kit/home";
import { DOOR, readSecretFile } from "@rbees/kit/key-file";
import { fetchTrusting, trusted } from "@rbees/kit/tls";
import { workerFile, workerFileName, workerFolder } from "@rbees/kit/worker-files";
import { z } from "zod";
import { readJson, writeJson } from "../local/json-file.ts";
import { isAlive, ProcessIdentity } from "../local/process-identity.ts";
import { SpawnRequest } from "./spawn-request.ts";
import { addressOf } from "./worker-address.ts";

export const WorkerRecord = z.object({
  worker_id: z.string(),
  process: ProcessIdentity,
  backend: Backend,
  gpu: z.int().nullable(),
  model: z.string(),
  model_path: z.string(),
  host: z.string(),
  port: z.int(),
  tls: z.boolean().default(false),
  slots: z.int().nullable().describe("Null until the worker has said how many it has"),
  orchestrator: z.string(),
  log: z.string(),
  started_at: z.string(),
  ready_at: z.string().nullable(),
  estimated_bytes: z.int().nullable().default(null).describe("Null until it is ready, and on a GPU"),
  unit: z.string().nullable().default(null).describe("The systemd unit that starts it"),
  request: SpawnRequest.nullable().default(null).describe("Null in records of earlier versions"),
});
export type WorkerRecord = z.infer<typeof WorkerRecord>;

const HEALTH_MS_MAX = 2000;

export function workerLog(home: Home, worker_id: string): string {
  return join(home.state, "logs", `${workerFileName(worker_id)}.log`);
}

export function workersLock(home: Home): string {
  return join(home.state, "workers.lock");
}

export async function readWorkers(home: Home): Promise<WorkerRecord[]> {
  const folder = workerFolder(home);
  const names = await readdir(folder).catch(() => []);
  const records = await Promise.all(
    names.filter((name) => name.endsWith(".json")).map((name) => readJson(join(folder, name), WorkerRecord)),
  );
  const here = await Promise.all(records.filter((record) => record !== undefined).map(asItIsNow));
  return here.sort((a, b) => a.port - b.port || a.worker_id.localeCompare(b.worker_id));
}

/** What systemd keeps has another process after a reboot or a crash. */
async function asItIsNow(record: WorkerRecord): Promise<WorkerRecord> {
  if (record.unit === null || (await isAlive(record.process))) return record;
  const { processOf } = await import("../local/systemd.ts");
  return { ...record, process: (await processOf(record.unit)) ?? record.process };
}

export async function requireWorker(home: Home, worker_id: string): Promise<WorkerRecord> {
  const records = await readWorkers(home);
  const found = records.find((record) => record.worker_id === worker_id);
  if (found !== undefined) return found;
  const known = records.map((record) => record.worker_id).join(", ");
  throw new RbeesError(
    "NOT_FOUND",
    `There is no worker "${worker_id}" on this host; there ${known === "" ? "are none" : `are: ${known}`}.`,
  );
}

export async function writeWorker(home: Home, record: WorkerRecord): Promise<void> {
  await writeJson(workerFile(workerFolder(home), record.worker_id, "json"), record);
}

/** Its door it makes anew whenever it starts. */
export async function removeWorker(home: Home, worker_id: string): Promise<void> {
  for (const kind of ["json", "door"] as const) await rm(workerFile(workerFolder(home), worker_id, kind), { force: true });
}

/** With the record goes what it knew its orchestrator by: a worker of that name that is started later joins anew. */
export async function forgetWorker(home: Home, worker_id: string): Promise<void> {
  await removeWorker(home, worker_id);
  await rm(workerFile(workerFolder(home), worker_id, "credential"), { force: true });
}

/** The worker's own doors, with the secret that opens them if it asks for one. */
export function workerAt(home: Home, record: { worker_id: string; host: string; port: number; tls: boolean }) {
  const door = readSecretFile(workerFile(workerFolder(home), record.worker_id, "door"), false, DOOR);
  return clientAt(home, record, door === undefined ? {} : { authorization: `Bearer ${door}` });
}

function clientAt(home: Home, record: { host: string; port: number; tls: boolean }, headers: Record<string, string>) {
  return createClient(workerdRoutes, addressOf(record), { headers, ...(record.tls ? { fetch: fetchTrusting(trusted("", home)) } : {}) });
}

/** What the worker itself says; undefined when it says nothing, or when another worker answers at its address. */
export async function healthOf(home: Home, record: WorkerRecord): Promise<WorkerHealth | undefined> {
  try {
    // Without its secret, which it may not have written yet: health asks nobody.
    const health = await clientAt(home, record, {}).call("health", {}, { signal: AbortSignal.timeout(HEALTH_MS_MAX) });
    // By pid as well: two users of this host may have chosen the same port and id before either listened.
    return health.worker_id === record.worker_id && health.pid === record.process.pid ? health : undefined;
  } catch {
    return undefined;
  }
}

/** As the orchestrator labels the workers that it starts in its pools. */
const POOL_LABEL = "rbees.pool";

function joinsOf({ orchestrator, request }: WorkerRecord): NonNullable<PoolWorker["joins"]> {
  return {
    orchestrator: orchestrator === "none" ? null : orchestrator,
    pool: request?.labels?.[POOL_LABEL],
    address: request?.advertise_host,
    region: request?.region,
  };
}

export async function describeWorker(home: Home, record: WorkerRecord): Promise<PoolWorker> {
  const alive = await isAlive(record.process);
  const health = alive ? await healthOf(home, record) : undefined;
  const silent = record.ready_at === null ? "starting" : "unresponsive";
  return {
    worker_id: record.worker_id,
    status: alive ? (health?.status ?? silent) : "dead",
    registered: record.orchestrator === "none" ? null : (health?.registered ?? null),
    joins: joinsOf(record),
    pid: record.process.pid,
    backend: record.backend,
    model: record.model,
    host: record.host,
    port: record.port,
    tls: record.tls,
    slots: health?.slots ?? record.slots ?? 1,
    slots_busy: health?.slots_busy ?? null,
    tokens_per_second: health?.tokens_per_second ?? null,
    memory_bytes: health?.memory_bytes ?? null,
    estimated_bytes: record.estimated_bytes,
    uptime_seconds: health?.uptime_seconds ?? null,
    log: record.log,
    started_at: record.started_at,
  };
}

export async function listWorkers(home: Home): Promise<PoolWorker[]> {
  return Promise.all((await readWorkers(home)).map((record) => describeWorker(home, record)));
}
