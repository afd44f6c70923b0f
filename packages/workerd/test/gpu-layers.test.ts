/** How many layers the GPU is given: what reaches the engine, and what is refused. No GPU is needed for that. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { EngineOptions } from "../src/engine.ts";
import { loadModel, type startLlama } from "../src/node-llama-cpp/load.ts";
import { engineOptions } from "./engine-options.ts";

const options = engineOptions("model.gguf", { engine: "node-llama-cpp", backend: "cuda" });

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
