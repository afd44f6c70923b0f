/** Answers that are held to a schema, asked for through every door by the official clients as they are: what the worker is told, and what is refused. */
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import Anthropic from "@anthropic-ai/sdk";
import { zodOutputFormat } from "@anthropic-ai/sdk/helpers/zod";
import { ChatOpenAI } from "@langchain/openai";
import { generateObject, jsonSchema } from "ai";
import { Ollama } from "ollama";
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import type { Json } from "./harness.ts";
import { answers, CHAT, clientOf, startOpenai } from "./openai-harness.ts";

const { orcd, worker, client, post } = await startOpenai(
  { after },
  {},
  { features: ["grammar", "json_schema", "logit_bias", "penalties", "repeat_penalty"], slots: 4 },
);
const plain = await orcd.worker("plain", { model: "plain" });

const SCHEMA = { type: "object", properties: { city: { type: "string" } }, required: ["city"], additionalProperties: false };
const SAID = '{"city":"Ghent"}';
const named = (schema: Record<string, unknown>) => ({ type: "json_schema" as const, json_schema: { name: "place", strict: true, schema } });

test("chat completions: text, any object, a schema", async () => {
  const cases = [
    { format: { type: "text" as const }, told: undefined },
    { format: { type: "json_object" as const }, told: { type: "object" } },
    { format: named(SCHEMA), told: SCHEMA },
  ];
  for (const { format, told } of cases) {
    const asking = client.chat.completions.create({ ...CHAT, response_format: format });
    const { body } = await answers(worker, ['{"city":', '"Ghent"}']);
    assert.deepEqual([body.json_schema, body.grammar], [told, undefined]);
    assert.equal((await asking).choices[0]?.message.content, SAID);
  }
});

test("chat completions: the client's own parser gives the object", async () => {
  const parsing = client.chat.completions.parse({ ...CHAT, response_format: zodResponseFormat(z.object({ city: z.string() }), "place") });
  const { body } = await answers(worker, [SAID]);
  assert.partialDeepStrictEqual(body.json_schema, SCHEMA);
  assert.deepEqual((await parsing).choices[0]?.message.parsed, { city: "Ghent" });
});

test("responses: a format, which the answer names again", async () => {
  const asking = client.responses.create({
    model: "fake",
    input: "hi",
    text: { format: { type: "json_schema", name: "place", schema: SCHEMA, strict: true } },
  });
  const { body } = await answers(worker, [SAID]);
  assert.deepEqual(body.json_schema, SCHEMA);
  const { output_text, text } = await asking;
  assert.deepEqual([output_text, text?.format?.type], [SAID, "json_schema"]);
});

test("Ollama: json and a schema", async () => {
  const ollama = new Ollama({ host: orcd.url });
  for (const [format, told] of [
    ["json", { type: "object" }],
    [SCHEMA, SCHEMA],
  ] as const) {
    const asking = ollama.chat({ model: "fake", messages: [{ role: "user", content: "hi" }], format });
    const { body } = await answers(worker, [SAID]);
    assert.deepEqual(body.json_schema, told);
    assert.equal((await asking).message.content, SAID);
  }
});

