/** The official Ollama client, unmodified, against the real programs and the demo model. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { Ollama } from "ollama";
import { eventually, getJson, startOrcd, startWorkerd, temporaryFolder } from "../support/cluster.ts";

const DEMO = fileURLToPath(new URL("../../models/demo/demo.gguf", import.meta.url));
const QUESTION = "What does rbees-orcd do?";

test("the Ollama client: a chat, a stream, a prompt, an abort", async (t) => {
  const orcd = await startOrcd(t, join(temporaryFolder(t, "ollama"), "data"));
  const worker = await startWorkerd(t, DEMO, orcd.url, ["--model-name", "demo", "--slots", "2"]);
  await eventually(async () => (await getJson(`${orcd.url}/v2/workers`)).workers.length === 1);
  const client = new Ollama({ host: orcd.url });
  const [model] = (await client.list()).models;
  assert.equal(model?.name, "demo");
  assert.ok((model?.size ?? 0) > 1_000_000, "the size of the model's file");

  const asked = { model: "demo:latest", messages: [{ role: "user", content: QUESTION }], options: { temperature: 0 } };
  const chat = await client.chat(asked);
  assert.ok(chat.message.content.length > 20, chat.message.content);
  assert.deepEqual([chat.done, chat.done_reason], [true, "stop"]);

  let streamed = "";
  let counted: number | undefined;
  for await (const line of await client.chat({ ...asked, stream: true })) {
    streamed += line.message.content;
    if (line.done) counted = line.eval_count;
  }
  assert.deepEqual([streamed, counted], [chat.message.content, chat.eval_count]);
  const generated = await client.generate({ model: "demo", prompt: QUESTION, options: { temperature: 0 } });
  assert.equal(generated.response, chat.message.content, "a prompt is a user's turn");

  const leaving = await client.generate({ model: "demo", prompt: "Tell me a long story about a bee.", stream: true });
  await assert.rejects(
    async () => {
      for await (const _ of leaving) leaving.abort();
    },
    { name: "AbortError" },
  );
  await eventually(async () => (await getJson(`${worker.url}/health`)).slots_busy === 0);
});
