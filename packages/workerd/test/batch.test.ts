/** The quick way to compute a step reaches into the pinned binding: this fails when a new version no longer has what it needs. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ANSWER, chain } from "../../../models/fixtures/scripted.ts";
import { Batch } from "../src/llama/batch.ts";
import { loadModel } from "../src/llama/load.ts";
import { scripted } from "./support.ts";

test("the pinned binding has what the quick way needs", async () => {
  const model_path = scripted("batch", { edges: chain(ANSWER, [" a", " b"]) });
  const options = {
    model_path,
    backend: "cpu",
    gpu: 0,
    gpu_layers: "auto",
    threads: 1,
    slots: 2,
    context_size: 256,
    prefill_chunk_tokens: 64,
    deterministic: false,
  } as const;
  const { context } = await loadModel(options, () => {});
  assert.notEqual(Batch.on(context, [context.getSequence(), context.getSequence()]), undefined);
});