test("Anthropic: a schema, streamed and not, and by the client's own parser", async () => {
  const anthropic = new Anthropic({ baseURL: orcd.url, apiKey: "none", maxRetries: 0 });
  const output_config = { format: { type: "json_schema" as const, schema: SCHEMA }, effort: "low" as const };
  const asked = { model: "fake", max_tokens: 50, messages: [{ role: "user" as const, content: "hi" }] };
  const asking = anthropic.messages.create({ ...asked, output_config });
  const { body } = await answers(worker, [SAID]);
  assert.deepEqual([body.json_schema, body.tools], [SCHEMA, undefined]);
  assert.deepEqual((await asking).content, [{ type: "text", text: SAID, citations: null }]);
  const streaming = anthropic.messages.stream({ ...asked, output_config });
  assert.deepEqual((await answers(worker, [SAID])).body.json_schema, SCHEMA);
  assert.equal(await streaming.finalText(), SAID);
  const parsing = anthropic.messages.parse({ ...asked, output_config: { format: zodOutputFormat(z.object({ city: z.string() })) } });
  assert.partialDeepStrictEqual((await answers(worker, [SAID])).body.json_schema, { type: "object", required: ["city"] });
  assert.deepEqual((await parsing).parsed_output, { city: "Ghent" });
  const without = anthropic.messages.create({ ...asked, model: "plain", output_config: { format: null, effort: "max" } });
  assert.equal((await answers(plain, ["x"])).body.json_schema, undefined);
  await without;
  const cases: [object, RegExp][] = [
    [{ model: "plain", output_config }, /output_config\.format \(json_schema\): the engine of no worker/],
    [{ output_config: { format: { type: "json_schema", schema: { not: {} } } } }, /output_config\.format: .*not can't be kept to/],
    [{ output_config: { format: { type: "text" } } }, /output_config\.format\.type: must be json_schema/],
    [{ output_format: { type: "json_schema", schema: SCHEMA } }, /output_format: is not supported: the older form/],
  ];
  for (const [more, why] of cases) {
    const refused = await post("/v1/messages", { ...asked, ...more });
    assert.equal(refused.status, 400);
    assert.match(((await refused.json()) as Json).error.message, why);
  }
});

test("AI SDK and LangChain ask for objects and get them", async () => {
  const model = createOpenAICompatible({ name: "rbees", baseURL: `${orcd.url}/v1`, supportsStructuredOutputs: true })("fake");
  const generating = generateObject({ model, prompt: "hi", schema: jsonSchema<{ city: string }>(SCHEMA as never), maxRetries: 0 });
  assert.deepEqual((await answers(worker, [SAID])).body.json_schema, SCHEMA);
  assert.deepEqual((await generating).object, { city: "Ghent" });
  const chat = new ChatOpenAI({ model: "fake", apiKey: "none", maxRetries: 0, configuration: { baseURL: `${orcd.url}/v1` } });
  const invoking = chat.withStructuredOutput(SCHEMA, { name: "place", method: "jsonSchema" }).invoke("hi");
  assert.partialDeepStrictEqual((await answers(worker, [SAID])).body.json_schema, { required: ["city"] });
  assert.deepEqual(await invoking, { city: "Ghent" });
});

test("/v2: a grammar or a schema goes to the worker as it came", async () => {
  await orcd.submit({ grammar: 'root ::= "yes" | "no"' });
  assert.equal((await answers(worker, ["yes"])).body.grammar, 'root ::= "yes" | "no"');
  await orcd.submit({ json_schema: SCHEMA });
  assert.deepEqual((await answers(worker, [SAID])).body.json_schema, SCHEMA);
});

test("what can't be kept to is refused by every door with its field and its place, and nothing is queued", async () => {
  const bad = { type: "object", properties: { a: { type: "string", pattern: "(?!x)" }, b: { if: {} } } };
  const doors: [path: string, body: Record<string, unknown>, field: string][] = [
    ["/v2/tasks", { model: "fake", prompt: "hi", json_schema: bad }, "json_schema"],
    ["/v1/chat/completions", { ...CHAT, response_format: named(bad) }, "response_format"],
    ["/v1/responses", { model: "fake", input: "hi", text: { format: { type: "json_schema", name: "x", schema: bad } } }, "text.format"],
  ];
  for (const [path, body, field] of doors) {
    const answer = await post(path, body);
    const { error } = (await answer.json()) as Json;
    assert.deepEqual([answer.status, error.code, error.param], [400, "INVALID_REQUEST", field], path);
    assert.match(error.message, new RegExp(`${field}: /properties/a/pattern looks ahead.*; ${field}: /properties/b/if can't be kept to`));
  }
  const ollama = await post("/api/chat", { model: "fake", messages: [{ role: "user", content: "hi" }], format: bad });
  assert.match(((await ollama.json()) as Json).error, /format: \/properties\/a\/pattern/);
  const grammar = await post("/v2/tasks", { model: "fake", prompt: "hi", grammar: "root ::= none" });
  assert.match(((await grammar.json()) as Json).error.message, /grammar: rule root names none/);
  const both = await post("/v2/tasks", { model: "fake", prompt: "hi", grammar: 'root ::= "a"', json_schema: {} });
  assert.match(((await both.json()) as Json).error.message, /grammar: give either grammar or json_schema/);
  const tools = [{ type: "function", function: { name: "look", parameters: { type: "object" } } }];
  const beside = await post("/v1/chat/completions", { ...CHAT, tools, response_format: named(SCHEMA) });
  assert.match(((await beside.json()) as Json).error.message, /response_format: can't be kept to beside tools/);
  assert.equal((await orcd.json("/health")).queue_depth, 0);
});

test("where no worker of the model can, the client is told the field", async () => {
  const refused = clientOf(orcd.url).chat.completions.create({ ...CHAT, model: "plain", response_format: { type: "json_object" } });
  await assert.rejects(refused, (error: unknown) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.equal(error.param, "response_format");
    assert.match(error.message, /response_format \(json_schema\): the engine of no worker that serves plain can do that/);
    return true;
  });
});

test("penalties and biases go to the worker; what asks for nothing needs nothing of it", async () => {
  const weights = { frequency_penalty: 0.5, presence_penalty: -1, logit_bias: { "7": -100 } };
  const asking = client.chat.completions.create({ ...CHAT, ...weights });
  const { body } = await answers(worker, ["x"]);
  assert.deepEqual([body.frequency_penalty, body.presence_penalty, body.logit_bias], [0.5, -1, { "7": -100 }]);
  await asking;
  const ollama = new Ollama({ host: orcd.url });
  const repeats = ollama.generate({ model: "fake", prompt: "hi", options: { repeat_penalty: 1.1, repeat_last_n: -1 } });
  const told = await answers(worker, ["x"]);
  assert.deepEqual([told.body.repeat_penalty, told.body.repeat_last_n], [1.1, -1]);
  await repeats;
  for (const options of [{ repeat_penalty: 1 }, { repeat_penalty: 1.1, repeat_last_n: 0 }, { repeat_last_n: 64 }]) {
    const needless = ollama.generate({ model: "plain", prompt: "hi", options });
    const { body: asked } = await answers(plain, ["x"]);
    assert.deepEqual([asked.repeat_penalty, asked.repeat_last_n], [undefined, undefined]);
    await needless;
  }
  const nothing = { frequency_penalty: 0, presence_penalty: 0, logit_bias: {} };
  assert.equal((await post("/v1/chat/completions", { ...CHAT, ...nothing, model: "plain", stream: true })).status, 200);
  for (const [field, value] of Object.entries(weights)) {
    const { error } = (await (await post("/v1/completions", { model: "plain", prompt: "hi", [field]: value })).json()) as Json;
    assert.equal(error.param, field);
  }
});

test("a repeat penalty goes where there is one, and not to a worker that has the other two", async () => {
  await orcd.worker("upstream", { model: "mixed", features: ["penalties"], slots: 4 });
  const own = await orcd.worker("own", { model: "mixed", features: ["penalties", "repeat_penalty"] });
  for (const ask of [
    () => orcd.submit({ model: "mixed", repeat_penalty: 1.3, stream: true }),
    () => post("/api/generate", { model: "mixed", prompt: "hi", options: { repeat_penalty: 1.3 }, stream: false }),
  ]) {
    const asking = ask();
    const { body } = await answers(own, ["x"]);
    assert.equal(body.repeat_penalty, 1.3);
    await (await asking).text();
  }
  const refused = (await (await orcd.submit({ model: "mixed", repeat_penalty: 1.3, placement: { pin: "upstream" } })).json()) as Json;
  assert.match(refused.error.message, /repeat_penalty .*under the name upstream can do that/);
});

test("/v2: a weight that asks for nothing needs nothing of a worker, which does not hear of it", async () => {
  const bare = await orcd.worker("bare", { model: "bare" });
  const asking = orcd.submit({ model: "bare", frequency_penalty: 0, repeat_penalty: 1, logit_bias: {}, stream: true });
  const { body } = await answers(bare, ["x"]);
  assert.deepEqual([body.frequency_penalty, body.repeat_penalty, body.logit_bias], [undefined, undefined, undefined]);
  await (await asking).text();
});
