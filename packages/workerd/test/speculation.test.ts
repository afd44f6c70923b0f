/** Tokens that are guessed and computed along: the text is that of one token at a time, whatever was guessed. */
import assert from "node:assert/strict";
import { before, test } from "node:test";
import { fileURLToPath } from "node:url";
import fc from "fast-check";
import { ANSWER, chain } from "../../../models/fixtures/scripted.ts";
import { DraftPlan, timedRows } from "../src/libllama/draft-plan.ts";
import { StepPlan } from "../src/libllama/step-plan.ts";
import { GuessRate, guess } from "../src/llama/guesses.ts";
import type { Workerd } from "../src/workerd.ts";
import { ask, health, scripted, startWorker } from "./support.ts";

const DEMO = fileURLToPath(new URL("../../../models/demo/demo.gguf", import.meta.url));

test("what followed the latest same three tokens is guessed; what repeats goes on", () => {
  assert.deepEqual(guess([1, 2, 3, 4, 5, 6, 1, 2], 3, 2), [4, 5]);
  assert.deepEqual(guess([1, 2, 3, 7, 1, 2, 3, 8, 1, 2], 3, 1), [8]);
  assert.deepEqual(guess([1, 2, 1, 2], 1, 5), [2, 1, 2, 1, 2]);
  assert.deepEqual(guess([5, 5], 5, 3), []);
  assert.deepEqual(guess([5, 5, 5], 5, 3), [5, 5, 5]);
  for (const nothing of [guess([1, 2, 3, 4, 9, 2], 3, 4), guess([1, 2, 3, 1, 2], 3, 0), guess([], 1, 4), guess([1], 1, 4)])
    assert.deepEqual(nothing, []);
});

test("a guess is as long as it was asked for, and begins where its three tokens stood before", () => {
  const texts = fc.array(fc.integer({ min: 0, max: 3 }), { maxLength: 30 });
  fc.assert(
    fc.property(texts, fc.integer({ min: 0, max: 3 }), fc.integer({ min: 1, max: 8 }), (tokens, last, most) => {
      const found = guess(tokens, last, most);
      const all = [...tokens, last];
      const ending = all.slice(-3).join();
      const stood = all.length > 3 && all.some((_, at) => at + 3 < all.length && all.slice(at, at + 3).join() === ending);
      assert.equal(found.length, stood ? most : 0);
      const latest = all.findLastIndex((_, at) => at + 3 < all.length && all.slice(at, at + 3).join() === ending);
      if (stood) assert.equal(found[0], all[latest + 3]);
    }),
  );
});

test("it is guessed where that pays, by what was timed, by how often guesses were right and by how many answers go on", () => {
  assert.deepEqual(timedRows(0), []);
  assert.deepEqual(timedRows(1), [2]);
  assert.deepEqual(timedRows(8), [2, 4, 8, 9]);
  // Milliseconds of a 110 M model on one core: 4-bit weights, then 8-bit ones, of which fewer than 16 rows are no gain.
  const fast = new DraftPlan(new StepPlan([3.3, 6.1, 8.9, 7.5]), [
    [2, 6.1],
    [4, 7.5],
    [8, 13.1],
  ] as const);
  assert.deepEqual([fast.tokens(1, 1), fast.tokens(0.7, 1), fast.tokens(0.3, 1), fast.tokens(0.7, 4)], [7, 3, 0, 0]);
  const slow = new DraftPlan(new StepPlan([5]), [
    [2, 20.9],
    [4, 30.6],
    [8, 39.6],
    [16, 39.3],
  ] as const);
  assert.deepEqual([slow.tokens(1, 1), slow.tokens(0.8, 1)], [15, 0]);
  // Nobody has timed so many answers.
  assert.equal(slow.tokens(1, 2), 0);
});

test("the rate follows the latest guesses, and a bad one is forgotten", () => {
  const rate = new GuessRate();
  const first = rate.rate;
  rate.guessed(4);
  assert.ok(rate.rate < first);
  for (let right = 0; right < 4; right += 1) rate.right();
  const good = rate.rate;
  assert.ok(good > first);
  for (let time = 0; time < 9; time += 1) rate.guessed(4);
  const bad = rate.rate;
  assert.ok(bad < 0.1);
  for (let time = 0; time < 99; time += 1) rate.passed();
  assert.equal(rate.rate, first);
  assert.deepEqual([rate.made, rate.hit], [40, 4]);
});

