/** Models for end-to-end tests: real GGUF files that say a known text, quickly or slowly. */
import { join } from "node:path";
import { ANSWER, chain, countingWords, writeScriptedModel } from "../../models/fixtures/scripted.ts";

/** Says " one two three …" up to `words` and ends. Slow enough to be caught in the middle. */
export function writeCountingModel(folder: string, words: number): { path: string; text: string } {
  const path = join(folder, "counting.gguf");
  const said = countingWords(words);
  writeScriptedModel(path, {
    edges: chain(ANSWER, said),
    shape: { width: 512, layers: 8, heads: 8, ffn: 2048, context: 2048 },
    blocks: "q8_0",
  });
  return { path, text: said.join("") };
}
