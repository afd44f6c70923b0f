/**
 * What every engine must do behind the port, as one list: each test runs on each engine, through a worker's own routes. What not every
 * engine can names its feature and is skipped, visibly, where it is not declared; which are declared is asserted too.
 */
import assert from "node:assert/strict";
import { before, describe, type TestContext, test } from "node:test";
import { type EmbeddingEvent, type TokenEvent, WorkerEvent } from "@rbees/contracts/events";
import type { Feature } from "@rbees/contracts/sets";
import { readEvents } from "@rbees/contracts/sse";
import { CALL, CALLING, WEATHER_TOOL } from "../../../models/fixtures/calling.ts";
import { spmVocabulary } from "../../../models/fixtures/llama-file.ts";
import { bytesOf, chain, type Script } from "../../../models/fixtures/scripted.ts";
import type { Workerd } from "../src/workerd.ts";
import { ask, type Body, collect, health, open, post, scripted, until } from "./support.ts";

export interface EngineUnderTest {
  name: string;
  /** What it declares for a model that makes text and vectors. */
  features: readonly Feature[];
  /** It says which tokens an answer has, so that another worker can go on with it. */
  tells_tokens: boolean;
  /** What it draws does not depend on where an answer was gone on with. */
  draws_by_position: boolean;
  /** A worker of two slots on the model at the path. */
  start(model: string): Promise<Workerd>;
  /** Why it can't be tested here. */
  skip?: string | false;
}

/** It says a text after each letter, and calls a function after a chat. It can be told not to think. */
const script: Script = {
  ...CALLING.hermes,
  template: `${CALLING.hermes.template}{%- if enable_thinking is defined and not enable_thinking %}{{- ' at once' }}{%- endif %}`,
  edges: [
    ...CALLING.hermes.edges,
    ...chain("A", ["Hello", ", ", "world", "!"]),
    ...chain("B", ["keep ", "the E", "N", "D of", " story"]),
    ...chain("C", [...bytesOf("漢"), "字", ".."]),
    ...chain("D", [" tick", " tock"], "loop"),
    ...["G", " heads", " tails"].flatMap((from) => [" heads", " tails"].map((to) => [from, to] as const)),
    ...["X", "Y"].flatMap((from) => ["X", "Y"].map((to) => [from, to] as const)),
  ],
};
const SAID = "Let me look.\n";
const CALLED = `<tool_call>\n{"name": "${CALL.name}", "arguments": ${CALL.arguments}}\n</tool_call>`;
const CHAT = { messages: [{ role: "user", content: "Do I need an umbrella?" }], max_tokens: 60, temperature: 0 };

/** The number that the model's vocabulary has for a word. */
function tokenOf(word: string): number {
  const { words, spell } = spmVocabulary(script.edges.flat(), script.specials);
  return words.findIndex(({ text }) => text === spell(word));
}

function called(tokens: readonly TokenEvent[]): { text: string; calls: { name: string; arguments: string }[] } {
  const calls: { name: string; arguments: string }[] = [];
  for (const { index, name, arguments: more } of tokens.flatMap(({ tool_calls = [] }) => tool_calls)) {
    if (name !== undefined) calls[index] = { name, arguments: "" };
    (calls[index] ?? assert.fail("arguments of no call")).arguments += more;
  }
  return { text: tokens.map(({ t }) => t).join(""), calls };
}

/** The model that all of it is about. */
export const contractModel = () => scripted("contract", script);

