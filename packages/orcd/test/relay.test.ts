/** The relay: what a worker says reaches the client byte for byte, once, in order, whatever happens to either of them. */
import assert from "node:assert/strict";
import { connect } from "node:net";
import { test } from "node:test";
import { readEvents } from "@rbees/contracts/sse";
import { eventsOf, eventually, type Json, startHarness } from "./harness.ts";

const texts = (events: Json[]) => events.filter(({ type }) => type === "token").map(({ t }) => t);

test("a job's tokens reach the client in order, with rising ids, and the stream ends", async (t) => {
  const orcd = await startHarness(t);
  const worker = await orcd.worker("w1");
  const answer = orcd.submit({ stream: true });
  const attempt = await worker.next();
  attempt.started();
  attempt.tokens("Hé", "llo", " 世界", "🐝");
  attempt.end();
  const events = await eventsOf(await answer);
  assert.deepEqual(
    events.map(({ type }) => type),
    ["queued", "started", "token", "token", "token", "token", "end"],
  );
  assert.deepEqual(
    events.map(({ id }) => id),
    [1, 2, 3, 4, 5, 6, 7],
  );
  assert.deepEqual(texts(events), ["Hé", "llo", " 世界", "🐝"]);
});

test("events cut anywhere by the network are put together again", async (t) => {
  const orcd = await startHarness(t);
  const worker = await orcd.worker("w1");
  const answer = orcd.submit({ stream: true });
  const { response, started } = await worker.next();
  started();
  const bytes = Buffer.from(
    'event: token\ndata: {"type":"token","t":"世界🐝","i":0,"ids":[1]}\n\n: ping\n\nevent: token\ndata: {"type":"token","t":"b","i":1,"ids":[2]}\n\n',
  );
  response.socket?.setNoDelay(true);
  for (const byte of bytes) {
    response.write(Buffer.from([byte]));
    await new Promise((resolve) => setImmediate(resolve));
  }
  response.end(
    'event: end\ndata: {"type":"end","stop_reason":"EOS","tokens_in":1,"tokens_out":2,"tokens_cached":0,"timings":{"prefill_ms":1,"decode_ms":1}}\n\n',
  );
  assert.deepEqual(texts(await eventsOf(await answer)), ["世界🐝", "b"]);
});

test("a lost attempt is continued on another worker from the tokens already sent", async (t) => {
  const orcd = await startHarness(t);
  const first = await orcd.worker("w1");
  const answer = orcd.submit({ stream: true, seed: 7, placement: { prefer: ["w1"] } });
  const attempt = await first.next();
  const second = await orcd.worker("w2");
  attempt.started();
  attempt.tokens("a", "b", "c");
  // Broken only when the client has been sent all three.
  const id = (await orcd.json("/v2/tasks")).tasks[0].job_id;
  await eventually(async () => (await orcd.json(`/v2/tasks/${id}`)).text === "abc");
  attempt.drop();
  const next = await second.next();
  assert.equal(next.body.attempt, 2);
  assert.equal(next.body.seed, 7);
  assert.deepEqual(next.body.continue_from, { tokens: [1000, 1001, 1002] });
  next.started();
  next.tokens("d");
  next.end();
  const events = await eventsOf(await answer);
  assert.deepEqual(texts(events), ["a", "b", "c", "d"]);
  assert.deepEqual(
    events.filter(({ type }) => type === "token").map(({ i }) => i),
    [0, 1, 2, 3],
  );
  assert.deepEqual(
    events.map(({ id }) => id),
    events.map((_, index) => index + 1),
  );
  const migrated = events.find(({ type }) => type === "migrated");
  assert.deepEqual([migrated.attempt, migrated.worker_id], [2, "w2"]);
  const job = await orcd.json(`/v2/tasks/${events[0].job_id}`);
  assert.deepEqual([job.status, job.text, job.attempts.length], ["succeeded", "abcd", 2]);
});

