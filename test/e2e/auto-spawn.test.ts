/** A model that nobody serves is loaded because a job waits for it, answers, and goes when nobody wants it any more. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { bench, freePort, REAL } from "../../packages/cli/test/harness.ts";
import { eventually, follow, getJson, type Json, submit, temporaryFolder } from "../support/cluster.ts";
import { writeCountingModel } from "../support/models.ts";

const SETTINGS = {
  RBEES_AUTO_SPAWN: "true",
  RBEES_POOLS: "here=localhost",
  RBEES_POOL_REFRESH_MS: "500",
  RBEES_QUEUE_NEWS_MS: "100",
  RBEES_IDLE_TTL_MS: "1500",
  RBEES_RESIDENCY_MS_MIN: "1000",
};

test("a job for a model that is only on disk: loading, the answer, and the worker leaves when it is idle", {
  timeout: 110_000,
}, async (t) => {
  const { path, text } = writeCountingModel(temporaryFolder(t, "auto-spawn"), 20);
  const near = await bench((clean) => t.after(clean), REAL);
  const rbees = (...words: string[]) => near.run(words, { env: SETTINGS });
  assert.equal((await rbees("rbees-pool", "models", "register", "counting", path)).exit, 0);
  const url = `http://127.0.0.1:${await freePort()}`;
  const port = new URL(url).port;
  const up = await rbees("rbees", "up", "--port", port, "--worker-port", String(await freePort()), "--slots", "1", "--threads", "1");
  assert.equal(up.exit, 0, up.err);
  await eventually(async () => (await getJson(`${url}/v2/models`)).models.some(({ model }: Json) => model === "counting"));

  const events: Json[] = [];
  const job = { model: "counting", prompt: "count", max_tokens: 100, temperature: 0, stream: true };
  for await (const event of follow(await submit(url, job))) events.push(event);
  const said = events.filter(({ type }) => type === "token").map(({ t: each }) => each);
  assert.equal(said.join(""), text);
  const loading = events.filter(({ type }) => type === "loading");
  assert.ok(
    loading.some(({ share }) => share === 1),
    "the worker says when all of it is in memory",
  );
  assert.ok(loading.length > 0 && loading.every(({ model, pool, device }) => model === "counting" && pool === "here" && device === "cpu"));
  // Each piece of news is told once.
  const elapsed = loading.map(({ elapsed_ms }) => elapsed_ms);
  assert.deepEqual(elapsed, [...new Set(elapsed)]);
  assert.equal(events.at(-1).type, "end");

  const workers = async () => (await getJson(`${url}/v2/workers`)).workers as Json[];
  const started = (await workers()).find(({ model }) => model === "counting");
  assert.deepEqual(started?.labels, { "rbees.pool": "here", "rbees.device": "cpu" });
  await eventually(async () => (await workers()).every(({ model }) => model !== "counting"), 30_000);
  assert.deepEqual(
    (await workers()).map(({ model }) => model),
    ["demo"],
    "the one that was started by hand stays",
  );
  await eventually(async () => !(await rbees("rbees-pool", "worker", "list", "--json")).out.includes("counting"), 30_000);
});
