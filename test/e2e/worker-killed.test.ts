/** A stream survives its worker: what was sent is not sent again, what was not is not lost. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import OpenAI from "openai";
import { eventually, follow, getJson, type Json, startOrcd, startWorkerd, submit, temporaryFolder } from "../support/cluster.ts";
import { writeCallingModel, writeCountingModel } from "../support/models.ts";

test("kill -9 of the worker in mid-stream: another one goes on, and the client reads one whole text", async (t) => {
  const folder = temporaryFolder(t, "worker-killed");
  const { path, text } = writeCountingModel(folder, 80);
  const orcd = await startOrcd(t, join(folder, "data"), ["--heartbeat-ms", "200"]);
  const a = await startWorkerd(t, path, orcd.url, ["--model-name", "counting", "--worker-id", "a"]);
  const b = await startWorkerd(t, path, orcd.url, ["--model-name", "counting", "--worker-id", "b"]);
  await eventually(async () => (await getJson(`${orcd.url}/v2/workers`)).workers.length === 2);
  const events: Json[] = [];
  const answer = await submit(orcd.url, { model: "counting", prompt: "count", max_tokens: 200, temperature: 0, stream: true });
  for await (const event of follow(answer)) {
    events.push(event);
    if (event.type === "token" && event.i === 5)
      (events.find(({ type }) => type === "started").worker_id === "a" ? a : b).signal("SIGKILL");
  }
  const tokens = events.filter(({ type }) => type === "token");
  assert.equal(tokens.map(({ t: said }) => said).join(""), text);
  assert.deepEqual(
    events.map(({ id }) => id),
    events.map((_, n) => n + 1),
  );
  assert.equal(events.filter(({ type }) => type === "migrated").length, 1);
  const last = events.at(-1);
  assert.deepEqual([last.type, last.stop_reason, last.tokens_out], ["end", "EOS", 80]);
});

test("kill -9 of the only worker: the job waits, and goes on when a worker comes", async (t) => {
  const folder = temporaryFolder(t, "only-worker-killed");
  const { path, text } = writeCountingModel(folder, 60);
  const orcd = await startOrcd(t, join(folder, "data"), [
    "--heartbeat-ms",
    "200",
    "--worker-silence-ms-max",
    "600",
    "--attempts-max",
    "10",
  ]);
  const only = await startWorkerd(t, path, orcd.url, ["--model-name", "counting", "--worker-id", "w"]);
  await eventually(async () => (await getJson(`${orcd.url}/v2/workers`)).workers.length === 1);
  const answer = await submit(orcd.url, { model: "counting", prompt: "count", max_tokens: 200, temperature: 0, stream: true });
  let said = "";
  let next: Promise<unknown> | undefined;
  for await (const event of follow(answer)) {
    if (event.type !== "token") continue;
    said += event.t;
    if (event.i !== 5) continue;
    await only.kill("SIGKILL");
    next = startWorkerd(t, path, orcd.url, ["--model-name", "counting", "--worker-id", "w"]);
  }
  await next;
  assert.equal(said, text);
});

test("kill -9 of the worker in the middle of a call's arguments: OpenAI's client reads one whole call", async (t) => {
  const folder = temporaryFolder(t, "killed-in-a-call");
  const { path, args } = writeCallingModel(folder, 60);
  const orcd = await startOrcd(t, join(folder, "data"), ["--heartbeat-ms", "200"]);
  const workers = new Map<string, Awaited<ReturnType<typeof startWorkerd>>>();
  for (const id of ["a", "b"])
    workers.set(id, await startWorkerd(t, path, orcd.url, ["--model-name", "calling", "--worker-id", id, "--threads", "1"]));
  await eventually(async () => (await getJson(`${orcd.url}/v2/workers`)).workers.length === 2);
  const openai = new OpenAI({ baseURL: `${orcd.url}/v1`, apiKey: "none", maxRetries: 0 });
  const { data: stream, response } = await openai.chat.completions
    .create({
      model: "calling",
      messages: [{ role: "user", content: "Count." }],
      temperature: 0,
      max_completion_tokens: 200,
      stream: true,
      tools: [{ type: "function", function: { name: "count", parameters: { type: "object", properties: { words: { type: "string" } } } } }],
    })
    .withResponse();
  const job = `${orcd.url}/v2/tasks/${response.headers.get("x-rbees-job-id")}`;
  const pieces: string[] = [];
  const heads: Json[] = [];
  let finish: string | null | undefined;
  for await (const { choices } of stream) {
    finish = choices[0]?.finish_reason ?? finish;
    for (const { id, function: said } of choices[0]?.delta.tool_calls ?? []) {
      if (id !== undefined) heads.push({ id, name: said?.name });
      if (said?.arguments) pieces.push(said.arguments);
      if (pieces.length === 8 && said?.arguments) workers.get((await getJson(job)).worker_id)?.signal("SIGKILL");
    }
  }
  assert.deepEqual([pieces.join(""), finish, heads.map(({ name }) => name)], [args, "tool_calls", ["count"]]);
  const { attempts, status } = await getJson(job);
  assert.deepEqual([status, attempts.map(({ outcome }: Json) => outcome)], ["succeeded", ["lost", "done"]]);
});
