/** Workers that are started when they are wanted and ended when they are not: where, at whose expense, and how often at most. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Decision } from "../src/events.ts";
import { explain } from "../src/explain.ts";
import { DEVICE_LABEL, POOL_LABEL } from "../src/provision.ts";
import type { Limits } from "../src/state.ts";
import { Core, dispatched, only, the } from "./support.ts";

const GB = 1e9;

/** A core with pools, and machines that do what it decides. */
class Provisioned extends Core {
  readonly models: ReadonlyMap<string, number>;
  readonly sizes = new Map<string, number>();
  /** Where pools stand, if they say so. */
  readonly areas = new Map<string, string[]>();
  readonly decided: Decision[] = [];

  constructor(limits: Partial<Limits>, models: Record<string, number>) {
    super({ auto_spawn: true, residency_ms_min: 10_000, worker_silence_ms_max: 1e9, ...limits });
    this.models = new Map(Object.entries(models));
  }

  /** What a device of that size has free, given who stands there. */
  pool(id: string, sizes: Record<string, number>): Decision[] {
    for (const [device, bytes] of Object.entries(sizes)) this.sizes.set(`${id} ${device}`, bytes);
    const used = (device: string) => {
      let bytes = 0;
      for (const { spec } of this.state.workers.values()) {
        if (spec.labels[POOL_LABEL] === id && spec.labels[DEVICE_LABEL] === device) bytes += this.models.get(spec.model) ?? 0;
      }
      return bytes;
    };
    const devices = Object.entries(sizes).map(([device, bytes]) => ({
      id: device,
      backend: "cuda",
      preference: 0,
      free_bytes: bytes - used(device),
    }));
    return this.send({ type: "pool.reported", pool: { id, areas: this.areas.get(id) ?? [], devices, models: this.models } });
  }

  /** The worker of a load is there. */
  loaded(model: string, pool: string, device = "0"): Decision[] {
    const id = `${model}@${pool}.${device}`;
    const joined = this.worker(id, { model, slots: 2, labels: { [POOL_LABEL]: pool, [DEVICE_LABEL]: device } });
    return [...joined, ...this.send({ type: "load.ended", model, demands_key: "", error: null })];
  }

  gone(worker_id: string): Decision[] {
    return this.send({ type: "worker.left", worker_id, epoch: null });
  }
}

test("a job for a model that only a pool has is accepted, the model is loaded once for all who wait, and they run", () => {
  const core = new Provisioned({}, { a: 4 * GB });
  core.pool("box", { "0": 8 * GB });
  const first = core.submit("j1", { model: "a" });
  assert.deepEqual(only(first, "spawn"), [{ type: "spawn", model: "a", demands_key: "", pool_id: "box", device_id: "0", backend: "cuda" }]);
  assert.deepEqual(only(core.submit("j2", { model: "a" }), "spawn"), []);
  assert.match(explain(core.state, "j1", core.now_ms)?.answer ?? "", /a is being loaded in box \(0\)/);
  assert.deepEqual(dispatched(core.loaded("a", "box")), ["j1→a@box.0", "j2→a@box.0"]);
  assert.equal(the(core.submit("j3", { model: "b" }), "refuse").code, "MODEL_NOT_FOUND");
});

test("until every pool has been asked nobody is told that there is no such model", () => {
  const core = new Provisioned({ pools: { box: "box", attic: "attic" } }, { a: GB });
  const refused = (id: string, model: string) => the(core.submit(id, { model }), "refuse");
  assert.deepEqual([refused("j1", "a").code, refused("j1", "a").retry_after_ms], ["NO_WORKER", 2000]);
  core.pool("box", { "0": 4 * GB });
  assert.equal(only(core.submit("j2", { model: "a" }), "refuse").length, 0);
  assert.match(refused("j3", "b").message, /"b", and what models there are in attic is being asked/);
  core.send({ type: "pool.lost", pool_id: "attic" });
  assert.equal(refused("j4", "b").code, "MODEL_NOT_FOUND");
});

test("without auto_spawn nothing is started, and pools make no model known", () => {
  const core = new Core();
  core.send({
    type: "pool.reported",
    pool: { id: "box", areas: [], devices: [{ id: "0", backend: "cpu", preference: 1, free_bytes: GB }], models: new Map([["a", 1]]) },
  });
  assert.equal(the(core.submit("j", { model: "a" }), "refuse").code, "MODEL_NOT_FOUND");
});

