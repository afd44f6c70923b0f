/** How likely tokens were, at every door that tells it, by the official clients as they are; and over a worker that dies. */
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { ChatOpenAI } from "@langchain/openai";
import type { TokenLogprob } from "@rbees/contracts/logprobs";
import { Ollama } from "ollama";
import OpenAI from "openai";
import type { FakeAttempt } from "../../../test/support/fake-worker.ts";
import { eventsOf, eventually, type Json } from "./harness.ts";
import { CHAT, startOpenai } from "./openai-harness.ts";

const { orcd, worker, client, post } = await startOpenai({ after }, {}, { features: ["logprobs"], slots: 4 });
await orcd.worker("plain", { model: "plain" });

const one = (token: string, logprob: number, bytes?: number[]) => ({ token, logprob, ...(bytes === undefined ? {} : { bytes }) });
const entry = (token: string, logprob: number, bytes?: number[]): TokenLogprob => ({
  ...one(token, logprob, bytes),
  top_logprobs: [one(token, logprob, bytes), one("</s>", -5, [])],
});
const [A, UMLAUT_1, UMLAUT_2, MARK] = [entry("A", -0.5), entry("\ufffd", -1, [0xc3]), entry("\ufffd", -2, [0xa4]), entry("<x>", -3, [])];

/** `Aä`: the second character of two tokens, then a token without text. */
function say(attempt: FakeAttempt): void {
  attempt.started();
  attempt.token("A", { logprobs: [A] });
  attempt.token("ä", { logprobs: [UMLAUT_1, UMLAUT_2] }, 2);
  attempt.token("", { logprobs: [MARK] });
  attempt.end();
}

async function asked(logprobs: number | undefined): Promise<void> {
  const attempt = await worker.next();
  assert.equal(attempt.body.logprobs, logprobs);
  say(attempt);
}

const top = (token: string, bytes: number[] | null, logprob: number) => ({ token, logprob, bytes });
const CONTENT = [
  { ...top("A", [65], -0.5), top_logprobs: [top("A", [65], -0.5), top("</s>", null, -5)] },
  { ...top("\ufffd", [0xc3], -1), top_logprobs: [top("\ufffd", [0xc3], -1), top("</s>", null, -5)] },
  { ...top("\ufffd", [0xa4], -2), top_logprobs: [top("\ufffd", [0xa4], -2), top("</s>", null, -5)] },
  { ...top("<x>", null, -3), top_logprobs: [top("<x>", null, -3), top("</s>", null, -5)] },
];

test("OpenAI chat: whole and in chunks, each token once", async () => {
  const whole = client.chat.completions.create({ ...CHAT, logprobs: true, top_logprobs: 2 });
  await asked(2);
  const [choice] = (await whole).choices;
  assert.deepEqual([choice?.message.content, choice?.logprobs], ["Aä", { content: CONTENT, refusal: null }]);

  const stream = client.chat.completions.create({ ...CHAT, logprobs: true, stream: true, stream_options: { include_usage: true } });
  await asked(0);
  const told: unknown[] = [];
  let text = "";
  for await (const { choices } of await stream) {
    told.push(...(choices[0]?.logprobs?.content ?? []));
    text += choices[0]?.delta.content ?? "";
  }
  assert.deepEqual([text, told], ["Aä", CONTENT]);
  for (const logprobs of [false, null, undefined]) {
    const without = client.chat.completions.create({ ...CHAT, ...(logprobs === undefined ? {} : { logprobs }), top_logprobs: 0 });
    const attempt = await worker.next();
    assert.equal(attempt.body.logprobs, undefined);
    attempt.started();
    attempt.end();
    assert.equal((await without).choices[0]?.logprobs, null);
  }
});

