/** What was written for other APIs, unmodified, against the real programs and the demo model: the same answer through each door. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";
import Anthropic from "@anthropic-ai/sdk";
import OpenAI from "openai";
import { eventually, getJson, type Json, startOrcd, startWorkerd, temporaryFolder } from "../support/cluster.ts";

const DEMO = fileURLToPath(new URL("../../models/demo/demo.gguf", import.meta.url));
const messages = [{ role: "user" as const, content: "What does rbees-orcd do?" }];
const file = { after };
const orcd = await startOrcd(file, join(temporaryFolder(file, "doors"), "data"));
const worker = await startWorkerd(file, DEMO, orcd.url, ["--model-name", "demo", "--slots", "2"]);
await eventually(async () => (await getJson(`${orcd.url}/v2/workers`)).workers.length === 1);

/** What OpenAI's door says, greedily. */
async function expected(): Promise<string> {
  const answer = await fetch(`${orcd.url}/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ model: "demo", messages, temperature: 0 }),
  });
  return ((await answer.json()) as Json).choices[0].message.content;
}

test("the Anthropic client: a message, a stream, a stop string, an abort", async () => {
  const client = new Anthropic({ baseURL: orcd.url, apiKey: "none", maxRetries: 0 });
  const asked = { model: "demo", max_tokens: 20_000, messages, ...({ temperature: 0 } as object) };
  const text = await expected();
  const whole = await client.messages.create(asked);
  assert.deepEqual([whole.content, whole.stop_reason], [[{ type: "text", text, citations: null }], "end_turn"]);
  assert.ok((whole.usage.cache_read_input_tokens ?? 0) > 0, "the same prompt again");

  const { input_tokens = 0, cache_read_input_tokens } = whole.usage;
  const counted = await client.messages.countTokens({ model: "demo", messages });
  assert.equal(counted.input_tokens, input_tokens + (cache_read_input_tokens ?? 0));

  const stream = client.messages.stream(asked);
  const streamed = await stream.finalMessage();
  assert.deepEqual([await stream.finalText(), streamed.stop_reason], [text, "end_turn"]);
  assert.equal(streamed.usage.output_tokens, whole.usage.output_tokens);

  const word = text.split(" ")[2] as string;
  const stopped = await client.messages.create({ ...asked, stop_sequences: [word] });
  assert.deepEqual([stopped.stop_reason, stopped.stop_sequence], ["stop_sequence", word]);
  await assert.rejects(
    client.messages.create({ ...asked, messages: [{ role: "user", content: "bee ".repeat(3000) }] }),
    Anthropic.BadRequestError,
  );

  const schema = { type: "object", properties: { ready: { type: "boolean" } }, required: ["ready"], additionalProperties: false };
  const held = await client.messages.create({ ...asked, output_config: { format: { type: "json_schema", schema } } });
  const [said] = held.content;
  assert.equal(typeof (JSON.parse(said?.type === "text" ? said.text : "") as { ready: unknown }).ready, "boolean");

  const leaving = await client.messages.create({
    ...asked,
    stream: true,
    messages: [{ role: "user", content: "Tell me a long story about a bee." }],
  });
  for await (const event of leaving) if (event.type === "content_block_delta") break;
  await eventually(async () => (await getJson(`${worker.url}/health`)).slots_busy === 0);
});

test("the OpenAI client: a response, a stream, a conversation that goes on", async () => {
  const client = new OpenAI({ baseURL: `${orcd.url}/v1`, apiKey: "none", maxRetries: 0 });
  const asked = { model: "demo", input: messages, temperature: 0 };
  const text = await expected();
  const whole = await client.responses.create(asked);
  assert.deepEqual([whole.output_text, whole.status], [text, "completed"]);
  const streamed = await client.responses.stream(asked).finalResponse();
  assert.deepEqual([streamed.output_text, streamed.usage?.output_tokens], [text, whole.usage?.output_tokens]);
  const said = whole.output as OpenAI.Responses.ResponseInputItem[];
  const next = await client.responses.create({ ...asked, input: [...messages, ...said, ...messages], max_output_tokens: 3 });
  assert.deepEqual([next.status, next.incomplete_details?.reason, next.usage?.output_tokens], ["incomplete", "max_output_tokens", 3]);
});
