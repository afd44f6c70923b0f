/** Embeddings through each door, by the clients as they are: shapes, what the worker is asked, errors, and that it is a job like any other. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { OpenAIEmbeddings } from "@langchain/openai";
import { APICallError, embed, embedMany } from "ai";
import { Ollama } from "ollama";
import OpenAI from "openai";
import type { FakeAttempt, FakeWorker } from "../../../test/support/fake-worker.ts";
import { databaseIn } from "../src/store/open.ts";
import { rowsIn } from "./database.ts";
import { eventually, type Json } from "./harness.ts";
import { startOpenai } from "./openai-harness.ts";
import { startTenants } from "./tenants-setup.ts";

const A = [0.6, 0.8, 0, 0];
const B = [0, 0.6, 0, -0.8];
const EMBEDS = { features: ["embeddings"] };
const ANSWER = { tokens_in: 7, tokens_out: 0, tokens_cached: 0 };

async function answer(worker: FakeWorker, vectors: number[][]): Promise<FakeAttempt> {
  const attempt = await worker.next();
  attempt.started();
  // The last first: which vector is whose is said by its number.
  for (const [i, vector] of [...vectors.entries()].reverse()) attempt.vectors([vector], i);
  attempt.end("EMBEDDED", ANSWER);
  return attempt;
}

function near(given: readonly number[] | undefined, expected: readonly number[]): void {
  assert.equal(given?.length, expected.length);
  for (const [i, value] of expected.entries()) assert.ok(Math.abs((given?.[i] ?? 0) - value) < 1e-6, `${given}, not ${expected}`);
}

test("whose first vectors have come is not ended for want of a first token", async (t) => {
  const { client, worker, orcd } = await startOpenai(t, { first_token_ms_max: 1000 }, { ...EMBEDS, slots: 2 });
  const asking = client.embeddings.create({ model: "fake", input: ["bees", "honey"] });
  const attempt = await worker.next();
  attempt.started();
  attempt.vectors([B], 1);
  // Another one, which came later, has nothing to show when its time is over.
  const { job_id } = (await (await orcd.submit({})).json()) as Json;
  await eventually(async () => (await orcd.json(`/v2/tasks/${job_id}`)).error?.code === "FIRST_TOKEN_TIMEOUT");
  attempt.vectors([A], 0);
  attempt.end("EMBEDDED", ANSWER);
  assert.equal((await asking).data.length, 2);
});

test("OpenAI: one text, several, tokens; as base64 unasked and as numbers; dimensions; usage", async (t) => {
  const { client, worker, orcd } = await startOpenai(t, {}, EMBEDS);
  const several = client.embeddings.create({ model: "fake", input: ["bees", "honey"], user: "me" }).withResponse();
  const { body } = await answer(worker, [A, B]);
  assert.deepEqual([body.inputs, body.truncate], [["bees", "honey"], undefined]);
  const { data: list, response } = await several;
  assert.deepEqual([list.object, list.model, list.usage], ["list", "fake", { prompt_tokens: 7, total_tokens: 7 }]);
  assert.deepEqual(
    list.data.map(({ object, index }) => [object, index]),
    [
      ["embedding", 0],
      ["embedding", 1],
    ],
  );
  near(list.data[0]?.embedding, A);
  near(list.data[1]?.embedding, B);
  const job = await orcd.json(`/v2/tasks/${response.headers.get("x-rbees-job-id")}`);
  assert.deepEqual(
    [job.kind, job.status, job.stop_reason, job.usage, job.text, job.metadata],
    ["embed", "succeeded", "EMBEDDED", ANSWER, "", { user: "me" }],
  );
  assert.equal((await orcd.json("/v2/tasks")).tasks[0].kind, "embed");
  assert.match((await orcd.json(`/v2/tasks/${job.job_id}/explain`)).answer, /It has ended: succeeded/);

  const cut = client.embeddings.create({ model: "fake", input: "bees", encoding_format: "float", dimensions: 1 });
  assert.deepEqual((await answer(worker, [B.toReversed()])).body.inputs, ["bees"]);
  near((await cut).data[0]?.embedding, [-1]);
  const tokens = client.embeddings.create({ model: "fake", input: [1, 2, 3] });
  assert.deepEqual((await answer(worker, [A])).body.inputs, [[1, 2, 3]]);
  await tokens;
  const lists = client.embeddings.create({ model: "fake", input: [[1, 2], [3]] });
  assert.deepEqual((await answer(worker, [A, B])).body.inputs, [[1, 2], [3]]);
  await lists;

  const too_many = client.embeddings.create({ model: "fake", input: "bees", dimensions: 9 });
  await answer(worker, [A]);
  await assert.rejects(too_many, (error: unknown) => error instanceof OpenAI.BadRequestError && error.param === "dimensions");
});

test("what is not valid is refused by name before any worker is asked", async (t) => {
  const { post } = await startOpenai(t, {}, { context_size: 64, ...EMBEDS });
  const refused = async (path: string, body: object, headers: Record<string, string> = {}) => {
    const response = await post(path, body, headers);
    const { error } = (await response.json()) as Json;
    return [response.status, error.param ?? error] as const;
  };
  for (const input of ["", [], [""], [[]], ["a", 1], [-1], {}, Array(2049).fill("a")]) {
    const [status, param] = await refused("/v1/embeddings", { model: "fake", input });
    assert.ok(status === 400 && /^input(\.0)?$/.test(param), `${JSON.stringify(input).slice(0, 80)}: ${status} ${param}`);
  }
  assert.deepEqual(await refused("/v1/embeddings", { model: "fake", input: "a", dimensions: 0 }), [400, "dimensions"]);
  assert.deepEqual(await refused("/v1/embeddings", { model: "fake", input: "a", encoding_format: "int8" }), [400, "encoding_format"]);
  assert.deepEqual(await refused("/v1/embeddings", { model: "fake", input: "a", stream: true }), [400, "stream"]);
  assert.deepEqual(await refused("/v1/embeddings", { model: "fake", input: "a" }, { "x-rbees-on-disconnect": "continue" }), [
    400,
    "x-rbees-on-disconnect",
  ]);
  assert.equal((await refused("/v1/embeddings", { model: "other", input: "a" }))[0], 404);
  const long = await post("/v1/embeddings", { model: "fake", input: ["a", "secret ".repeat(1000)] });
  const said = await long.text();
  assert.match(said, /CONTEXT_TOO_LARGE.*input\[1\]: The longest input has at least 219 tokens.*holds 64/);
  assert.ok(!said.includes("secret secret"));
  const [status, message] = await refused("/api/embed", { model: "fake", input: [""] });
  assert.equal(status, 400);
  assert.match(message, /input/);
});

test("what the worker refuses is told as it says it; a worker that is lost, or forgets one, is replaced", async (t) => {
  const { client, worker, orcd } = await startOpenai(t, {}, EMBEDS);
  const long = client.embeddings.create({ model: "fake", input: ["a", "b"] });
  worker.refuseNext(400, {
    error: {
      ...{ code: "CONTEXT_TOO_LARGE", message: "input[1]: has 99 tokens", retriable: false, correlation_id: "c" },
      ...{ type: "invalid_request_error", param: "input[1]" },
    },
  });
  await assert.rejects(
    long,
    (error: unknown) => error instanceof OpenAI.BadRequestError && /input\[1\]: has 99 tokens/.test(error.message),
  );

  const lost = client.embeddings.create({ model: "fake", input: ["a", "b"] }).withResponse();
  const first = await worker.next();
  first.started();
  first.vectors([[1, 0, 0, 0]]);
  first.drop();
  const second = await worker.next();
  second.started();
  second.vectors([A]);
  second.end("EMBEDDED", ANSWER);
  await answer(worker, [A, B]);
  const { data, response } = await lost;
  near(data.data[0]?.embedding, A);
  near(data.data[1]?.embedding, B);
  const { attempts } = await orcd.json(`/v2/tasks/${response.headers.get("x-rbees-job-id")}`);
  assert.deepEqual(
    attempts.map((attempt: Json) => attempt.outcome),
    ["lost", "failed", "done"],
  );
});

test("a worker whose engine makes no vectors is never asked; where none does, that is said at once", async (t) => {
  const { client, worker, orcd } = await startOpenai(t);
  await assert.rejects(
    client.embeddings.create({ model: "fake", input: "bees" }),
    (error: unknown) => error instanceof OpenAI.BadRequestError && error.param === "input" && /embeddings/.test(error.message),
  );
  const able = await orcd.worker("w2", EMBEDS);
  const embedding = client.embeddings.create({ model: "fake", input: "bees" });
  await answer(able, [A]);
  near((await embedding).data[0]?.embedding, A);
  const shown = await new Ollama({ host: orcd.url }).show({ model: "fake" });
  assert.deepEqual(shown.capabilities, ["completion", "tools", "embedding"]);
  assert.ok(worker.id === "w1");
});

test("a client that leaves ends its job", async (t) => {
  const { client, worker, orcd } = await startOpenai(t, {}, EMBEDS);
  const leave = new AbortController();
  const leaving = client.embeddings.create({ model: "fake", input: "a" }, { signal: leave.signal });
  const attempt = await worker.next();
  attempt.started();
  leave.abort();
  await assert.rejects(leaving);
  await attempt.closed;
  await eventually(async () => (await orcd.json(`/v2/tasks/${attempt.body.job_id}`)).status === "cancelled");
});

test("Vercel's AI SDK and LangChain, as they are", async (t) => {
  const { worker, orcd } = await startOpenai(t, {}, EMBEDS);
  const model = createOpenAICompatible({ name: "rbees", baseURL: `${orcd.url}/v1` }).embeddingModel("fake");
  const one = embed({ model, value: "bees", maxRetries: 0 });
  await answer(worker, [A]);
  const { embedding, usage } = await one;
  near(embedding, A);
  assert.equal(usage.tokens, 7);
  const many = embedMany({ model, values: ["bees", "honey"], maxRetries: 0 });
  assert.deepEqual((await answer(worker, [A, B])).body.inputs, ["bees", "honey"]);
  near((await many).embeddings[1], B);
  await assert.rejects(
    embed({ model: createOpenAICompatible({ name: "rbees", baseURL: `${orcd.url}/v1` }).embeddingModel("no"), value: "a", maxRetries: 0 }),
    (error: unknown) => APICallError.isInstance(error) && error.statusCode === 404,
  );

  const langchain = new OpenAIEmbeddings({ model: "fake", apiKey: "none", maxRetries: 0, configuration: { baseURL: `${orcd.url}/v1` } });
  const documents = langchain.embedDocuments(["bees", "honey"]);
  assert.deepEqual((await answer(worker, [A, B])).body.inputs, ["bees", "honey"]);
  near((await documents)[1], B);
  const query = langchain.embedQuery("bees");
  await answer(worker, [A]);
  near(await query, A);
});

test("Ollama: both routes, what is cut unless refused, and a question whether the model is there", async (t) => {
  const { worker, orcd } = await startOpenai(t, {}, { context_size: 64, ...EMBEDS });
  const client = new Ollama({ host: orcd.url });
  const long = "bees ".repeat(1000);
  const several = client.embed({ model: "fake:latest", input: ["bees", long], dimensions: 2, keep_alive: "5m", options: { num_ctx: 9 } });
  const { body } = await answer(worker, [A, B]);
  assert.deepEqual([body.inputs, body.truncate], [["bees", long], true]);
  const said = await several;
  near(said.embeddings[0], [0.6, 0.8]);
  near(said.embeddings[1], [0, 1]);
  assert.deepEqual([said.model, said.prompt_eval_count], ["fake", 7]);
  await assert.rejects(client.embed({ model: "fake", input: long, truncate: false }), { status_code: 400, error: /at least \d+ tokens/ });

  const older = client.embeddings({ model: "fake", prompt: "bees" });
  assert.deepEqual((await answer(worker, [A])).body.inputs, ["bees"]);
  near((await older).embedding, A);
  assert.deepEqual((await client.embed({ model: "fake", input: "" })).embeddings, []);
  await assert.rejects(client.embed({ model: "gpt-99", input: "" }), { status_code: 404 });
});

test("tokens of inputs count against a tenant's limits, and the audit trail has lengths and hashes but no text", async (t) => {
  const { who, worker, data_dir } = await startTenants(t);
  const acme = await who({ tenant: "acme", tokens_per_day_max: 20 } as never, { tokens_per_day_max: 20 });
  const ask = (input: unknown) => acme.send("POST", "/v1/embeddings", { model: "fake", input });
  const refused = await ask("far too long a text ".repeat(10));
  assert.equal(refused.status, 400);
  assert.match(((await refused.json()) as Json).error.message, /50 tokens/);
  const let_in = ask(["first secret", "second secret"]);
  await answer(worker, [A, B]);
  const answered = await let_in;
  assert.equal(answered.status, 200);
  const job_id = answered.headers.get("x-rbees-job-id") ?? "";
  const { tasks } = await acme.client.call("listJobs", { query: {} });
  assert.deepEqual(
    tasks.map((job) => [job.job_id, job.kind, job.tenant]),
    [[job_id, "embed", "acme"]],
  );
  const records = rowsIn<{ record: string }>(databaseIn(data_dir), "select record from audit").map(({ record }) => record);
  const accepted = records.map((record) => JSON.parse(record)).find((record) => record.kind === "job.accepted");
  assert.deepEqual(
    [accepted.job_kind, accepted.inputs, accepted.prompt_bytes],
    ["embed", 2, JSON.stringify(["first secret", "second secret"]).length],
  );
  assert.ok(records.every((record) => !record.includes('secret\\"') && !record.includes("first secret")));
});
