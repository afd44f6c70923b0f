/** Each route: good, bad, and what it must not do. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { JobList, JobView } from "@rbees/contracts/job";
import { ModelList, WorkerList } from "@rbees/contracts/worker";
import { startFakeWorker } from "../../../test/support/fake-worker.ts";
import { eventsOf, eventually, type Json, startHarness } from "./harness.ts";

test("health is OK as text, and JSON when asked for", async (t) => {
  const orcd = await startHarness(t);
  assert.equal(await (await orcd.get("/health")).text(), "OK");
  const health = await orcd.json("/health");
  assert.deepEqual([health.status, health.workers, health.queue_depth], ["OK", 0, 0]);
});

test("a bad submission names every problem at once and never echoes the prompt", async (t) => {
  const orcd = await startHarness(t);
  const secret = "the patient's name";
  const answer = await orcd.submit({ prompt: secret, max_tokens: 0, temperature: "hot", stop: ["a", "b", "c", "d", "e"], colour: "red" });
  assert.equal(answer.status, 400);
  const text = await answer.text();
  const { error } = JSON.parse(text) as Json;
  assert.equal(error.code, "INVALID_REQUEST");
  assert.deepEqual(new Set(error.details.map(({ field }: Json) => field)), new Set(["max_tokens", "temperature", "stop", "colour"]));
  assert.ok(!text.includes(secret));
});

test("malformed JSON, no JSON, the wrong type and an endless body are refused clearly", async (t) => {
  const orcd = await startHarness(t, { body_bytes_max: 65_536 });
  const post = (body: string, type = "application/json") =>
    fetch(`${orcd.url}/v2/tasks`, { method: "POST", headers: { "content-type": type }, body });
  assert.equal((await post('{"model": "fake", "prompt": secret words')).status, 400);
  assert.doesNotMatch(await (await post('{"model": "fake", "prompt": secret words')).text(), /secret/);
  assert.equal((await post("")).status, 400);
  assert.match(await (await post("model=fake", "application/x-www-form-urlencoded")).text(), /content-type: application\/json/);
  assert.equal((await post("[]")).status, 400);
  const large = await post(JSON.stringify({ model: "fake", prompt: "x".repeat(10_000_000) })).catch((error: Error) => error);
  if (large instanceof Response) {
    assert.equal(large.status, 413);
    assert.equal(((await large.json()) as Json).error.code, "PAYLOAD_TOO_LARGE");
  } else assert.match(String(large.cause), /EPIPE|ECONNRESET|other side closed/, "cut off while it was still sending");
});

test("a model that nobody has ever had is refused; one whose worker is away waits", async (t) => {
  const orcd = await startHarness(t, { worker_silence_ms_max: 100 });
  const unknown = await orcd.submit({ model: "gpt-99" });
  assert.equal(unknown.status, 404);
  assert.equal(((await unknown.json()) as Json).error.code, "MODEL_NOT_FOUND");
  await orcd.worker("w1");
  await eventually(async () => (await orcd.json("/v2/workers")).workers.length === 0);
  const waiting = await orcd.submit({});
  assert.equal(waiting.status, 202);
  const { job_id } = (await waiting.json()) as Json;
  assert.match((await orcd.json(`/v2/tasks/${job_id}/explain`)).answer, /no worker is registered/);
});

test("100 requests at once to a queue of 10: each is accepted or told when to come back, and every accepted one ends", async (t) => {
  const orcd = await startHarness(t, { queue_jobs_max: 10 });
  const worker = await orcd.worker("w1");
  const answers = await Promise.all(Array.from({ length: 100 }, () => orcd.submit({})));
  const accepted = answers.filter(({ status }) => status === 202);
  const refused = answers.filter(({ status }) => status === 429);
  assert.deepEqual([accepted.length, refused.length], [11, 89], "one runs, ten wait");
  for (const answer of refused) {
    assert.ok(Number(answer.headers.get("retry-after")) >= 1);
    assert.ok(Number(answer.headers.get("x-backoff-ms")) > 0);
    assert.equal(((await answer.json()) as Json).error.code, "QUEUE_FULL");
  }
  for (let i = 0; i < 11; i += 1) {
    const attempt = await worker.next();
    attempt.started();
    attempt.tokens("x");
    attempt.end();
  }
  await eventually(async () => (await orcd.json("/v2/tasks?status=succeeded")).tasks.length === 11);
});

test("jobs are listed newest first, page by page, by status and model", async (t) => {
  const orcd = await startHarness(t);
  await orcd.worker("w1");
  const ids: string[] = [];
  for (let i = 0; i < 5; i += 1) ids.push(((await (await orcd.submit({ metadata: { n: String(i) } })).json()) as Json).job_id);
  const first = JobList.parse(await orcd.json("/v2/tasks?limit=2"));
  assert.deepEqual(
    first.tasks.map(({ job_id }) => job_id),
    ids.slice(3).reverse(),
  );
  const second = JobList.parse(await orcd.json(`/v2/tasks?limit=3&cursor=${first.next_cursor}`));
  assert.deepEqual(
    second.tasks.map(({ job_id }) => job_id),
    ids.slice(0, 3).reverse(),
  );
  assert.equal(second.next_cursor, undefined);
  assert.equal((await orcd.json("/v2/tasks?status=queued")).tasks.length, 4);
  assert.equal((await orcd.json("/v2/tasks?model=other")).tasks.length, 0);
  assert.equal((await orcd.get("/v2/tasks?status=lost")).status, 400);
  assert.equal((await orcd.get("/v2/tasks?cursor=zzz")).status, 400);
  const shown = JobView.parse(await orcd.json(`/v2/tasks/${ids[1]}`));
  assert.deepEqual([shown.status, shown.queue_position, shown.metadata], ["queued", 0, { n: "1" }]);
  assert.equal((await orcd.get("/v2/tasks/job_none")).status, 404);
});

test("round-robin over the workers that hold the model, and a pin is kept to", async (t) => {
  const orcd = await startHarness(t);
  const [a, b] = [await orcd.worker("a", { slots: 4 }), await orcd.worker("b", { slots: 4 })];
  await orcd.worker("c", { model: "other" });
  for (let i = 0; i < 4; i += 1) await orcd.submit({});
  for (const worker of [a, a, b, b]) (await worker.next()).started();
  await orcd.submit({ placement: { pin: "b" } });
  await b.next();
  const lost = await orcd.submit({ placement: { pin: "nobody" } });
  assert.deepEqual([lost.status, ((await lost.json()) as Json).error.code], [503, "NO_WORKER"]);
});

test("interactive jobs go before batch jobs, each in order of submission", async (t) => {
  const orcd = await startHarness(t);
  const worker = await orcd.worker("w1");
  await orcd.submit({ prompt: "running" });
  const running = await worker.next();
  await orcd.submit({ prompt: "batch 1", priority: "batch" });
  await orcd.submit({ prompt: "interactive 1" });
  await orcd.submit({ prompt: "interactive 2" });
  let attempt = running;
  for (const prompt of ["interactive 1", "interactive 2", "batch 1"]) {
    attempt.end();
    attempt = await worker.next();
    assert.equal(attempt.body.prompt, prompt);
  }
});

test("the registry: register, heartbeat, an older life is fenced off, drain, leave", async (t) => {
  const orcd = await startHarness(t);
  const worker = await orcd.worker("w1", { epoch: 5, labels: { site: "attic" }, features: ["grammar", "of a later version"] });
  const beat = (epoch: number, id = "w1") =>
    fetch(`${orcd.url}/workers/${id}/heartbeat`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ epoch, slots_busy: 0, memory_bytes: 1, tokens_per_second: 42 }),
    });
  assert.equal((await beat(5)).status, 200);
  assert.equal((await beat(4)).status, 409);
  assert.equal((await beat(5, "nobody")).status, 404);
  assert.equal((await worker.register(orcd.url, { epoch: 4 })).status, 409);
  const [shown] = WorkerList.parse(await orcd.json("/v2/workers")).workers;
  assert.deepEqual([shown?.status, shown?.tokens_per_second, shown?.labels], ["ready", 42, { site: "attic" }]);
  assert.deepEqual(shown?.features, ["grammar", "of a later version"]);
  await orcd.worker("w2", { model: "other" });
  const old = WorkerList.parse(await orcd.json("/v2/workers")).workers.find(({ worker_id }) => worker_id === "w2");
  assert.deepEqual(old?.features, [], "a worker that registers no features has none");
  assert.deepEqual(ModelList.parse(await orcd.json("/v2/models")).models[0]?.workers, ["w1"]);
  assert.equal((await fetch(`${orcd.url}/v2/workers/w1/drain`, { method: "POST" })).status, 202);
  const { job_id } = (await (await orcd.submit({})).json()) as Json;
  assert.match((await orcd.json(`/v2/tasks/${job_id}/explain`)).workers[0].reason, /draining/);
  assert.equal((await fetch(`${orcd.url}/workers/w1`, { method: "DELETE" })).status, 204);
  assert.equal((await fetch(`${orcd.url}/workers/w1`, { method: "DELETE" })).status, 404);
});

test("registering with the least there can be answers OK as text", async (t) => {
  const orcd = await startHarness(t);
  const { port } = await orcd.worker("w", { epoch: 0 });
  const answer = await register(orcd.url, { id: "w", host: "127.0.0.1", port, model: "m" });
  assert.equal(await answer.text(), "OK");
});

test("a worker that the orchestrator can't call back is not registered, and hears what was tried", async (t) => {
  const orcd = await startHarness(t);
  const { port } = await orcd.worker("w1");
  const nowhere = await register(orcd.url, { id: "lost", host: "127.0.0.1", port: 1, model: "m" });
  assert.equal(nowhere.status, 502);
  assert.match(((await nowhere.json()) as Json).error.message, /tried GET http:\/\/127\.0\.0\.1:1\/health, .* got no answer \(.*\)/);
  const stranger = await register(orcd.url, { id: "lost", host: "127.0.0.1", port: Number(new URL(orcd.url).port), model: "m" });
  assert.match(((await stranger.json()) as Json).error.message, /no worker of rbees/);
  const other = await register(orcd.url, { id: "lost", host: "127.0.0.1", port, model: "m" });
  assert.match(((await other.json()) as Json).error.message, /worker w1 answers there/);
  const twin = await startFakeWorker("w1");
  t.after(() => twin.close());
  const refused = await twin.register(orcd.url, { epoch: 9 });
  assert.equal(refused.status, 403);
  assert.match(
    ((await refused.json()) as Json).error.message,
    new RegExp(`another worker of that name answers at http://127\\.0\\.0\\.1:${port}`),
  );
  assert.deepEqual(
    WorkerList.parse(await orcd.json("/v2/workers")).workers.map(({ worker_id }) => worker_id),
    ["w1"],
  );
});

function register(url: string, body: object): Promise<Response> {
  const headers = { "content-type": "application/json" };
  return fetch(`${url}/workers/register`, { method: "POST", headers, body: JSON.stringify(body) });
}

test("a deadline that passes ends the job, waiting or running", async (t) => {
  const orcd = await startHarness(t);
  const worker = await orcd.worker("w1");
  const running = await orcd.submit({ stream: true, deadline_ms: 150 });
  const attempt = await worker.next();
  const waiting = await orcd.submit({ stream: true, deadline_ms: 20 });
  assert.equal((await eventsOf(waiting)).at(-1).code, "DEADLINE_EXCEEDED");
  assert.equal((await eventsOf(running)).at(-1).code, "DEADLINE_EXCEEDED");
  await attempt.closed;
});

test("metrics carry the contract's names, and never a job id", async (t) => {
  const orcd = await startHarness(t);
  const worker = await orcd.worker("w1");
  const answer = orcd.submit({ stream: true });
  const attempt = await worker.next();
  attempt.started();
  attempt.tokens("x");
  attempt.end();
  await (await answer).text();
  const text = await (await orcd.get("/metrics")).text();
  for (const name of [
    'orchd_queue_depth{priority="interactive"} 0',
    'orchd_tasks_enqueued_total{outcome="accepted"} 1',
    'orchd_tasks_dispatched_total{worker_id="w1",outcome="done"} 1',
    "orchd_scheduling_latency_ms_bucket",
    'orchd_worker_connections_active{worker_id="w1"} 0',
    "gen_ai_server_time_to_first_token_seconds_count",
  ]) {
    assert.ok(text.includes(name), name);
  }
  assert.ok(!text.includes("job_"));
});

test("the description of the API is OpenAPI 3.1 with every route", async (t) => {
  const orcd = await startHarness(t);
  const description = await orcd.json("/openapi.json");
  assert.equal(description.openapi, "3.1.0");
  assert.ok(description.paths["/v2/tasks"].post.requestBody.content["application/json"].schema.$ref);
});

test("a correlation id is taken over, passed on to the worker, and kept with the job", async (t) => {
  const orcd = await startHarness(t);
  await orcd.worker("w1");
  const answer = await orcd.submit({}, { "x-correlation-id": "order-66" });
  assert.equal(answer.headers.get("x-correlation-id"), "order-66");
  const { job_id } = (await answer.json()) as Json;
  assert.equal((await orcd.json(`/v2/tasks/${job_id}`)).correlation_id, "order-66");
});

test("a worker that registers again with another model keeps its link", async (t) => {
  const orcd = await startHarness(t);
  const worker = await orcd.worker("w1");
  await worker.register(orcd.url, { model: "other" });
  const answer = await orcd.submit({ model: "other" });
  assert.equal(answer.status, 202);
  assert.equal((await worker.next()).body.attempt, 1);
});
