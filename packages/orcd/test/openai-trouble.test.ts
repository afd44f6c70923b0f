/** The OpenAI API when something goes wrong: clients that leave, workers that die, queues that are full. */
import assert from "node:assert/strict";
import { connect } from "node:net";
import { type TestContext, test } from "node:test";
import OpenAI, { type APIError } from "openai";
import { eventually, type Harness, startHarness } from "./harness.ts";
import { answers, CHAT, clientOf, readChat, startOpenai } from "./openai-harness.ts";

const statusOf = async (orcd: Harness, job_id: string) => (await orcd.json(`/v2/tasks/${job_id}`)).status;
const newestJob = async (orcd: Harness) => (await orcd.json("/v2/tasks")).tasks[0];

const MESSAGES = [{ role: "user", content: "hi" }];
for (const [path, body, last] of [
  [
    "/v1/chat/completions",
    { messages: MESSAGES, stream: true },
    /data: \{"error":\{"code":"SHUTTING_DOWN","message":"[^"]+stopped in the middle[^\n]+\n\n$/,
  ],
  ["/v1/chat/completions", { messages: MESSAGES, stream: true, n: 2 }, /data: \{"error":\{"code":"SHUTTING_DOWN"[^\n]+\n\n$/],
  ["/v1/responses", { input: "hi", stream: true }, /event: error\ndata: [^\n]+SHUTTING_DOWN[^\n]+\n\n$/],
  ["/v1/messages", { messages: MESSAGES, max_tokens: 9, stream: true }, /event: error\ndata: [^\n]+stopped in the middle[^\n]+\n\n$/],
] as const)
  test(`an answer whose orchestrator is stopped ends with why, ${path} ${JSON.stringify(body)}`, async (t) => {
    const { orcd, worker, post } = await startOpenai(t);
    const asking = post(path, { model: "fake", ...body });
    const attempt = await worker.next();
    attempt.started();
    attempt.tokens("a");
    const answer = await asking;
    const [text] = await Promise.all([answer.text(), orcd.orcd.stop()]);
    assert.match(text, last);
    assert.doesNotMatch(text, /\[DONE\]/);
  });

for (const stream of [true, false]) {
  test(`a client that leaves in mid-answer ends its job, or lets it go on if it said so (stream: ${stream})`, async (t) => {
    const { client, orcd, worker } = await startOpenai(t);
    for (const rule of [undefined, "continue"]) {
      const leave = new AbortController();
      const headers = rule === undefined ? {} : { "x-rbees-on-disconnect": rule };
      const answer = client.chat.completions.create({ ...CHAT, stream }, { signal: leave.signal, headers });
      const gone = assert.rejects(
        answer.then(async (said) => {
          if (Symbol.asyncIterator in said) await readChat(said, (text) => text !== "");
          leave.signal.throwIfAborted();
          await new Promise((_, reject) => leave.signal.addEventListener("abort", () => reject(leave.signal.reason)));
        }),
      );
      const attempt = await worker.next();
      attempt.started();
      attempt.tokens("a");
      await eventually(async () => (await orcd.json(`/v2/tasks/${attempt.body.job_id}`)).text === "a");
      leave.abort();
      await gone;
      if (rule === undefined) await attempt.closed;
      else {
        attempt.tokens("b");
        attempt.end();
      }
      const job = await eventually(async () => {
        const seen = await orcd.json(`/v2/tasks/${attempt.body.job_id}`);
        return seen.status !== "running" && seen;
      });
      assert.deepEqual([job.status, job.text], rule === undefined ? ["cancelled", "a"] : ["succeeded", "ab"]);
    }
  });
}

test("a client that leaves while its job waits takes it out of the queue", async (t) => {
  const { client, orcd, worker } = await startOpenai(t);
  const first = client.chat.completions.create(CHAT);
  const attempt = await worker.next();
  for (const stream of [true, false]) {
    const leave = new AbortController();
    const waiting = assert.rejects(client.chat.completions.create({ ...CHAT, stream }, { signal: leave.signal }));
    const { job_id } = await eventually(async () => {
      const newest = await newestJob(orcd);
      return newest.status === "queued" && newest;
    });
    leave.abort();
    await waiting.catch(() => {});
    await eventually(async () => (await statusOf(orcd, job_id)) === "cancelled");
  }
  attempt.end();
  await first;
});

test("a worker that dies in mid-stream is not seen: the answer goes on with the next one, each token once", async (t) => {
  const { client, orcd, worker } = await startOpenai(t);
  const stream = client.chat.completions.create({ ...CHAT, stream: true }, { headers: { "x-rbees-prefer": "w1" } });
  const attempt = await worker.next();
  const second = await orcd.worker("w2");
  attempt.started();
  attempt.tokens("a", "b", "c");
  await eventually(async () => (await orcd.json(`/v2/tasks/${attempt.body.job_id}`)).text === "abc");
  attempt.drop();
  const next = await second.next();
  assert.deepEqual(next.body.continue_from, { tokens: [1000, 1001, 1002] });
  assert.deepEqual(next.body.messages, CHAT.messages);
  next.started();
  next.tokens("d");
  next.end();
  const { text, chunks } = await readChat(await stream);
  assert.equal(text, "abcd");
  assert.equal(chunks.filter(({ choices }) => choices[0]?.delta.role !== undefined).length, 1);
});

test("an answer that has to begin anew ends its stream with an error that says so, unless nothing was sent of it; a whole answer is unharmed", async (t) => {
  // A connection that breaks before anything was heard on it makes its worker unwanted for a while; here each is to go to w1 first.
  const { client, orcd, worker } = await startOpenai(t, { attempts_max: 5, worker_inhibit_ms: 0 }, { model_digest: "gguf-sample:aaaa" });
  const other = await orcd.worker("w2", { model_digest: "gguf-sample:bbbb" });
  const headers = { "x-rbees-prefer": "w1" };
  const lose = async (tokens: string[]) => {
    const attempt = await worker.next();
    attempt.started();
    attempt.tokens(...tokens);
    await eventually(async () => (await orcd.json(`/v2/tasks/${attempt.body.job_id}`)).text === tokens.join(""));
    attempt.drop();
    return attempt.body.job_id;
  };
  const stream = client.chat.completions.create({ ...CHAT, stream: true }, { headers });
  const job_id = await lose(["a", "b"]);
  const next = await other.next();
  const said: string[] = [];
  await assert.rejects(
    stream.then(async (chunks) => {
      for await (const { choices } of chunks) said.push(choices[0]?.delta.content ?? "");
    }),
    (error: APIError) => {
      assert.equal(error.code, "WORKER_LOST");
      assert.match(error.message, /begins anew .* another build of the model/);
      return true;
    },
  );
  assert.equal(said.join(""), "ab");
  await next.closed;
  await eventually(async () => (await statusOf(orcd, job_id)) === "cancelled");

  const early = client.chat.completions.create({ ...CHAT, stream: true }, { headers });
  await lose([]);
  await answers(other, ["x", "y"]);
  assert.equal((await readChat(await early)).text, "xy");

  const whole = client.chat.completions.create(CHAT, { headers });
  await lose(["a", "b"]);
  await answers(other, ["x", "y"]);
  const { choices, system_fingerprint } = await whole;
  assert.deepEqual([choices[0]?.message.content, system_fingerprint], ["xy", "fp_bbbb"]);
});

test("what fails before the first token has a status, in a stream too; afterwards it is an error in the stream", async (t) => {
  const { client, worker } = await startOpenai(t);
  for (const stream of [false, true]) {
    const answer = client.chat.completions.create({ ...CHAT, stream });
    const attempt = await worker.next();
    attempt.fail("CONTEXT_TOO_LARGE", false);
    await assert.rejects(answer, (error: APIError) => {
      assert.ok(error instanceof OpenAI.BadRequestError);
      assert.equal(error.headers?.get("x-rbees-job-id"), attempt.body.job_id);
      return true;
    });
  }
  const stream = client.chat.completions.create({ ...CHAT, stream: true });
  const attempt = await worker.next();
  attempt.started();
  attempt.tokens("a");
  const said = await stream;
  attempt.fail("INSUFFICIENT_MEMORY", false);
  await assert.rejects(readChat(said), (error: APIError) => {
    assert.deepEqual([error.code, error.type], ["INSUFFICIENT_MEMORY", "server_error"]);
    return true;
  });
});

test("a job that somebody else cancels ends its stream with CANCELLED", async (t) => {
  const { client, orcd, worker } = await startOpenai(t);
  const stream = client.chat.completions.create({ ...CHAT, stream: true });
  const attempt = await worker.next();
  attempt.started();
  attempt.tokens("a");
  const said = await stream;
  await fetch(`${orcd.url}/v2/tasks/${attempt.body.job_id}`, { method: "DELETE" });
  await assert.rejects(readChat(said), ({ code }: APIError) => code === "CANCELLED");
});

test("a full queue is RateLimitError with Retry-After; a client that retries comes through, and what can't help is not tried again", async (t) => {
  const { client, orcd, worker } = await startOpenai(t, { queue_jobs_max: 1 });
  const first = client.chat.completions.create(CHAT);
  const attempt = await worker.next();
  const second = client.chat.completions.create(CHAT);
  await eventually(async () => (await newestJob(orcd)).status === "queued");
  await assert.rejects(client.chat.completions.create(CHAT), (error: APIError) => {
    assert.ok(error instanceof OpenAI.RateLimitError);
    assert.ok(Number(error.headers?.get("retry-after")) >= 1);
    assert.equal(error.type, "rate_limit_error");
    return true;
  });
  const patient = clientOf(orcd.url, 3).chat.completions.create(CHAT);
  attempt.end();
  await answers(worker, ["2"]);
  await first;
  await second;
  await answers(worker, ["3"]);
  assert.equal((await patient).choices[0]?.message.content, "3");

  const before = (await orcd.json("/v2/tasks")).tasks.length;
  const hopeless = clientOf(orcd.url, 3).chat.completions.create(CHAT);
  (await worker.next()).fail("INTERNAL", false);
  await assert.rejects(hopeless, OpenAI.InternalServerError);
  assert.equal((await orcd.json("/v2/tasks")).tasks.length, before + 1);
});

test("a deadline that passes is a 504", async (t) => {
  const { client, worker } = await startOpenai(t);
  const answer = client.chat.completions.create(CHAT, { headers: { "x-rbees-deadline-ms": "60" } });
  const attempt = await worker.next();
  await assert.rejects(answer, (error: APIError) => error.status === 504 && error.code === "DEADLINE_EXCEEDED");
  await attempt.closed;
});

test("a client that reads slowly gets every chunk, whole and in order", async (t) => {
  const { orcd, worker } = await startOpenai(t);
  const body = JSON.stringify({ ...CHAT, stream: true });
  const slow = connect({ port: orcd.orcd.port, host: "127.0.0.1" });
  t.after(() => slow.destroy());
  slow.write(
    `POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`,
  );
  slow.pause();
  const attempt = await worker.next();
  attempt.started();
  const texts = Array.from({ length: 30_000 }, (_, n) => `${n} 世"\\🐝 `);
  for (let at = 0; at < texts.length; at += 1000) {
    attempt.tokens(...texts.slice(at, at + 1000));
    await new Promise((resolve) => setImmediate(resolve));
  }
  attempt.end();
  await eventually(async () => (await statusOf(orcd, attempt.body.job_id)) === "succeeded", 20_000);
  const parts: Buffer[] = [];
  for await (const part of slow) parts.push(part as Buffer);
  const read = Buffer.concat(parts).toString("utf8");
  const said = [...read.matchAll(/^data: (\{.*)$/gm)].map(([, data]) => JSON.parse(data as string).choices[0].delta.content ?? "");
  assert.equal(said.join(""), texts.join(""));
  assert.match(read, /data: \[DONE\]\n\n\r\n0\r\n\r\n$/);
});

test("an orchestrator that is started again cancels what its OpenAI clients can't come back to, unless they said otherwise", async (t: TestContext) => {
  const first = await startHarness(t);
  const worker = await first.worker("w1", { slots: 2 });
  const client = clientOf(first.url);
  const ids: string[] = [];
  for (const rule of ["cancel", "continue"]) {
    client.chat.completions.create(CHAT, { headers: { "x-rbees-on-disconnect": rule } }).catch(() => {});
    ids.push((await worker.next()).body.job_id);
  }
  await first.orcd.stop();
  const again = await startHarness(t, {}, first.data_dir);
  assert.equal(await statusOf(again, ids[0] as string), "cancelled");
  await answers(await again.worker("w2"), ["x"]);
  await eventually(async () => (await statusOf(again, ids[1] as string)) === "succeeded");
});