test("OpenAI completions: the older form, with names for what is no text and offsets in characters", async () => {
  const form = {
    tokens: ["A", "bytes:\\xc3", "bytes:\\xa4", "<x>"],
    token_logprobs: [-0.5, -1, -2, -3],
    top_logprobs: [
      { A: -0.5, "</s>": -5 },
      { "bytes:\\xc3": -1, "</s>": -5 },
      { "bytes:\\xa4": -2, "</s>": -5 },
      { "<x>": -3, "</s>": -5 },
    ],
    text_offset: [0, 1, 1, 2],
  };
  const body = { model: "fake", prompt: "hi", logprobs: 1 };
  const whole = client.completions.create(body);
  await asked(1);
  assert.deepEqual((await whole).choices[0]?.logprobs, form);
  const stream = client.completions.create({ ...body, stream: true });
  await asked(1);
  const parts: Json = { tokens: [], token_logprobs: [], top_logprobs: [], text_offset: [] };
  for await (const { choices } of await stream)
    for (const [name, some] of Object.entries(choices[0]?.logprobs ?? {})) parts[name].push(...(some as unknown[]));
  assert.deepEqual(parts, form);
});

test("OpenAI responses: with the text's deltas, its end and its item", async () => {
  const ask = { model: "fake", input: "hi", include: ["message.output_text.logprobs" as const], top_logprobs: 2 };
  const said = CONTENT.map(({ bytes, top_logprobs, ...token }) => ({
    ...{ ...token, bytes: bytes ?? [] },
    top_logprobs: top_logprobs.map((other) => ({ ...other, bytes: other.bytes ?? [] })),
  }));
  const whole = client.responses.create(ask);
  await asked(2);
  const { output, ...response } = await whole;
  assert.deepEqual([(output[0] as Json).content[0].logprobs, (response as Json).top_logprobs], [said, 2]);
  const streaming = client.responses.stream(ask);
  await asked(2);
  const deltas: unknown[] = [];
  let done: unknown;
  for await (const event of streaming) {
    if (event.type === "response.output_text.delta") deltas.push(...event.logprobs);
    if (event.type === "response.output_text.done") done = event.logprobs;
  }
  const final = await streaming.finalResponse();
  assert.deepEqual([deltas, done, (final.output[0] as Json).content[0].logprobs], [said.slice(0, 3), said, said]);
});

test("Ollama: on each line, and on the whole answer", async () => {
  const ollama = new Ollama({ host: orcd.url });
  const ask = { model: "fake", messages: [{ role: "user", content: "hi" }], logprobs: true, top_logprobs: 2 };
  const whole = ollama.chat(ask);
  await asked(2);
  const all = (await whole).logprobs as Json[];
  assert.deepEqual(
    all.map(({ token, logprob, bytes, top_logprobs }) => [token, logprob, bytes, top_logprobs.length]),
    [
      ["A", -0.5, [65], 2],
      ["\ufffd", -1, [0xc3], 2],
      ["\ufffd", -2, [0xa4], 2],
      ["<x>", -3, [], 2],
    ],
  );
  const streaming = ollama.generate({ model: "fake", prompt: "hi", logprobs: true, stream: true });
  await asked(0);
  const lines: [string, number | undefined][] = [];
  for await (const line of await streaming) lines.push([line.response ?? "", line.logprobs?.length]);
  assert.deepEqual(lines, [
    ["A", 1],
    ["ä", 2],
    ["", 1],
    ["", undefined],
  ]);
});

test("libraries on OpenAI's API hand them on", async () => {
  const chat = new ChatOpenAI({
    ...{ model: "fake", apiKey: "none", maxRetries: 0, configuration: { baseURL: `${orcd.url}/v1` } },
    ...{ logprobs: true, topLogprobs: 2 },
  });
  const invoking = chat.invoke("hi");
  await asked(2);
  assert.deepEqual((await invoking).response_metadata["logprobs"], { content: CONTENT, refusal: null });
  const model = createOpenAICompatible({ name: "rbees", baseURL: `${orcd.url}/v1` })("fake");
  const prompt = [{ role: "user" as const, content: [{ type: "text" as const, text: "hi" }] }];
  const generating = model.doGenerate({ prompt, providerOptions: { rbees: { logprobs: true } } });
  await asked(0);
  const { response } = (await generating) as Json;
  assert.deepEqual(response.body.choices[0].logprobs.content, CONTENT);
});

