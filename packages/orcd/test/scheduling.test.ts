/** What callers see of scheduling: reasons and scores, news of the queue, work moved aside, drops, labels, deadlines. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { EXTERNAL_DIGEST } from "@rbees/contracts/sets";
import { readEvents } from "@rbees/contracts/sse";
import { eventsOf, eventually, type Json, startHarness } from "./harness.ts";

const texts = (events: Json[]) => events.filter(({ type }) => type === "token").map(({ t }) => t);

test("the head of an answer and explain say where a job went, by which policy, and who was compared", async (t) => {
  const orcd = await startHarness(t, { policy: "lmetric" });
  const workers = { w1: await orcd.worker("w1", { slots: 4 }), w2: await orcd.worker("w2", { slots: 4 }) };
  const first = await orcd.submit({ prompt: "a".repeat(4000) });
  assert.match(first.headers.get("x-rbees-routing") ?? "", /^worker=w\d; policy=lmetric; cached_tokens=0; score=1000; compared=2$/);
  // Once its prompt is computed, what was kept of it counts.
  const attempt = await workers[/w\d/.exec(first.headers.get("x-rbees-routing") ?? "")?.[0] as "w1"].next();
  attempt.started();
  attempt.tokens("x");
  attempt.end();
  await eventually(async () => (await orcd.json("/v2/tasks?status=succeeded")).tasks.length === 1);
  const again = await orcd.submit({ prompt: "a".repeat(4000) });
  assert.match(again.headers.get("x-rbees-routing") ?? "", /cached_tokens=(960|1000)/, "the beginning is kept where the first one went");
  const { job_id } = (await again.json()) as Json;
  const why = await orcd.json(`/v2/tasks/${job_id}/explain`);
  assert.equal(why.policy, "lmetric");
  const chosen = why.workers.find(({ verdict }: Json) => verdict === "chosen");
  assert.match(chosen.reason, /the lowest score by lmetric/);
  assert.ok(chosen.score > 0 && chosen.cached_tokens > 900);
  assert.ok(why.workers.some(({ verdict, score }: Json) => verdict === "possible" && score > chosen.score));
});

test("a job that waits says so in the head, and its stream tells it when it moves up", async (t) => {
  const orcd = await startHarness(t, { queue_news_ms: 10 });
  const worker = await orcd.worker("w1");
  await orcd.submit({});
  const runs = await worker.next();
  await orcd.submit({});
  const waits = await orcd.submit({ stream: true });
  assert.equal(waits.headers.get("x-rbees-routing"), "queued; position=1");
  runs.started();
  runs.end();
  await worker.next();
  // One event after the other: the news comes while it waits.
  const events = readEvents(waits.body as unknown as AsyncIterable<Uint8Array>);
  const queued: Json[] = [];
  for await (const { data } of events) {
    const event = JSON.parse(data);
    if (event.type === "queued") queued.push(event);
    if (event.type !== "queued" || event.position > 0) continue;
    break;
  }
  assert.deepEqual(
    queued.map(({ position }) => position),
    [1, 0],
  );
  assert.ok(queued.every(({ eta_ms }) => eta_ms >= 0));
});

test("batch work is moved aside for interactive work, and goes on with the token after the last one that was sent", async (t) => {
  const orcd = await startHarness(t, { preempt_batch: true });
  const worker = await orcd.worker("w1");
  const batch = orcd.submit({ stream: true, priority: "batch" });
  const first = await worker.next();
  first.started();
  first.tokens("a", "b");
  const id = (await orcd.json("/v2/tasks")).tasks[0].job_id;
  await eventually(async () => (await orcd.json(`/v2/tasks/${id}`)).text === "ab");
  const urgent = orcd.submit({ stream: true, prompt: "urgent" });
  await first.closed;
  const second = await worker.next();
  assert.equal(second.body.prompt, "urgent");
  second.started();
  second.tokens("!");
  second.end();
  const third = await worker.next();
  assert.deepEqual([third.body.attempt, third.body.continue_from], [2, { tokens: [1000, 1001] }]);
  third.started();
  third.tokens("c");
  third.end();
  assert.deepEqual(texts(await eventsOf(await urgent)), ["!"]);
  const events = await eventsOf(await batch);
  assert.deepEqual(texts(events), ["a", "b", "c"]);
  assert.match(events.find(({ type }) => type === "migrated").reason, /moved aside for interactive work/);
});

test("an answer from another server, with which no worker can go on, ends where it began though its worker is drained with move", async (t) => {
  const orcd = await startHarness(t);
  const server = await orcd.worker("server", { model_digest: `${EXTERNAL_DIGEST}1` });
  const answer = orcd.submit({ stream: true });
  const attempt = await server.next();
  attempt.started();
  attempt.tokens("a");
  const id = (await orcd.json("/v2/tasks")).tasks[0].job_id;
  await eventually(async () => (await orcd.json(`/v2/tasks/${id}`)).text === "a");
  await orcd.worker("other", { model_digest: `${EXTERNAL_DIGEST}2` });
  const drained = await fetch(`${orcd.url}/v2/workers/server/drain?move=true`, { method: "POST" });
  assert.equal(((await drained.json()) as Json).jobs_running, 1);
  attempt.tokens("b");
  attempt.end();
  const events = await eventsOf(await answer);
  assert.deepEqual(texts(events), ["a", "b"]);
  assert.ok(events.every(({ type }) => type !== "restarted"));
});

test("where the oldest batch job makes room, its own stream ends with DROPPED and the newcomer is accepted", async (t) => {
  const orcd = await startHarness(t, { queue_jobs_max: 1, queue_full: "drop-oldest-batch" });
  const worker = await orcd.worker("w1");
  await orcd.submit({});
  await worker.next();
  const batch = await orcd.submit({ stream: true, priority: "batch" });
  assert.equal((await orcd.submit({})).status, 202);
  const last = (await eventsOf(batch)).at(-1);
  assert.deepEqual([last.type, last.code, last.retriable], ["error", "DROPPED", true]);
  assert.equal((await orcd.submit({})).status, 429);
});

test("a job that asks for labels goes to a worker that has them, and explain names the label that is missing", async (t) => {
  const orcd = await startHarness(t);
  await orcd.worker("plain", { slots: 2 });
  const fast = await orcd.worker("fast", { labels: { disk: "nvme" } });
  await orcd.submit({ placement: { labels: { disk: "nvme" } } });
  await fast.next();
  const { job_id } = (await (await orcd.submit({ placement: { labels: { disk: "nvme" } } })).json()) as Json;
  const why = await orcd.json(`/v2/tasks/${job_id}/explain`);
  assert.match(why.workers.find(({ worker_id }: Json) => worker_id === "plain").reason, /label disk is not set, and the job asks for nvme/);
});

test("the worker is told how much time is left, whatever its clock says", async (t) => {
  const orcd = await startHarness(t);
  const worker = await orcd.worker("w1");
  await orcd.submit({ deadline_ms: 60_000 });
  const { body } = await worker.next();
  assert.ok((body.time_left_ms ?? 0) > 50_000 && (body.time_left_ms ?? 0) <= 60_000);
  assert.equal(body.deadline, undefined);
});

test("a prompt that the smaller of two workers counts to be too long is answered by the other", async (t) => {
  const orcd = await startHarness(t);
  const small = await orcd.worker("small", { context_size: 1000 });
  const error = {
    code: "CONTEXT_TOO_LARGE",
    message: "The prompt has 990 tokens.",
    retriable: false,
    correlation_id: "",
    type: "",
    param: null,
  };
  small.refuseNext(400, { error });
  const large = await orcd.worker("large", { context_size: 10_000 });
  const answer = orcd.submit({ stream: true, placement: { prefer: ["small"] } });
  const attempt = await large.next();
  attempt.started();
  attempt.tokens("fits");
  attempt.end();
  assert.deepEqual(texts(await eventsOf(await answer)), ["fits"]);
});

test("a prompt that can't fit any worker is refused before it is queued", async (t) => {
  const orcd = await startHarness(t);
  await orcd.worker("w1", { context_size: 1000 });
  const answer = await orcd.submit({ prompt: "word ".repeat(8000), max_tokens: 10 });
  assert.equal(answer.status, 400);
  const { error } = (await answer.json()) as Json;
  assert.equal(error.code, "CONTEXT_TOO_LARGE");
  assert.match(error.message, /at least 1250 tokens \(estimated from its length\) and max_tokens is 10/);
});
