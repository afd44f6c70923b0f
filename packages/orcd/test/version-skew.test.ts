/** An orchestrator beside workers of other versions. */
import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { ORCHESTRATOR_SPEAKS } from "@rbees/contracts/protocol";
import { VERSION } from "@rbees/kit/version";
import type { FakeWorker } from "../../../test/support/fake-worker.ts";
import { eventsOf, type Json, startHarness } from "./harness.ts";

const OLDER = {
  error: {
    code: "INVALID_REQUEST",
    message: "The request is not valid: cache_salt: unknown field",
    type: "invalid_request_error",
    param: "cache_salt",
    retriable: false,
    correlation_id: "c",
    details: [{ field: "cache_salt", problem: "unknown field" }],
  },
};

function answer(attempt: Awaited<ReturnType<FakeWorker["next"]>>): void {
  attempt.started();
  attempt.tokens("one");
  attempt.end();
}

async function twoWorkers(t: TestContext) {
  const orcd = await startHarness(t);
  return {
    orcd,
    older: await orcd.worker("older", { features: ["tokenize"] }),
    newer: await orcd.worker("newer", { features: ["tokenize"] }),
  };
}

test("a newer worker registers, beats and works; what it says beyond what is known here is not asked for", async (t) => {
  const orcd = await startHarness(t);
  const features = ["telepathy"];
  const newer = await orcd.worker("w9", {
    protocol: 99,
    protocol_min: ORCHESTRATOR_SPEAKS.protocol,
    version: "9.0.0",
    features,
    moods: ["glad"],
  });
  const beat = { epoch: 0, slots_busy: 0, memory_bytes: 1, tokens_per_second: 0, mood: "glad" };
  const beaten = await fetch(`${orcd.url}/workers/w9/heartbeat`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(beat),
  });
  assert.equal(beaten.status, 200);
  const { workers, orchestrator_version } = await orcd.json("/v2/workers");
  assert.deepEqual([workers[0].version, workers[0].features, orchestrator_version], ["9.0.0", features, VERSION]);
  const asking = orcd.submit({ stream: true });
  answer(await newer.next());
  assert.equal((await eventsOf(await asking)).at(-1)?.type, "end");
});

test("a worker that needs a newer orchestrator is not registered, and both hear which is to be upgraded", async (t) => {
  const orcd = await startHarness(t);
  const w1 = await orcd.worker("w1");
  const speaks = { id: "w9", protocol: 99, protocol_min: 99, version: "9.0.0" };
  const refused = await w1.register(orcd.url, speaks);
  const { error } = (await refused.json()) as Json;
  assert.deepEqual([refused.status, error.code, error.retriable, error.details.upgrade], [503, "PROTOCOL_MISMATCH", true, "orchestrator"]);
  assert.match(error.message, /^Worker w9 is rbees 9\.0\.0 .*upgrade the orchestrator\.$/);
  assert.deepEqual(
    (await orcd.json("/v2/workers")).workers.map(({ worker_id }: Json) => worker_id),
    ["w1"],
  );
});

test("an attempt that a worker refuses for a field that it does not know goes to the next worker", async (t) => {
  const { orcd, older, newer } = await twoWorkers(t);
  older.refuseNext(400, OLDER);
  const asking = orcd.submit({ placement: { prefer: ["older"] }, stream: true });
  answer(await newer.next());
  const events = await eventsOf(await asking);
  assert.deepEqual([events.at(-1)?.type, events.find(({ type }) => type === "started")?.worker_id], ["end", "newer"]);

  const count = async () => {
    const headers = { "content-type": "application/json" };
    const body = JSON.stringify({ model: "fake", prompt: "hi" });
    return (await (await fetch(`${orcd.url}/v2/tokenize`, { method: "POST", headers, body })).json()) as Json;
  };
  older.refuseNext(400, OLDER);
  newer.refuseNext(400, OLDER);
  const { error } = await count();
  assert.equal(error.code, "NO_WORKER", "each was asked");
  assert.match(error.message, /does not know cache_salt: upgrade it/);
  older.refuseNext(400, OLDER);
  assert.deepEqual([(await count()).tokens_in, (await count()).tokens_in], [7, 7]);
});

test("where there is no other worker the job fails, and its client hears what to upgrade; other refusals stay final", async (t) => {
  const orcd = await startHarness(t, { attempts_max: 2 });
  const older = await orcd.worker("older");
  for (let attempt = 0; attempt < 2; attempt++) older.refuseNext(400, OLDER);
  const last = (await eventsOf(await orcd.submit({ stream: true }))).at(-1);
  assert.deepEqual([last?.code, last?.retriable], ["PROTOCOL_MISMATCH", true]);
  assert.match(last?.message, /older version and does not know cache_salt: upgrade it/);

  const bad = { error: { ...OLDER.error, message: "stop: no", details: [{ field: "stop", problem: "no" }] } };
  older.refuseNext(400, bad);
  const final = (await eventsOf(await orcd.submit({ stream: true }))).at(-1);
  assert.deepEqual([final?.code, final?.retriable], ["INVALID_REQUEST", false]);
});
