/** The model and the prompts of the bench. The model has random weights: speed does not depend on what is said. */
import { existsSync, mkdirSync, renameSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { SIZES, writeRandomModel } from "../../models/fixtures/random.ts";

/** A usual request: what the worker passes on to llama.cpp for it. */
export const SAMPLING = { temperature: 0.8, top_k: 40, top_p: 0.95 } as const;

const SIZE = "110m";
const TYPE = "q4_0";
export const MODEL_NAME = "110M Q4_0, random weights";
export const VOCABULARY = SIZES[SIZE].vocabulary;

/** The model's vocabulary begins with specials and bytes; then a space and the characters from `!` on, each a token of its own. */
const BOS = 1;
const SPACE = 261;
const FIRST_CHARACTER = "!".charCodeAt(0);
const A = "a".charCodeAt(0);

/** Writes the model once; it stays in the system's temporary folder. */
export function modelFile(): string {
  const folder = join(tmpdir(), "rbees-bench-models");
  const path = join(folder, `random-${SIZE}-${TYPE}.gguf`);
  if (existsSync(path)) return path;
  mkdirSync(folder, { recursive: true });
  const unfinished = `${path}.${process.pid}`;
  writeRandomModel(unfinished, { size: SIZE, type: TYPE });
  renameSync(unfinished, path);
  return path;
}

export interface Prompt {
  text: string;
  /** The same as the worker's tokenizer has it. */
  tokens: number[];
}

/** A prompt of that many tokens, the two that the tokenizer puts first included. Another `variant` shares nothing else with it. */
export function prompt(tokens: number, variant: number): Prompt {
  const letters = Array.from({ length: tokens - 2 }, (_, i) => A + ((variant * 7 + i * 5 + (((i + variant) * 2_654_435_761) >>> 24)) % 26));
  return {
    text: String.fromCharCode(...letters),
    tokens: [BOS, SPACE, ...letters.map((letter) => SPACE + 1 + letter - FIRST_CHARACTER)],
  };
}
