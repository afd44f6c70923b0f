/** Jobs of a tenant that must stay in an area: every way to a worker, each tried with a worker outside that would be the better choice. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { explain } from "../src/explain.ts";
import { DEVICE_LABEL, POOL_LABEL } from "../src/provision.ts";
import type { Limits } from "../src/state.ts";
import { Core, dispatched, FAILED, LOST, only, REFUSED, the, UNREACHED } from "./support.ts";

const DE = ["de", "EU", "EEA"];
const US = ["us"];

/** The tenant `eu` may not leave the EU, the tenant `t` may. */
function resident(limits: Partial<Limits> = {}): Core {
  const core = new Core(limits);
  core.send({ type: "tenant.set", tenant: "eu", weight: 1, residency: "EU" });
  return core;
}

const EU = { tenant: "eu" };

test("a job goes to a worker in its area, and waits rather than go elsewhere; a worker that does not say where it is is nowhere", () => {
  const core = resident();
  core.worker("us", { areas: US });
  core.worker("somewhere");
  assert.deepEqual(dispatched(core.submit("j", EU)), []);
  assert.deepEqual(dispatched(core.after(5000)), []);
  const explained = explain(core.state, "j", core.now_ms);
  assert.match(explained?.answer ?? "", /tenant eu demands a worker in EU, and no such worker serves m/);
  assert.deepEqual(
    explained?.workers.map(({ reason }) => reason),
    ["tenant eu demands a worker in EU, and its region is us", "tenant eu demands a worker in EU, and it declares no region"],
  );
  assert.deepEqual(dispatched(core.submit("other")), ["other→us"], "others pass it");
  assert.deepEqual(dispatched(core.worker("de", { areas: DE })), ["j→de"]);
});

for (const [what, outcome] of [
  ["fails there", FAILED],
  ["is lost with its answer begun", LOST],
  ["never got there", UNREACHED],
  ["was refused", REFUSED],
] as const) {
  test(`the next attempt of a job that ${what} stays in its area`, () => {
    const core = resident({ worker_inhibit_ms: 500, attempts_max: 9 });
    core.worker("de", { areas: DE });
    core.worker("us", { areas: US, slots: 4 });
    assert.deepEqual(dispatched(core.submit("j", EU)), ["j→de"]);
    core.send({ type: "attempt.prefilled", job_id: "j", attempt: 1, worker_id: "de" });
    assert.deepEqual(dispatched(core.ends("j", outcome)), []);
    core.now_ms += 5000;
    assert.deepEqual(
      dispatched(core.beats("de", "us").concat(core.after(0))),
      ["j→de"],
      "back to the worker that failed it, not over the border",
    );
  });
}

test("a job whose worker is gone, and one that was running when the orchestrator stopped, wait for another in their area", () => {
  const core = resident();
  core.worker("de", { areas: DE });
  core.worker("us", { areas: US, slots: 4 });
  core.submit("j", EU);
  const left = core.send({ type: "worker.left", worker_id: "de", epoch: null });
  assert.equal(the(left, "requeue").job_id, "j");
  assert.deepEqual(dispatched(left), []);
  assert.deepEqual(dispatched(core.send({ type: "job.recovered", spec: core.spec("r", EU), attempt: 1, spent: 0, ran: true })), []);
  assert.deepEqual(dispatched(core.after(5000)), []);
  core.worker("fr", { areas: ["fr-par", "fr", "EU", "EEA"], slots: 2 });
  core.after(5000);
  assert.deepEqual([core.at("j"), core.at("r")], ["fr", "fr"]);
});

test("a draining worker's jobs move within their area or end where they are", () => {
  const core = resident();
  core.worker("de", { areas: DE, slots: 2 });
  core.worker("us", { areas: US, slots: 4, epoch: 1 });
  core.submit("j", EU);
  core.submit("any", { prefer: ["de"] });
  const moved = core.send({ type: "worker.drained", worker_id: "de", move: true });
  assert.deepEqual(dispatched(moved), ["any→us"]);
  assert.equal(core.at("j"), "de");
});

test("nobody is moved aside abroad for a job that may not go there, and whoever is moved aside at home comes back at home", () => {
  const core = resident({ preempt_batch: true });
  core.worker("de", { areas: DE });
  core.worker("us", { areas: US });
  core.submit("b-eu", { ...EU, priority: "batch" });
  core.submit("b-any", { priority: "batch" });
  assert.deepEqual([core.at("b-eu"), core.at("b-any")], ["de", "us"]);
  const urgent = core.submit("i", EU);
  assert.deepEqual(
    only(urgent, "abort").map(({ job_id }) => job_id),
    ["b-eu"],
  );
  core.reports("b-eu", 1, "de", { kind: "aborted" });
  assert.equal(core.at("i"), "de");
  core.ends("b-any");
  core.after(1000);
  assert.equal(core.at("b-eu"), null, "the worker abroad is free");
  core.ends("i");
  core.after(1000);
  assert.equal(core.at("b-eu"), "de");
});

test("neither the kept beginning of a prompt, nor speed, nor a wish leads abroad", () => {
  for (const policy of ["eta", "lmetric", "least-loaded", "most-free-memory", "round-robin"] as const) {
    const core = resident({ policy, prefix_block_tokens: 4 });
    const prompt = { prefix: [1, 2, 3, 4], prompt_tokens: 16 };
    core.worker("us", { areas: US, slots: 8, cache_tokens: 4096 });
    core.submit("warm", prompt);
    core.ends("warm");
    core.worker("de", { areas: DE, slots: 8 });
    core.submit("busy", { prefer: ["de"] });
    assert.deepEqual(dispatched(core.submit("j", { ...EU, ...prompt, prefer: ["us"] })), ["j→de"], policy);
  }
});

