/** The official OpenAI client, unmodified, against the real programs and the demo model. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import OpenAI from "openai";
import { eventually, getJson, type Json, startOrcd, startWorkerd, submit, temporaryFolder } from "../support/cluster.ts";
import { writeCountingModel } from "../support/models.ts";

const DEMO = fileURLToPath(new URL("../../models/demo/demo.gguf", import.meta.url));
const QUESTION = "What does rbees-orcd do?";

test("the OpenAI client: a chat, a stream, the answer of /v2, a text that goes on, an abort", async (t) => {
  // A machine that does much else may take longer than usual to say that a prompt is too long.
  const orcd = await startOrcd(t, join(temporaryFolder(t, "openai"), "data"), ["--status-hold-ms", "30000"]);
  const worker = await startWorkerd(t, DEMO, orcd.url, ["--model-name", "demo", "--slots", "2"]);
  await eventually(async () => (await getJson(`${orcd.url}/v2/workers`)).workers.length === 1);
  const client = new OpenAI({ baseURL: `${orcd.url}/v1`, apiKey: "none", maxRetries: 0 });
  const models = await client.models.list();
  assert.deepEqual(
    models.data.map(({ id }) => id),
    ["demo"],
  );

  const asked = { model: "demo", messages: [{ role: "user" as const, content: QUESTION }], temperature: 0 };
  const { data: chat, response } = await client.chat.completions.create(asked).withResponse();
  const text = chat.choices[0]?.message.content ?? "";
  assert.ok(text.length > 20, text);
  assert.equal(chat.choices[0]?.finish_reason, "stop");
  const job_id = response.headers.get("x-rbees-job-id");
  assert.equal(chat.id, `chatcmpl-${job_id}`);
  assert.match(chat.system_fingerprint ?? "", /^fp_[0-9a-f]{16}$/);
  const job = await getJson(`${orcd.url}/v2/tasks/${job_id}`);
  assert.deepEqual(
    [job.status, job.text, job.usage.tokens_in, job.usage.tokens_out],
    ["succeeded", text, chat.usage?.prompt_tokens, chat.usage?.completion_tokens],
  );

  const accepted = (await (await submit(orcd.url, { model: "demo", prompt: QUESTION, temperature: 0 })).json()) as Json;
  const own = await eventually(async () => {
    const seen = await getJson(`${orcd.url}/v2/tasks/${accepted.job_id}`);
    return seen.status === "succeeded" && seen;
  });
  assert.equal(text, own.text, "the same greedy answer through either door");
  assert.equal(chat.usage?.prompt_tokens, own.usage.tokens_in);

  let streamed = "";
  let usage: OpenAI.CompletionUsage | null | undefined;
  let finish: string | null | undefined;
  for await (const chunk of await client.chat.completions.create({ ...asked, stream: true, stream_options: { include_usage: true } })) {
    streamed += chunk.choices[0]?.delta.content ?? "";
    finish = chunk.choices[0]?.finish_reason ?? finish;
    usage = chunk.usage ?? usage;
  }
  assert.deepEqual([streamed, finish], [text, "stop"]);
  assert.equal(usage?.completion_tokens, chat.usage?.completion_tokens);
  assert.ok((usage?.prompt_tokens_details?.cached_tokens ?? 0) > 0, "the same prompt again");

  const goes_on = await client.completions.create({ model: "demo", prompt: "Bees dance to", temperature: 0, max_tokens: 5 });
  assert.deepEqual([goes_on.choices[0]?.finish_reason, goes_on.usage?.completion_tokens], ["length", 5]);

  const several = await client.completions.create({ model: "demo", prompt: "Once", temperature: 2, seed: 5, n: 3, max_tokens: 12 });
  assert.equal(new Set(several.choices.map((choice) => choice.text)).size, 3, "each with a seed of its own");
  assert.ok((several.usage?.completion_tokens ?? 0) > 12, "all of them are counted");

  const tokenized = await fetch(`${orcd.url}/v2/tokenize`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ model: "demo", prompt: "Bees dance to", raw: true, with_tokens: true }),
  });
  const { tokens } = (await tokenized.json()) as { tokens: number[] };
  const greedy = { model: "demo", temperature: 0, max_tokens: 5 };
  const listed = await client.completions.create({ ...greedy, prompt: ["Once upon a time", "Bees dance to"] });
  assert.deepEqual([listed.choices.length, listed.choices[1]?.text], [2, goes_on.choices[0]?.text]);
  const by_tokens = await client.completions.create({ ...greedy, prompt: tokens });
  assert.deepEqual(
    [by_tokens.choices[0]?.text, by_tokens.usage?.prompt_tokens],
    [goes_on.choices[0]?.text, goes_on.usage?.prompt_tokens],
    "a prompt's tokens are the prompt",
  );
  await assert.rejects(
    client.completions.create({ ...greedy, prompt: [tokens, [9_999_999]] }),
    (error: unknown) => error instanceof OpenAI.BadRequestError && /prompt\[1\]: token 9999999 is not in the model's/.test(error.message),
  );

  await assert.rejects(client.chat.completions.create({ ...asked, model: "gpt-99" }), OpenAI.NotFoundError);
  const long = "bee ".repeat(3000);
  for (const stream of [false, true])
    await assert.rejects(
      client.chat.completions.create({ ...asked, stream, messages: [{ role: "user", content: long }] }),
      OpenAI.BadRequestError,
      `too long a prompt, stream: ${stream}`,
    );

  const leaving = await client.chat.completions
    .create({ ...asked, messages: [{ role: "user", content: "Tell me a long story about a bee." }], stream: true })
    .withResponse();
  for await (const chunk of leaving.data) if (chunk.choices[0]?.delta.content) break;
  leaving.data.controller.abort();
  const left_id = leaving.response.headers.get("x-rbees-job-id");
  await eventually(async () => (await getJson(`${orcd.url}/v2/tasks/${left_id}`)).status === "cancelled");
  await eventually(async () => (await getJson(`${worker.url}/health`)).slots_busy === 0);
});

test("kill -9 of the worker in mid-stream: the OpenAI client reads one whole text, and sees nothing of it", async (t) => {
  const folder = temporaryFolder(t, "openai-killed");
  const { path, text } = writeCountingModel(folder, 80);
  const orcd = await startOrcd(t, join(folder, "data"), ["--heartbeat-ms", "200"]);
  const start = (id: string) => startWorkerd(t, path, orcd.url, ["--model-name", "counting", "--worker-id", id]);
  const workers = new Map([
    ["a", await start("a")],
    ["b", await start("b")],
  ]);
  await eventually(async () => (await getJson(`${orcd.url}/v2/workers`)).workers.length === 2);
  const client = new OpenAI({ baseURL: `${orcd.url}/v1`, apiKey: "none", maxRetries: 0 });
  const messages = [{ role: "user" as const, content: "count" }];
  const asked = { model: "counting", messages, temperature: 0, max_tokens: 200, stream: true, logprobs: true } as const;
  const { data, response } = await client.chat.completions.create(asked).withResponse();
  let said = "";
  let killed = false;
  const likely: string[] = [];
  for await (const { choices } of data) {
    likely.push(...(choices[0]?.logprobs?.content ?? []).map(({ token }) => token));
    said += choices[0]?.delta.content ?? "";
    if (killed || said.split(" ").length < 6) continue;
    killed = true;
    workers.get(/worker=(\w+)/.exec(response.headers.get("x-rbees-routing") ?? "")?.[1] ?? "")?.signal("SIGKILL");
  }
  assert.deepEqual([said, likely.join("")], [text, text], "what is told of each token, once");
  const job = await getJson(`${orcd.url}/v2/tasks/${response.headers.get("x-rbees-job-id")}`);
  assert.deepEqual([job.status, job.attempts.length, job.logprobs.length], ["succeeded", 2, job.usage.tokens_out]);
});
