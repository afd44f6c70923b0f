/** Whether a model fits this host's memory, told from its header alone: the worker's own formula and its defaults. */
import { RbeesError } from "@rbees/contracts/errors";
import type { ModelFit } from "@rbees/contracts/pool";
import type { Gguf } from "@rbees/kit/gguf";
import { CONTEXT_AUTO_MAX, neededBytes, PREFILL_CHUNK_TOKENS_DEFAULT, SLOTS_DEFAULT } from "@rbees/kit/model-memory";
import { memory } from "../pool/status.ts";

export interface FitOptions {
  ctx?: number | undefined;
  slots?: number | undefined;
}

export function fitOf(gguf: Gguf, { ctx, slots = SLOTS_DEFAULT }: FitOptions, available_bytes = memory().available_bytes): ModelFit {
  const most = gguf.context_size;
  if (ctx !== undefined && most !== undefined && ctx > most)
    throw new RbeesError("INVALID_REQUEST", `--ctx ${ctx} is more than the model was made for: ${most} tokens.`);
  const context_size = ctx ?? Math.min(most ?? CONTEXT_AUTO_MAX, CONTEXT_AUTO_MAX);
  const needed = neededBytes(gguf, { slots, prefill_chunk_tokens: PREFILL_CHUNK_TOKENS_DEFAULT }, context_size);
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
