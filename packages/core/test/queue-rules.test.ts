/** The queue's rules: its bounds, who is dropped, promoted or moved aside, and what time does to a waiting job. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Core, DONE, dispatched, LOST, only, REFUSED, the } from "./support.ts";

test("the queue is bounded in bytes as well as in jobs, and the refusal says which", () => {
  const core = new Core({ queue_bytes_max: 1000 });
  core.worker("w1");
  core.submit("runs", { bytes: 5000 });
  core.submit("waits", { bytes: 900 });
  const { code, message, retry_after_ms } = the(core.submit("more", { bytes: 101 }), "refuse");
  assert.equal(code, "QUEUE_FULL");
  assert.match(message, /900 bytes of requests wait, and 1000 may/);
  assert.ok((retry_after_ms ?? 0) > 0);
  the(core.submit("fits", { bytes: 100 }), "accept");
  core.cancel("waits");
  the(core.submit("again", { bytes: 900 }), "accept");
});

test("drop-oldest-batch makes room for a newcomer with the batch job submitted first, and refuses when there is none", () => {
  const core = new Core({ queue_jobs_max: 2, queue_full: "drop-oldest-batch" });
  core.worker("w1");
  core.submit("runs", { priority: "batch" });
  core.submit("old", { priority: "batch" });
  core.now_ms += 1;
  core.submit("new", { priority: "batch" });
  const decisions = core.submit("urgent");
  const { job_id, code, retriable } = the(decisions, "settle");
  assert.deepEqual([job_id, code, retriable], ["old", "DROPPED", true]);
  the(decisions, "accept");
  assert.equal(the(core.submit("urgent2"), "settle").job_id, "new");
  assert.equal(the(core.submit("urgent3"), "refuse").code, "QUEUE_FULL");
  assert.equal(core.at("runs"), "w1", "what runs is not dropped");
});

test("a batch job that has waited long enough goes before interactive ones that came later", () => {
  const core = new Core({ batch_promote_ms: 1000 });
  core.worker("w1");
  core.submit("runs");
  core.submit("batch", { priority: "batch" });
  core.submit("first");
  core.beats("w1");
  core.after(1000);
  core.submit("later");
  assert.deepEqual(dispatched(core.ends("runs")), ["first→w1"]);
  assert.deepEqual(dispatched(core.ends("first")), ["batch→w1"]);
  assert.deepEqual(dispatched(core.ends("batch")), ["later→w1"]);
});

test("a job that no worker took in time ends with QUEUE_TIMEOUT; one that had begun does not", () => {
  const core = new Core({ queue_wait_ms_max: 1000 });
  core.worker("w1");
  core.submit("runs");
  core.submit("waits");
  core.now_ms += 1000;
  core.beats("w1");
  const settled = only(core.after(0), "settle");
  assert.deepEqual(
    settled.map(({ job_id, code, retriable }) => [job_id, code, retriable]),
    [["waits", "QUEUE_TIMEOUT", true]],
  );
  core.ends("runs", LOST);
  core.now_ms += 5000;
  assert.deepEqual(only(core.after(0), "settle"), [], "it had a worker once");
});

test("a job without a first token in time ends with FIRST_TOKEN_TIMEOUT; one that has spoken does not", () => {
  const core = new Core({ first_token_ms_max: 1000 });
  core.worker("w1", { slots: 2 });
  core.submit("mute");
  core.submit("speaks");
  core.send({ type: "attempt.prefilled", job_id: "speaks", attempt: 1, worker_id: "w1" });
  core.beats("w1");
  const decisions = core.after(1000);
  assert.deepEqual([the(decisions, "settle").job_id, the(decisions, "settle").code], ["mute", "FIRST_TOKEN_TIMEOUT"]);
  assert.equal(the(decisions, "abort").job_id, "mute");
});

test("a deadline that the queue can't meet is refused at once, once run times are known", () => {
  const core = new Core();
  core.worker("w1");
  core.submit("a");
  the(core.submit("b", { deadline_at_ms: core.now_ms + 1000 }), "accept");
  core.beats("w1");
  core.now_ms += 3000;
  core.ends("a");
  const { code, message, retry_after_ms } = (() => {
    core.submit("c");
    core.submit("d");
    return the(core.submit("e", { deadline_at_ms: core.now_ms + 1000 }), "refuse");
  })();
  assert.equal(code, "DEADLINE_EXCEEDED");
  assert.match(message, /would start in about \d+ ms, after its deadline in 1000 ms/);
  assert.ok((retry_after_ms ?? 0) > 1000);
});

test("everything that speaks against a job is said at once", () => {
  const core = new Core();
  core.worker("w1", { context_size: 100 });
  const { code, message } = the(core.submit("a", { pin: "nobody", model: "gpt" }), "refuse");
  assert.equal(code, "MODEL_NOT_FOUND");
  assert.match(message, /No worker has ever served "gpt".*pinned to "nobody"/);
  assert.match(
    the(core.submit("b", { prompt_tokens_min: 95, max_tokens: 10 }), "refuse").message,
    /at least 95 tokens \(estimated from its length\) and max_tokens is 10/,
  );
});

test("moving batch work aside: one running batch job makes room for a waiting interactive one, and goes on first when a slot is free", () => {
  const core = new Core({ preempt_batch: true });
  core.worker("w1", { slots: 2 });
  core.submit("batch1", { priority: "batch" });
  core.now_ms += 10;
  core.submit("batch2", { priority: "batch" });
  const decisions = core.submit("urgent");
  const moved = the(decisions, "requeue");
  assert.deepEqual([moved.job_id, moved.spent, moved.reason], ["batch2", 0, "moved aside for interactive work"], "the one begun last");
  assert.equal(the(decisions, "abort").job_id, "batch2");
  assert.deepEqual(only(core.after(10), "requeue"), [], "one slot is being freed already");
  assert.deepEqual(dispatched(core.reports("batch2", 1, "w1", { kind: "aborted" })), ["urgent→w1"]);
  core.submit("batch3", { priority: "batch" });
  assert.deepEqual(dispatched(core.ends("urgent")), ["batch2→w1"]);
});

test("batch work whose answer has begun and would have to begin anew is not moved aside", () => {
  const core = new Core({ preempt_batch: true });
  core.worker("w1", { slots: 2 });
  for (const id of ["anew", "on"]) {
    core.submit(id, { priority: "batch", restarts_if_lost: id === "anew" });
    core.send({ type: "attempt.prefilled", job_id: id, attempt: 1, worker_id: "w1" });
  }
  assert.equal(the(core.submit("urgent"), "requeue").job_id, "on");
  core.reports("on", 1, "w1", { kind: "aborted" });
  assert.deepEqual(only(core.submit("another"), "requeue"), []);
});

test("batch work stays where it is unless that is switched on, or for jobs that could not take its slot", () => {
  const off = new Core();
  off.worker("w1");
  off.submit("batch", { priority: "batch" });
  assert.deepEqual(only(off.submit("urgent"), "requeue"), []);
  const on = new Core({ preempt_batch: true });
  on.worker("w1");
  on.submit("batch", { priority: "batch" });
  assert.deepEqual(only(on.submit("elsewhere", { avoid: ["w1"] }), "requeue"), []);
});

test("the breaker leaves a worker alone after some failures in a row, tries it with one attempt, and closes when that goes well", () => {
  const core = new Core({ breaker_failures: 2, breaker_open_ms: 1000, attempts_max: 10, retry_backoff_ms: 0, retry_backoff_ms_max: 0 });
  core.worker("bad", { slots: 4 });
  core.worker("good", { slots: 1 });
  core.submit("long", { pin: "good" });
  for (const id of ["a", "b"]) {
    core.submit(id);
    core.ends(id, LOST);
    core.cancel(id);
    core.reports(id, 2, "bad", { kind: "aborted" });
  }
  core.submit("c");
  assert.equal(core.at("c"), null, "the breaker is open");
  core.beats("bad", "good");
  assert.deepEqual(dispatched(core.after(1000)), ["c→bad"], "half-open: one attempt");
  core.submit("d");
  assert.equal(core.at("d"), null, "and no more than one");
  assert.deepEqual(dispatched(core.ends("c", DONE)), ["d→bad"]);
  core.submit("e");
  assert.equal(core.at("e"), "bad", "closed again");
});

test("the last worker of a model is never left alone, however often it fails", () => {
  const core = new Core({ breaker_failures: 1, attempts_max: 20, retry_backoff_ms: 0, retry_backoff_ms_max: 0 });
  core.worker("only");
  core.submit("a");
  for (let attempt = 1; attempt < 10; attempt += 1) {
    assert.equal(core.at("a"), "only");
    core.ends("a", LOST);
  }
  // A refusal says nothing about its health.
  assert.equal(core.at("a"), "only");
  core.ends("a", REFUSED);
  assert.equal(core.state.workers.get("only")?.failures, 9);
});

test("a job that asks for labels runs only where they are", () => {
  const core = new Core();
  core.worker("slow");
  core.worker("fast", { labels: { disk: "nvme", region: "eu" } });
  assert.deepEqual(dispatched(core.submit("a", { labels: { disk: "nvme" } })), ["a→fast"]);
  core.submit("b", { labels: { disk: "nvme" } });
  core.submit("c", { labels: { disk: "hdd" } });
  assert.deepEqual([core.at("b"), core.at("c")], [null, null]);
  assert.deepEqual(dispatched(core.ends("a")), ["b→fast"]);
});
