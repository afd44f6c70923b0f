/** The quick way to compute a step reaches into the pinned binding: this fails when a new version no longer has what it needs. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ANSWER, chain } from "../../../models/fixtures/scripted.ts";
import { Batch } from "../src/node-llama-cpp/batch.ts";
import { startLlama } from "../src/node-llama-cpp/load.ts";
import { engineOptions } from "./engine-options.ts";
import { scripted } from "./support.ts";

test("the pinned binding has what the quick way needs", async () => {
  const modelPath = scripted("batch", { edges: chain(ANSWER, [" a", " b"]) });
  const llama = await startLlama(engineOptions(modelPath), () => {});
  const context = await (await llama.loadModel({ modelPath, gpuLayers: 0 })).createContext({ sequences: 2, contextSize: 256 });
  assert.notEqual(Batch.on(context, [context.getSequence(), context.getSequence()]), undefined);
});
