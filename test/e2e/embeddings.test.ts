/** Embeddings through the real programs: the demo model and an encoder, by the clients as they are; a worker that is killed in the middle. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { Ollama } from "ollama";
import OpenAI from "openai";
import { writeEncoderModel } from "../../models/fixtures/encoder.ts";
import { writeRandomModel } from "../../models/fixtures/random.ts";
import { eventually, getJson, type Json, startOrcd, startWorkerd, temporaryFolder } from "../support/cluster.ts";

const DEMO = fileURLToPath(new URL("../../models/demo/demo.gguf", import.meta.url));

function cosine(a: readonly number[] = [], b: readonly number[] = []): number {
  return a.reduce((sum, value, i) => sum + value * (b[i] ?? 0), 0);
}

test("the demo model and an encoder: equal texts are equal, whichever door, form and company they come in", async (t) => {
  const folder = temporaryFolder(t, "embeddings");
  const encoder = join(folder, "encoder.gguf");
  writeEncoderModel(encoder);
  const orcd = await startOrcd(t, join(folder, "data"));
  await startWorkerd(t, DEMO, orcd.url, ["--model-name", "demo", "--ctx", "512"]);
  await startWorkerd(t, encoder, orcd.url, ["--model-name", "encoder"]);
  await eventually(async () => (await getJson(`${orcd.url}/v2/workers`)).workers.length === 2);
  const client = new OpenAI({ baseURL: `${orcd.url}/v1`, apiKey: "none", maxRetries: 0 });
  const ollama = new Ollama({ host: orcd.url });
  for (const model of ["demo", "encoder"]) {
    const input = ["the bees make honey", "the queen", "the bees make honey"];
    const { data, usage } = await client.embeddings.create({ model, input });
    const [one, other, same] = data.map(({ embedding }) => embedding);
    assert.ok(cosine(one, same) > 0.9999 && cosine(one, one) > 0.9999 && cosine(one, other) < 0.99, model);
    assert.ok(usage.prompt_tokens >= 8);
    const { data: floats } = await client.embeddings.create({ model, input: input[0] as string, encoding_format: "float" });
    assert.ok(cosine(one, floats[0]?.embedding) > 0.9999, `${model}, alone and as numbers`);
    const { embeddings } = await ollama.embed({ model, input: input[0] as string });
    assert.ok(cosine(one, embeddings[0]) > 0.9999, `${model}, through Ollama's API`);
  }
  const long = ["bees", Array(600).fill("honey").join(" ")];
  await assert.rejects(
    client.embeddings.create({ model: "encoder", input: long }),
    (error: unknown) => error instanceof OpenAI.BadRequestError && /input\[1\]: .*tokens/.test(error.message),
  );
  assert.equal((await ollama.embed({ model: "encoder", input: long })).embeddings.length, 2);
  await assert.rejects(
    client.chat.completions.create({ model: "encoder", messages: [{ role: "user", content: "hi" }] }),
    (error: unknown) => error instanceof OpenAI.BadRequestError && /embeddings and no text/.test(error.message),
  );
});

test("kill -9 of the worker in the middle: the vectors come from the next one", async (t) => {
  const folder = temporaryFolder(t, "embeddings-killed");
  const path = join(folder, "random.gguf");
  writeRandomModel(path, {});
  const orcd = await startOrcd(t, join(folder, "data"), ["--heartbeat-ms", "200"]);
  const start = (id: string) => startWorkerd(t, path, orcd.url, ["--model-name", "random", "--worker-id", id, "--ctx", "1024"]);
  const workers = new Map([
    ["a", await start("a")],
    ["b", await start("b")],
  ]);
  await eventually(async () => (await getJson(`${orcd.url}/v2/workers`)).workers.length === 2);
  const client = new OpenAI({ baseURL: `${orcd.url}/v1`, apiKey: "none", maxRetries: 0 });
  const input = Array.from({ length: 80 }, (_, i) => `${i} ${"w1 w2 w3 ".repeat(100)}`);
  const embedding = client.embeddings.create({ model: "random", input }).withResponse();
  const running = await eventually(async () => {
    const { tasks } = (await getJson(`${orcd.url}/v2/tasks?status=running`)) as Json;
    return tasks[0] as Json | undefined;
  });
  await workers.get(running.worker_id)?.kill("SIGKILL");
  const { data, response } = await embedding;
  assert.equal(data.data.length, 80);
  assert.ok(data.data.every(({ embedding: vector }) => Math.abs(Math.hypot(...vector) - 1) < 1e-4));
  const job = await getJson(`${orcd.url}/v2/tasks/${response.headers.get("x-rbees-job-id")}`);
  assert.deepEqual([job.status, job.attempts.length], ["succeeded", 2]);
});
