/** Workers: joining, joining again, falling silent, draining, leaving. And why a job runs where it does. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { explain } from "../src/explain.ts";
import { violations } from "../src/invariants.ts";
import type { Worker } from "../src/state.ts";
import { step } from "../src/step.ts";
import { Core, dispatched, LOST, only, REFUSED, the } from "./support.ts";

test("a worker that registers again in the same life keeps what runs there", () => {
  const core = new Core();
  core.worker("w1", { slots: 2 });
  core.submit("a");
  const decisions = core.worker("w1", { slots: 2 });
  assert.deepEqual(decisions, [{ type: "worker.join", worker_id: "w1", epoch: 1, model: "m", again: true }]);
  assert.deepEqual(core.running("w1"), ["a#1"]);
});

test("a newer life of a worker ends the older one: what ran there is aborted and queued again", () => {
  const core = new Core();
  core.worker("w1");
  core.submit("a");
  const decisions = core.worker("w1", { epoch: 2 });
  assert.deepEqual(
    decisions.map(({ type }) => type),
    ["worker.leave", "abort", "requeue", "worker.join"],
  );
  assert.equal(the(decisions, "worker.leave").epoch, 1);
  assert.equal(the(decisions, "worker.join").again, false);
  core.after(100);
  assert.deepEqual(core.running("w1"), ["a#2"]);
  assert.deepEqual(core.reports("a", 1, "w1"), [], "the older life's report settles nothing");
});

test("an older life of a worker is fenced off, in registration and in heartbeat", () => {
  const core = new Core();
  core.worker("w1", { epoch: 5 });
  const stale = { type: "worker.reject", worker_id: "w1", because: "stale" };
  assert.deepEqual(core.worker("w1", { epoch: 4 }), [stale]);
  assert.deepEqual(core.send({ type: "worker.beat", worker_id: "w1", epoch: 4, draining: true, memory_free_bytes: null }), [stale]);
  assert.equal(core.state.workers.get("w1")?.draining, false);
});

test("a heartbeat of an unknown worker or of a life not yet registered asks for a registration", () => {
  const core = new Core();
  const unknown = { type: "worker.reject", worker_id: "w1", because: "unknown" };
  assert.deepEqual(core.send({ type: "worker.beat", worker_id: "w1", epoch: 1, draining: false, memory_free_bytes: null }), [unknown]);
  core.worker("w1", { epoch: 1 });
  assert.deepEqual(core.send({ type: "worker.beat", worker_id: "w1", epoch: 2, draining: false, memory_free_bytes: null }), [unknown]);
});

test("a worker that comes back with another model serves only that one, and the old model stays known", () => {
  const core = new Core();
  core.worker("w1", { model: "m" });
  core.submit("a");
  core.worker("w1", { model: "n" });
  assert.equal(core.at("a"), null);
  assert.deepEqual(dispatched(core.submit("b", { model: "n" })), ["b→w1"]);
  assert.equal(the(core.submit("c", { model: "m" }), "accept").eta_ms, undefined);
});

test("a worker that registers again with fewer slots keeps what runs and gets nothing new until it is below them", () => {
  const core = new Core();
  core.worker("w1", { slots: 2 });
  for (const id of ["a", "b", "c"]) core.submit(id);
  const { state, now_ms } = core;
  const spec = {
    id: "w1",
    epoch: 1,
    model: "m",
    slots: 1,
    context_size: null,
    cache_tokens: null,
    labels: {},
    features: [],
    backend: "cpu",
    areas: [],
    continues: true,
    trust: "open" as const,
  };
  assert.deepEqual(dispatched(step(state, { type: "worker.registered", spec, now_ms })), []);
  assert.deepEqual(core.running("w1"), ["a#1", "b#1"]);
  assert.deepEqual(dispatched(core.ends("a")), []);
  assert.deepEqual(dispatched(core.ends("b")), ["c→w1"]);
});

test("a silent worker gets no new work; its first heartbeat brings the waiting jobs", () => {
  const core = new Core({ worker_silence_ms_max: 10_000 });
  core.worker("w1", { slots: 2 });
  core.submit("a");
  core.now_ms += 10_001;
  assert.deepEqual(dispatched(core.submit("b")), []);
  assert.deepEqual(dispatched(core.beats("w1")), ["b→w1"]);
});

test("a silent worker where nothing runs is forgotten; one with a running attempt only when that has ended", () => {
  const core = new Core({ worker_silence_ms_max: 10_000 });
  core.worker("idle");
  core.worker("busy");
  core.submit("a", { pin: "busy" });
  assert.deepEqual(core.after(10_000), []);
  const leave = { type: "worker.leave", worker_id: "idle", epoch: 1, model: "m", reason: "no heartbeat" };
  assert.deepEqual(core.after(1), [leave]);
  assert.equal(core.at("a"), "busy");
  assert.deepEqual(core.ends("a"), [
    { type: "settle", job_id: "a", status: "succeeded" },
    { ...leave, worker_id: "busy" },
  ]);
});

test("a draining worker gets nothing new and keeps what runs; asking again changes nothing", () => {
  const core = new Core();
  core.worker("w1", { slots: 2 });
  core.submit("a");
  assert.deepEqual(core.send({ type: "worker.drained", worker_id: "w1", move: false }), [{ type: "worker.drain", worker_id: "w1" }]);
  assert.deepEqual(core.send({ type: "worker.drained", worker_id: "w1", move: false }), []);
  core.submit("b");
  assert.deepEqual([core.at("a"), core.at("b")], ["w1", null]);
  assert.deepEqual(dispatched([...core.ends("a"), ...core.worker("w1", { slots: 2 }), ...core.after(1000)]), []);
  assert.deepEqual(dispatched(core.worker("w1", { slots: 2, epoch: 2 })), ["b→w1"], "a new life does not drain");
});

test("a worker says itself that it drains, with a heartbeat", () => {
  const core = new Core();
  core.worker("w1");
  assert.deepEqual(core.send({ type: "worker.beat", worker_id: "w1", epoch: 1, draining: true, memory_free_bytes: null }), [
    { type: "worker.drain", worker_id: "w1" },
  ]);
  core.submit("a");
  assert.equal(core.at("a"), null);
});

test("the jobs of a worker that leaves are aborted, counted and queued again", () => {
  const core = new Core();
  core.worker("w1", { slots: 2 });
  core.submit("a");
  core.submit("b");
  const decisions = core.send({ type: "worker.left", worker_id: "w1", epoch: null });
  assert.deepEqual(
    decisions.map(({ type }) => type),
    ["worker.leave", "abort", "requeue", "abort", "requeue"],
  );
  assert.deepEqual(
    only(decisions, "requeue").map(({ job_id, spent, reason }) => [job_id, spent, reason]),
    [
      ["a", 1, "worker w1: it left"],
      ["b", 1, "worker w1: it left"],
    ],
  );
});

test("draining or removing a worker that is not there is answered as unknown", () => {
  const core = new Core();
  const unknown = [{ type: "worker.reject", worker_id: "w1", because: "unknown" }];
  assert.deepEqual(core.send({ type: "worker.drained", worker_id: "w1", move: false }), unknown);
  assert.deepEqual(core.send({ type: "worker.left", worker_id: "w1", epoch: null }), unknown);
});

/** What `explain` says of each worker, as one line. */
function lines(core: Core, job_id: string): string[] {
  return (explain(core.state, job_id, core.now_ms)?.workers ?? []).map(
    ({ worker_id, verdict, reason }) => `${worker_id} ${verdict}: ${reason}`,
  );
}

