/** Tokens that are made more or less likely: by their numbers, and by what the answer has said. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ANSWER, chain } from "../../../models/fixtures/scripted.ts";
import type { RunRequest } from "../src/engine.ts";
import { RepeatWindow, Weights } from "../src/llama/weights.ts";
import { LIBRARIES } from "./engine-options.ts";
import { ask, post, scripted, startWorker } from "./support.ts";

const edges = [...chain(ANSWER, ["Hello", ", ", "world", "!"]), ...chain(ANSWER, ["keep ", "the", " st", "ory"])];

test("penalties count the tokens of the answer, those that another worker made among them", () => {
  const request: RunRequest = {
    raw: true,
    max_tokens: 9,
    fit_context: false,
    temperature: 0,
    seed: 1,
    stop: [],
    continue_tokens: [4, 4, 5],
  };
  assert.equal(Weights.of({ ...request, frequency_penalty: 0, logit_bias: {} }), undefined);
  const weights = Weights.of({ ...request, frequency_penalty: 0.5, presence_penalty: 1, logit_bias: { 4: 10, 9: -3 } });
  weights?.said(6);
  assert.deepEqual(
    [...(weights?.bias ?? [])],
    [
      [4, 8],
      [9, -3],
      [5, -1.5],
      [6, -1.5],
    ],
  );
});

test("a repeat penalty looks back over so many tokens, of prompt and answer, each counted as often as it is there", () => {
  const request = { raw: true, max_tokens: 9, fit_context: false, temperature: 0, seed: 1, stop: [], continue_tokens: [] };
  const window = (more: Partial<RunRequest>) => RepeatWindow.of({ ...request, ...more }, [1, 2, 3, 2]);
  assert.deepEqual(
    [window({}), window({ repeat_penalty: 1 }), window({ repeat_penalty: 2, repeat_last_n: 0 })],
    [undefined, undefined, undefined],
  );
  const three = window({ repeat_penalty: 2, repeat_last_n: 3 });
  assert.deepEqual([...(three?.tokens.keys() ?? [])].sort(), [2, 3]);
  three?.said(7);
  three?.said(8);
  assert.deepEqual([...(three?.tokens ?? [])].sort(), [
    [2, 1],
    [7, 1],
    [8, 1],
  ]);
  const all = window({ repeat_penalty: 2, repeat_last_n: -1 });
  for (let token = 10; token < 200; token += 1) all?.said(token);
  assert.equal(all?.tokens.size, 193);
  const usual = window({ repeat_penalty: 2 });
  for (let token = 10; token < 200; token += 1) usual?.said(token);
  assert.equal(usual?.tokens.size, 64);
});

for (const engine of LIBRARIES) {
  test(`${engine}: a bias decides between tokens that are equally likely, and a continued answer is the one that would have been`, async () => {
    const worker = await startWorker({ model: scripted(`weighed-${engine}`, { edges }), engine, ctx: 256, deterministic: true });
    const say = (more: Record<string, unknown>) => ask(worker, { prompt: "hi", max_tokens: 20, temperature: 0, ...more });
    const first = await say({});
    const [token] = first.ids;
    const other = await say({ logit_bias: { [String(token)]: -5 } });
    assert.deepEqual([first.text, other.text].sort(), ["Hello, world!", "keep the story"]);
    assert.equal((await say({ logit_bias: { [String(other.ids[0])]: 5 } })).text, other.text);
    // Beyond the vocabulary there is nothing to weigh.
    assert.equal((await say({ logit_bias: { 999999999: 5 } })).text, first.text);
    const penalties = { frequency_penalty: 1.5, presence_penalty: 1, temperature: 1, seed: 4 };
    const whole = await say(penalties);
    const rest = await say({ ...penalties, continue_from: { tokens: whole.ids.slice(0, 2) } });
    assert.equal(
      whole.tokens
        .slice(0, 2)
        .map(({ t }) => t)
        .join("") + rest.text,
      whole.text,
    );
  });
}

test("what is out of range is refused by name", async () => {
  const worker = await startWorker({ model: scripted("weighs", { edges }), engine: "libllama", ctx: 256 });
  for (const [field, value] of [
    ["frequency_penalty", 3],
    ["presence_penalty", -2.5],
    ["repeat_penalty", 0],
    ["repeat_last_n", -2],
    ["logit_bias", { 7: 101 }],
    ["logit_bias", { seven: 1 }],
  ] as const) {
    const response = await post(worker, "/execute", { job_id: "j", prompt: "hi", [field]: value });
    assert.equal(response.status, 400);
    assert.match(await response.text(), new RegExp(field));
  }
});
