/** Whatever else runs, an answer is made of its own prompt's tokens: none is drawn from another answer's numbers. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { chain } from "../../../models/fixtures/scripted.ts";
import { ask, scripted, startWorker } from "./support.ts";

const LETTERS = ["A", "B", "C", "D", "E"];
const wordsOf = (letter: string) => Array.from({ length: 300 }, (_, n) => ` ${letter.toLowerCase()}${n + 1}`);

test("answers that begin and end at different times beside one another never get each other's tokens", async () => {
  const edges = LETTERS.flatMap((letter) => chain(letter, wordsOf(letter)));
  const shape = { width: 256, layers: 2, heads: 4, ffn: 512, context: 2048 };
  const worker = await startWorker({ model: scripted("own-answer", { tokenizer: "bpe", edges, shape }), slots: 6, ctx: 512 });
  let asked = 0;
  const client = async (n: number) => {
    for (; asked < 600; asked += 1) {
      const letter = LETTERS[(asked * 7 + n) % LETTERS.length] as string;
      const max_tokens = 1 + ((asked * 5 + n) % 12);
      const prompt = "Say it. ".repeat((asked * 3 + n) % 12) + letter;
      const { text } = await ask(worker, { raw: true, temperature: 0, prompt, max_tokens });
      assert.equal(text, wordsOf(letter).slice(0, max_tokens).join(""));
    }
  };
  await Promise.all(Array.from({ length: 6 }, (_, n) => client(n)));
});
