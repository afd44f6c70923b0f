/** The engines, and what a test asks of one. */
import { ENGINES } from "@rbees/contracts/sets";
import type { EngineOptions } from "../src/engine.ts";

/** Those that hold the model themselves. */
export const LIBRARIES = ENGINES.filter((name) => name === "libllama" || name === "node-llama-cpp");

/** What an engine is asked for where a test cares for little of it. */
export function engineOptions(model_path: string, more: Partial<EngineOptions> = {}): EngineOptions {
  return {
    ...{ engine: "auto", model_path, backend: "cpu", gpu: 0, gpu_layers: "auto", threads: 1, slots: 2, context_size: 256 },
    ...{
      deterministic: false,
      prefill_chunk_tokens: 64,
      prefill_stretch_max: 0,
      cache_type: "f16",
      prefix_cache_bytes_max: 0,
      speculate_tokens_max: 0,
      loras: {},
    },
    ...more,
  };
}