let guessing: Workerd;
let plain: Workerd;
before(async () => {
  const model = scripted("loops", { edges: chain(ANSWER, [" one", " two", " three", " four"], "loop"), shape: { context: 1024 } });
  [guessing, plain] = await Promise.all([startWorker({ model, speculate: 8 }), startWorker({ model })]);
});

async function guesses(worker: Workerd): Promise<{ made: number; right: number }> {
  const text = await (await fetch(`${worker.url}/metrics`)).text();
  const of = (name: string) => Number(new RegExp(`^${name} (\\d+)$`, "m").exec(text)?.[1]);
  return { made: of("worker_speculated_tokens_total"), right: of("worker_speculated_tokens_accepted_total") };
}

test("an answer that repeats itself takes fewer steps, and is the same to the token, wherever it ends", async () => {
  for (const more of [{ max_tokens: 99 }, { max_tokens: 30 }, { max_tokens: 400, stop: ["four one two three four one two"] }]) {
    const request = { prompt: "go", temperature: 0, ...more };
    const [with_guesses, without] = await Promise.all([ask(guessing, request), ask(plain, request)]);
    assert.deepEqual(with_guesses.ids, without.ids);
    assert.equal(with_guesses.text, without.text);
    assert.deepEqual(
      { ...with_guesses.end, timings: undefined },
      { ...without.end, timings: undefined, tokens_cached: with_guesses.end?.tokens_cached },
    );
    assert.deepEqual(
      with_guesses.tokens.map(({ i }) => i),
      without.tokens.map(({ i }) => i),
    );
  }
  const { made, right } = await guesses(guessing);
  assert.ok(right > 60 && made >= right, `${right} of ${made}`);
  assert.deepEqual(await guesses(plain), { made: 0, right: 0 });
  assert.deepEqual([(await health(guessing)).speculate_tokens_max, (await health(plain)).speculate_tokens_max], [8, 0]);
});

test("grammars, penalties, logprobs and several answers at once hold with guesses as without", async () => {
  const requests = [
    { grammar: 'root ::= (" one two three four")+', max_tokens: 60 },
    { frequency_penalty: 0.5, max_tokens: 60 },
    { logprobs: 2, max_tokens: 40 },
  ].map((more, i) => ({ prompt: "go", temperature: 0, job_id: `job-${i}`, ...more }));
  for (const two of [requests.slice(0, 2), requests.slice(2)]) {
    const [with_guesses, without] = await Promise.all(
      [guessing, plain].map((worker) => Promise.all(two.map((request) => ask(worker, request)))),
    );
    assert.deepEqual(
      with_guesses?.map(({ ids, tokens }) => [ids, tokens.flatMap(({ logprobs = [] }) => logprobs.map(({ token }) => token))]),
      without?.map(({ ids, tokens }) => [ids, tokens.flatMap(({ logprobs = [] }) => logprobs.map(({ token }) => token))]),
    );
  }
});

test("a real model draws the same with guesses, also when it draws by chance, and ends where it ends", async () => {
  const [worker, without] = await Promise.all([
    startWorker({ model: DEMO, ctx: 512, speculate: 4 }),
    startWorker({ model: DEMO, ctx: 512 }),
  ]);
  const text = "A worker holds one model. A worker holds one model. A worker holds";
  for (const request of [
    { prompt: "What does rbees-orcd do?", temperature: 0 },
    { prompt: text, raw: true, temperature: 0 },
    { prompt: text, raw: true, temperature: 0.8, seed: 3 },
  ]) {
    const found = await Promise.all([worker, without].map((one) => ask(one, { ...request, max_tokens: 60 })));
    assert.deepEqual(found[0]?.ids, found[1]?.ids);
    assert.equal(found[0]?.end?.stop_reason, found[1]?.end?.stop_reason);
  }
  // What was guessed wrong left nothing behind.
  const again = await ask(worker, { prompt: text, raw: true, temperature: 0, max_tokens: 60 });
  assert.deepEqual(again.ids, (await ask(without, { prompt: text, raw: true, temperature: 0, max_tokens: 60 })).ids);
});

test("where it can't be, it is refused or said", async () => {
  await assert.rejects(startWorker({ model: DEMO, speculate: 4, deterministic: true }), /speculate: several tokens at once/);
  await assert.rejects(startWorker({ model: DEMO, speculate: 4, engine: "node-llama-cpp" }), /speculate: needs the engine libllama/);
  await assert.rejects(async () => startWorker({ model: DEMO, speculate: 33 }), /speculate.*0 to 32/);
});
