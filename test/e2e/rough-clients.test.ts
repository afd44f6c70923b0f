/** Clients that leave, read slowly, send too much or nonsense, or come all at once: the real programs stay upright. */
import assert from "node:assert/strict";
import { connect } from "node:net";
import { join } from "node:path";
import { test } from "node:test";
import {
  eventually,
  follow,
  getJson,
  type Json,
  type Program,
  startOrcd,
  startWorkerd,
  submit,
  temporaryFolder,
  textOf,
} from "../support/cluster.ts";
import { writeCountingModel } from "../support/models.ts";

const JOB = { model: "counting", prompt: "count", max_tokens: 200, temperature: 0 };

async function system(t: Parameters<typeof startOrcd>[0], words: number, flags: readonly string[] = [], slots = 1) {
  const folder = temporaryFolder(t, "rough");
  const { path, text } = writeCountingModel(folder, words);
  const orcd = await startOrcd(t, join(folder, "data"), flags);
  const worker = await startWorkerd(t, path, orcd.url, ["--model-name", "counting", "--slots", String(slots)]);
  await eventually(async () => (await getJson(`${orcd.url}/v2/workers`)).workers.length === 1);
  return { orcd, worker, text };
}

const slotsBusy = async (worker: Program) => (await getJson(`${worker.url}/health`)).slots_busy as number;

test("a client that leaves: its job goes on, or frees the worker's slot if it asked for that", async (t) => {
  const { orcd, worker, text } = await system(t, 40);
  for (const on_disconnect of ["cancel", "continue"]) {
    const leave = new AbortController();
    const answer = await submit(orcd.url, { ...JOB, stream: true, on_disconnect }, leave.signal);
    const id = answer.headers.get("x-rbees-job-id");
    for await (const event of follow(answer)) if (event.type === "token") break;
    leave.abort();
    const status = on_disconnect === "cancel" ? "cancelled" : "succeeded";
    const job = await eventually(async () => {
      const seen = await getJson(`${orcd.url}/v2/tasks/${id}`);
      return seen.status === status ? seen : undefined;
    });
    if (status === "succeeded") assert.equal(job.text, text);
    else assert.ok(text.startsWith(job.text) && job.text.length < text.length);
    await eventually(async () => (await slotsBusy(worker)) === 0);
  }
});

test("a client that reads slowly gets every token, and holds up nobody", async (t) => {
  const { orcd, text } = await system(t, 40, [], 2);
  const { events_url } = (await (await submit(orcd.url, JOB)).json()) as Json;
  const slow = connect({ port: orcd.port, host: "127.0.0.1" });
  t.after(() => slow.destroy());
  slow.write(`GET ${events_url} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n`);
  slow.pause();
  assert.equal(await textOf(follow(await submit(orcd.url, { ...JOB, stream: true }))), text, "another client, meanwhile");
  let read = "";
  for await (const part of slow) read += part;
  const said = [...read.matchAll(/^data: (\{"type":"token".*)$/gm)].map(([, data]) => JSON.parse(data as string).t);
  assert.equal(said.join(""), text);
});

test("100 requests at once to a queue of 10: each is accepted or told when to come back, and the accepted ones end", async (t) => {
  const { orcd, text } = await system(t, 10, ["--queue-jobs-max", "10"]);
  const answers = await Promise.all(Array.from({ length: 100 }, () => submit(orcd.url, JOB)));
  const ids: string[] = [];
  for (const answer of answers) {
    const body = (await answer.json()) as Json;
    if (answer.status === 202) ids.push(body.job_id);
    else {
      assert.deepEqual([answer.status, body.error.code], [429, "QUEUE_FULL"]);
      assert.ok(Number(answer.headers.get("retry-after")) >= 1);
    }
  }
  assert.ok(ids.length >= 11 && ids.length < 100, String(ids.length));
  for (const id of ids) await eventually(async () => (await getJson(`${orcd.url}/v2/tasks/${id}`)).text === text, 60_000);
});

test("bodies that are too large, broken or wrong are refused, and the next good one works", async (t) => {
  const { orcd, text } = await system(t, 10);
  const post = (body: string) =>
    fetch(`${orcd.url}/v2/tasks`, { method: "POST", headers: { "content-type": "application/json" }, body }).then(
      ({ status }) => status,
      () => "cut off",
    );
  assert.ok([413, "cut off"].includes(await post(JSON.stringify({ ...JOB, prompt: "x".repeat(10_000_000) }))));
  assert.equal(await post('{"model": "counting", "prompt": '), 400);
  assert.equal(await post(JSON.stringify({ ...JOB, colour: "red" })), 400);
  assert.equal(await post(JSON.stringify({ ...JOB, prompt: 7, max_tokens: "many" })), 400);
  assert.equal(await post("null"), 400);
  assert.equal(await textOf(follow(await submit(orcd.url, { ...JOB, stream: true }))), text);
});
