/**
 * What models were seen to take on this host, beside what their headers let expect: memory of a worker on the CPU, by model file,
 * context and slots. Measured when a worker has loaded, and once more when it is stopped, after it has worked.
 */
import { join } from "node:path";
import type { ModelFit } from "@rbees/contracts/pool";
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

function keyOf({ model_digest, context_size, slots }: Pick<WorkerHealth, "model_digest" | "context_size" | "slots">): string {
  return `${model_digest} ctx=${context_size} slots=${slots}`;
}

/** `loaded`: a new life, which may be of another version, counts from here; a worker that has worked can only add to that. */
export async function remember(home: Home, health: WorkerHealth, when: "loaded" | "stopping"): Promise<void> {
  // Of a worker on a GPU only the smaller part is this host's memory.
  if (health.backend !== "cpu" || health.memory_bytes <= 0) return;
  const key = keyOf(health);
  await file(home).update((now) => {
    const before = when === "loaded" ? 0 : (now[key]?.bytes ?? 0);
    return health.memory_bytes <= before ? now : { ...now, [key]: { bytes: health.memory_bytes, measured_at: new Date().toISOString() } };
  });
}

/** Whether a model that is on this host fits it, corrected by what was measured. */
export async function fitHere(home: Home, path: string, gguf: Gguf, options: FitOptions): Promise<ModelFit> {
  const fit = fitOf(gguf, options);
  const model_digest = await fingerprint(path, gguf).catch(() => "");
  const measured_bytes = (await file(home).read())[keyOf({ model_digest, ...fit })]?.bytes ?? null;
  const needed_bytes = measured_bytes ?? fit.estimated_bytes;
  return { ...fit, measured_bytes, needed_bytes, fits: needed_bytes <= fit.available_bytes };
}
