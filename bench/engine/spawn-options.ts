/**
 * Sections `speculate`, `cache-type` and `grammar`: what these cost and gain, each beside the same without it in one run. By CPU time,
 * which stands some load from others; tokens/s is shown beside it.
 */
import { existsSync, mkdirSync, renameSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { SIZES } from "../../models/fixtures/random.ts";
import { ANSWER, chain, countingWords, writeScriptedModel } from "../../models/fixtures/scripted.ts";
import { median, paired, spread, table } from "../report.ts";
import type { Ask } from "./answer-stream.ts";
import type { Bench } from "./bench.ts";
import { Worker } from "./engines.ts";
import type { EngineSetting } from "./messages.ts";
import { prompt, VOCABULARY } from "./workload.ts";

const CHUNK_TOKENS = 64;
const SHORT_TOKENS = 16;
/** Of all streams together: what is measured are their answers. */
const PROMPT_TOKENS_MAX = 64;

interface Measured {
  cpu_us: number;
  tokens_s: number;
  /** Prompt tokens that were computed meanwhile. */
  prompt_tokens: number;
}

/** What an answer cost, its short prompt included. */
async function measure(worker: Worker, asks: readonly Ask[]): Promise<Measured> {
  const before = worker.cpuUs().engine;
  const began = performance.now();
  const streams = asks.map((ask) => worker.ask(ask));
  const ends = await Promise.all(streams.map(({ ended }) => ended));
  const seconds = (performance.now() - began) / 1000;
  const tokens = ends.reduce((sum, end) => sum + (end?.tokens_out ?? Number.NaN), 0);
  const prompt_tokens = ends.reduce((sum, end) => sum + (end?.tokens_in ?? 0) - (end?.tokens_cached ?? 0), 0);
  return { cpu_us: (worker.cpuUs().engine - before) / tokens, tokens_s: tokens / seconds, prompt_tokens };
}

/** Every contender once a round, another one first each time; the first round warms up and is thrown away. */
async function rounds(bench: Bench, section: string, contenders: readonly (() => Promise<Measured>)[]): Promise<Measured[][]> {
  const found: Measured[][] = contenders.map(() => []);
  for (let round = 0; round <= bench.options.rounds; round += 1) {
    bench.progress(`${section}: round ${round}`);
    for (let turn = 0; turn < contenders.length; turn += 1) {
      const at = (turn + round) % contenders.length;
      const measured = await contenders[at]?.();
      if (round === 0 || measured === undefined) continue;
      if (measured.prompt_tokens > PROMPT_TOKENS_MAX) throw new Error(`${measured.prompt_tokens} prompt tokens were computed meanwhile`);
      found[at]?.push(measured);
    }
  }
  bench.progress("");
  return found;
}

const cpuOf = (measured: readonly Measured[] = []) => measured.map(({ cpu_us }) => cpu_us);

function row(what: string, measured: readonly Measured[] = [], base: readonly Measured[] = []): string[] {
  const ratio = measured === base ? "" : spread(paired(cpuOf(measured), cpuOf(base)), 2);
  const tokens_s = measured.map((one) => one.tokens_s);
  return [what, spread(cpuOf(measured), 0), ratio, spread(tokens_s, 0)];
}

function settingOf(bench: Bench, model_path: string, slots: number, context_size: number): EngineSetting {
  return { model_path, vocabulary: VOCABULARY, slots, context_size, threads: bench.options.threads, chunk_tokens: CHUNK_TOKENS };
}

const GUESSED_MAX = 8;
const LOOP_TOKENS = 64;
const ANSWER_TOKENS = 256;

/** With blocks as large as the bench's model has; its text is known. */
function scriptedModel(name: string, words: readonly string[], end: "loop" | "open"): string {
  const path = join(tmpdir(), "rbees-bench-models", `says-${name}-q4_0.gguf`);
  if (existsSync(path)) return path;
  mkdirSync(dirname(path), { recursive: true });
  const { width, layers, heads, ffn } = SIZES["110m"];
  const unfinished = `${path}.${process.pid}`;
  writeScriptedModel(unfinished, { edges: chain(ANSWER, words, end), shape: { width, layers, heads, ffn }, blocks: "q4_0" });
  renameSync(unfinished, path);
  return path;
}

export async function measureSpeculation(bench: Bench): Promise<void> {
  const rows: string[][] = [];
  const gains: number[] = [];
  let guessed = false;
  for (const [name, words, end] of [
    ["repeats itself", countingWords(LOOP_TOKENS), "loop"],
    ["never repeats", countingWords(ANSWER_TOKENS + 1), "open"],
  ] as const) {
    const setting = settingOf(bench, scriptedModel(end, words, end), 4, 1024);
    bench.progress("speculate: loading");
    const plain = await Worker.start(bench.processes, "libllama", setting);
    const guessing = await Worker.start(bench.processes, "libllama", setting, { speculate: GUESSED_MAX });
    try {
      for (const streams of [1, 4]) {
        const asks = Array.from({ length: streams }, (_, seed) => ({ prompt: "go\n", max_tokens: ANSWER_TOKENS, seed }));
        const found = await rounds(bench, "speculate", [() => measure(plain, asks), () => measure(guessing, asks)]);
        const [without = [], with_guesses = []] = found;
        const what = `${name}, ${streams} ${streams === 1 ? "stream" : "streams"}`;
        rows.push(row(`${what}, one at a time`, without, without), row(`${what}, guessed`, with_guesses, without));
        if (end === "loop" && streams === 1) gains.push(...paired(cpuOf(without), cpuOf(with_guesses)));
      }
      if (end === "loop") guessed = await guessing.hasGuessed();
    } finally {
      await plain.stop();
      await guessing.stop();
    }
  }
  bench.say(`\nGuessing ${GUESSED_MAX} tokens at most (--speculate), answers of ${ANSWER_TOKENS} tokens:`);
  bench.say(table(["text", "CPU µs/token", "÷ without", "tokens/s"], rows));
  if (guessed)
    bench.verdicts.push({ what: "CPU per token of a text that repeats: without ÷ guessed", value: median(gains), at_least: 1.3 });
  else bench.say("  Nothing was guessed: on this processor more rows save nothing, so what is to be seen is noise.");
}

const CACHE_CONTEXT_TOKENS = 2048;
const CACHE_SLOTS = 4;
const CACHE_PROMPT_TOKENS = 1000;
const CACHE_ANSWER_TOKENS = 96;

export async function measureCacheTypes(bench: Bench): Promise<void> {
  const types = ["f16", "q8_0", "q4_0"] as const;
  const setting = settingOf(bench, bench.model_path, CACHE_SLOTS, CACHE_CONTEXT_TOKENS);
  const workers: Worker[] = [];
  try {
    for (const type of types) {
      bench.progress(`cache-type: loading with ${type}`);
      workers.push(await Worker.start(bench.processes, "libllama", setting, { "cache-type": type }));
    }
    const memory = await Promise.all(workers.map((worker) => worker.memoryBytes()));
    // Its prompt stays in the slot: what is measured are tokens after so many others.
    const ask = { prompt: prompt(CACHE_PROMPT_TOKENS, 5_000).text, max_tokens: CACHE_ANSWER_TOKENS, seed: 1 };
    const found = await rounds(
      bench,
      "cache-type",
      workers.map((worker) => () => measure(worker, [ask])),
    );
    const rows = types.map((type, i) => {
      const spared = ((memory[0] ?? 0) - (memory[i] ?? 0)) / CACHE_SLOTS / 1e6;
      return [...row(type, found[i], found[0]), spared.toFixed(0)];
    });
    bench.say(
      `\nContext in fewer bits (--cache-type), ${CACHE_SLOTS} slots of ${CACHE_CONTEXT_TOKENS} tokens, ${CACHE_ANSWER_TOKENS} tokens after ${CACHE_PROMPT_TOKENS}:`,
    );
    bench.say(table(["type", "CPU µs/token", "÷ f16", "tokens/s", "MB spared a slot"], rows));
  } finally {
    bench.progress("");
    for (const worker of workers) await worker.stop();
  }
}

const GRAMMAR_TOKENS = 96;
/** The model's vocabulary is mostly ` w0`, ` w1`, …: the first allows nearly all that it draws, the second nothing of it. */
const KEPT = 'root ::= (" w" [0-9]+ | [!-~])+';
const REFUSED = "root ::= [a-z]+";

export async function measureGrammar(bench: Bench): Promise<void> {
  bench.progress("grammar: loading");
  const worker = await Worker.start(bench.processes, "libllama", settingOf(bench, bench.model_path, 1, 512));
  try {
    const ask = (grammar?: string) => ({
      ...{ prompt: prompt(SHORT_TOKENS, 6_000).text, max_tokens: GRAMMAR_TOKENS, seed: 1 },
      ...(grammar === undefined ? {} : { grammar }),
    });
    const found = await rounds(
      bench,
      "grammar",
      [undefined, KEPT, REFUSED].map((grammar) => () => measure(worker, [ask(grammar)])),
    );
    const [free = [], kept = [], refused = []] = found;
    bench.say(`\nGrammar, ${GRAMMAR_TOKENS} tokens, a vocabulary of ${VOCABULARY}:`);
    bench.say(
      table(
        ["answer", "CPU µs/token", "÷ without", "tokens/s"],
        [row("held to nothing", free, free), row("keeps to it by itself", kept, free), row("every token is refused", refused, free)],
      ),
    );
    bench.verdicts.push({
      what: "CPU per token with a grammar that is kept ÷ without",
      value: median(paired(cpuOf(kept), cpuOf(free))),
      at_most: 1.1,
    });
  } finally {
    bench.progress("");
    await worker.stop();
  }
}