test("a model goes where it fits, first where it loaded fastest, then where most stays free", () => {
  const core = new Provisioned({}, { a: 4 * GB });
  core.pool("small", { "0": 2 * GB });
  core.pool("large", { "0": 6 * GB, "1": 20 * GB });
  assert.deepEqual(the(core.submit("j1", { model: "a" }), "spawn").device_id, "1");
  core.now_ms += 60_000;
  core.loaded("a", "large", "1");
  core.ends("j1");
  core.gone("a@large.1");
  assert.equal(the(core.submit("j2", { model: "a" }), "spawn").device_id, "0", "on the other device it took a minute");
});

test("when a model fits nowhere the idle one goes that costs least to bring back, never a busy, a young or a foreign one", () => {
  const core = new Provisioned({}, { a: 3 * GB, b: 3 * GB, c: 3 * GB, d: 5 * GB });
  const sizes = { "0": 10 * GB };
  core.pool("box", sizes);
  const load = (model: string, ms: number) => {
    core.submit(`first-${model}`, { model });
    core.now_ms += ms;
    core.loaded(model, "box");
    core.ends(`first-${model}`);
    core.pool("box", sizes);
  };
  load("a", 1000);
  load("b", 100_000);
  load("c", 1000);
  core.worker("foreign", { model: "a" });
  core.gone("foreign");
  core.now_ms += 20_000;
  core.submit("busy", { model: "c" });
  const decisions = core.submit("j", { model: "d" });
  // 1 GB is free and d needs 5: one of 3 GB is not enough, and c works.
  assert.deepEqual(
    only(decisions, "evict")
      .map(({ worker_id }) => worker_id)
      .sort(),
    ["a@box.0", "b@box.0"],
  );
  assert.deepEqual(only(decisions, "spawn"), []);
  assert.match(explain(core.state, "j", core.now_ms)?.answer ?? "", /d will be loaded in box \(0\) as soon as there is room/);
  core.gone("a@box.0");
  core.gone("b@box.0");
  assert.equal(the(core.pool("box", sizes), "spawn").model, "d");
});

test("a worker is not ended for another model before it has been there for a while, and explain says what is in the way", () => {
  const core = new Provisioned({ residency_ms_min: 10_000 }, { a: 6 * GB, b: 6 * GB });
  const sizes = { "0": 8 * GB };
  core.pool("box", sizes);
  core.submit("j1", { model: "a" });
  core.loaded("a", "box");
  core.ends("j1");
  core.pool("box", sizes);
  assert.deepEqual(only(core.submit("j2", { model: "b" }), "evict"), []);
  assert.match(explain(core.state, "j2", core.now_ms)?.answer ?? "", /fits nowhere now: box \(0\) has 2000000000 bytes free of 6000000000/);
  assert.equal(the(core.after(10_000), "evict").worker_id, "a@box.0");
});

test("an idle worker leaves after its time, one that was started by hand never, one that is wanted not yet", () => {
  const core = new Provisioned({ idle_ttl_ms: 60_000 }, { a: GB });
  core.pool("box", { "0": 8 * GB });
  core.submit("j1", { model: "a" });
  core.loaded("a", "box");
  core.worker("by-hand", { model: "n" });
  core.now_ms += 120_000;
  assert.deepEqual(only(core.after(0), "evict"), [], "it works");
  core.ends("j1");
  assert.deepEqual(only(core.after(59_999), "evict"), []);
  assert.deepEqual(
    only(core.after(1), "evict").map(({ worker_id, reason }) => [worker_id, reason]),
    [["a@box.0", "idle for 60000 ms"]],
  );
  assert.deepEqual(only(core.after(1000), "evict"), [], "once");
});

test("a worker that could not be ended gets work again, and is left alone for a while; one that is drained meanwhile gets none", () => {
  const core = new Provisioned({ idle_ttl_ms: 60_000, load_backoff_ms_max: 300_000 }, { a: GB });
  core.pool("box", { "0": 8 * GB });
  core.submit("j1", { model: "a" });
  core.loaded("a", "box");
  core.ends("j1");
  the(core.after(60_000), "evict");
  const failed = { type: "evict.failed", worker_id: "a@box.0" } as const;
  the(core.send(failed), "worker.resume");
  assert.deepEqual(core.send(failed), [], "it was not being ended");
  assert.deepEqual(only(core.after(240_000), "evict"), []);
  assert.deepEqual(dispatched(core.submit("j2", { model: "a" })), ["j2→a@box.0"], "no other one is started for it");
  core.ends("j2");
  the(core.after(60_000), "evict");
  core.send({ type: "worker.drained", worker_id: "a@box.0", move: false });
  assert.deepEqual(core.send(failed), []);
  core.after(600_000);
  assert.deepEqual(dispatched(core.submit("j3", { model: "a" })), []);
});