test("a pin abroad is refused and says who forbids it; one at home is kept", () => {
  const core = resident();
  core.worker("us", { areas: US });
  core.worker("de", { areas: DE });
  const { code, message } = the(core.submit("j", { ...EU, pin: "us" }), "refuse");
  assert.equal(code, "FORBIDDEN");
  assert.match(message, /pinned to "us", but tenant eu demands a worker in EU, and its region is us/);
  assert.deepEqual(dispatched(core.submit("k", { ...EU, pin: "de" })), ["k→de"]);
});

test("a pinned job whose worker comes back from abroad waits", () => {
  const core = resident();
  core.worker("w", { areas: DE });
  core.submit("j", { ...EU, pin: "w" });
  core.worker("w", { areas: US, epoch: 2 });
  core.after(10_000);
  assert.equal(core.at("j"), null);
  core.worker("w", { areas: DE, epoch: 3 });
  core.after(5000);
  assert.equal(core.at("j"), "w");
});

test("what waits stays from the moment that its tenant has to, and goes on when it has not to any more", () => {
  const core = new Core();
  core.worker("us", { areas: US });
  core.submit("first", EU);
  core.submit("second", EU);
  core.send({ type: "tenant.set", tenant: "eu", weight: 1, residency: "EU" });
  assert.equal(core.at("first"), "us", "what runs ends where it began");
  assert.deepEqual(dispatched(core.ends("first")), []);
  assert.deepEqual(dispatched(core.send({ type: "tenant.set", tenant: "eu", weight: 1, residency: null })), ["second→us"]);
});

// Workers that are started for jobs.

const GB = 1e9;
const SPAWNING = { auto_spawn: true, residency_ms_min: 0, worker_silence_ms_max: 1e9 };

function pool(core: Core, id: string, areas: readonly string[], free_bytes: number, backend = "cuda") {
  const devices = [{ id: "0", backend, preference: 0, free_bytes }];
  return core.send({ type: "pool.reported", pool: { id, areas, devices, models: new Map([["m", 4 * GB]]) } });
}

function started(core: Core, pool_id: string, areas: readonly string[], demands_key: string) {
  const labels = { [POOL_LABEL]: pool_id, [DEVICE_LABEL]: "0" };
  const joined = core.worker(`m@${pool_id}`, { areas, labels, slots: 2, backend: "cuda" });
  return [...joined, ...core.send({ type: "load.ended", model: "m", demands_key, error: null })];
}

test("a worker is started in the area, though another pool has more room, and serves others too", () => {
  const core = resident(SPAWNING);
  pool(core, "us-box", US, 80 * GB);
  pool(core, "de-box", DE, 8 * GB);
  const spawn = the(core.submit("j", EU), "spawn");
  assert.equal(spawn.pool_id, "de-box");
  assert.deepEqual(only(core.submit("any"), "spawn"), [], "it will do for this one too");
  assert.match(explain(core.state, "any", core.now_ms)?.answer ?? "", /m is being loaded in de-box/);
  assert.deepEqual(dispatched(started(core, "de-box", DE, spawn.demands_key)), ["j→m@de-box", "any→m@de-box"]);
});

test("that the model is served abroad is no help: one is started at home all the same, and nowhere where no pool is at home", () => {
  const core = resident(SPAWNING);
  core.worker("us", { areas: US, slots: 4 });
  pool(core, "us-box", US, 80 * GB);
  assert.deepEqual(only(core.submit("j", EU), "spawn"), []);
  assert.match(explain(core.state, "j", core.now_ms)?.answer ?? "", /tenant eu demands a worker in EU, and no such pool has m/);
  const spawn = the(pool(core, "de-box", DE, 8 * GB), "spawn");
  assert.equal(spawn.pool_id, "de-box");
  assert.deepEqual(dispatched(started(core, "de-box", DE, spawn.demands_key)), ["j→m@de-box"]);
});

test("one that is on its way abroad does not keep the one at home from being started, and does not get the job", () => {
  const core = resident(SPAWNING);
  pool(core, "us-box", US, 80 * GB);
  assert.equal(the(core.submit("any"), "spawn").pool_id, "us-box");
  core.submit("j", EU);
  assert.equal(the(pool(core, "de-box", DE, 8 * GB), "spawn").pool_id, "de-box");
  assert.deepEqual(dispatched(started(core, "us-box", US, "")), ["any→m@us-box"]);
});

test("room is made at home, never abroad", () => {
  const core = resident({ ...SPAWNING, make_way_ms: 1000 });
  const busy = (id: string, pool_id: string, areas: readonly string[]) =>
    core.worker(id, { model: "x", areas, labels: { [POOL_LABEL]: pool_id, [DEVICE_LABEL]: "0" } });
  for (const [id, areas] of [
    ["us-box", US],
    ["de-box", DE],
  ] as const) {
    const devices = [{ id: "0", backend: "cuda", preference: 0, free_bytes: 0 }];
    const models = new Map([
      ["m", 4 * GB],
      ["x", 4 * GB],
    ]);
    core.send({ type: "pool.reported", pool: { id, areas, devices, models } });
    busy(`x@${id}`, id, areas);
    core.submit(`on-${id}`, { model: "x" });
  }
  core.submit("j", EU);
  const decided = [...core.after(2000), ...core.after(2000)];
  assert.deepEqual(
    only(decided, "worker.drain").map(({ worker_id }) => worker_id),
    ["x@de-box"],
  );
});