test("/v2, and over a worker that dies: those that were sent stay, the others come, none twice; the record has them all", async () => {
  const [first, second] = [
    await orcd.worker("a", { model: "two", features: ["logprobs"] }),
    await orcd.worker("b", { model: "two", features: ["logprobs"] }),
  ];
  const answer = await orcd.submit({ model: "two", logprobs: 2, stream: true, placement: { prefer: ["a"] } });
  const reading = eventsOf(answer);
  const attempt = await first.next();
  attempt.started();
  attempt.token("A", { logprobs: [A] });
  attempt.token("ä", { logprobs: [UMLAUT_1, UMLAUT_2] }, 2);
  await eventually(async () => (await orcd.json(answer.headers.get("location") as string)).text === "Aä");
  attempt.drop();
  const next = await second.next();
  assert.deepEqual([next.body.logprobs, next.body.continue_from], [2, { tokens: [1000, 1001, 1002] }]);
  next.started();
  next.token("", { logprobs: [MARK] });
  next.end();
  const events = await reading;
  const told = events.flatMap(({ logprobs = [] }) => logprobs);
  assert.deepEqual(told, [A, UMLAUT_1, UMLAUT_2, MARK]);
  assert.deepEqual(
    events.filter(({ type }) => type === "token").map(({ t, i, ids }) => [t, i, ids.length]),
    [
      ["A", 0, 1],
      ["ä", 1, 2],
      ["", 3, 1],
    ],
  );
  const job = await orcd.json(`/v2/tasks/${events[0].job_id}`);
  assert.deepEqual([job.text, job.logprobs, job.attempts.length], ["Aä", told, 2]);
});

test("refused by name: where no worker can, what is missing, more than there may be, more than is kept", async () => {
  await assert.rejects(client.chat.completions.create({ ...CHAT, model: "plain", logprobs: true }), (error: unknown) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.equal(error.param, "logprobs");
    return true;
  });
  const cases: [path: string, body: object, field: string, why: RegExp][] = [
    ["/v1/chat/completions", { ...CHAT, top_logprobs: 2 }, "top_logprobs", /needs logprobs: true/],
    ["/v1/chat/completions", { ...CHAT, logprobs: true, top_logprobs: 21 }, "top_logprobs", /20/],
    ["/v1/chat/completions", { ...CHAT, logprobs: 3 }, "logprobs", /boolean/],
    ["/v1/completions", { model: "fake", prompt: "hi", logprobs: 6 }, "logprobs", /5/],
    ["/v1/responses", { model: "fake", input: "hi", top_logprobs: 2 }, "top_logprobs", /message\.output_text\.logprobs in include/],
    ["/v1/responses", { model: "fake", input: "hi", include: ["file_search_call.results"] }, "include.0", /is not supported/],
    ["/v2/tasks", { model: "fake", prompt: "hi", logprobs: 20, max_tokens: 100_000 }, "logprobs", /at most \d+ tokens/],
    ["/v2/tasks", { model: "fake", prompt: "hi", logprobs: -1 }, "logprobs", /0/],
  ];
  for (const [path, body, field, why] of cases) {
    const refused = await post(path, body);
    const { error } = (await refused.json()) as Json;
    assert.deepEqual([refused.status, error.param], [400, field], `${path} ${JSON.stringify(body)}`);
    assert.match(error.message, why);
  }
  const ollama = await post("/api/generate", { model: "fake", prompt: "hi", top_logprobs: 2 });
  assert.match(((await ollama.json()) as Json).error, /top_logprobs: needs logprobs: true/);
});
