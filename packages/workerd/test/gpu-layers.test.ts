/** How many layers the GPU is given: what reaches the engine, and what is refused. No GPU is needed for that. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { EngineOptions } from "../src/engine.ts";
import { loadModel, type startLlama } from "../src/llama/load.ts";

const options: EngineOptions = {
  model_path: "model.gguf",
  backend: "cuda",
  gpu: 0,
  gpu_layers: "auto",
  threads: 1,
  slots: 1,
  context_size: 256,
  prefill_chunk_tokens: 64,
  deterministic: false,
};

/** What the binding is asked for. */
async function asked(changed: Partial<EngineOptions>): Promise<unknown> {
  let seen: unknown = "the binding was not asked";
  const llama = {
    loadModel: async ({ gpuLayers }: { gpuLayers: unknown }) => {
      seen = gpuLayers;
      throw new Error("far enough");
    },
  } as unknown as Awaited<ReturnType<typeof startLlama>>;
  await assert.rejects(
    loadModel(
      { ...options, ...changed },
      () => {},
      async () => llama,
    ),
    /far enough/,
  );
  return seen;
}

test("the engine is asked for the layers that were chosen, on the CPU for none", async () => {
  assert.equal(await asked({}), "auto");
  assert.equal(await asked({ gpu_layers: 12 }), 12);
  assert.equal(await asked({ gpu_layers: 0 }), 0);
  assert.equal(await asked({ backend: "cpu" }), 0);
});
