/** A worker joins with a token, answers its orchestrator alone, and finds its way back to one that was restarted. */
import assert from "node:assert/strict";
import { existsSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { silentLog } from "@rbees/kit/log";
import { Keyring } from "../../packages/orcd/src/keyring.ts";
import { databaseIn, openStore } from "../../packages/orcd/src/store/open.ts";
import { startHarness } from "../../packages/orcd/test/harness.ts";
import { createWorkerd } from "../../packages/workerd/src/workerd.ts";
import { testConfig } from "../../packages/workerd/test/support.ts";
import { eventually, type Json, temporaryFolder } from "../support/cluster.ts";

const DEMO = fileURLToPath(new URL("../../models/demo/demo.gguf", import.meta.url));

test("a worker with a token of its own: it joins, works, refuses strangers, and is back after the orchestrator's restart", async (t) => {
  const data_dir = temporaryFolder(t, "orcd");
  const secrets = temporaryFolder(t, "secrets");
  const store = await openStore(databaseIn(data_dir));
  const { key } = await (await Keyring.open(store)).create({ name: "me", roles: ["operate"] }, undefined);
  await store.close();
  const orcd = await startHarness(t, { auth_required: true, heartbeat_ms: 100 }, data_dir);
  const { port } = orcd.orcd;
  const authorization = `Bearer ${key}`;
  const asked = async (path: string, body?: Json): Promise<Json> => {
    const how = body === undefined ? {} : { method: "POST", body: JSON.stringify(body) };
    return (await fetch(orcd.url + path, { ...how, headers: { authorization, "content-type": "application/json" } })).json();
  };
  const file = join(secrets, "join.token");
  writeFileSync(file, (await asked("/v2/join-tokens", { worker_id: "w1" })).token, { mode: 0o600 });
  const config = testConfig({
    model: DEMO,
    model_name: "demo",
    worker_id: "w1",
    orchestrator: orcd.url,
    join_token_file: file,
    secrets_dir: secrets,
    slots: 1,
  });
  const limits = { backoff_ms: 20, backoff_max_ms: 100, call_ms: 5000, leave_ms: 500 };
  const worker = await createWorkerd(config, silentLog(), {}, { on_shutdown() {}, on_fatal() {}, enlist_limits: limits });
  t.after(() => worker.stop());

  const workers = async (): Promise<Json[]> => (await asked("/v2/workers")).workers;
  await eventually(async () => (await workers()).length === 1);
  const job = async () => {
    const { job_id } = await asked("/v2/tasks", { model: "demo", prompt: "Hello", max_tokens: 4 });
    return eventually(async () => (await asked(`/v2/tasks/${job_id}`)).status === "succeeded");
  };
  await job();

  const knock = async (path: string, secret?: string) => {
    const headers: Record<string, string> = {
      "content-type": "application/json",
      ...(secret === undefined ? {} : { authorization: `Bearer ${secret}` }),
    };
    const method = path === "/metrics" || path === "/health" ? {} : { method: "POST", body: '{"job_id":"j","prompt":"hi","max_tokens":1}' };
    return (await fetch(worker.url + path, { ...method, headers })).status;
  };
  for (const path of ["/execute", "/cancel", "/shutdown", "/metrics"])
    for (const secret of [undefined, key, "x".repeat(43), readFileSync(join(secrets, "w1.credential"), "utf8").trim()])
      assert.equal(await knock(path, secret), 401, path);
  assert.deepEqual([await knock("/health"), await knock("/health", "x".repeat(43))], [200, 401]);
  const door = join(secrets, "w1.door");
  assert.equal(statSync(door).mode & 0o777, 0o600);
  assert.equal(await knock("/metrics", readFileSync(door, "utf8").trim()), 200, "whoever may read its file");

  await orcd.orcd.stop();
  await startHarness(t, { auth_required: true, heartbeat_ms: 100, port }, data_dir);
  await eventually(async () => (await workers().catch(() => [])).length === 1);
  await job();
  assert.ok(existsSync(file), "a file that somebody named is not ours to remove");
});
