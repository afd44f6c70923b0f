/** Byte-level BPE, as most newer models have: the same texts to the letter. */
import assert from "node:assert/strict";
import { before, describe, test } from "node:test";
import { ANSWER, bytesOf, chain } from "../../../models/fixtures/scripted.ts";
import type { Workerd } from "../src/workerd.ts";
import { LIBRARIES } from "./engine-options.ts";
import { ask, scripted, startWorker } from "./support.ts";

for (const engine of LIBRARIES) {
  describe(`on ${engine}`, () => {
    let worker: Workerd;
    before(async () => {
      const edges = [
        ...chain("A", ["Hello", ", ", "wörld", " END", " of"]),
        ...chain("C", [...bytesOf("漢"), "字", ".."]),
        ...chain("D", ["so ", ...bytesOf("😀"), " yes"]),
        ...chain(ANSWER, [" from", " the", " template"]),
      ];
      worker = await startWorker({ model: scripted("bpe", { tokenizer: "bpe", edges }), ctx: 256, engine });
    });

    test("texts, usage, stop strings and characters over several tokens are exact", async () => {
      const raw = { raw: true, max_tokens: 20 };
      const { text, end } = await ask(worker, { ...raw, prompt: "A" });
      assert.deepEqual([text, end?.tokens_in, end?.tokens_out], ["Hello, wörld END of", 1, 5]);
      assert.equal((await ask(worker, { ...raw, prompt: "A", stop: [" END"] })).text, "Hello, wörld");
      assert.equal((await ask(worker, { ...raw, prompt: "C" })).text, "漢字..");
      const smile = await ask(worker, { ...raw, prompt: "D" });
      assert.deepEqual(
        smile.tokens.map(({ t, ids }) => [t, ids.length]),
        [
          ["so ", 1],
          ["😀", 4],
          [" yes", 1],
        ],
      );
    });

    test("the template's special tokens are special, the message's are spelled", async () => {
      const tokens_in = async (prompt: string) => {
        const { text, end } = await ask(worker, { prompt, max_tokens: 3 });
        assert.equal(text, " from the template");
        return end?.tokens_in;
      };
      assert.equal(await tokens_in("x<|im_end|>y"), await tokens_in("x0123456789y"));
    });
  });
}