test("a load that failed is tried again after a wait that doubles, and the reason is told", () => {
  const core = new Provisioned({ load_backoff_ms: 1000, load_backoff_ms_max: 3000 }, { a: GB });
  core.pool("box", { "0": 8 * GB });
  core.submit("j", { model: "a" });
  for (const wait of [1000, 2000, 3000, 3000]) {
    assert.deepEqual(core.send({ type: "load.ended", model: "a", demands_key: "", error: "the file is broken" }), []);
    assert.match(
      explain(core.state, "j", core.now_ms)?.answer ?? "",
      new RegExp(`failed \\(the file is broken\\); it is tried again in ${wait} ms`),
    );
    assert.deepEqual(only(core.after(wait - 1), "spawn"), []);
    assert.equal(only(core.after(1), "spawn").length, 1);
  }
});

test("room that is not wanted any more is not taken: the job was cancelled, or somebody started a worker by hand", () => {
  const core = new Provisioned({ residency_ms_min: 0 }, { a: 6 * GB, b: 6 * GB });
  const sizes = { "0": 8 * GB };
  core.pool("box", sizes);
  core.submit("j1", { model: "a" });
  core.loaded("a", "box");
  core.ends("j1");
  core.pool("box", sizes);
  the(core.submit("j2", { model: "b" }), "evict");
  core.cancel("j2");
  core.after(0);
  core.gone("a@box.0");
  assert.deepEqual(only(core.pool("box", sizes), "spawn"), []);
  assert.equal(core.state.loads.size, 0);
});

test("two models that don't fit together are not loaded in turns: in an hour of alternating jobs each stays for its residence at least", () => {
  const residency_ms_min = 30_000;
  const core = new Provisioned({ residency_ms_min, queue_jobs_max: 100_000 }, { a: 6 * GB, b: 6 * GB });
  const sizes = { "0": 8 * GB };
  core.pool("box", sizes);
  const stays: number[] = [];
  const joined = new Map<string, number>();
  const ends: { id: string; at_ms: number }[] = [];
  const act = (decisions: readonly Decision[]): void => {
    for (const { worker_id } of only(decisions, "evict")) {
      stays.push(core.now_ms - (joined.get(worker_id) ?? 0));
      act(core.gone(worker_id));
      act(core.pool("box", sizes));
    }
    for (const { model } of only(decisions, "spawn")) {
      core.now_ms += 2000;
      joined.set(`${model}@box.0`, core.now_ms);
      act(core.loaded(model, "box"));
    }
    for (const { job_id } of only(decisions, "dispatch")) ends.push({ id: job_id, at_ms: core.now_ms + 300 });
  };
  const until_ms = core.now_ms + 3_600_000;
  for (let n = 0; core.now_ms < until_ms; n += 1) {
    act(core.submit(`j${n}`, { model: n % 2 === 0 ? "a" : "b" }));
    core.now_ms += 1000;
    for (
      let due = ends.findIndex(({ at_ms }) => at_ms <= core.now_ms);
      due >= 0;
      due = ends.findIndex(({ at_ms }) => at_ms <= core.now_ms)
    ) {
      const [{ id }] = ends.splice(due, 1) as [{ id: string; at_ms: number }];
      if (core.at(id) !== undefined) act(core.ends(id));
    }
    act(core.after(0));
  }
  assert.ok(stays.length > 10 && stays.length <= 3_600_000 / residency_ms_min, `${stays.length} changes in an hour`);
  assert.ok(Math.min(...stays) >= residency_ms_min, `${Math.min(...stays)} ms`);
  const waiting = [...core.state.jobs.values()].filter(({ worker_id }) => worker_id === null).length;
  assert.ok(waiting < 200, `${waiting} jobs wait: neither model is starved`);
});

/** Two models that don't fit together; the worker of `a` has a job for as long as the test wants. */
function neverIdle(limits: Partial<Limits> = {}): Provisioned {
  const core = new Provisioned({ residency_ms_min: 10_000, make_way_ms: 60_000, ...limits }, { a: 6 * GB, b: 6 * GB });
  core.pool("box", { "0": 8 * GB });
  core.submit("a1", { model: "a" });
  core.loaded("a", "box");
  core.pool("box", { "0": 8 * GB });
  return core;
}

