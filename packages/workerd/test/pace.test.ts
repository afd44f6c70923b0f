/** How much of a prompt is computed beside running answers, on machines whose times are known. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Pace, type PaceRules } from "../src/llama/pace.ts";

const RULES: PaceRules = { prefill_chunk_tokens: 64, prefill_stretch_max: 3 };
const ANSWERS = 3;

/** What a machine takes, milliseconds; `read`: tokens of the prompt that are in the context already. */
interface Machine {
  step_ms: (answers: number, read: number) => number;
  chunk_ms: (tokens: number, read: number) => number;
}

/** Every row costs alike, and reads back what is there. */
const SLOW: Machine = { step_ms: (answers, read) => answers * (3 + read / 1000), chunk_ms: (tokens, read) => tokens * (2.5 + read / 1000) };
/** Rows cost next to nothing beside the weights that each pass reads. */
const FAST: Machine = { step_ms: () => 12, chunk_ms: (tokens) => 10 + tokens / 20 };

/** Reads a prompt in turn with running answers: the chunks, and the time from each token of the answers to their next. */
function read(pace: Pace, machine: Machine, prompt_tokens: number, settled = true) {
  if (settled) for (let step = 0; step < 20; step += 1) pace.took(ANSWERS, 0, false, machine.step_ms(ANSWERS, 0));
  const chunks: number[] = [];
  const gaps: number[] = [];
  for (let done = 0; done < prompt_tokens; ) {
    const tokens = Math.min(pace.tokens(ANSWERS), prompt_tokens - done);
    const chunk_ms = machine.chunk_ms(tokens, done);
    pace.took(0, tokens, true, chunk_ms);
    done += tokens;
    const step_ms = machine.step_ms(ANSWERS, done);
    pace.took(ANSWERS, 0, done < prompt_tokens, step_ms);
    chunks.push(tokens);
    gaps.push(chunk_ms + step_ms);
  }
  return { chunks, gaps };
}

test("running answers keep their pace while a prompt is read, however much each row costs and however deep the prompt is", () => {
  const { chunks, gaps } = read(new Pace(RULES), SLOW, 1500);
  assert.ok(Math.max(...gaps) <= 3 * SLOW.step_ms(ANSWERS, 0), `${Math.max(...gaps)} ms`);
  assert.ok(Math.max(...chunks) > 1 && Math.max(...chunks) < 16, `${chunks}`);
});

test("what was timed while nothing ran, on an empty context, does not make chunks too large later", () => {
  const pace = new Pace(RULES);
  for (let done = 0; done < 640; done += 64) pace.took(0, 64, true, SLOW.chunk_ms(64, 0));
  const { gaps } = read(pace, SLOW, 1500);
  assert.ok(gaps.filter((gap) => gap > 3 * SLOW.step_ms(ANSWERS, 0)).length <= gaps.length / 100, `${gaps}`);
});

test("chunks are whole where that costs answers little, and where none runs", () => {
  const pace = new Pace(RULES);
  assert.equal(pace.tokens(0), 64);
  const { chunks, gaps } = read(pace, FAST, 6_400);
  assert.equal(chunks.at(-2), 64);
  assert.ok(chunks.length < 6_400 / 64 + 20, `${chunks}`);
  assert.ok(Math.max(...gaps) <= 3 * FAST.step_ms(ANSWERS, 0));
});

test("a prompt goes on by a token at a time where there is no room for more, and before any step was timed", () => {
  const pace = new Pace(RULES);
  assert.equal(pace.tokens(ANSWERS), 1);
  const { chunks } = read(new Pace({ ...RULES, prefill_stretch_max: 1 }), SLOW, 50);
  assert.ok(chunks.filter((tokens) => tokens > 1).length <= 1, `two were tried once: ${chunks}`);
});

test("steps that lost their core for a while change nothing for long", () => {
  const pace = new Pace(RULES);
  const before = read(pace, SLOW, 500).chunks.at(-5);
  for (let i = 0; i < 2; i += 1) pace.took(0, Number(before), true, 900);
  for (let i = 0; i < 5; i += 1) pace.took(ANSWERS, 0, false, 900);
  const { chunks, gaps } = read(pace, SLOW, 500);
  assert.equal(chunks.at(-5), before);
  assert.ok(Math.max(...gaps) <= 3 * SLOW.step_ms(ANSWERS, 0));
});

test("where one token takes more than there is room for, as many go with it as hardly take longer", () => {
  const { chunks } = read(new Pace({ ...RULES, prefill_stretch_max: 1.2 }), FAST, 640);
  assert.equal(chunks.at(-2), 48);
});

test("answers and a chunk in one batch are told apart", () => {
  const pace = new Pace(RULES);
  for (let step = 0; step < 20; step += 1) pace.took(ANSWERS, 0, false, SLOW.step_ms(ANSWERS, 0));
  for (let step = 0; step < 20; step += 1) {
    const tokens = pace.tokens(ANSWERS);
    const ms = SLOW.step_ms(ANSWERS, 0) + SLOW.chunk_ms(tokens, 0);
    assert.ok(ms <= 3 * SLOW.step_ms(ANSWERS, 0), `${ms} ms`);
    pace.took(ANSWERS, tokens, true, ms);
  }
  assert.ok(pace.tokens(ANSWERS) > 1);
});

test("a stretch of 0 leaves chunks whole", () => {
  const { chunks } = read(new Pace({ ...RULES, prefill_stretch_max: 0 }), SLOW, 640);
  assert.deepEqual(new Set(chunks), new Set([64]));
});
