/** What was accepted survives: an orchestrator that is killed loses no job. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { test } from "node:test";
import type { ChainedEntry } from "@rbees/kit/audit-chain";
import { firstBroken } from "@rbees/kit/audit-check";
import { eventually, follow, getJson, type Json, startOrcd, startWorkerd, submit, temporaryFolder, textOf } from "../support/cluster.ts";
import { writeCountingModel } from "../support/models.ts";

test("kill -9 of the orchestrator with ten jobs queued and two running: none is lost, each ends once", async (t) => {
  const folder = temporaryFolder(t, "killed");
  const { path, text } = writeCountingModel(folder, 60);
  const first = await startOrcd(t, join(folder, "data"), ["--heartbeat-ms", "200"]);
  await startWorkerd(t, path, first.url, ["--model-name", "counting", "--slots", "2"]);
  await eventually(async () => (await getJson(`${first.url}/v2/workers`)).workers.length === 1);
  const ids: string[] = [];
  for (let n = 0; n < 12; n += 1)
    ids.push(
      ((await (await submit(first.url, { model: "counting", prompt: `job ${n}`, max_tokens: 200, temperature: 0 })).json()) as Json).job_id,
    );
  await eventually(async () => {
    const { tasks } = await getJson(`${first.url}/v2/tasks`);
    const running = tasks.filter(({ status }: Json) => status === "running").length;
    const shown = await getJson(`${first.url}/v2/tasks/${ids[0]}`);
    return running === 2 && shown.status === "running" && shown.text !== "";
  });
  await first.kill("SIGKILL");

  const second = await startOrcd(t, join(folder, "data"), ["--heartbeat-ms", "200", "--port", String(first.port)]);
  const before = await getJson(`${second.url}/v2/tasks?limit=200`);
  assert.equal(before.tasks.length, 12);
  // Followed across the restart: a stream that begins anew says so.
  const resumed = await fetch(`${second.url}/v2/tasks/${ids[0]}/events`, { headers: { "last-event-id": "5" } });
  const events: Json[] = [];
  for await (const event of follow(resumed)) events.push(event);
  assert.ok(events.some(({ type }) => type === "restarted"));
  assert.ok(events.every(({ id }) => id > 5));
  await eventually(async () => {
    const { tasks } = await getJson(`${second.url}/v2/tasks?limit=200`);
    return tasks.every(({ status }: Json) => status === "succeeded");
  }, 60_000);
  for (const id of ids) assert.equal((await getJson(`${second.url}/v2/tasks/${id}`)).text, text);
  assert.equal(await second.kill("SIGTERM"), 0);

  const db = new DatabaseSync(join(folder, "data", "orcd.sqlite"), { readOnly: true });
  const entries = db.prepare("select * from audit order by seq").all() as unknown as ChainedEntry[];
  db.close();
  assert.equal(firstBroken(entries), undefined);
  const ended = entries.filter(({ kind }) => kind === "job.ended").map(({ record }) => JSON.parse(record).job_id);
  assert.deepEqual(ended.toSorted(), ids.toSorted(), "each job ended exactly once");
});

test("ended jobs stay readable after a restart, their events answer 410", async (t) => {
  const folder = temporaryFolder(t, "readable");
  const { path, text } = writeCountingModel(folder, 10);
  const first = await startOrcd(t, join(folder, "data"));
  await startWorkerd(t, path, first.url, ["--model-name", "counting"]);
  await eventually(async () => (await getJson(`${first.url}/v2/workers`)).workers.length === 1);
  const answer = await submit(first.url, { model: "counting", prompt: "count", stream: true });
  const id = answer.headers.get("x-rbees-job-id");
  assert.equal(await textOf(follow(answer)), text);
  await first.kill("SIGKILL");
  const second = await startOrcd(t, join(folder, "data"));
  const job = await getJson(`${second.url}/v2/tasks/${id}`);
  assert.deepEqual([job.status, job.text, job.stop_reason], ["succeeded", text, "EOS"]);
  assert.equal((await fetch(`${second.url}/v2/tasks/${id}/events`)).status, 410);
});
