/**
 * What models were seen to take on this host, beside what their headers let expect: memory of a worker on the CPU, by model file,
 * context and slots. Measured when a worker has loaded, and once more when it is stopped, after it has worked.
 */
import { join } from "node:path";
import type { ModelFit } from "@rbees/contracts/pool";
import type { CacheType } from "@rbees/contracts/sets";
import type { WorkerHealth } from "@rbees/contracts/worker";
import { fingerprint } from "@rbees/kit/fingerprint";
import type { Gguf } from "@rbees/kit/gguf";
import type { Home } from "@rbees/kit/home";
import { z } from "zod";
import { type FitOptions, fitOf } from "../download/fit.ts";
import { type SharedFile, sharedFile } from "../local/json-file.ts";

const Measured = z.record(z.string(), z.object({ bytes: z.int().positive(), measured_at: z.string() }));
type Measured = z.infer<typeof Measured>;

function file(home: Home): SharedFile<Measured> {
  // Lost measurements are made again by the next worker.
  return sharedFile<Measured>(
    join(home.state, "measured-memory.json"),
    Measured,
    () => ({}),
    () => {},
  );
}

type Setting = Pick<WorkerHealth, "context_size" | "slots"> & { cache_type?: CacheType | undefined };

function settingOf({ context_size, slots, cache_type = "f16" }: Setting): string {
  return ` ctx=${context_size} slots=${slots}${cache_type === "f16" ? "" : ` cache=${cache_type}`}`;
}

function keyOf(worker: Setting & Pick<WorkerHealth, "model_digest">): string {
  return `${worker.model_digest}${settingOf(worker)}`;
}

/**
 * `loaded`: a new life, which may be of another version, counts from here; a worker that has worked can only add to that. Where it
 * can't be written down, the header's estimate will do.
 */
export async function remember(home: Home, health: WorkerHealth, when: "loaded" | "stopping"): Promise<void> {
  // Of a worker on a GPU only the smaller part is this host's memory.
  if (health.backend !== "cpu" || health.memory_bytes <= 0) return;
  const key = keyOf(health);
  // Kept prefixes come and go, and take what is left.
  const bytes = health.memory_bytes - health.prefix_cache_bytes;
  await file(home)
    .update((now) => {
      const before = when === "loaded" ? 0 : (now[key]?.bytes ?? 0);
      return bytes <= before ? now : { ...now, [key]: { bytes, measured_at: new Date().toISOString() } };
    })
    .catch(() => {});
}

/** Whether a model that is on this host fits it, corrected by what was measured. */
export async function fitHere(home: Home, path: string, gguf: Gguf, options: FitOptions): Promise<ModelFit> {
  const fit = fitOf(gguf, options);
  const measured_bytes = await measuredBytes(home, path, gguf, { ...fit, cache_type: options.cache_type });
  const needed_bytes = measured_bytes ?? fit.estimated_bytes;
  return { ...fit, measured_bytes, needed_bytes, fits: needed_bytes <= fit.available_bytes };
}

async function measuredBytes(home: Home, path: string, gguf: Gguf, setting: Setting): Promise<number | null> {
  const measured = await file(home).read();
  // The fingerprint reads megabytes of each model, and a pool is asked for its status again and again.
  if (!Object.keys(measured).some((key) => key.endsWith(settingOf(setting)))) return null;
  const model_digest = await fingerprint(path, gguf).catch(() => "");
  return measured[keyOf({ model_digest, ...setting })]?.bytes ?? null;
}
