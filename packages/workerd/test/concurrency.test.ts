/** Several attempts at once, and attempts that end before their answer does. The model is slow, and talks for ever. */
import assert from "node:assert/strict";
import { connect } from "node:net";
import { before, test } from "node:test";
import { ANSWER, chain } from "../../../models/fixtures/scripted.ts";
import type { Workerd } from "../src/workerd.ts";
import { ask, collect, health, open, post, type Stream, scripted, startWorker, until } from "./support.ts";

const SLOTS = 3;
/** What is promised is 100 ms; a busy test machine gets more. */
const FREE_WITHIN_MS = 1_000;
const LONG_PROMPT = "a".repeat(1_500);
let worker: Workerd;
before(async () => {
  const shape = { layers: 6, ffn: 12_288, context: 4096 };
  const model = scripted("slow", { edges: chain(ANSWER, [" tick", " tock"], "loop"), shape, blocks: "q8_0" });
  worker = await startWorker({ model, slots: SLOTS, ctx: 4096, metrics_ms: 250 });
});

const endless = (job_id = "endless") => open(worker, { job_id, prompt: "go", max_tokens: 4_000 });
const idle = () => until(async () => (await health(worker)).slots_busy === 0);

/** Reads on until a token comes. */
async function token(stream: Stream): Promise<void> {
  for (;;) {
    const event = await stream.next();
    assert.ok(event !== undefined && event.type !== "error" && event.type !== "end", JSON.stringify(event));
    if (event.type === "token") return;
  }
}

test("a second request does not wait for the first", async () => {
  const first = await endless();
  await token(first);
  const second = await ask(worker, { prompt: "go", max_tokens: 6 });
  assert.equal(second.text, " tick tock tick tock tick tock");
  await token(first);
  first.hangUp();
  await idle();
});

test("when every slot is busy the next request is refused at once, with the numbers and a time to wait", async () => {
  const streams = await Promise.all(Array.from({ length: SLOTS }, () => endless()));
  await Promise.all(streams.map(token));
  const response = await post(worker, "/execute", { job_id: "one-more", prompt: "go" });
  assert.equal(response.status, 503);
  const { error } = (await response.json()) as { error: { code: string; details: unknown; retry_after_ms: number } };
  assert.equal(error.code, "ALL_SLOTS_BUSY");
  assert.deepEqual(error.details, { slots_total: SLOTS, slots_busy: SLOTS });
  assert.ok(error.retry_after_ms > 0);
  assert.ok(Number(response.headers.get("retry-after")) >= 1);
  for (const stream of streams) stream.hangUp();
  await idle();
});

test("health is answered at once while every slot generates", async () => {
  const streams = await Promise.all(Array.from({ length: SLOTS }, () => endless()));
  await Promise.all(streams.map(token));
  const times: number[] = [];
  for (let i = 0; i < 20; i++) {
    const began = performance.now();
    const { slots_busy, tokens_per_second, memory_bytes } = await health(worker);
    times.push(performance.now() - began);
    assert.equal(slots_busy, SLOTS);
    assert.ok(tokens_per_second > 0);
    assert.ok(memory_bytes > 50_000_000);
  }
  times.sort((a, b) => a - b);
  assert.ok((times[10] ?? 1e9) < 50, `median ${times[10]} ms`);
  for (const stream of streams) stream.hangUp();
  await idle();
});

test("a cancelled attempt ends in CANCELLED and frees its slot; cancelling again is no error", async () => {
  const stream = await endless("to-cancel");
  await token(stream);
  const began = performance.now();
  const cancel = async () => {
    const response = await post(worker, "/cancel", { job_id: "to-cancel" });
    assert.equal(response.status, 202);
    return ((await response.json()) as { cancelled: boolean }).cancelled;
  };
  assert.equal(await cancel(), true);
  await idle();
  assert.ok(performance.now() - began < FREE_WITHIN_MS);
  assert.equal(await cancel(), false);
  const { error, end } = await collect(stream.events);
  assert.deepEqual([error?.code, error?.retriable, end], ["CANCELLED", false, undefined]);
});

