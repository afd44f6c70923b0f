/** Models for end-to-end tests: real GGUF files that say a known text, quickly or slowly. */
import { join } from "node:path";
import { CALLING } from "../../models/fixtures/calling.ts";
import { ANSWER, chain, countingWords, writeScriptedModel } from "../../models/fixtures/scripted.ts";

const SLOW = { shape: { width: 512, layers: 8, heads: 8, ffn: 2048, context: 2048 }, blocks: "q8_0" } as const;

/** Says " one two three …" up to `words` and ends. Slow enough to be caught in the middle. */
export function writeCountingModel(folder: string, words: number): { path: string; text: string } {
  const path = join(folder, "counting.gguf");
  const said = countingWords(words);
  writeScriptedModel(path, {
    edges: chain(ANSWER, said),
    ...SLOW,
  });
  return { path, text: said.join("") };
}

/** Calls a function `count` with those words as its argument, in Hermes' way. As slow. */
export function writeCallingModel(folder: string, words: number): { path: string; args: string } {
  const path = join(folder, "calling.gguf");
  const said = countingWords(words);
  const call = ["<tool_call>", '\n{"name"', ': "co', 'unt", "arg', 'uments": {', '"words"', ': "', ...said, '"}', "}\n", "</tool_call>"];
  writeScriptedModel(path, { ...CALLING.hermes, edges: chain(ANSWER, call), ...SLOW });
  return { path, args: `{"words": "${said.join("")}"}` };
}