test("explain names the first failed check of every worker", () => {
  const core = new Core();
  core.worker("busy");
  core.submit("a");
  core.worker("silent");
  core.now_ms += 10_001;
  core.beats("busy");
  core.worker("other", { model: "n" });
  core.worker("small", { context_size: 50 });
  core.worker("drained");
  core.send({ type: "worker.drained", worker_id: "drained", move: false });
  core.worker("shunned");
  core.submit("why", { avoid: ["shunned"], max_tokens: 50 });
  assert.deepEqual(lines(core, "why"), [
    "busy excluded: all 1 slots are busy",
    "silent excluded: no heartbeat for 10001 ms",
    "other excluded: it serves n, not m",
    "small excluded: a prompt of at least 1 tokens and max_tokens 50 exceed its context of 50 tokens",
    "drained excluded: it is draining",
    "shunned excluded: the job avoids it",
  ]);
  assert.equal(explain(core.state, "why", core.now_ms)?.answer, "It is next: it waits for a worker that can take it.");
});

test("explain tells of pins, refusals, back-offs and the place in the line", () => {
  const core = new Core();
  core.worker("w1", { slots: 2 });
  core.submit("a", { pin: "w1" });
  core.worker("w2");
  core.ends("a", REFUSED);
  assert.deepEqual(lines(core, "a"), [
    "w1 excluded: it refused or was unreachable; left alone for 500 ms",
    "w2 excluded: the job is pinned to w1",
  ]);
  core.after(500);
  assert.deepEqual(explain(core.state, "a", core.now_ms)?.answer, "It runs on w1 (attempt 2).");
  assert.equal(lines(core, "a")[0]?.startsWith("w1 chosen: attempt 2 runs there"), true);
  core.ends("a", LOST);
  assert.equal(explain(core.state, "a", core.now_ms)?.answer, "It waits 100 ms before attempt 3.");
  core.cancel("a");
  for (const id of ["b", "c", "d", "e", "f"]) core.submit(id);
  assert.equal(explain(core.state, "f", core.now_ms)?.answer, "It waits behind 1 job.");
  assert.equal(explain(core.state, "nobody", core.now_ms), undefined);
});