test("a broken connection frees the slot, while it generates and while it reads a long prompt", async () => {
  const generating = await endless();
  await token(generating);
  generating.hangUp();
  assert.ok((await idle()) < FREE_WITHIN_MS);
  const reading = await open(worker, { prompt: LONG_PROMPT, max_tokens: 5 });
  assert.equal((await reading.next())?.type, "started");
  reading.hangUp();
  assert.ok((await idle()) < FREE_WITHIN_MS);
});

test("a long prompt does not stop a stream that runs", async () => {
  const running = await endless();
  await token(running);
  const long = await open(worker, { prompt: LONG_PROMPT.replaceAll("a", "b"), max_tokens: 1 });
  assert.equal((await long.next())?.type, "started");
  let ready = false;
  const first = token(long).then(() => {
    ready = true;
  });
  let meanwhile = 0;
  while (!ready) {
    await token(running);
    meanwhile++;
  }
  await first;
  assert.ok(meanwhile >= 10, `${meanwhile} tokens while the prompt was read`);
  long.hangUp();
  running.hangUp();
  await idle();
});

test("metrics come while an answer runs", async () => {
  const stream = await endless("measured");
  const seen = await until(async () => {
    const event = await stream.next();
    if (event?.type !== "metrics") return false;
    assert.equal(event.job_id, "measured");
    assert.ok(event.tokens_out > 0 && event.decode_time_ms > 0 && event.memory_bytes > 0);
    return true;
  });
  assert.ok(seen < 5_000);
  stream.hangUp();
  await idle();
});

test("an attempt ends at its deadline", async () => {
  const deadline = new Date(Date.now() + 400).toISOString();
  const { error } = await ask(worker, { prompt: "go", max_tokens: 4_000, deadline });
  assert.deepEqual([error?.code, error?.retriable], ["DEADLINE_EXCEEDED", false]);
  await idle();
});

test("a reader that does not read is cut off, and its slot is free", async () => {
  const loud = scripted("loud", { edges: chain(ANSWER, ["x".repeat(30_000), "y".repeat(30_000)], "loop"), shape: { context: 16_384 } });
  const speaker = await startWorker({ model: loud, ctx: 16_000, slots: 1, stream_buffer_bytes_max: 65_536 });
  const { hostname, port } = new URL(speaker.url);
  const socket = connect(Number(port), hostname);
  const body = JSON.stringify({ job_id: "deaf", prompt: "go", max_tokens: 15_000 });
  socket.write(`POST /execute HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`);
  socket.pause();
  socket.on("error", () => {});
  await until(async () => (await health(speaker)).slots_busy === 1);
  await until(async () => (await health(speaker)).slots_busy === 0, 30_000);
  const metrics = await (await fetch(`${speaker.url}/metrics`)).text();
  assert.match(metrics, /worker_requests_total\{outcome="disconnected"\} 1/);
  socket.destroy();
});

test("a very long text that is counted, asked or embedded is made tokens beside running answers, and can be given up meanwhile", async () => {
  const long = "What do bees do all day long? ".repeat(10_000);
  const stream = await endless();
  await token(stream);
  const ways: (() => Promise<number>)[] = [
    async () => (await post(worker, "/tokenize", { messages: [{ role: "user", content: long }] })).status,
    async () => (await post(worker, "/execute", { job_id: "long", prompt: long, max_tokens: 1 })).status,
    async () => (await post(worker, "/embed", { job_id: "vector", inputs: [long] })).status,
  ];
  for (const way of ways) {
    let tokens = 0;
    let over = false;
    const answered = way().finally(() => {
      over = true;
    });
    for (; !over; tokens += 1) await token(stream);
    assert.ok([200, 400].includes(await answered), String(await answered));
    assert.ok(tokens > 10, `${tokens} tokens came meanwhile`);
  }
  const given_up = await open(worker, { job_id: "given-up", prompt: "a b ".repeat(100_000), max_tokens: 1 }).catch(() => undefined);
  given_up?.hangUp();
  stream.hangUp();
  await idle();
});
