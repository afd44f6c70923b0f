/** Counting a prompt's tokens: who is asked, what they are told, what is refused, and what is in the record. */
import assert from "node:assert/strict";
import { hash } from "node:crypto";
import { after, test } from "node:test";
import Anthropic from "@anthropic-ai/sdk";
import { databaseIn } from "../src/store/open.ts";
import { rowsIn } from "./database.ts";
import type { Json } from "./harness.ts";
import { startOpenai } from "./openai-harness.ts";

const { orcd, worker, post } = await startOpenai({ after }, {}, { features: ["tokenize", "tools"], slots: 1 });
await orcd.worker("plain", { model: "plain" });
const client = new Anthropic({ baseURL: orcd.url, apiKey: "none", maxRetries: 0 });
const MESSAGES = [{ role: "user" as const, content: "hi" }];
const TOOL = { name: "look", description: "d", input_schema: { type: "object" as const, properties: { a: { type: "string" } } } };

test("Anthropic's client counts a conversation with everything that a message has", async () => {
  const counted = await client.messages.countTokens({
    model: "fake",
    system: [{ type: "text", text: "Be brief.", cache_control: { type: "ephemeral" } }],
    messages: [
      { role: "user", content: [{ type: "text", text: "rain?" }] },
      { role: "assistant", content: [{ type: "tool_use", id: "c1", name: "look", input: { a: "x" } }] },
      { role: "user", content: [{ type: "tool_result", tool_use_id: "c1", content: "rain" }] },
    ],
    tools: [TOOL],
    tool_choice: { type: "auto" },
    thinking: { type: "disabled" },
  });
  assert.deepEqual(counted, { input_tokens: 7 });
  const call = { id: "c1", type: "function", function: { name: "look", arguments: '{"a":"x"}' } };
  assert.deepEqual(worker.counted.at(-1), {
    raw: false,
    with_tokens: false,
    messages: [
      { role: "system", content: "Be brief." },
      { role: "user", content: "rain?" },
      { role: "assistant", content: "", tool_calls: [call] },
      { role: "tool", content: "rain", tool_call_id: "c1" },
    ],
    tools: [{ type: "function", function: { name: "look", description: "d", parameters: TOOL.input_schema } }],
    tool_choice: "auto",
  });
});

test("/v2: a prompt or messages, with the tokens if they are asked for; no job, no slot", async () => {
  const running = await post("/v2/tasks", { model: "fake", prompt: "busy", stream: true });
  const attempt = await worker.next();
  const answer = await post("/v2/tokenize", { model: "fake", prompt: "hi", raw: true, with_tokens: true });
  assert.deepEqual(await answer.json(), { model: "fake", worker_id: "w1", tokens_in: 7, tokens: [1, 2, 3, 4, 5, 6, 7] });
  assert.deepEqual(worker.counted.at(-1), { prompt: "hi", raw: true, with_tokens: true });
  const chat = await post("/v2/tokenize", { model: "fake", messages: MESSAGES });
  assert.deepEqual(await chat.json(), { model: "fake", worker_id: "w1", tokens_in: 7 });
  assert.equal((await orcd.json("/v2/tasks")).tasks.length, 1);
  attempt.started();
  attempt.end();
  await running.text();
});

test("what can't be counted is refused by name, in the form of the door", async () => {
  const cases: [Json, number, string, RegExp][] = [
    [{ model: "gpt-99", prompt: "hi" }, 404, "MODEL_NOT_FOUND", /gpt-99/],
    [{ model: "plain", prompt: "hi" }, 400, "INVALID_REQUEST", /model \(tokenize\): the engine of no worker/],
    [{ model: "fake" }, 400, "INVALID_REQUEST", /give either prompt or messages/],
    [{ model: "fake", messages: MESSAGES, raw: true }, 400, "INVALID_REQUEST", /raw: needs prompt/],
    [{ model: "fake", prompt: "secret", max_tokens: 4 }, 400, "INVALID_REQUEST", /max_tokens: unknown field/],
  ];
  for (const [body, status, code, why] of cases) {
    const refused = await post("/v2/tokenize", body);
    const { error } = (await refused.json()) as Json;
    assert.deepEqual([refused.status, error.code], [status, code]);
    assert.match(error.message, why);
    assert.doesNotMatch(error.message, /secret/);
  }
  await assert.rejects(client.messages.countTokens({ model: "gpt-99", messages: MESSAGES }), Anthropic.NotFoundError);
  const unknown = await post("/v1/messages/count_tokens", { model: "fake", messages: MESSAGES, max_tokens: 5 });
  assert.deepEqual([unknown.status, ((await unknown.json()) as Json).type], [400, "error"]);
});

test("a worker that can't be reached is passed over; what it says of the prompt is passed on; when none answers it is NO_WORKER", async () => {
  const other = await orcd.worker("w2", { features: ["tokenize"] });
  const counted = [worker.counted.length, other.counted.length];
  const gone = { error: { code: "SHUTTING_DOWN", message: "bye", type: "x", param: null, retriable: true, correlation_id: "c" } };
  worker.refuseNext(503, gone);
  other.refuseNext(503, gone);
  const none = await post("/v2/tokenize", { model: "fake", prompt: "hi" });
  const { error } = (await none.json()) as Json;
  assert.deepEqual([none.status, error.code, none.headers.has("retry-after")], [503, "NO_WORKER", true]);
  assert.match(error.message, /bye/);

  worker.refuseNext(200, { nonsense: true });
  other.refuseNext(500, "nonsense");
  await assert.rejects(client.messages.countTokens({ model: "fake", messages: MESSAGES }), Anthropic.InternalServerError);
  assert.deepEqual([worker.counted.length, other.counted.length], counted);

  worker.refuseNext(503, gone);
  assert.equal(((await (await post("/v2/tokenize", { model: "fake", prompt: "hi" })).json()) as Json).worker_id, "w2");
  const bad = {
    error: { ...gone.error, code: "INVALID_REQUEST", message: "messages: this model has no chat template", param: "messages" },
  };
  worker.refuseNext(400, bad);
  const refused = await post("/v2/tokenize", { model: "fake", messages: MESSAGES });
  assert.deepEqual([refused.status, ((await refused.json()) as Json).error.param], [400, "messages"]);
});

test("each prompt that a worker got, or that was refused, is in the record by its hash and not by its words", async () => {
  assert.equal((await post("/v2/tokenize", { model: "fake", prompt: "lighthouse", raw: true })).status, 200);
  assert.equal((await post("/v2/tokenize", { model: "plain", prompt: "lighthouse", raw: true })).status, 400);
  const rows = rowsIn<{ record: string }>(
    databaseIn(orcd.data_dir),
    "select record from audit where kind like 'prompt.%' order by seq desc limit 2",
  );
  const [refused, counted] = rows.map(({ record }): Json => JSON.parse(record));
  const prompt = { prompt_sha256: hash("sha256", "lighthouse", "hex"), prompt_bytes: 10 };
  assert.partialDeepStrictEqual(counted, { tenant: "default", model: "fake", worker_id: "w1", ...prompt });
  assert.partialDeepStrictEqual(refused, { tenant: "default", model: "plain", code: "INVALID_REQUEST", ...prompt });
  assert.ok(!rows.some(({ record }) => record.includes("lighthouse")));
});