test("explain says how to start a worker when there is none", () => {
  const core = new Core();
  core.worker("w1");
  core.send({ type: "worker.left", worker_id: "w1", epoch: null });
  core.submit("a");
  assert.match(explain(core.state, "a", core.now_ms)?.answer ?? "", /no worker is registered.*rbees up/);
});

test("a worker that comes again and again is one worker, with as many slots as it has", () => {
  const core = new Core();
  core.worker("other", { slots: 1 });
  for (let epoch = 1; epoch <= 50; epoch += 1) core.worker("flaps", { epoch });
  for (const id of ["a", "b", "c"]) core.submit(id);
  assert.deepEqual([core.at("a"), core.at("b"), core.at("c")].sort(), ["flaps", "other", null].sort());
});

const forget = (worker: Worker) => {
  worker.running.clear();
  worker.offered = false;
};

test("the invariants see a state that step would never leave behind", () => {
  const broken: [string, (core: Core) => void, RegExp][] = [
    ["a job lost from the ledger", (core) => core.state.workers.get("w1")?.running.clear(), /outside the ledger/],
    ["a worker gone under a job", (core) => core.state.workers.delete("w1"), /which is gone/],
    ["a wrong count", (core) => Object.assign(core.state, { queued: 7 }), /7 are counted/],
    ["a job nowhere", (core) => core.state.queues.clear(), /neither waits nor runs/],
    ["a job that ended in the queue", (core) => core.state.jobs.delete("b"), /waits but has ended/],
    ["too many attempts", (core) => core.state.workers.get("w1")?.running.add("x#1"), /2 attempts in 1 slots/],
    ["a worker in no fleet", (core) => core.state.fleets.clear(), /is in no fleet/],
    ["a free worker that is forgotten", (core) => core.state.workers.forEach(forget), /nobody will find/],
    ["an unknown model", (core) => core.state.models.clear(), /is not known/],
  ];
  for (const [what, breakIt, expected] of broken) {
    const core = new Core();
    core.worker("w1");
    core.submit("a");
    core.submit("b");
    assert.deepEqual(violations(core.state, core.now_ms), []);
    breakIt(core);
    assert.match(violations(core.state, core.now_ms).join("; "), expected, what);
  }
});

test("an old life's late goodbye does not send a newer life away", () => {
  const core = new Core();
  core.worker("w1", { epoch: 2 });
  assert.deepEqual(core.send({ type: "worker.left", worker_id: "w1", epoch: 1 }), [
    { type: "worker.reject", worker_id: "w1", because: "stale" },
  ]);
  assert.ok(core.state.workers.has("w1"));
});

test("draining with move leaves an answer where it has begun and would have to begin anew elsewhere", () => {
  const core = new Core();
  const begins = (job_id: string, worker_id: string) => core.send({ type: "attempt.prefilled", job_id, attempt: 1, worker_id });
  core.worker("server", { slots: 2, continues: false });
  core.worker("w1", { slots: 2 });
  for (const [id, pin] of [
    ["said", "server"],
    ["silent", "server"],
    ["anew", "w1"],
    ["on", "w1"],
  ] as const) {
    core.submit(id, { avoid: [pin === "server" ? "w1" : "server"], restarts_if_lost: id === "anew" });
    assert.equal(core.at(id), pin);
    if (id !== "silent") begins(id, pin);
  }
  core.worker("w2", { slots: 4 });
  const moved = (id: string) =>
    only(core.send({ type: "worker.drained", worker_id: id, move: true }), "requeue").map(({ job_id }) => job_id);
  assert.deepEqual(moved("server"), ["silent"]);
  assert.deepEqual(moved("w1"), ["on"]);
});

test("draining with move lets what runs there go on elsewhere, and leaves what no other worker could take", () => {
  const core = new Core();
  core.worker("w1", { slots: 2 });
  core.submit("free");
  core.submit("tied", { avoid: ["w2"] });
  core.worker("w2");
  core.worker("other", { model: "n" });
  const decisions = core.send({ type: "worker.drained", worker_id: "w1", move: true });
  const { job_id, spent, reason } = the(decisions, "requeue");
  assert.deepEqual([job_id, spent, reason], ["free", 0, "moved away: its worker is draining"]);
  assert.deepEqual(dispatched(decisions), ["free→w2"]);
  assert.equal(core.at("tied"), "w1");
  core.submit("new");
  assert.equal(core.at("new"), null);
});