test("a model that is never idle makes way for one that has waited long enough, and gets its turn again in the same way", () => {
  const core = neverIdle();
  assert.deepEqual(
    core.submit("b1", { model: "b" }).map(({ type }) => type),
    ["accept"],
  );
  assert.match(explain(core.state, "b1", core.now_ms)?.answer ?? "", /busy ones make way in 60000 ms/);
  assert.deepEqual(core.after(59_999), []);
  assert.deepEqual(core.after(1), [{ type: "worker.drain", worker_id: "a@box.0" }]);
  assert.match(
    explain(core.state, "b1", core.now_ms)?.answer ?? "",
    /b will be loaded in box \(0\) as soon as a@box.0 has ended its 1 jobs/,
  );
  assert.deepEqual(dispatched(core.submit("a2", { model: "a" })), [], "nothing new comes to it");
  assert.deepEqual(core.after(300_000), [], "it has all the time it needs");
  core.ends("a1");
  assert.deepEqual(only(core.after(0), "evict"), [{ type: "evict", worker_id: "a@box.0", pool_id: "box", reason: "room for b" }]);
  core.gone("a@box.0");
  assert.equal(the(core.pool("box", { "0": 8 * GB }), "spawn").model, "b");
  assert.deepEqual(dispatched(core.loaded("b", "box")), ["b1→b@box.0"]);
  core.pool("box", { "0": 8 * GB });
  assert.equal(the(core.after(60_000), "worker.drain").worker_id, "b@box.0", "a2 has waited as long now");
});

test("a worker that was to make way gets work again when nobody waits for its room any more, unless an operator has drained it", () => {
  const core = neverIdle();
  core.submit("b1", { model: "b" });
  the(core.after(60_000), "worker.drain");
  core.submit("a2", { model: "a" });
  core.cancel("b1");
  const decisions = core.after(0);
  assert.deepEqual(only(decisions, "worker.resume"), [{ type: "worker.resume", worker_id: "a@box.0" }]);
  assert.deepEqual(dispatched(decisions), ["a2→a@box.0"]);

  core.submit("b2", { model: "b" });
  the(core.after(60_000), "worker.drain");
  core.send({ type: "worker.drained", worker_id: "a@box.0", move: false });
  core.cancel("b2");
  assert.deepEqual(core.after(0), []);
});

test("who is pinned to, who is young and who was started by hand makes no way; nor does anybody when it is switched off", () => {
  const pinned = neverIdle();
  pinned.submit("a2", { model: "a" });
  pinned.submit("a3", { model: "a", pin: "a@box.0" });
  pinned.submit("b1", { model: "b" });
  assert.deepEqual(pinned.after(120_000), []);

  const young = neverIdle({ residency_ms_min: 600_000 });
  young.submit("b1", { model: "b" });
  assert.deepEqual(young.after(120_000), []);
  assert.equal(the(young.after(480_000), "worker.drain").worker_id, "a@box.0");

  const off = neverIdle({ make_way_ms: 0 });
  off.submit("b1", { model: "b" });
  assert.deepEqual(off.after(3_600_000), []);
});

test("room that is being made for a large model is not taken by a small one that goes away for it", () => {
  const core = new Provisioned({ residency_ms_min: 1000, make_way_ms: 60_000 }, { p: 4 * GB, q: 4 * GB, r: 8 * GB });
  const sizes = { "0": 8 * GB };
  core.pool("box", sizes);
  for (const model of ["p", "q"]) {
    core.submit(`${model}1`, { model });
    core.loaded(model, "box");
    core.pool("box", sizes);
  }
  core.submit("r1", { model: "r" });
  assert.equal(only(core.after(60_000), "worker.drain").length, 2);
  core.submit("p2", { model: "p" });
  core.ends("p1");
  assert.equal(the(core.after(0), "evict").worker_id, "p@box.0");
  core.gone("p@box.0");
  assert.deepEqual(only(core.pool("box", sizes), "spawn"), [], "half of it is free, and p would fit");
  assert.match(explain(core.state, "p2", core.now_ms)?.answer ?? "", /box \(0\) is being cleared for r/);
  core.ends("q1");
  assert.equal(the(core.after(0), "evict").worker_id, "q@box.0");
  core.gone("q@box.0");
  assert.equal(the(core.pool("box", sizes), "spawn").model, "r");
});
