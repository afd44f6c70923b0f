/** A model that nobody serves is loaded because a job waits for it, answers, and goes when nobody wants it any more. */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { fetchTrusting } from "@rbees/kit/tls";
import { bench, freePort, REAL } from "../../packages/cli/test/harness.ts";
import { eventually, follow, getJson, type Json, submit, temporaryFolder } from "../support/cluster.ts";
import { writeCountingModel } from "../support/models.ts";

const SETTINGS = {
  RBEES_AUTO_SPAWN: "true",
  RBEES_POOLS: "here=localhost",
  RBEES_POOL_REFRESH_MS: "2000",
  RBEES_QUEUE_NEWS_MS: "100",
  RBEES_IDLE_TTL_MS: "1500",
  RBEES_RESIDENCY_MS_MIN: "1000",
};

/** A host that has a model on disk and no worker for it; `text` is what that model says. */
async function setUp(t: TestContext) {
  const { path, text } = writeCountingModel(temporaryFolder(t, "auto-spawn"), 20);
  const near = await bench((clean) => t.after(clean), REAL);
  const rbees = (...words: string[]) => near.run(words, { env: SETTINGS });
  assert.equal((await rbees("rbees-pool", "models", "register", "counting", path)).exit, 0);
  return { near, rbees, text };
}

test("a job for a model that is only on disk: loading, the answer, and the worker leaves when it is idle", {
  timeout: 110_000,
}, async (t) => {
  const { rbees, text } = await setUp(t);
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

test("the same where keys, worker credentials and TLS are on: the worker that is started joins with a token of its own, and answers strangers nothing", {
  timeout: 110_000,
}, async (t) => {
  const { near, rbees, text } = await setUp(t);
  const [port, worker_port] = [String(await freePort()), String(await freePort())];
  const address = ["--listen", "0.0.0.0", "--port", port, "--worker-port", worker_port];
  const up = await rbees("rbees", "up", ...address, "--slots", "1", "--threads", "1");
  assert.equal(up.exit, 0, up.err);
  const key = readFileSync(join(near.root, "config", "api.key"), "utf8").trim();
  const ca = readFileSync(join(near.root, "config", "tls", "ca.pem"), "utf8");
  const url = `https://127.0.0.1:${port}`;
  const send = fetchTrusting(ca);
  const ask = async (route: string, init: RequestInit = {}) =>
    send(`${url}${route}`, { ...init, headers: { authorization: `Bearer ${key}`, "content-type": "application/json" } });
  const json = async (route: string): Promise<Json> => (await ask(route)).json();
  assert.equal((await send(`${url}/v2/models`)).status, 401);
  await eventually(async () => (await json("/v2/models")).models.some(({ model }: Json) => model === "counting"));

  const body = JSON.stringify({ model: "counting", prompt: "count", max_tokens: 100, temperature: 0, stream: true });
  const events: Json[] = [];
  for await (const event of follow(await ask("/v2/tasks", { method: "POST", body }))) events.push(event);
  const said = events.filter(({ type }) => type === "token").map(({ t: each }) => each);
  assert.equal(said.join(""), text);
  assert.equal(events.at(-1).type, "end");
  const started = ((await json("/v2/workers")).workers as Json[]).find(({ model }) => model === "counting");
  assert.deepEqual(started?.labels, { "rbees.pool": "here", "rbees.device": "cpu" });
  assert.equal(
    (await fetch(`${started.address}/execute`, { method: "POST", body: "{}" })).status,
    401,
    "it answers its orchestrator alone",
  );
  const held = readdirSync(join(near.root, "state", "workers")).filter((name) => name.startsWith(started.worker_id.replaceAll(":", "%3A")));
  assert.deepEqual(held.map((name) => name.split(".").at(-1)).sort(), ["credential", "door", "json"], "its token is used and gone");

  const { out } = await near.run(["rbees", "audit", "list", "--json"]);
  const entries = out
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Json);
  const admitted = entries.filter(({ kind, worker_id }) => kind === "worker.admitted" && worker_id === started.worker_id);
  assert.equal(admitted.length, 1, out);
  const invited = entries.find(({ kind, token_id }) => kind === "worker.invited" && token_id === admitted[0].token_id);
  assert.equal(invited?.pool, "here", "the orchestrator invited it, into that pool and no other");

  const workers = async () => ((await json("/v2/workers")).workers as Json[]).map(({ model }) => model);
  await eventually(async () => !(await workers()).includes("counting"), 30_000);
  assert.deepEqual(await workers(), ["demo"], "the one that was started by hand stays");
});
