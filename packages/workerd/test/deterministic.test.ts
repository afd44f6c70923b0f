/** `--deterministic`: a request's tokens do not depend on what else runs. Random weights, where any difference shows. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { writeRandomModel } from "../../../models/fixtures/random.ts";
import type { TensorType } from "../../../models/fixtures/write-gguf.ts";
import { LIBRARIES } from "./engine-options.ts";
import { ask, folder, startWorker } from "./support.ts";

const requests = [
  { prompt: "the first of them", temperature: 0 },
  { prompt: `a long prompt: ${"lorem ipsum dolor ".repeat(12)}`, temperature: 0.8 },
  { prompt: "third, and at temperature one", temperature: 1, top_k: 500, min_p: 0.02 },
  { prompt: `another long one ${"sit amet ".repeat(20)}`, temperature: 0 },
].map((request, seed) => ({ ...request, seed, max_tokens: 32 }));

for (const type of ["q8_0", "f32"] satisfies TensorType[]) {
  test(`the same tokens alone, in a full batch, with a kept prefix, and on the other engine (${type})`, async () => {
    const model = join(folder, `random-${type}.gguf`);
    writeRandomModel(model, { type });
    const first: number[][] = [];
    for (const engine of LIBRARIES) {
      const worker = await startWorker({ engine, model, slots: requests.length, ctx: 1024, deterministic: true });
      const alone: number[][] = [];
      for (const request of requests) alone.push((await ask(worker, request)).ids);
      if (first.length === 0) first.push(...alone);
      assert.deepEqual(alone, first, engine);
      const together = await Promise.all(requests.map((request) => ask(worker, request)));
      assert.deepEqual(
        together.map(({ ids }) => ids),
        alone,
      );
      const again = await Promise.all([...requests].reverse().map((request) => ask(worker, request)));
      assert.deepEqual(
        again.map(({ ids }) => ids),
        [...alone].reverse(),
      );
      assert.ok(
        [...together, ...again].some(({ end }) => (end?.tokens_cached ?? 0) > 0),
        "a prefix was used again",
      );
      await worker.stop();
    }
  });
}

test("prompts that come together and begin alike: the beginning is computed once, and the tokens are those of each alone", async () => {
  const model = join(folder, "random-alike.gguf");
  writeRandomModel(model, { type: "q8_0" });
  const start = "one beginning of them all, ".repeat(8);
  const alike = ["first end", "another end", "the third"].map((end, seed) => ({
    prompt: start + end,
    seed,
    max_tokens: 24,
    temperature: 0.8,
  }));
  const answers = async (together: boolean) => {
    const worker = await startWorker({ engine: "libllama", model, slots: together ? alike.length : 1, ctx: 1024, deterministic: true });
    const found = [];
    if (together) found.push(...(await Promise.all(alike.map((request) => ask(worker, request)))));
    else for (const request of alike) found.push(await ask(worker, request));
    await worker.stop();
    return found;
  };
  const alone = await answers(false);
  const together = await answers(true);
  assert.deepEqual(
    together.map(({ ids }) => ids),
    alone.map(({ ids }) => ids),
  );
  const cached = together.map(({ end }) => end?.tokens_cached ?? 0).sort((a, b) => a - b);
  assert.deepEqual(
    cached.map((count) => count >= 128),
    [false, true, true],
    String(cached),
  );
});
