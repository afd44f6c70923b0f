/** Attempts: how they end, what that means for their job, their slot and their worker. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { AttemptOutcome } from "../src/events.ts";
import { explain } from "../src/explain.ts";
import { Core, DONE, dispatched, FAILED, LOST, only, REFUSED, the, UNREACHED } from "./support.ts";

test("a finished attempt settles its job once and frees its slot", () => {
  const core = new Core();
  core.worker("w1");
  core.submit("a");
  assert.deepEqual(core.ends("a"), [{ type: "settle", job_id: "a", status: "succeeded" }]);
  assert.deepEqual(core.running("w1"), []);
  assert.deepEqual(core.reports("a", 1, "w1"), []);
});

test("a failure that no retry can help settles the job with the worker's own code", () => {
  const core = new Core();
  core.worker("w1");
  core.submit("a");
  const settle = the(core.ends("a", { kind: "failed", code: "CONTEXT_TOO_LARGE", message: "too long", retriable: false }), "settle");
  assert.deepEqual([settle.status, settle.code, settle.message, settle.retriable], ["failed", "CONTEXT_TOO_LARGE", "too long", false]);
});

test("a prompt that a worker counts to be too long goes to one with a larger context, if there is one, and to no other", () => {
  const core = new Core();
  const TOO_LONG = { kind: "failed", code: "CONTEXT_TOO_LARGE", message: "too long", retriable: false } as const;
  core.worker("small", { context_size: 100 });
  core.worker("as small", { context_size: 100 });
  core.worker("large", { context_size: 1000 });
  core.submit("other", { pin: "large" });
  core.submit("a", { avoid: ["as small"] });
  assert.equal(core.at("a"), "small");
  const decisions = core.ends("a", TOO_LONG);
  const { spent, reason } = the(decisions, "requeue");
  assert.deepEqual([spent, reason], [0, "too long"]);
  assert.deepEqual(dispatched(decisions), [], "it waits for the large one");
  const why = explain(core.state, "a", core.now_ms)?.workers.find(({ worker_id }) => worker_id === "small");
  assert.match(why?.reason ?? "", /exceed its context of 100 tokens: a worker has counted/);
  assert.deepEqual(dispatched(core.ends("other")), ["a→large"]);
  assert.equal(the(core.ends("a", TOO_LONG), "settle").code, "CONTEXT_TOO_LARGE");

  core.submit("b", { pin: "small" });
  assert.equal(the(core.ends("b", TOO_LONG), "settle").code, "CONTEXT_TOO_LARGE", "it may run nowhere else");
});

test("a lost attempt is queued again, counts, and its reason is kept", () => {
  const core = new Core();
  core.worker("w1");
  core.submit("a");
  const requeue = the(core.ends("a", LOST), "requeue");
  assert.deepEqual([requeue.attempt, requeue.spent, requeue.reason], [1, 1, "the connection broke"]);
});

test("a job fails after attempts_max attempts were lost, with WORKER_LOST and a word about the last one", () => {
  const core = new Core({ attempts_max: 3 });
  core.worker("w1");
  core.submit("a");
  for (let n = 1; n < 3; n++) {
    assert.equal(the(core.ends("a", LOST), "requeue").spent, n);
    core.after(2000);
  }
  const settle = the(core.ends("a", LOST), "settle");
  assert.deepEqual([settle.status, settle.code, settle.retriable], ["failed", "WORKER_LOST", true]);
  assert.match(settle.message ?? "", /3 attempts failed; the last: the connection broke/);
});

test("a job that fails if lost does so after its first token, whatever ended the attempt; before that it is retried", () => {
  for (const outcome of [LOST, FAILED]) {
    const core = new Core();
    core.worker("w1");
    core.submit("a", { fails_if_lost: true });
    assert.equal(the(core.ends("a", outcome), "requeue").attempt, 1);
    core.after(100);
    core.send({ type: "attempt.prefilled", job_id: "a", attempt: 2, worker_id: "w1" });
    const settle = the(core.ends("a", outcome), "settle");
    assert.deepEqual([settle.status, settle.code, settle.retriable], ["failed", "WORKER_LOST", true]);
    assert.deepEqual([core.state.jobs.size, core.running("w1")], [0, []]);
  }
});

test("a job that fails if lost does so when its worker is taken away, too", () => {
  const core = new Core();
  core.worker("w1");
  core.submit("a", { fails_if_lost: true });
  core.send({ type: "attempt.prefilled", job_id: "a", attempt: 1, worker_id: "w1" });
  assert.equal(the(core.send({ type: "worker.left", worker_id: "w1", epoch: null }), "settle").code, "WORKER_LOST");
});

test("a job that fails if lost and ran when the orchestrator ended fails at its start; one that waited does not", () => {
  const core = new Core();
  const recovered = (id: string, ran: boolean) =>
    core.send({ type: "job.recovered", spec: core.spec(id, { fails_if_lost: true }), attempt: 1, spent: 0, ran });
  assert.equal(the(recovered("ran", true), "settle").code, "WORKER_LOST");
  assert.deepEqual(recovered("waited", false), []);
  assert.deepEqual(dispatched(core.worker("w1")), ["waited→w1"]);
});

test("retriable failures count like losses, and the last one's code is the job's", () => {
  const core = new Core({ attempts_max: 2 });
  core.worker("w1");
  core.submit("a");
  core.ends("a", FAILED);
  core.after(100);
  assert.equal(the(core.ends("a", FAILED), "settle").code, "ENGINE_FAILED");
});

test("the wait before a further attempt doubles up to its limit", () => {
  const core = new Core({ attempts_max: 8, retry_backoff_ms: 100, retry_backoff_ms_max: 1000 });
  core.worker("w1");
  core.submit("a");
  for (const wait of [100, 200, 400, 800, 1000, 1000]) {
    core.ends("a", LOST);
    assert.deepEqual(dispatched(core.after(wait - 1)), [], `not after ${wait - 1} ms`);
    assert.deepEqual(dispatched(core.after(1)), ["a→w1"], `after ${wait} ms`);
    core.beats("w1");
  }
});

test("a job in its back-off leaves the slot to the next one", () => {
  const core = new Core();
  core.worker("w1");
  core.submit("a");
  core.submit("b");
  assert.deepEqual(dispatched(core.ends("a", LOST)), ["b→w1"]);
});

test("refused attempts don't count, however many, but the worker is left alone for a while each time", () => {
  const core = new Core({ attempts_max: 2, worker_inhibit_ms: 500 });
  core.worker("w1");
  core.submit("a");
  for (let n = 1; n <= 6; n++) {
    const decisions = core.ends("a", REFUSED);
    assert.deepEqual([the(decisions, "requeue").spent, the(decisions, "requeue").attempt], [0, n]);
    assert.deepEqual(dispatched(decisions), []);
    assert.deepEqual(dispatched(core.after(499)), []);
    assert.deepEqual(dispatched(core.after(1)), ["a→w1"]);
    core.beats("w1");
  }
});

test("a refused job goes to another worker in the same step", () => {
  const core = new Core();
  core.worker("w1");
  core.worker("w2");
  core.submit("a");
  assert.deepEqual(dispatched(core.ends("a", REFUSED)), ["a→w2"]);
});

test("a worker that could not be reached is left alone; one that lost an attempt it had begun is not", () => {
  const unreached = new Core();
  unreached.worker("w1", { slots: 2 });
  unreached.submit("a");
  unreached.ends("a", UNREACHED);
  assert.deepEqual(dispatched(unreached.submit("b")), []);

  const lost = new Core();
  lost.worker("w1", { slots: 2 });
  lost.submit("a");
  lost.ends("a", LOST);
  assert.deepEqual(dispatched(lost.submit("b")), ["b→w1"]);
});

test("jobs of a dead worker wait for the others, however long these are busy, and lose no attempts on it meanwhile", () => {
  const core = new Core({ attempts_max: 3 });
  core.worker("dead", { slots: 2 });
  core.worker("busy");
  for (const id of ["a", "b", "c"]) core.submit(id);
  const ran_there = ["a", "b", "c"].filter((id) => core.state.jobs.get(id)?.worker_id === "dead");
  const [other = ""] = ["a", "b", "c"].filter((id) => !ran_there.includes(id));
  for (const id of ran_there) core.ends(id, LOST);
  core.after(1000);
  for (const id of ran_there) core.ends(id, UNREACHED);
  for (let seconds = 0; seconds < 5; seconds++) assert.deepEqual(dispatched(core.after(1000)), []);
  assert.equal(dispatched(core.ends(other)).length, 1);
  assert.ok(ran_there.some((id) => core.state.jobs.get(id)?.worker_id === "busy"));
});

test("a worker that could not be reached is tried again when it is heard of", () => {
  const core = new Core({ worker_inhibit_ms: 500 });
  core.worker("w1");
  core.submit("a");
  core.ends("a", UNREACHED);
  assert.deepEqual(dispatched(core.after(5000)), []);
  assert.deepEqual(dispatched(core.beats("w1")), ["a→w1"]);
  core.ends("a", UNREACHED);
  assert.deepEqual(dispatched(core.worker("w1")), [], "its back-off holds the job");
  assert.deepEqual(dispatched(core.after(5000)), ["a→w1"]);
});

test("a worker that registers again is not left alone any more", () => {
  const core = new Core();
  core.worker("w1");
  core.submit("a");
  core.ends("a", REFUSED);
  assert.deepEqual(dispatched(core.worker("w1")), ["a→w1"]);
});

test("a queued job is cancelled at once, in every line it may wait in", () => {
  const core = new Core();
  core.worker("w1");
  core.submit("runs");
  core.submit("fresh");
  core.submit("pinned", { pin: "w1" });
  core.submit("batch", { priority: "batch" });
  core.ends("runs", LOST);
  const waiting = [...core.state.jobs.values()].filter(({ worker_id }) => worker_id === null).map(({ spec }) => spec.id);
  assert.equal(waiting.length, 3);
  for (const id of waiting) {
    assert.deepEqual(core.cancel(id), [
      { type: "settle", job_id: id, status: "cancelled", code: "CANCELLED", message: "The job was cancelled.", retriable: false },
    ]);
  }
  assert.equal(core.state.queued, 0);
});

test("cancelling a running job settles it at once, but its slot is free only when its link says so", () => {
  const core = new Core();
  core.worker("w1");
  core.submit("a");
  core.submit("b");
  const decisions = core.cancel("a");
  assert.deepEqual(the(decisions, "abort"), { type: "abort", job_id: "a", attempt: 1, worker_id: "w1", reason: "CANCELLED" });
  assert.equal(the(decisions, "settle").status, "cancelled");
  assert.deepEqual(dispatched(decisions), []);
  assert.deepEqual(dispatched(core.after(5000)), []);
  assert.deepEqual(dispatched(core.reports("a", 1, "w1", { kind: "aborted" })), ["b→w1"]);
});

test("an attempt that finishes while it is being cancelled changes nothing about the outcome", () => {
  const core = new Core();
  core.worker("w1");
  core.submit("a");
  core.cancel("a");
  assert.deepEqual(core.reports("a", 1, "w1"), []);
  assert.deepEqual(core.running("w1"), []);
});

test("cancelling twice, or a job that is unknown, decides nothing", () => {
  const core = new Core();
  core.worker("w1");
  core.submit("a");
  core.cancel("a");
  assert.deepEqual(core.cancel("a"), []);
  assert.deepEqual(core.cancel("nobody"), []);
});

const everyOutcome: AttemptOutcome[] = [
  DONE,
  FAILED,
  { kind: "failed", code: "ENGINE_FAILED", message: "it broke", retriable: false },
  REFUSED,
  LOST,
  UNREACHED,
  { kind: "aborted" },
];

test("the fence: a late report of attempt 1 settles nothing of attempt 2, whatever it says", () => {
  for (const outcome of everyOutcome) {
    const core = new Core();
    core.worker("w1");
    core.worker("w2");
    core.submit("a");
    core.ends("a", LOST);
    core.after(100);
    assert.deepEqual(core.reports("a", 1, "w1", outcome), [], outcome.kind);
    assert.deepEqual([core.at("a"), core.state.jobs.get("a")?.attempt, core.running("w2")], ["w2", 2, ["a#2"]]);
  }
});

test("the fence: a report of the last attempt while its job waits again decides nothing", () => {
  const core = new Core();
  core.worker("w1");
  core.submit("a");
  core.ends("a", LOST);
  assert.deepEqual(core.reports("a", 1, "w1"), []);
  assert.equal(core.at("a"), null);
});

test("the fence: a report of the present attempt from another worker decides nothing", () => {
  const core = new Core();
  core.worker("w1");
  core.worker("w2");
  core.submit("a");
  assert.deepEqual(core.reports("a", 1, "w2"), []);
  assert.deepEqual(core.running("w1"), ["a#1"]);
});

test("the fence: reports of attempts that never were decide nothing", () => {
  const core = new Core();
  core.worker("w1");
  core.submit("a");
  assert.deepEqual(core.reports("a", 2, "w1"), []);
  assert.deepEqual(core.reports("a", 0, "w1"), []);
  assert.deepEqual(core.reports("ghost", 1, "w1"), []);
  assert.deepEqual(core.reports("a", 1, "nobody"), []);
  assert.equal(core.at("a"), "w1");
});

test("a job whose deadline passes ends at once, waiting or running, and what runs is aborted", () => {
  const core = new Core();
  core.worker("w1");
  core.submit("runs", { deadline_at_ms: core.now_ms + 1000 });
  core.submit("waits", { deadline_at_ms: core.now_ms + 1000 });
  core.submit("patient");
  assert.deepEqual(core.after(999), []);
  const decisions = core.after(1);
  assert.deepEqual(
    only(decisions, "settle").map(({ job_id, status, code }) => [job_id, status, code]),
    [
      ["runs", "failed", "DEADLINE_EXCEEDED"],
      ["waits", "failed", "DEADLINE_EXCEEDED"],
    ],
  );
  assert.equal(the(decisions, "abort").job_id, "runs");
  assert.equal(core.at("patient"), null);
  assert.deepEqual(dispatched(core.reports("runs", 1, "w1", { kind: "aborted" })), ["patient→w1"]);
});

test("once halted nothing is dispatched any more, but what runs still ends properly", () => {
  const core = new Core();
  core.worker("w1");
  core.submit("a");
  core.submit("b");
  assert.deepEqual(core.send({ type: "halted" }), []);
  assert.deepEqual(core.ends("a"), [{ type: "settle", job_id: "a", status: "succeeded" }]);
  assert.deepEqual(dispatched([...core.after(1000), ...core.worker("w2"), ...core.beats("w1")]), []);
  assert.equal(core.at("b"), null);
  assert.equal(the(core.cancel("b"), "settle").status, "cancelled");
});

test("a recovered job goes on counting where the earlier life stopped", () => {
  const core = new Core({ attempts_max: 3 });
  core.send({ type: "job.recovered", spec: core.spec("a"), attempt: 4, spent: 2, ran: true });
  assert.deepEqual(
    only(core.worker("w1"), "dispatch").map(({ attempt }) => attempt),
    [5],
  );
  assert.deepEqual(core.reports("a", 4, "w1"), [], "what the earlier life had in flight settles nothing");
  assert.equal(the(core.ends("a", LOST), "settle").code, "WORKER_LOST");
});

test("recovered jobs that had run before come before those that had only waited", () => {
  const core = new Core();
  core.send({ type: "job.recovered", spec: core.spec("waited"), attempt: 0, spent: 0, ran: false });
  core.send({ type: "job.recovered", spec: core.spec("ran"), attempt: 1, spent: 0, ran: true });
  assert.deepEqual(dispatched(core.worker("w1")), ["ran→w1"]);
});