test("a job whose workers all fail ends once, with an error, when its attempts are spent", async (t) => {
  const orcd = await startHarness(t, { attempts_max: 2 });
  const worker = await orcd.worker("w1");
  const answer = orcd.submit({ stream: true });
  for (const _ of [1, 2]) (await worker.next()).drop();
  const events = await eventsOf(await answer);
  const last = events.at(-1);
  assert.deepEqual([last.type, last.code, last.retriable], ["error", "WORKER_LOST", true]);
  assert.equal(events.filter(({ type }) => type === "error" || type === "end").length, 1);
});

test("an error that no other worker would do better ends the job at once", async (t) => {
  const orcd = await startHarness(t);
  const worker = await orcd.worker("w1");
  const answer = orcd.submit({ stream: true });
  const attempt = await worker.next();
  attempt.started();
  attempt.fail("CONTEXT_TOO_LARGE", false);
  assert.equal((await eventsOf(await answer)).at(-1).code, "CONTEXT_TOO_LARGE");
});

test("a worker that has no slot after all costs the job nothing", async (t) => {
  const orcd = await startHarness(t, { attempts_max: 1 });
  const worker = await orcd.worker("w1");
  const error = { code: "ALL_SLOTS_BUSY", message: "busy", type: "overloaded_error", param: null, retriable: true, correlation_id: "x" };
  worker.refuseNext(503, { error });
  worker.refuseNext(503, { error });
  const answer = orcd.submit({ stream: true });
  const attempt = await worker.next();
  attempt.started();
  attempt.tokens("ok");
  attempt.end();
  assert.deepEqual(texts(await eventsOf(await answer)), ["ok"]);
});

test("a worker that sends what is no event loses the attempt, and the client never sees it", async (t) => {
  const orcd = await startHarness(t);
  const worker = await orcd.worker("w1");
  const answer = orcd.submit({ stream: true });
  const bad = await worker.next();
  bad.started();
  bad.response.write('event: token\ndata: {"type":"token","t":"a","i":0,"ids":[1]}\nid: 999\n\n');
  const good = await worker.next();
  good.started();
  good.tokens("fine");
  good.end();
  const events = await eventsOf(await answer);
  assert.deepEqual(texts(events), ["fine"]);
  assert.ok(events.every(({ id }) => id < 100));
});

test("a token that is no JSON, or says what no answer says, loses the attempt, also after good ones, and what was good of it stays", async (t) => {
  const orcd = await startHarness(t, { attempts_max: 10 });
  const worker = await orcd.worker("w1");
  const answer = orcd.submit({ stream: true });
  const TEXT = ["a", '"\n\\ é 🐝'];
  const tokens = [
    '"t":"',
    '"t":"\\x","i":2,"ids":[1002]}',
    '"t":"x","i":2,"ids":[1002]}}',
    '"t":"x","i":02,"ids":[1002]}',
    '"t":"\t","i":2,"ids":[1]}',
    '"tool_calls":[{"index":4294967290,"arguments":""}],"t":"","i":2,"ids":[1002]}',
  ];
  for (const [n, bad] of tokens.entries()) {
    const attempt = await worker.next();
    attempt.started();
    if (n === 0) attempt.tokens(...TEXT);
    assert.equal(attempt.body.continue_from?.tokens.length ?? 0, n === 0 ? 0 : 2);
    attempt.response.write(`event: token\ndata: {"type":"token",${bad}\n\n`);
  }
  const good = await worker.next();
  good.started();
  good.tokens("b");
  good.end();
  assert.deepEqual(texts(await eventsOf(await answer)), [...TEXT, "b"]);
});

test("a reader resumes after the last event it has seen, and misses and repeats nothing", async (t) => {
  const orcd = await startHarness(t);
  const worker = await orcd.worker("w1");
  const { job_id, events_url } = (await (await orcd.submit({})).json()) as Json;
  const attempt = await worker.next();
  attempt.started();
  attempt.tokens(..."abcdef");
  await eventually(async () => (await orcd.json(`/v2/tasks/${job_id}`)).text === "abcdef");
  const resumed = orcd.get(events_url, { "last-event-id": "5" });
  attempt.tokens("g");
  attempt.end();
  assert.deepEqual(texts(await eventsOf(await resumed)), ["d", "e", "f", "g"]);
  assert.deepEqual(texts(await eventsOf(await orcd.get(events_url))), [..."abcdefg"], "an ended job can be read again for a while");
  const beyond = await orcd.get(events_url, { "last-event-id": "77" });
  assert.equal(beyond.status, 400);
});