export function engineContract({ name, features, tells_tokens, draws_by_position, start, skip = false }: EngineUnderTest): void {
  describe(`the contract, on ${name}`, { skip }, () => {
    let worker: Workerd;
    before(async () => {
      worker = await start(contractModel());
    });
    const say = (letter: string, more: Body = {}) => ask(worker, { prompt: letter, raw: true, max_tokens: 30, temperature: 0, ...more });
    const idle = () => until(async () => (await health(worker)).slots_busy === 0);

    /** A test of what not every engine can. */
    const needs = (feature: Feature | "tokens", title: string, run: () => Promise<void>) =>
      test(title, async (t: TestContext) => {
        if (feature === "tokens" ? tells_tokens : features.includes(feature)) await run();
        else t.skip(`${name} does not declare ${feature}`);
      });

    test("it declares what it can, and says who it is", async () => {
      const { features: declared, engine, status } = await health(worker);
      assert.deepEqual([[...declared].sort(), status], [[...features].sort(), "ready"]);
      assert.notEqual(engine.name, "");
    });

    test("a text is exact, with its usage and its end, in events of the contract's shape", async () => {
      const { text, end, events } = await say("A");
      for (const event of events) WorkerEvent.parse(event);
      assert.deepEqual([text, end?.stop_reason, end?.tokens_out], ["Hello, world!", "EOS", 4]);
      assert.ok((end?.tokens_in ?? 0) >= 2);
      assert.deepEqual([events[0]?.type, events.at(-1)?.type], ["started", "end"]);
    });

    needs("reasoning_effort", "how long to think is said in the prompt", async () => {
      const tokens_in = async (reasoning_effort?: string) =>
        (await ask(worker, { ...CHAT, max_tokens: 1, reasoning_effort })).end?.tokens_in ?? 0;
      const usual = await tokens_in();
      assert.equal(await tokens_in("high"), usual);
      assert.ok((await tokens_in("none")) > usual);
    });

    test("max_tokens is kept, and characters come whole", async () => {
      const { text, end } = await say("A", { max_tokens: 2 });
      assert.deepEqual([text, end?.stop_reason, end?.tokens_out], ["Hello, ", "MAX_TOKENS", 2]);
      assert.equal((await say("C")).text, "漢字..");
    });

    test("a stop string across tokens ends the answer, and nothing of it is sent", async () => {
      const { text, end, tokens } = await say("B", { stop: ["END"] });
      assert.deepEqual([text, end?.stop_reason, end?.stop], ["keep the ", "STOP_SEQUENCE", "END"]);
      assert.ok(tokens.every(({ t }) => !t.includes("E")));
      await idle();
    });

    test("a chat goes through the model's template; the same seed is the same text, another seed another", async () => {
      assert.equal((await ask(worker, CHAT)).text, SAID + CALLED);
      const toss = async (seed: number) => (await say("G", { temperature: 1, seed })).text;
      assert.equal(await toss(1), await toss(1));
      assert.notEqual(await toss(1), await toss(2));
    });

    test("two at once; who hangs up or cancels frees the slot", async () => {
      const endless = (job_id: string) => open(worker, { job_id, prompt: "D", raw: true, max_tokens: 1500 });
      const [first, second] = await Promise.all([endless("one"), endless("two")]);
      assert.equal((await post(worker, "/execute", { job_id: "three", prompt: "D", raw: true })).status, 503);
      let event = await first.next();
      while (event !== undefined && event.type !== "token") event = await first.next();
      assert.equal(event?.type, "token");
      first.hangUp();
      await post(worker, "/cancel", { job_id: "two" });
      assert.equal((await collect(second.events)).error?.code, "CANCELLED");
      await idle();
    });

    test("what does not fit the context is refused before any event", async () => {
      const { context_size } = await health(worker);
      const response = await post(worker, "/execute", { job_id: "j", prompt: "A".repeat(3 * context_size), raw: true });
      assert.equal(response.status, 400, await response.text());
      await idle();
    });

    needs("tokens", "an answer that another worker began goes on exactly there", async () => {
      for (const body of [
        { prompt: "A", raw: true, max_tokens: 30, temperature: 0 },
        { prompt: "G", raw: true, max_tokens: 30, temperature: 1, seed: 5 },
      ]) {
        const whole = await ask(worker, body);
        assert.equal(whole.ids.length, whole.end?.tokens_out);
        const rest = await ask(worker, { ...body, continue_from: { tokens: whole.ids.slice(0, 2) } });
        assert.equal(rest.end?.tokens_out, whole.end?.tokens_out);
        if (body.temperature === 0 || draws_by_position) assert.deepEqual(rest.ids, whole.ids.slice(2));
        else assert.match(rest.text, /^( heads| tails){28}$/);
      }
    });

    needs("json_schema", "an answer is held to a schema, and says what the model would where it may", async () => {
      const json_schema = {
        type: "object",
        properties: { greeting: { enum: ["Hello", "Bye"] }, count: { type: "integer", minimum: 1, maximum: 3 } },
        required: ["greeting", "count"],
        additionalProperties: false,
      };
      for (const temperature of [0, 1]) {
        const { text, end } = await ask(worker, { ...CHAT, json_schema, max_tokens: 200, temperature });
        const { greeting, count } = JSON.parse(text) as { greeting: string; count: number };
        assert.ok(["Hello", "Bye"].includes(greeting) && [1, 2, 3].includes(count), text);
        assert.equal(end?.stop_reason, "EOS");
      }
    });

    needs("grammar", "an answer is held to a grammar; names of special tokens are no text", async () => {
      const held = (grammar: string, more: Body = {}) => say("A", { grammar, ...more });
      assert.equal((await held('root ::= "Hello, world!"')).text, "Hello, world!");
      assert.equal((await held('root ::= "Hello" | "Bye"')).text, "Hello");
      assert.equal((await held('root ::= [a-c]{3} "é🐝"')).text.slice(3), "é🐝");
      const { text, ids } = await held("root ::= [<|a-z_>]{20}", { temperature: 1, seed: 3, max_tokens: 40 });
      assert.equal(text.length, 20);
      assert.ok(!tells_tokens || ids.length > 1);
    });

    needs("grammar", "a continued answer goes on in the middle of its grammar", async () => {
      const body = { grammar: 'root ::= ("ab" | "cd" | "e")+ "."', temperature: 1, seed: 7, max_tokens: 20 };
      const whole = await say("A", body);
      if (!tells_tokens) return;
      for (const cut of [1, 2, Math.floor(whole.ids.length / 2)]) {
        const rest = await say("A", { ...body, continue_from: { tokens: whole.ids.slice(0, cut) } });
        const before = whole.tokens.filter(({ i }) => i < cut).map(({ t }) => t);
        assert.equal(before.join("") + rest.text, whole.text);
      }
    });

    needs("logit_bias", "a bias decides between tokens that are equally likely", async () => {
      for (const side of [" heads", " tails"]) {
        const { text } = await say("G", { max_tokens: 5, logit_bias: { [tokenOf(side)]: 8 } });
        assert.equal(text, side.repeat(5));
      }
      assert.equal((await say("A", { logit_bias: { [tokenOf("Hello")]: -100 } })).text.startsWith("Hello"), false);
    });

    needs("penalties", "what was said is less likely to be said again", async () => {
      const { text } = await say("G", { max_tokens: 8, frequency_penalty: 2 });
      assert.match(text, /^( heads tails| tails heads){4}$/);
      const once = await say("G", { max_tokens: 2, presence_penalty: 2 });
      assert.match(once.text, /^( heads tails| tails heads)$/);
    });

    needs("repeat_penalty", "what came last is less likely to come again, in the prompt too, and not what came before it", async () => {
      const { text } = await say("G", { max_tokens: 8, repeat_penalty: 1.5, repeat_last_n: 1 });
      assert.match(text, /^( heads tails| tails heads){4}$/);
      const once = { max_tokens: 1, repeat_penalty: 1.5, repeat_last_n: 1 };
      assert.deepEqual([(await say("X", once)).text, (await say("Y", once)).text], ["Y", "X"]);
      if (!tells_tokens || !draws_by_position) return;
      const body = { max_tokens: 8, repeat_penalty: 1.3, temperature: 1, seed: 3 };
      const whole = await say("G", body);
      const rest = await say("G", { ...body, continue_from: { tokens: whole.ids.slice(0, 3) } });
      assert.deepEqual(rest.ids, whole.ids.slice(3));
    });

    needs("logprobs", "each token is told as likely as the model had it, with the likeliest", async () => {
      const { tokens, text } = await say("G", { max_tokens: 3, logprobs: 2 });
      const told = tokens.flatMap(({ logprobs = [] }) => logprobs);
      assert.equal(told.map(({ token }) => token).join(""), text);
      assert.equal(told.length, 3);
      for (const { logprob, top_logprobs } of told) {
        assert.ok(Math.abs(logprob + Math.log(2)) < 1e-2, String(logprob));
        assert.deepEqual(top_logprobs.map(({ token }) => token).sort(), [" heads", " tails"]);
      }
    });

    needs("tokenize", "a prompt is counted as a job with it counts it, in any form, without a slot", async () => {
      const tokenize = async (body: Body) => await (await post(worker, "/tokenize", body)).json();
      const messages = [{ role: "system", content: "Be brief." }, ...CHAT.messages];
      for (const body of [{ prompt: "A", raw: true }, { prompt: "hi" }, { messages }, { messages, tools: [WEATHER_TOOL] }]) {
        const { end } = await ask(worker, { ...body, max_tokens: 1 });
        assert.deepEqual(await tokenize(body), { tokens_in: end?.tokens_in });
      }
      const plain = await tokenize({ messages });
      assert.deepEqual(await tokenize({ messages, tools: [WEATHER_TOOL], tool_choice: "none" }), plain);
      const { tokens_in, tokens } = (await tokenize({ prompt: "A", raw: true, with_tokens: true })) as {
        tokens_in: number;
        tokens: number[];
      };
      assert.deepEqual([tokens.length, tokens.at(-1)], [tokens_in, tokenOf("A")]);
      const busy = await Promise.all(["one", "two"].map((job_id) => open(worker, { job_id, prompt: "D", raw: true, max_tokens: 1500 })));
      assert.deepEqual(await tokenize({ messages }), plain);
      for (const stream of busy) stream.hangUp();
      await idle();
      for (const [bad, why] of [
        [{}, /either prompt or messages/],
        [{ prompt: "A", max_tokens: 1 }, /max_tokens: unknown field/],
      ] as const) {
        const refused = await post(worker, "/tokenize", bad);
        assert.equal(refused.status, 400);
        assert.match(await refused.text(), why);
      }
    });

    needs("token_prompts", "a prompt may be its tokens, which are taken as they are", async () => {
      const tokenize = await post(worker, "/tokenize", { prompt: "A", raw: true, with_tokens: true });
      const { tokens, tokens_in } = (await tokenize.json()) as { tokens: number[]; tokens_in: number };
      const asked = { max_tokens: 30, temperature: 0 };
      const { text, end } = await ask(worker, { token_prompt: tokens, ...asked });
      assert.deepEqual([text, end?.tokens_in], ["Hello, world!", tokens_in]);
      const bare = await ask(worker, { token_prompt: [tokenOf("B")], ...asked });
      assert.deepEqual([bare.text, bare.end?.tokens_in], ["keep the END of story", 1]);
      const unknown = await post(worker, "/execute", { job_id: "unknown", token_prompt: [tokenOf("A"), 99_999], ...asked });
      assert.equal(unknown.status, 400);
      assert.match(await unknown.text(), /prompt: token 99999 is not in the model's vocabulary of \d+/);
      await idle();
    });

    needs("tools", "a call is told apart from the text, and its result is answered", async () => {
      const asked = { ...CHAT, tools: [WEATHER_TOOL] };
      const first = await ask(worker, asked);
      for (const event of first.events) WorkerEvent.parse(event);
      const { text, calls } = called(first.tokens);
      assert.deepEqual([text.trim(), calls.length, calls[0]?.name], [SAID.trim(), 1, CALL.name]);
      assert.deepEqual(JSON.parse(calls[0]?.arguments ?? ""), JSON.parse(CALL.arguments));
      assert.equal(first.end?.stop_reason, "EOS");
      const { id } = first.tokens.flatMap(({ tool_calls = [] }) => tool_calls)[0] ?? assert.fail();
      const call = { id, type: "function", function: { name: CALL.name, arguments: CALL.arguments } };
      const messages = [
        ...CHAT.messages,
        { role: "assistant", content: text, tool_calls: [call] },
        { role: "tool", content: "rain", tool_call_id: id },
      ];
      assert.equal((await ask(worker, { ...asked, messages })).text, CALL.answer);
    });

    needs("tools", "tool_choice: none shows the model no tools, a name holds the answer to a call of that function", async () => {
      const none = await ask(worker, { ...CHAT, tools: [WEATHER_TOOL], tool_choice: "none" });
      assert.deepEqual(called(none.tokens).calls, []);
      if (!features.includes("json_schema")) return;
      const door = {
        type: "function",
        function: { name: "shut_door", parameters: { type: "object", properties: { which: { enum: ["front"] } }, required: ["which"] } },
      };
      const { tokens } = await ask(worker, { ...CHAT, max_tokens: 400, tools: [WEATHER_TOOL, door], tool_choice: { name: "shut_door" } });
      const { calls } = called(tokens);
      assert.deepEqual([calls.length, calls[0]?.name, JSON.parse(calls[0]?.arguments ?? "")], [1, "shut_door", { which: "front" }]);
    });

    needs("embeddings", "vectors are one long; equal texts have equal ones, other texts others", async () => {
      const response = await post(worker, "/embed", { job_id: "e", inputs: ["bees", "a queen", "bees", "b".repeat(300)] });
      const vectors: Float32Array[] = [];
      for await (const { data } of readEvents(response.body as unknown as AsyncIterable<Uint8Array>)) {
        const event = JSON.parse(data) as EmbeddingEvent | { type: "end"; stop_reason: string; tokens_in: number };
        if (event.type === "embedding") vectors[event.i] = new Float32Array(Uint8Array.from(Buffer.from(event.v, "base64")).buffer);
        if (event.type === "end") assert.deepEqual([event.stop_reason, event.tokens_in > 300], ["EMBEDDED", true]);
      }
      const dot = (a: Float32Array = new Float32Array(), b: Float32Array = new Float32Array()) =>
        a.reduce((sum, value, i) => sum + value * (b[i] ?? 0), 0);
      assert.equal(vectors.length, 4);
      for (const vector of vectors) assert.ok(Math.abs(dot(vector, vector) - 1) < 1e-4);
      assert.ok(dot(vectors[0], vectors[2]) > 0.999);
      assert.ok(dot(vectors[0], vectors[1]) < 0.99);
    });
  });
}
