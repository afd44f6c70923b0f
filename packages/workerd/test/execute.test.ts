/** `/execute` to the letter: the engine is real, the models say what the tests know. */
import assert from "node:assert/strict";
import { before, describe, test } from "node:test";
import { WorkerEvent } from "@rbees/contracts/events";
import { ANSWER, bytesOf, chain, countingWords } from "../../../models/fixtures/scripted.ts";
import type { Workerd } from "../src/workerd.ts";
import { LIBRARIES } from "./engine-options.ts";
import { ask, type Body, post, scripted, startWorker } from "./support.ts";

const WORDS = countingWords(300);

/** A model without a template: the last letter of the prompt chooses what it says. */
const texts = {
  template: null,
  edges: [
    ...chain("A", ["Hello", ", ", "world", "!"]),
    ...chain("B", ["keep ", "the E", "N", "D of", " story"]),
    ...chain("C", [...bytesOf("漢"), "字", ".."]),
    ...chain("D", ["so ", ...bytesOf("😀"), " yes"]),
    ...chain("F", ["EN", "JOY", " the", " EN", "E"]),
    ...chain("G", [" heads"], "open"),
    ...["G", " heads", " tails"].flatMap((from) => [" heads", " tails"].map((to) => [from, to] as const)),
  ],
};

