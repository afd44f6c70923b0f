/** A child of `damaged-models.test.ts`: loads the files it is given, one after another, and says of each how it went. */
import type { EngineOptions } from "../src/engine.ts";
import { LlamaEngine } from "../src/llama/engine.ts";
import { startLlama } from "../src/llama/load.ts";

const options = {
  backend: "cpu",
  gpu: 0,
  gpu_layers: "auto",
  slots: 1,
  context_size: 256,
  threads: 1,
  deterministic: false,
  prefill_chunk_tokens: 64,
} as const;
const library = startLlama({ ...options, model_path: "" }, () => {});

for (const file of process.argv.slice(2)) {
  const settings: EngineOptions = { ...options, model_path: file };
  const message = await new LlamaEngine(() => library).load(settings, { progress() {}, step() {} }).then(
    () => undefined,
    (error: Error) => error.message,
  );
  await new Promise((resolve) => process.send?.({ file, message }, resolve));
}
process.exit(0);
