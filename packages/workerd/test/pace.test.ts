/** How much of a prompt is computed beside running answers, on machines whose times are known. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Pace, type PaceRules } from "../src/llama/pace.ts";

const RULES: PaceRules = { prefill_chunk_tokens: 64, prefill_stretch_max: 3 };
const ANSWERS = 3;

/** What a machine takes, milliseconds; `length`: tokens of context of each answer, or in front of a chunk. */
interface Machine {
  answers_ms: (answers: number, length: number) => number;
  chunk_ms: (tokens: number, length: number) => number;
}

/** Every row costs alike, and reads back what is there. */
const SLOW: Machine = {
  answers_ms: (answers, length) => answers * (5 + length / 70),
  chunk_ms: (tokens, length) => tokens * (3 + length / 70),
};
/** Rows cost next to nothing beside the weights that each pass reads. */
const FAST: Machine = { answers_ms: () => 12, chunk_ms: (tokens) => 10 + tokens / 20 };

interface Reading {
  /** Answers and a chunk are one batch, not one after the other. */
  together?: boolean;
  /** Tokens of each answer when the prompt comes. */
  length?: number;
}

/** Reads a prompt beside running answers: the chunks, and each step of the answers ÷ what it would take without the prompt. */
function read(pace: Pace, machine: Machine, prompt_tokens: number, { together = false, length = 20 }: Reading = {}) {
  const chunks: number[] = [];
  const stretches: number[] = [];
  let grown = length - 20;
  const alone = () => {
    const ms = machine.answers_ms(ANSWERS, grown);
    pace.took({ answers: ANSWERS, answered: true, prompt_tokens: 0, context: 0 }, ms);
    grown += 1;
    return ms;
  };
  for (let step = 0; step < 20; step += 1) alone();
  for (let done = 0; done < prompt_tokens; ) {
    const tokens = Math.min(pace.tokens(ANSWERS, done), prompt_tokens - done);
    const chunk_ms = tokens === 0 ? 0 : machine.chunk_ms(tokens, done);
    const answers_ms = machine.answers_ms(ANSWERS, grown);
    stretches.push((answers_ms + chunk_ms) / answers_ms);
    if (tokens === 0) alone();
    else if (together) {
      pace.took({ answers: ANSWERS, answered: true, prompt_tokens: tokens, context: done }, answers_ms + chunk_ms);
      grown += 1;
    } else {
      pace.took({ answers: ANSWERS, answered: false, prompt_tokens: tokens, context: done }, chunk_ms);
      alone();
    }
    if (tokens > 0) chunks.push(tokens);
    done += tokens;
  }
  return { chunks, stretches };
}

for (const together of [false, true]) {
  const how = together ? "in one batch" : "in turn";
  test(`running answers keep their pace while a prompt is read, however much rows cost and however deep it is (${how})`, () => {
    const { chunks, stretches } = read(new Pace(RULES), SLOW, 1500, { together });
    assert.ok(Math.max(...stretches) <= 3, `${Math.max(...stretches)}`);
    assert.ok(Math.max(...chunks) >= 4 && Math.max(...chunks) < 16, `${chunks}`);
  });

  test(`the room is used: the longer the answers are, the more a prompt beside them gets of it (${how})`, () => {
    const { stretches } = read(new Pace(RULES), SLOW, 3000, { together, length: 400 });
    const sum = stretches.reduce((all, one) => all + one, 0);
    assert.ok(sum / stretches.length > 1.8, `${sum / stretches.length}`);
    assert.ok(Math.max(...stretches) <= 3, `${Math.max(...stretches)}`);
  });
}

test("what the last prompt's end took, deep in its context, does not keep the chunks of the next one small", () => {
  const pace = new Pace(RULES);
  const first = read(pace, SLOW, 1500).chunks;
  const second = read(pace, SLOW, 1500).chunks;
  assert.ok(Math.abs(Math.max(...second.slice(0, 12)) - Math.max(...first.slice(0, 12))) <= 2, `${first}; ${second}`);
  assert.ok(second.length <= first.length * 1.05, `${first.length}; ${second.length}`);
});

test("chunks are whole where that costs answers little, and where none runs", () => {
  const pace = new Pace(RULES);
  assert.equal(pace.tokens(0, 0), 64);
  const { chunks, stretches } = read(pace, FAST, 6_400);
  assert.equal(chunks.at(-2), 64);
  assert.ok(chunks.length < 6_400 / 64 + 20, `${chunks}`);
  assert.ok(Math.max(...stretches) <= 3);
});

test("what was timed while nothing ran is no measure", () => {
  const pace = new Pace(RULES);
  for (let done = 0; done < 640; done += 64) pace.took({ answers: 0, answered: false, prompt_tokens: 64, context: 0 }, 1);
  assert.ok(Math.max(...read(pace, SLOW, 1500).stretches) <= 3);
});

test("before answers were timed they go alone, and where there is no room for more a prompt goes on by a token at a time", () => {
  const pace = new Pace(RULES);
  assert.equal(pace.tokens(ANSWERS, 0), 0);
  const { chunks } = read(new Pace({ ...RULES, prefill_stretch_max: 1 }), SLOW, 50);
  assert.ok(chunks.filter((tokens) => tokens > 1).length <= 1, `two were tried once: ${chunks}`);
});

test("steps that lost their core for a while change nothing for long", () => {
  const pace = new Pace(RULES);
  const before = read(pace, SLOW, 500).chunks.at(-5);
  for (let i = 0; i < 2; i += 1) pace.took({ answers: ANSWERS, answered: false, prompt_tokens: Number(before), context: 450 }, 900);
  for (let i = 0; i < 5; i += 1) pace.took({ answers: ANSWERS, answered: true, prompt_tokens: 0, context: 0 }, 900);
  const { chunks, stretches } = read(pace, SLOW, 500);
  assert.equal(chunks.at(-5), before);
  assert.ok(Math.max(...stretches) <= 3);
});

test("where one token takes more than there is room for, as many go with it as hardly take longer", () => {
  const { chunks } = read(new Pace({ ...RULES, prefill_stretch_max: 1.2 }), FAST, 640);
  assert.equal(chunks.at(-2), 48);
});

test("a stretch of 0 leaves chunks whole", () => {
  const { chunks } = read(new Pace({ ...RULES, prefill_stretch_max: 0 }), SLOW, 640);
  assert.deepEqual(new Set(chunks), new Set([64]));
});
