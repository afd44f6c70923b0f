/** What is let in, what is refused, and what the refused are told. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Core, dispatched, only, the } from "./support.ts";

test("a model that no worker ever served is refused at once, and the refusal names those there are", () => {
  const core = new Core();
  assert.match(the(core.submit("a"), "refuse").message, /No worker has joined yet/);
  core.worker("w1", { model: "zephyr" });
  core.worker("w2", { model: "llama" });
  const { code, message } = the(core.submit("b", { model: "gpt" }), "refuse");
  assert.equal(code, "MODEL_NOT_FOUND");
  assert.match(message, /"gpt"\. Known: llama, zephyr\./);
  assert.equal(core.state.jobs.size, 0);
});

test("a job for a model that has no worker just now waits for one", () => {
  const core = new Core();
  core.worker("w1");
  core.send({ type: "worker.left", worker_id: "w1", epoch: null });
  const accept = the(core.submit("a"), "accept");
  assert.equal(accept.eta_ms, undefined);
  assert.deepEqual(dispatched(core.worker("w2")), ["a→w2"]);
});

test("a job pinned to a worker that is not there, or serves another model, is refused with NO_WORKER", () => {
  const core = new Core();
  core.worker("w1");
  core.worker("w2", { model: "n" });
  for (const pin of ["nobody", "w2"]) {
    const { code, retry_after_ms } = the(core.submit(`to-${pin}`, { pin }), "refuse");
    assert.equal(code, "NO_WORKER");
    assert.ok((retry_after_ms ?? 0) > 0);
  }
});

test("an answer that would fill the largest context is refused with CONTEXT_TOO_LARGE, one that fits a single worker waits for that one", () => {
  const core = new Core();
  core.worker("small", { context_size: 100 });
  core.worker("large", { context_size: 1000 });
  const { code, message } = the(core.submit("a", { max_tokens: 1000 }), "refuse");
  assert.equal(code, "CONTEXT_TOO_LARGE");
  assert.match(message, /max_tokens is 1000, and the largest context for m holds 1000 tokens/);
  assert.deepEqual(dispatched(core.submit("b", { max_tokens: 999 })), ["b→large"]);
  core.submit("c", { max_tokens: 100 });
  assert.equal(core.at("c"), null);
});

test("a worker that declares no context is thought to hold any job: the others' limits refuse nothing", () => {
  const core = new Core();
  core.worker("small", { context_size: 100 });
  core.worker("unknown", { context_size: null });
  assert.deepEqual(dispatched(core.submit("a", { max_tokens: 5000 })), ["a→unknown"]);
});

test("a pinned job is measured against the context of its own worker, not of a larger one", () => {
  const core = new Core();
  core.worker("small", { context_size: 100 });
  core.worker("large", { context_size: 1000 });
  assert.equal(the(core.submit("a", { pin: "small", max_tokens: 500 }), "refuse").code, "CONTEXT_TOO_LARGE");
});

test("the queue takes queue_jobs_max jobs that wait, over all models, and no more", () => {
  const core = new Core({ queue_jobs_max: 2 });
  core.worker("w1");
  core.worker("w2", { model: "n" });
  core.submit("runs");
  core.submit("runs-too", { model: "n" });
  core.submit("waits");
  core.submit("waits-too", { model: "n" });
  const { code, message } = the(core.submit("late"), "refuse");
  assert.equal(code, "QUEUE_FULL");
  assert.match(message, /2 jobs wait/);
  core.cancel("waits");
  assert.deepEqual(only(core.submit("fits-again"), "refuse"), []);
});

test("a full queue still takes a job that can start at once", () => {
  const core = new Core({ queue_jobs_max: 1 });
  core.worker("w1");
  core.worker("w2", { model: "n" });
  core.submit("runs");
  core.submit("waits");
  assert.deepEqual(dispatched(core.submit("elsewhere", { model: "n" })), ["elsewhere→w2"]);
});

test("a full queue stays full when the orchestrator stops: a free slot lets nobody in that nothing will start", () => {
  const core = new Core({ queue_jobs_max: 1 });
  core.worker("w1");
  core.send({ type: "halted" });
  core.submit("waits");
  assert.equal(the(core.submit("late"), "refuse").code, "QUEUE_FULL");
  assert.equal(core.state.queued, 1);
});

/** What a refused caller is told after jobs of this length on so many slots. */
function retryAfter(ran_ms: number, slots: number): number {
  const core = new Core({ queue_jobs_max: 1 });
  core.worker("w1", { slots });
  core.submit("measured");
  core.now_ms += ran_ms;
  core.beats("w1");
  core.ends("measured");
  for (let i = 0; i <= slots; i++) core.submit(`fill-${i}`);
  return the(core.submit("refused"), "refuse").retry_after_ms ?? Number.NaN;
}

test("retry_after is the measured run time over the slots that free up, never a constant", () => {
  assert.equal(retryAfter(300, 1), 300);
  assert.equal(retryAfter(6000, 1), 6000);
  assert.equal(retryAfter(6000, 4), 1500);
});

