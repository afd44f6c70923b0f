/** Batches through the real programs on the demo model, by the official OpenAI client: an orchestrator that is killed in the middle of one. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import OpenAI, { toFile } from "openai";
import { eventually, getJson, startOrcd, startWorkerd, temporaryFolder } from "../support/cluster.ts";

const DEMO = fileURLToPath(new URL("../../models/demo/demo.gguf", import.meta.url));
const LINES = 40;

test("kill -9 of the orchestrator in the middle of a batch: each line has one answer, none is lost", async (t) => {
  const folder = temporaryFolder(t, "batches-killed");
  const flags = ["--heartbeat-ms", "200", "--batch-lines-running-max", "3"];
  const first = await startOrcd(t, join(folder, "data"), flags);
  await startWorkerd(t, DEMO, first.url, ["--model-name", "demo", "--slots", "2", "--ctx", "512"]);
  await eventually(async () => (await getJson(`${first.url}/v2/workers`)).workers.length === 1);
  const client = new OpenAI({ baseURL: `${first.url}/v1`, apiKey: "none", maxRetries: 0 });
  const endpoint = "/v1/chat/completions";
  const text = Array.from({ length: LINES }, (_, i) => {
    const body = { model: "demo", messages: [{ role: "user", content: `What do bees do? ${i}` }], max_tokens: 30, temperature: 0 };
    return `${JSON.stringify({ custom_id: `line-${i}`, method: "POST", url: endpoint, body })}\n`;
  }).join("");
  const file = await client.files.create({ purpose: "batch", file: await toFile(Buffer.from(text), "in.jsonl") });
  const { id } = await client.batches.create({ input_file_id: file.id, endpoint, completion_window: "24h" });
  const before = await eventually(async () => {
    const { request_counts } = await client.batches.retrieve(id);
    return (request_counts?.completed ?? 0) >= 5 && request_counts;
  });
  assert.ok(before.completed < LINES, "it was in the middle");
  await first.kill("SIGKILL");

  await startOrcd(t, join(folder, "data"), [...flags, "--port", String(first.port)]);
  const after = await client.batches.retrieve(id);
  assert.equal(after.status, "in_progress");
  assert.ok((after.request_counts?.completed ?? 0) >= before.completed, "what was answered stays answered");
  const batch = await eventually(async () => {
    const seen = await client.batches.retrieve(id);
    return seen.status === "completed" && seen;
  }, 120_000);
  assert.deepEqual([batch.request_counts, batch.error_file_id], [{ total: LINES, completed: LINES, failed: 0 }, null]);
  const output = (await (await client.files.content(batch.output_file_id as string)).text()).trimEnd().split("\n");
  const answers = output.map((line) => JSON.parse(line));
  assert.deepEqual(answers.map(({ custom_id }) => custom_id).sort(), Array.from({ length: LINES }, (_, i) => `line-${i}`).sort());
  for (const { response } of answers) assert.ok(response.body.choices[0].message.content.length > 0);
});