test("events that are not kept any more answer 410 and name where the text is", async (t) => {
  const orcd = await startHarness(t, { replay_after_end_ms: 0 });
  const worker = await orcd.worker("w1");
  const { job_id, events_url } = (await (await orcd.submit({})).json()) as Json;
  const attempt = await worker.next();
  attempt.started();
  attempt.tokens("x");
  attempt.end();
  await eventually(async () => (await orcd.get(events_url)).status === 410);
  const body = (await (await orcd.get(events_url)).json()) as Json;
  assert.equal(body.error.code, "GONE");
  assert.equal((await orcd.json(`/v2/tasks/${job_id}`)).text, "x");
});

test("a client that leaves before its stream has begun has left all the same", async (t) => {
  // The stream would begin with the first event, which never comes.
  const orcd = await startHarness(t, { start_hold_ms: 200 });
  const worker = await orcd.worker("w1");
  const socket = connect(Number(new URL(orcd.url).port), "127.0.0.1");
  const body = JSON.stringify({ model: "fake", prompt: "hi", stream: true, on_disconnect: "cancel" });
  socket.write(`POST /v2/tasks HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`);
  const attempt = await worker.next();
  socket.destroy();
  await attempt.closed;
  await eventually(async () => (await orcd.json("/v2/tasks")).tasks[0].status === "cancelled");
});

test("the headers of a stream do not wait for an event that does not come", async (t) => {
  const orcd = await startHarness(t, { start_hold_ms: 5 });
  const worker = await orcd.worker("w1");
  const answer = await orcd.submit({ stream: true });
  assert.equal(answer.status, 200);
  const attempt = await worker.next();
  attempt.started();
  attempt.tokens("a");
  attempt.end();
  assert.deepEqual(
    (await eventsOf(answer)).map(({ type, id }) => [type, id]),
    [
      ["queued", 1],
      ["started", 2],
      ["token", 3],
      ["end", 4],
    ],
  );
});

test("a client that leaves costs its job nothing, unless it asked for that", async (t) => {
  const orcd = await startHarness(t);
  const worker = await orcd.worker("w1", { slots: 2 });
  for (const on_disconnect of ["continue", "cancel"] as const) {
    const leave = new AbortController();
    const answer = await fetch(`${orcd.url}/v2/tasks`, {
      method: "POST",
      signal: leave.signal,
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ model: "fake", prompt: "hi", stream: true, on_disconnect }),
    });
    const id = answer.headers.get("x-rbees-job-id");
    const attempt = await worker.next();
    attempt.started();
    attempt.tokens("a");
    await eventually(async () => (await orcd.json(`/v2/tasks/${id}`)).text === "a");
    leave.abort();
    await answer.text().catch(() => {});
    if (on_disconnect === "cancel") {
      await attempt.closed;
      await eventually(async () => (await orcd.json(`/v2/tasks/${id}`)).status === "cancelled");
    } else {
      attempt.tokens("b");
      attempt.end();
      await eventually(async () => (await orcd.json(`/v2/tasks/${id}`)).status === "succeeded");
      assert.equal((await orcd.json(`/v2/tasks/${id}`)).text, "ab");
    }
  }
});

