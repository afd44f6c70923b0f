/** Whether a model fits this host's memory, told from its header alone: the worker's own formula and its defaults. */
import { RbeesError } from "@rbees/contracts/errors";
import type { DeviceFit, ModelFit, PoolBackend } from "@rbees/contracts/pool";
import type { CacheType } from "@rbees/contracts/sets";
import type { Gguf } from "@rbees/kit/gguf";
import {
  CONTEXT_AUTO_MAX,
  layersOf,
  layersWithin,
  neededBytes,
  PREFILL_CHUNK_TOKENS_DEFAULT,
  SLOTS_DEFAULT,
} from "@rbees/kit/model-memory";
import { memory } from "../pool/room.ts";

export interface FitOptions {
  ctx?: number | undefined;
  slots?: number | undefined;
  cache_type?: CacheType | undefined;
}

/** On each GPU that works here. What shares the host's memory has as much as the host. */
export function fitOnDevices(
  gguf: Gguf,
  { slots, context_size, available_bytes }: Pick<ModelFit, "slots" | "context_size" | "available_bytes">,
  backends: readonly PoolBackend[],
): DeviceFit[] {
  const needed = neededBytes(gguf, { slots, prefill_chunk_tokens: PREFILL_CHUNK_TOKENS_DEFAULT }, context_size);
  const working = backends.filter(({ works }) => works);
  return working.flatMap(({ backend, devices }) =>
    devices.map(({ index, name, memory_bytes, free_bytes }) => {
      const free = free_bytes ?? memory_bytes ?? available_bytes;
      return { backend, index, name, free_bytes: free, layers: layersWithin(gguf, needed, free), layers_total: layersOf(gguf) };
    }),
  );
}

export function fitOf(
  gguf: Gguf,
  { ctx, slots = SLOTS_DEFAULT, cache_type }: FitOptions,
  available_bytes = memory().available_bytes,
): ModelFit {
  const most = gguf.context_size;
  if (ctx !== undefined && most !== undefined && ctx > most)
    throw new RbeesError("INVALID_REQUEST", `--ctx ${ctx} is more than the model was made for: ${most} tokens.`);
  const context_size = ctx ?? Math.min(most ?? CONTEXT_AUTO_MAX, CONTEXT_AUTO_MAX);
  const needed = neededBytes(gguf, { slots, prefill_chunk_tokens: PREFILL_CHUNK_TOKENS_DEFAULT, cache_type }, context_size);
  return {
    slots,
    context_size,
    weights_bytes: needed.weights,
    context_bytes: needed.context,
    overhead_bytes: needed.overhead,
    estimated_bytes: needed.total,
    measured_bytes: null,
    needed_bytes: needed.total,
    available_bytes,
    fits: needed.total <= available_bytes,
  };
}
