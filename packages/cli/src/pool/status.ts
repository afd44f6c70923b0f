/** Facts about this host, and the same as metrics for a collector that reads text files. */
import { cpus, hostname, platform, release } from "node:os";
import type { PoolModel, PoolStatus } from "@rbees/contracts/pool";
import { POOL_WORKER_STATUSES } from "@rbees/contracts/sets";
import type { Home } from "@rbees/kit/home";
import type { World } from "../context.ts";
import { backends } from "./backends.ts";
import { catalogue } from "./catalogue.ts";
import { type Counters, readCounters } from "./counters.ts";
import { diskOf, memory } from "./room.ts";
import { listWorkers, readWorkers } from "./worker-record.ts";

export async function poolStatus(world: World): Promise<PoolStatus> {
  const { home } = world;
  const [works, known, workers, disk] = await Promise.all([backends(world), catalogue(world), listWorkers(home), diskOf(home.data)]);
  const models = await Promise.all(
    known.filter(({ present }) => present).map(async (model) => ({ ...model, needed_bytes: await neededBy(home, model) })),
  );
  const processors = cpus();
  return {
    host: hostname(),
    platform: `${platform()} ${release()}`,
    cpu: { model: processors[0]?.model.trim() || process.arch, cores: processors.length },
    memory: memory(),
    disk,
    backends: works,
    models,
    workers,
  };
}

/** Measured, or from its header; null when that can't be read. */
async function neededBy(home: Home, { path }: PoolModel): Promise<number | null> {
  if (path === null) return null;
  const [{ readModel }, { fitHere }] = await Promise.all([import("@rbees/kit/gguf-split"), import("./measured.ts")]);
  const gguf = await readModel(path).catch(() => undefined);
  return gguf === undefined ? null : (await fitHere(home, path, gguf, {})).needed_bytes;
}

/** The names of the metrics contract. */
export async function prometheus(world: World, status: PoolStatus): Promise<string> {
  const { Counter, Gauge, Registry } = await import("@rbees/kit/metrics");
  const registers = [new Registry()];
  const gauge = (name: string, help: string, labelNames: string[] = []) =>
    new Gauge({ name: `pool_mgr_${name}`, help, labelNames, registers });
  const gpus = status.backends.find(({ backend }) => backend === "cuda")?.devices ?? [];
  const records = await readWorkers(world.home);

  gauge("gpus_total", "GPUs of this host").set(gpus.length);
  const vram = gauge("gpu_vram_total_bytes", "Memory of a GPU", ["gpu_id"]);
  const allocated = gauge("gpu_vram_allocated_bytes", "Memory of a GPU that workers of this host hold", ["gpu_id"]);
  for (const { index, memory_bytes } of gpus) {
    if (memory_bytes !== null) vram.set({ gpu_id: String(index) }, memory_bytes);
    const there = new Set(
      records.filter(({ backend, gpu }) => backend === "cuda" && (gpu ?? 0) === index).map(({ worker_id }) => worker_id),
    );
    const held = status.workers
      .filter(({ worker_id }) => there.has(worker_id))
      .reduce((sum, worker) => sum + (worker.memory_bytes ?? 0), 0);
    allocated.set({ gpu_id: String(index) }, held);
  }
  const workers = gauge("workers_total", "Workers of this host", ["status"]);
  for (const name of POOL_WORKER_STATUSES) workers.set({ status: name }, status.workers.filter((worker) => worker.status === name).length);

  const counters = await readCounters(world.home);
  const counter = (name: string, help: string, label: string, counted: Counters[string]) => {
    const made = new Counter({ name: `pool_mgr_${name}_total`, help, labelNames: [label], registers });
    for (const [value, count] of Object.entries(counted)) made.inc({ [label]: value }, count);
  };
  counter("worker_starts", "Workers that were started", "outcome", counters["worker_starts"] ?? {});
  counter("worker_stops", "Workers that were stopped", "reason", counters["worker_stops"] ?? {});
  counter("model_downloads", "Models that were downloaded", "outcome", counters["model_downloads"] ?? {});
  return (await Promise.all(registers.map((registry) => registry.metrics()))).join("");
}
