/** What is asked, and what must be answered. Scripted models say a known text; any other is asked once while all is quiet. */
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { bytesOf, chain, type Edge, writeScriptedModel } from "../../models/fixtures/scripted.ts";
import type { Fleet } from "./system.ts";

export interface Prompt {
  readonly model: string;
  readonly body: Readonly<Record<string, unknown>>;
  /** The text, where the script says it. */
  readonly text?: string;
}

const demo_path = fileURLToPath(new URL("../../models/demo/demo.gguf", import.meta.url));
const DEMO_QUESTIONS = [
  "What is a bee?",
  "Write a story about a fox.",
  "Tell me a story about a worker bee.",
  "How do bees make honey?",
  "What does rbees do?",
];

export function demoFleet(workers: number): Fleet {
  return { model: "demo", path: demo_path, workers, deterministic: true };
}

export function demoPrompts(): Prompt[] {
  return DEMO_QUESTIONS.map((prompt) => ({ model: "demo", body: { model: "demo", prompt, temperature: 0, max_tokens: 150 } }));
}

/** Each prompt's last character has a text of its own, so a token of another job shows. */
const TEXTS: Readonly<Record<string, number>> = { A: 80, B: 120, C: 180, D: 260, E: 400 };
/** Characters of two, three and four bytes, each byte a token, between words. */
const ACCENTED = [" u1", "é", " u2", "日", " u3", "🐝", " u4"];

export function scriptedFleet(folder: string, workers: number): Fleet {
  const path = join(folder, "scripted.gguf");
  const edges: Edge[] = Object.entries(TEXTS).flatMap(([after, count]) => chain(after, wordsOf(after, count)));
  const accented = [...numbered("v", 40), ...ACCENTED, ...numbered("w", 40)];
  edges.push(
    ...chain(
      "F",
      accented.flatMap((token) => (/^[\x20-\x7f]*$/.test(token) ? [token] : bytesOf(token))),
    ),
  );
  const shape = { width: 512, layers: 4, heads: 8, ffn: 2048, context: 2048 };
  writeScriptedModel(path, { edges, tokenizer: "bpe", shape, blocks: "q8_0" });
  return { model: "scripted", path, workers, deterministic: false };
}

export function scriptedPrompts(): Prompt[] {
  const whole = Object.entries(TEXTS).map(([after, count]): [Record<string, unknown>, string] => [
    { prompt: `${"Say it. ".repeat(count / 10)}${after}` },
    wordsOf(after, count).join(""),
  ]);
  const asked: [Record<string, unknown>, string][] = [
    ...whole,
    [{ prompt: "F" }, [...numbered("v", 40), ...ACCENTED, ...numbered("w", 40)].join("")],
    // Drawn, not greedy: the draws go on at the seam too.
    [{ prompt: "Any. C", temperature: 1, seed: 7 }, wordsOf("C", TEXTS["C"] as number).join("")],
    [{ prompt: "Cut. D", max_tokens: 77 }, wordsOf("D", 77).join("")],
    // The stop string goes over two tokens and ends within the second one.
    [{ prompt: "Stop. E", stop: ["e131 e1"] }, `${wordsOf("E", 130).join("")} `],
  ];
  return asked.map(([body, text]) => ({
    model: "scripted",
    body: { model: "scripted", raw: true, temperature: 0, max_tokens: 500, ...body },
    text,
  }));
}

function wordsOf(letter: string, count: number): string[] {
  return numbered(letter.toLowerCase(), count);
}

function numbered(letter: string, count: number): string[] {
  return Array.from({ length: count }, (_, n) => ` ${letter}${n + 1}`);
}