test("a reader that takes nothing is cut off as lagged, others are not held up, and it may resume", async (t) => {
  const orcd = await startHarness(t, { reader_stall_ms_max: 300 });
  const worker = await orcd.worker("w1");
  const { job_id, events_url } = (await (await orcd.submit({})).json()) as Json;
  const attempt = await worker.next();
  attempt.started();
  const stalled = connect({ port: orcd.orcd.port, host: "127.0.0.1" });
  stalled.write(`GET ${events_url} HTTP/1.1\r\nhost: x\r\n\r\n`);
  stalled.on("error", () => {});
  stalled.pause();
  const quick = orcd.get(events_url).then(eventsOf);
  const big = "x".repeat(65_536);
  for (let i = 0; i < 100; i += 1) attempt.tokens(big);
  // Cut off while the job still runs: the socket's end is seen although nothing was ever read from it.
  await new Promise<void>((resolve) => {
    stalled.on("close", () => resolve());
    setTimeout(() => stalled.resume(), 1000).unref();
  });
  attempt.tokens("last");
  attempt.end();
  assert.equal(texts(await quick).length, 101);
  assert.equal(texts(await eventsOf(await orcd.get(events_url, { "last-event-id": "99" }))).at(-1), "last");
  assert.equal((await orcd.json(`/v2/tasks/${job_id}`)).status, "succeeded");
});

test("a cancelled job ends with one CANCELLED error, its worker is told by the broken connection, and asking twice is fine", async (t) => {
  const orcd = await startHarness(t);
  const worker = await orcd.worker("w1");
  const answer = orcd.submit({ stream: true });
  const attempt = await worker.next();
  attempt.started();
  attempt.tokens("a");
  const id = (await answer).headers.get("x-rbees-job-id");
  const cancelled = await fetch(`${orcd.url}/v2/tasks/${id}`, { method: "DELETE" });
  assert.equal(cancelled.status, 202);
  await attempt.closed;
  assert.equal((await eventsOf(await answer)).at(-1).code, "CANCELLED");
  assert.equal((await fetch(`${orcd.url}/v2/tasks/${id}/cancel`, { method: "POST" })).status, 200);
  assert.equal((await fetch(`${orcd.url}/v2/tasks/job_none`, { method: "DELETE" })).status, 404);
});

test("a job that is ended in mid-stream has exactly the text in its row that was sent", async (t) => {
  const orcd = await startHarness(t);
  const worker = await orcd.worker("w1");
  for (let n = 0; n < 5; n += 1) {
    const answer = orcd.submit({ stream: true });
    const attempt = await worker.next();
    attempt.started();
    // Tokens keep coming while the end is being written down.
    let closed = false;
    void attempt.closed.then(() => {
      closed = true;
    });
    const pour = () => {
      if (closed) return;
      attempt.tokens("a");
      setImmediate(pour);
    };
    pour();
    const id = (await answer).headers.get("x-rbees-job-id");
    const events = eventsOf(await answer);
    await fetch(`${orcd.url}/v2/tasks/${id}`, { method: "DELETE" });
    assert.equal((await orcd.json(`/v2/tasks/${id}`)).text, texts(await events).join(""));
  }
});

test("a job that is ended after a restart, before it runs again, has the text in its row that its client is left with", async (t) => {
  const first = await startHarness(t);
  const worker = await first.worker("w1");
  const { job_id: id, events_url } = (await (await first.submit({})).json()) as Json;
  const attempt = await worker.next();
  attempt.started();
  attempt.tokens("a", "b", "c");
  await eventually(async () => (await first.json(`/v2/tasks/${id}`)).text === "abc");
  const before: Json[] = [];
  for await (const { id: event_id, data } of readEvents((await first.get(events_url)).body as unknown as AsyncIterable<Uint8Array>)) {
    before.push({ id: Number(event_id), ...JSON.parse(data) });
    if (texts(before).length === 3) break;
  }
  await first.orcd.stop();

  const second = await startHarness(t, {}, first.data_dir);
  const resumed = await second.get(events_url, { "last-event-id": String(before.at(-1).id) });
  await fetch(`${second.url}/v2/tasks/${id}`, { method: "DELETE" });
  let left: Json[] = [];
  for (const event of [...before, ...(await eventsOf(resumed))]) {
    if (event.type === "token") left.push(event);
    if (event.type === "restarted") left = left.filter(({ i }) => i < (event.from ?? 0));
  }
  assert.equal((await second.json(`/v2/tasks/${id}`)).text, texts(left).join(""));
});
