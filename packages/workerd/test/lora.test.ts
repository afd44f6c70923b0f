/** LoRA adapters by name: each job gets its own, beside others, and nothing that was computed through one is used for another. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { writeLora, writeRandomLora } from "../../../models/fixtures/lora.ts";
import { writeRandomModel } from "../../../models/fixtures/random.ts";
import { ANSWER, chain, type Script, writeScriptedLora, writeScriptedModel } from "../../../models/fixtures/scripted.ts";
import type { Workerd } from "../src/workerd.ts";
import { ask, folder, health, post, startWorker } from "./support.ts";

const DEMO = fileURLToPath(new URL("../../../models/demo/demo.gguf", import.meta.url));
const file = (name: string) => join(folder, name);
const model = file("says.gguf");
const script: Script = { edges: [...chain(ANSWER, [" one", " two", " three"]), ...chain(" uno", [" due"])] };
let worker: Workerd;

before(async () => {
  writeScriptedModel(model, script);
  writeScriptedLora(file("italian.gguf"), script, [[ANSWER, " uno"]]);
  writeScriptedLora(file("short.gguf"), script, [[" one", "</s>"]]);
  worker = await startWorker({ model, slots: 3, lora: `italian=${file("italian.gguf")},short=${file("short.gguf")}` });
});

const text = async (lora?: string) =>
  (await ask(worker, { prompt: "count", temperature: 0, ...(lora === undefined ? {} : { lora }) })).text;

test("a job that asks for an adapter gets its answer, and others beside it get theirs", async () => {
  assert.deepEqual(
    (await health(worker)).features.filter((name) => name.startsWith("lora:")),
    ["lora:italian", "lora:short"],
  );
  const one_by_one = [await text(), await text("italian"), await text("short"), await text()];
  assert.deepEqual(one_by_one, [" one two three", " uno due", " one", " one two three"]);
  const together = await Promise.all([text("short"), text(), text("italian")]);
  assert.deepEqual(together, [" one", " one two three", " uno due"]);
});

test("an adapter that the worker has not is refused by the field's name", async () => {
  for (const [lora, says] of [
    ["greek", /lora: this worker has no adapter greek/],
    ["../x", /lora: must be the name of a LoRA adapter/],
  ] as const) {
    const response = await post(worker, "/execute", { job_id: "job-1", prompt: "count", lora });
    assert.equal(response.status, 400);
    assert.match(await response.text(), says);
  }
});

test("the same prompt through different adapters: each as if it were alone, from slots and from memory", async () => {
  const random = file("random-lora.gguf");
  writeRandomModel(random, { type: "q8_0" });
  for (const seed of [1, 2]) writeRandomLora(file(`random-${seed}.gguf`), { seed });
  const flags = {
    ...{ model: random, engine: "libllama", ctx: 1024, deterministic: true as const },
    lora: `a=${file("random-1.gguf")},b=${file("random-2.gguf")}`,
  };
  const request = { prompt: "all of them ask this ".repeat(16), max_tokens: 16, temperature: 0 };
  const loras = [{}, { lora: "a" }, { lora: "b" }];
  const single = await startWorker({ ...flags, slots: 1 });
  const first = [];
  for (const lora of loras) first.push(await ask(single, { ...request, ...lora }));
  assert.equal(new Set(first.map(({ ids }) => ids.join())).size, 3);
  assert.deepEqual(
    first.map(({ end }) => end?.tokens_cached),
    [0, 0, 0],
  );
  // Its only slot was another's each time: what comes back is from memory.
  for (const [i, lora] of loras.entries()) {
    const { ids, end } = await ask(single, { ...request, ...lora });
    assert.deepEqual(ids, first[i]?.ids);
    assert.ok((end?.tokens_cached ?? 0) >= 256, String(end?.tokens_cached));
  }
  const wide = await startWorker({ ...flags, slots: 3 });
  for (const cached of [false, true]) {
    const together = await Promise.all(loras.map((lora) => ask(wide, { ...request, ...lora })));
    assert.deepEqual(
      together.map(({ ids }) => ids),
      first.map(({ ids }) => ids),
    );
    assert.deepEqual(
      together.map(({ end }) => (end?.tokens_cached ?? 0) > 0),
      [cached, cached, cached],
    );
  }
});

test("a file that is no adapter of this model is refused before the model is loaded, all of them at once", async () => {
  const zero = (row: Float32Array) => row.fill(0);
  const change = { tensor: "output.weight", rows: 8, columns: 64, rank: 1, a: zero, b: zero };
  writeLora(file("other.gguf"), [change], { architecture: "qwen2" });
  writeLora(file("small.gguf"), [change]);
  writeLora(file("nowhere.gguf"), [{ ...change, tensor: "blk.9.attn_q.weight" }]);
  const refused = (lora: string, more = {}) => startWorker({ model, lora, ...more });
  const missing = file("missing.gguf");
  await assert.rejects(
    refused(`a=${model},b=${file("other.gguf")},c=${file("small.gguf")},d=${file("nowhere.gguf")},e=${missing}`),
    (error: Error) => {
      assert.match(error.message, /says\.gguf: this is no adapter: it is of the type model/);
      assert.match(error.message, /for the architecture qwen2, and the model's is llama/);
      assert.match(error.message, /what changes output\.weight is not of its size \(64 × 8, and the model has 64 × \d+\)/);
      assert.match(error.message, /it changes blk\.9\.attn_q\.weight, which the model does not have/);
      assert.match(error.message, /missing\.gguf/);
      return true;
    },
  );
  await assert.rejects(refused("a b=x.gguf"), /lora: "a b" is no name for an adapter/);
  const many = Array.from({ length: 33 }, (_, i) => `a${i}=x.gguf`).join(",");
  await assert.rejects(refused(many), /lora: 33 adapters are more than the 32/);
  await assert.rejects(refused("a=x.gguf", { engine: "node-llama-cpp" }), /lora: needs the engine libllama/);
  await assert.rejects(startWorker({ model: file("italian.gguf") }), /this is a LoRA adapter, not a model/);
  await assert.rejects(
    startWorker({ model: DEMO, lora: `a=${file("italian.gguf")}` }),
    /what changes output\.weight is not of its size|does not have/,
  );
});