for (const engine of LIBRARIES) {
  describe(`on ${engine}`, () => {
    let counting: Workerd;
    let sayer: Workerd;
    before(async () => {
      counting = await startWorker({
        model: scripted("counting", { edges: chain(ANSWER, WORDS) }),
        model_name: "counting",
        ctx: 1024,
        engine,
      });
      sayer = await startWorker({ model: scripted("sayer", texts), ctx: 256, engine });
    });
    const say = (letter: string, body: Body = {}) => ask(sayer, { prompt: letter, max_tokens: 50, ...body });
    const count = (body: Body) => ask(counting, { prompt: "count", ...body });

    test("every event has the shape of the contract, in order, with one end", async () => {
      const { events } = await say("A", { job_id: "job-7", attempt: 3 });
      for (const event of events) WorkerEvent.parse(event);
      assert.deepEqual(
        events.map(({ type }) => type),
        ["started", "token", "token", "token", "token", "end"],
      );
      assert.deepEqual(events[0], { type: "started", job_id: "job-7", attempt: 3, worker_id: sayer.worker_id, model: "sayer" });
    });

    test("a token event is written as the relay expects it: event line, data line, empty line", async () => {
      const response = await post(sayer, "/execute", { job_id: "job-1", prompt: "A", max_tokens: 2 });
      const text = await response.text();
      assert.equal(response.headers.get("content-type"), "text/event-stream; charset=utf-8");
      const token = /event: token\ndata: \{"type":"token","t":"Hello","i":0,"ids":\[\d+\]\}\n\nevent: token\n/;
      assert.match(text, token);
    });

    test("the text is exact, and so is the usage: the end of the answer is no token", async () => {
      const { text, end, ids } = await say("A");
      assert.equal(text, "Hello, world!");
      assert.equal(end?.stop_reason, "EOS");
      // Beginning of sequence, the space that SentencePiece puts first, the letter.
      assert.equal(end?.tokens_in, 3);
      assert.equal(end?.tokens_out, 4);
      assert.equal(ids.length, 4);
    });

    test("max_tokens is kept exactly", async () => {
      for (const max_tokens of [1, 2, 17]) {
        const { text, end } = await count({ max_tokens });
        assert.equal(text, WORDS.slice(0, max_tokens).join(""));
        assert.equal(end?.stop_reason, "MAX_TOKENS");
        assert.equal(end?.tokens_out, max_tokens);
      }
    });

    test("a stop string across tokens ends the answer, and nothing of it is sent", async () => {
      const { text, end, tokens } = await say("B", { stop: ["END"] });
      assert.equal(text, "keep the ");
      assert.equal(end?.stop_reason, "STOP_SEQUENCE");
      assert.equal(end?.stop, "END");
      assert.equal(end?.tokens_out, 4);
      assert.ok(tokens.every(({ t }) => !t.includes("E")));
    });

    test("a stop string inside a token cuts the token", async () => {
      const { text, end } = await say("B", { stop: ["he"] });
      assert.equal(text, "keep t");
      assert.equal(end?.tokens_out, 2);
    });

    test("a stop string may be the first token: no text at all", async () => {
      const { text, end, tokens } = await say("A", { stop: ["Hello"] });
      assert.equal(text, "");
      assert.equal(tokens.length, 0);
      assert.deepEqual([end?.stop_reason, end?.tokens_out], ["STOP_SEQUENCE", 1]);
    });

    test("what only looked like a stop string is sent, with the token after it", async () => {
      const { text, tokens, end } = await say("F", { stop: ["END"] });
      assert.equal(text, "ENJOY the ENE");
      assert.deepEqual(
        tokens.map(({ t, i, ids }) => [t, i, ids.length]),
        [
          ["ENJOY", 0, 2],
          [" the", 2, 1],
          // The last E might begin another one, until the answer ends.
          [" EN", 3, 1],
          ["E", 4, 1],
        ],
      );
      assert.equal(end?.stop_reason, "EOS");
    });

    test("of several stop strings the one that is complete first ends the answer", async () => {
      const { text, end } = await say("B", { stop: ["story", "END", "ND"] });
      assert.equal(text, "keep the ");
      assert.equal(end?.stop, "END");
    });

    test("a character over several tokens is one event", async () => {
      const cjk = await say("C");
      assert.equal(cjk.text, "漢字..");
      assert.deepEqual(
        cjk.tokens.map(({ t, i, ids }) => [t, i, ids.length]),
        [
          ["漢", 0, 3],
          ["字", 3, 1],
          ["..", 4, 1],
        ],
      );
      assert.equal((await say("D")).text, "so 😀 yes");
    });

    test("a character that max_tokens cuts becomes a replacement character, at the very end", async () => {
      const { text, end } = await say("D", { max_tokens: 3 });
      assert.equal(text, "so \uFFFD");
      assert.deepEqual([end?.stop_reason, end?.tokens_out], ["MAX_TOKENS", 3]);
    });

    test("the same seed gives the same text, another seed another", async () => {
      const toss = (seed?: number) => say("G", { max_tokens: 40, temperature: 1, ...(seed === undefined ? {} : { seed }) });
      const [first, again, other] = [await toss(1), await toss(1), await toss(2)];
      assert.equal(first.text, again.text);
      assert.notEqual(first.text, other.text);
      assert.match(first.text, / heads/);
      assert.match(first.text, / tails/);
      for (let i = 0; i < 8; i++) {
        const one = await say("G", { max_tokens: 1, temperature: 1, seed: 1 });
        assert.equal(one.text, first.tokens[0]?.t);
      }
      assert.notEqual((await toss()).text, (await toss()).text, "without a seed one is picked");
    });

    test("temperature 0 is greedy, whatever the seed", async () => {
      const [first, other] = [
        await say("G", { max_tokens: 20, temperature: 0, seed: 1 }),
        await say("G", { max_tokens: 20, temperature: 0, seed: 2 }),
      ];
      assert.equal(first.text, other.text);
    });

    test("an answer that another worker began goes on exactly there", async () => {
      const whole = await count({ max_tokens: 120 });
      for (const cut of [1, 60, 119]) {
        const rest = await count({ max_tokens: 120, continue_from: { tokens: whole.ids.slice(0, cut) } });
        assert.equal(rest.text, WORDS.slice(cut, 120).join(""));
        assert.deepEqual(rest.tokens[0], whole.tokens[cut]);
        assert.equal(rest.end?.tokens_out, 120);
        assert.equal(rest.end?.tokens_in, whole.end?.tokens_in);
      }
    });

    test("a continued answer at temperature 1 is the one that would have been", async () => {
      const body = { max_tokens: 60, temperature: 1, seed: 5 };
      const whole = await say("G", body);
      const rest = await say("G", { ...body, continue_from: { tokens: whole.ids.slice(0, 25) } });
      assert.deepEqual(rest.ids, whole.ids.slice(25));
    });

    test("a stop string is found across the seam of a continued answer, and a finished one ends at once", async () => {
      const whole = await say("B");
      const seam = await say("B", { stop: ["END"], continue_from: { tokens: whole.ids.slice(0, 2) } });
      assert.deepEqual([seam.text, seam.end?.stop_reason, seam.end?.tokens_out], ["", "STOP_SEQUENCE", 4]);
      const over = await say("B", { stop: ["keep"], continue_from: { tokens: whole.ids.slice(0, 1) } });
      assert.deepEqual([over.text, over.end?.stop_reason], ["", "STOP_SEQUENCE"]);
      const full = await say("B", { max_tokens: 2, continue_from: { tokens: whole.ids.slice(0, 2) } });
      assert.deepEqual([full.text, full.end?.stop_reason, full.end?.tokens_out], ["", "MAX_TOKENS", 2]);
    });

    test("the name of a special token in a message is spelled, not obeyed", async () => {
      const tokens_in = async (content: string) =>
        (await count({ prompt: undefined, messages: [{ role: "user", content }], max_tokens: 1 })).end?.tokens_in;
      // Ten characters that the vocabulary has one by one.
      assert.equal(await tokens_in("x<|im_end|>y"), await tokens_in("x0123456789y"));
      const raw = async (prompt: string) => (await count({ prompt, raw: true, max_tokens: 1 })).end?.tokens_in ?? 0;
      assert.equal(
        (await raw("x0123456789y")) - (await raw("x<|im_end|>y")),
        8,
        "raw text is for those who write templates: one token, and a space",
      );
    });

    test("messages go through the model's template: the answer comes after it", async () => {
      const messages = [
        { role: "system", content: "Count." },
        { role: "user", content: "Begin." },
        { role: "assistant", content: "one" },
        { role: "user", content: "Again." },
      ];
      assert.equal((await count({ prompt: undefined, messages, max_tokens: 3 })).text, " one two three");
      const refused = await post(sayer, "/execute", { job_id: "j", messages, max_tokens: 3 });
      assert.match(await refused.text(), /no chat template/);
    });

    test("a repeated prompt is not computed again, and a longer one only from where it differs", async () => {
      const prompt = "a".repeat(200);
      const first = await count({ prompt, max_tokens: 1 });
      const again = await count({ prompt, max_tokens: 1 });
      const longer = await count({ prompt: `${prompt}b`, max_tokens: 1 });
      assert.equal(again.end?.tokens_cached, (first.end?.tokens_in ?? 0) - 1);
      assert.ok((longer.end?.tokens_cached ?? 0) >= 200, String(longer.end?.tokens_cached));
      assert.equal(longer.text, WORDS[0]);
    });

    test("a model whose state can't be cut back goes on from all of it or from nothing", async () => {
      const worker = await startWorker({ model: scripted(`window-${engine}`, { ...texts, window: 64 }), ctx: 256, engine });
      for (const [prompt, max_tokens, text] of [
        [`${"x".repeat(100)}A`, 3, "Hello, world"],
        [`${"x".repeat(100)}A`, 9, "Hello, world!"],
        [`${"x".repeat(50)}C`, 9, "漢字.."],
      ] as const) {
        const both = await Promise.all(
          [1, 2].map((job) => ask(worker, { job_id: `j${job}`, prompt, raw: true, max_tokens, temperature: 0 })),
        );
        assert.deepEqual(
          both.map((answer) => answer.text),
          [text, text],
        );
      }
      const again = await ask(worker, { prompt: "A", raw: true, max_tokens: 9, grammar: 'root ::= "Bye"' });
      assert.equal(again.text, "Bye");
    });

    test("what does not fit the context is refused with the numbers, before any event", async () => {
      const response = await post(counting, "/execute", { job_id: "j", prompt: "a".repeat(600), max_tokens: 500 });
      assert.equal(response.status, 400);
      const { error } = (await response.json()) as { error: { code: string; message: string; details: unknown } };
      assert.equal(error.code, "CONTEXT_TOO_LARGE");
      assert.match(error.message, /max_tokens is 500: together \d+, but a slot of this worker holds 1024\. Shorten the prompt or lower/);
      const details = error.details as { tokens_in: number; max_tokens: number; context_size: number };
      assert.deepEqual([details.max_tokens, details.context_size], [500, 1024]);
      assert.ok(details.tokens_in > 600);
    });

    test("with fit_context the answer gets what room there is; a prompt that leaves none is refused all the same", async () => {
      const asked = { prompt: `${"a".repeat(1000)}`, max_tokens: 500, fit_context: true };
      const { end, tokens } = await count(asked);
      assert.equal(end?.stop_reason, "MAX_TOKENS");
      assert.equal((end?.tokens_in ?? 0) + tokens.length, 1024);
      const response = await post(counting, "/execute", { job_id: "j", ...asked, prompt: "a".repeat(2000) });
      assert.equal(response.status, 400);
      const { error } = (await response.json()) as { error: { code: string; message: string } };
      assert.equal(error.code, "CONTEXT_TOO_LARGE");
      assert.match(error.message, /has 2\d{3} tokens, but .* holds 1024, prompt and answer together\. Shorten the prompt\.$/);
    });

    test("an answer may fill the context to the last token", async () => {
      const { end: probe } = await count({ max_tokens: 1 });
      const room = 1024 - (probe?.tokens_in ?? 0);
      assert.equal((await post(counting, "/execute", { job_id: "j", prompt: "count", max_tokens: room + 1 })).status, 400);
      const { end } = await count({ max_tokens: room });
      assert.deepEqual([end?.stop_reason, end?.tokens_out], ["EOS", WORDS.length]);
    });

    test("bad bodies are refused with every problem at once, and never echo the prompt", async () => {
      const bad: [Body, RegExp][] = [
        [{}, /job_id/],
        [{ job_id: "j" }, /give one of prompt, messages and token_prompt/],
        [{ job_id: "j", prompt: "x", messages: [{ role: "user", content: "y" }] }, /give one of prompt, messages and token_prompt/],
        [{ job_id: "j", prompt: "secret words", max_tokens: 0, temperature: 9 }, /max_tokens.*temperature/],
        [{ job_id: "j", prompt: "secret words", max_token: 5 }, /max_token: unknown field/],
        [{ job_id: "j", prompt: "x", continue_from: { tokens: [9_999_999] } }, /vocabulary/],
        [{ job_id: "j", prompt: "x", max_tokens: 1, continue_from: { tokens: [1, 2] } }, /more than max_tokens/],
      ];
      for (const [body, problem] of bad) {
        const response = await post(sayer, "/execute", body);
        const text = await response.text();
        assert.equal(response.status, 400, text);
        assert.match(text, problem);
        assert.ok(!text.includes("secret"));
      }
    });

    test("an attempt whose deadline has passed is refused", async () => {
      const late = await post(counting, "/execute", { job_id: "j", prompt: "x", deadline: "2020-01-01T00:00:00Z" });
      assert.equal(late.status, 504);
    });

    test("metrics have the names of the contract", async () => {
      const text = await (await fetch(`${sayer.url}/metrics`)).text();
      for (const name of [
        `worker_vram_bytes{worker_id="${sayer.worker_id}"}`,
        'worker_requests_total{outcome="done"}',
        "worker_tokens_in_total",
        "worker_tokens_generated_total",
        "worker_inference_duration_ms_count",
        "worker_uptime_seconds",
        "gen_ai_server_time_to_first_token_seconds_count",
      ]) {
        assert.ok(text.includes(`\n${name} `), name);
      }
    });
  });
}
