/**
 * A child of `damaged-models.test.ts`: loads the files it is given with the engine it is given, one after another, and says of each
 * how it went.
 */
import { LlamaEngine } from "../src/llama/engine.ts";
import type { LoadModel } from "../src/llama/model.ts";
import { engineOptions } from "./engine-options.ts";

const [engine, ...files] = process.argv.slice(2);
const load = engine === "libllama" ? (await import("../src/libllama/load.ts")).loadModel : await binding();

/** node-llama-cpp, started once for all files. */
async function binding(): Promise<LoadModel> {
  const { loadModel, startLlama } = await import("../src/node-llama-cpp/load.ts");
  const library = startLlama(engineOptions(""), () => {});
  return (options, progress) => loadModel(options, progress, () => library);
}

for (const file of files) {
  const message = await new LlamaEngine(load).load(engineOptions(file, { slots: 1 }), { progress() {}, step() {} }).then(
    () => undefined,
    (error: Error) => error.message,
  );
  await new Promise((resolve) => process.send?.({ file, message }, resolve));
}
process.exit(0);