test("newer run times weigh more in retry_after, and one odd run does not rule it", () => {
  const core = new Core({ queue_jobs_max: 1 });
  core.worker("w1");
  const run = (id: string, ms: number) => {
    core.submit(id);
    core.now_ms += ms;
    core.beats("w1");
    core.ends(id);
  };
  const told = () => {
    core.submit("runs");
    core.submit("waits");
    const { retry_after_ms } = the(core.submit("refused"), "refuse");
    core.cancel("waits");
    core.cancel("runs");
    core.reports("runs", 1, "w1", { kind: "aborted" });
    return retry_after_ms ?? Number.NaN;
  };
  run("a", 1000);
  run("odd", 6000);
  assert.equal(told(), 2000);
  for (let i = 0; i < 20; i++) run(`b-${i}`, 1000);
  assert.ok(told() < 1050, `still ${told()}`);
});

test("before anything was measured, the guess stands, and the age of what runs once that is longer", () => {
  const core = new Core({ queue_jobs_max: 1, service_ms_guess: 4000 });
  core.worker("w1");
  core.submit("runs");
  core.submit("waits");
  assert.equal(the(core.submit("refused"), "refuse").retry_after_ms, 4000);
  core.now_ms += 9000;
  assert.equal(the(core.submit("refused-too"), "refuse").retry_after_ms, 9000);
});

test("a clock that was set back during a run teaches nothing about run times", () => {
  const core = new Core();
  core.worker("w1");
  core.submit("a");
  core.now_ms -= 3_600_000;
  core.ends("a");
  assert.equal(core.state.service_ms.get("m"), undefined);
});

test("an accepted job learns its place in the line and when it should start", () => {
  const core = new Core({ service_ms_guess: 4000 });
  core.worker("w1");
  core.worker("w2");
  const first = the(core.submit("a"), "accept");
  assert.deepEqual([first.position, first.eta_ms], [0, 0]);
  core.submit("b");
  const places = ["c", "d", "e"].map((id) => the(core.submit(id), "accept"));
  assert.deepEqual(
    places.map(({ position }) => position),
    [0, 1, 2],
  );
  assert.deepEqual(
    places.map(({ eta_ms }) => eta_ms),
    [2000, 4000, 6000],
  );
});

test("the decision to accept comes before the decision to dispatch", () => {
  const core = new Core();
  core.worker("w1");
  assert.deepEqual(
    core.submit("a").map(({ type }) => type),
    ["accept", "dispatch"],
  );
});

test("deadlines of jobs that have ended are not kept until they come, and those of the others hold", () => {
  const core = new Core();
  core.worker("w1");
  const late = core.now_ms + 86_400_000;
  for (let n = 0; n < 5000; n += 1) {
    core.submit(`job ${n}`, { deadline_at_ms: late });
    core.ends(`job ${n}`);
  }
  assert.ok(core.state.alarms.size <= 2000, `${core.state.alarms.size} are kept`);
  core.submit("runs", { deadline_at_ms: late });
  core.beats("w1");
  core.now_ms = late;
  assert.equal(the(core.after(0), "settle").code, "DEADLINE_EXCEEDED");
});

test("a job that needs what no worker of its model can do is refused by the field that asks for it, and one that some worker can do waits for that one", () => {
  const needs = [{ feature: "grammar", field: "response_format" }];
  const core = new Core();
  core.worker("plain");
  core.worker("other", { model: "n", features: ["grammar"] });
  const { code, message, param } = the(core.submit("a", { needs }), "refuse");
  assert.deepEqual({ code, param }, { code: "INVALID_REQUEST", param: "response_format" });
  assert.match(message, /^response_format \(grammar\): the engine of no worker that serves m can do that/);
  core.worker("able", { features: ["grammar"] });
  assert.deepEqual(dispatched(core.submit("b", { needs })), ["b→able"]);
  assert.deepEqual(dispatched(core.submit("c", { needs })), []);
  assert.deepEqual(dispatched(core.submit("d")), ["d→plain"]);
  assert.match(the(core.submit("e", { needs, pin: "plain" }), "refuse").message, /serves m under the name plain can/);
  assert.deepEqual(dispatched(core.ends("b")), ["c→able"]);
});

test("a job whose needs no single worker meets is refused, although each is met by some", () => {
  const core = new Core();
  core.worker("one", { features: ["grammar"] });
  core.worker("two", { features: ["logprobs"] });
  const needs = ["grammar", "logprobs"].map((feature) => ({ feature, field: feature }));
  assert.match(the(core.submit("a", { needs }), "refuse").message, /^grammar \(grammar\) and logprobs \(logprobs\)/);
  assert.deepEqual(dispatched(core.submit("b", { needs: needs.slice(1) })), ["b→two"]);
});

test("while nobody serves its model, a job waits for whoever comes, and not for a worker that can't do what it needs", () => {
  const core = new Core();
  core.worker("gone");
  core.send({ type: "worker.left", worker_id: "gone", epoch: null });
  the(core.submit("a", { needs: [{ feature: "grammar", field: "grammar" }] }), "accept");
  assert.deepEqual(dispatched(core.worker("plain")), []);
  assert.deepEqual(dispatched(core.worker("able", { features: ["grammar"] })), ["a→able"]);
});
