/** How a worker is chosen: the policies by name, what they know of kept beginnings and speeds, and what they tell of it. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { explain } from "../src/explain.ts";
import { COMPARED_MAX } from "../src/fleet.ts";
import { PrefixIndex } from "../src/prefix-index.ts";
import { Speed } from "../src/speed.ts";
import type { PolicyName } from "../src/state.ts";
import { Core, dispatched, the } from "./support.ts";

function coreWith(policy: PolicyName, ...workers: [id: string, slots: number][]): Core {
  const core = new Core({ policy, prefix_block_tokens: 10 });
  for (const [id, slots] of workers) core.worker(id, { slots });
  return core;
}

/** The first token has come, `ms` after the last event. */
function prefilled(core: Core, job_id: string, ms: number): void {
  core.now_ms += ms;
  const job = core.state.jobs.get(job_id);
  core.send({ type: "attempt.prefilled", job_id, attempt: job?.attempt ?? 0, worker_id: job?.worker_id ?? "" });
}

test("round-robin takes whoever was used least recently; least-loaded whoever has most of its slots free", () => {
  const robin = coreWith("round-robin", ["w1", 4], ["w2", 4]);
  const least = coreWith("least-loaded", ["w1", 1], ["w2", 4]);
  for (const id of ["a", "b", "c", "d"]) {
    robin.submit(id);
    least.submit(id);
  }
  assert.deepEqual(
    ["a", "b", "c", "d"].map((id) => robin.at(id)),
    ["w1", "w2", "w1", "w2"],
  );
  assert.deepEqual(
    ["a", "b", "c", "d"].map((id) => least.at(id)),
    ["w1", "w2", "w2", "w2"],
  );
});

test("most-free-memory believes the heartbeats", () => {
  const core = coreWith("most-free-memory", ["w1", 4], ["w2", 4]);
  core.send({ type: "worker.beat", worker_id: "w2", epoch: 1, draining: false, memory_free_bytes: 5e9 });
  core.send({ type: "worker.beat", worker_id: "w1", epoch: 1, draining: false, memory_free_bytes: 1e9 });
  core.submit("a");
  core.submit("b");
  assert.deepEqual([core.at("a"), core.at("b")], ["w2", "w2"]);
});

test("a job goes where its beginning is kept, unless more has to be computed there than that saves", () => {
  for (const policy of ["lmetric", "eta"] as const) {
    const core = coreWith(policy, ["w1", 4], ["w2", 4]);
    core.submit("first", { prompt_tokens: 100, prefix: [1, 2, 3, 4, 5, 6, 7, 8, 9] });
    const there = core.at("first");
    prefilled(core, "first", 100);
    core.ends("first");
    const decision = the(core.submit("same", { prompt_tokens: 100, prefix: [1, 2, 3, 4, 5, 6, 7, 8, 9] }), "dispatch");
    assert.equal(decision.worker_id, there, policy);
    assert.equal(decision.routing.cached_tokens, 90);
    core.submit("long", { pin: there ?? "", prompt_tokens: 5000 });
    assert.notEqual(the(core.submit("again", { prompt_tokens: 100, prefix: [1, 2, 3] }), "dispatch").worker_id, there, policy);
  }
});

const TOKENS = { prompt_tokens: 1000 };

/** A core whose workers have each computed one prompt of 1,000 tokens, in so many ms. */
function measured(policy: "eta" | "lmetric", prefill_ms: Record<string, number>): Core {
  const core = new Core({ policy });
  for (const [id, ms] of Object.entries(prefill_ms)) {
    core.worker(id, { slots: 8, cache_tokens: 64_000 });
    core.submit(`first-${id}`, { ...TOKENS, pin: id });
    core.now_ms += ms;
    core.send({ type: "attempt.prefilled", job_id: `first-${id}`, attempt: 1, worker_id: id });
    core.ends(`first-${id}`);
  }
  return core;
}

test("eta: a machine that was measured four times as fast gets prompts until its wait is as long", () => {
  const core = measured("eta", { slow: 400, fast: 100 });
  const went = ["a", "b", "c"].flatMap((id) => dispatched(core.submit(id, TOKENS)));
  assert.deepEqual(went, ["a→fast", "b→fast", "c→slow"], "a third prompt there would wait for two and hold up both");
});

test("eta: between equal machines the one that kept the beginning of the prompt, unless others wait there for longer", () => {
  const core = measured("eta", { w1: 100, w2: 100 });
  const prefix = Array.from({ length: 12 }, (_, at) => at + 1);
  const first = core.submit("a", { ...TOKENS, prefix });
  assert.deepEqual(dispatched(first), ["a→w1"]);
  core.now_ms += 100;
  core.send({ type: "attempt.prefilled", job_id: "a", attempt: 1, worker_id: "w1" });
  assert.deepEqual(dispatched(core.submit("b", { ...TOKENS, prefix })), ["b→w1"]);
  core.now_ms += 23;
  core.send({ type: "attempt.prefilled", job_id: "b", attempt: 1, worker_id: "w1" });
  core.submit("long", { prompt_tokens: 5000, pin: "w1" });
  assert.deepEqual(dispatched(core.submit("c", { ...TOKENS, prefix })), ["c→w2"]);
});

test("eta: a machine of which nothing is known yet is thought to be like the others, and does not get everything", () => {
  const core = measured("eta", { w1: 100, w2: 100 });
  core.worker("new", { slots: 8, cache_tokens: 64_000 });
  const went = ["a", "b", "c", "d"].flatMap((id) => dispatched(core.submit(id, TOKENS)));
  assert.deepEqual(went, ["a→new", "b→w1", "c→w2", "d→new"]);
});

test("eta: answers under way count, since a prompt holds them up", () => {
  const core = measured("eta", { w1: 100, w2: 100 });
  core.submit("a", { ...TOKENS, pin: "w1" });
  core.now_ms += 100;
  core.send({ type: "attempt.prefilled", job_id: "a", attempt: 1, worker_id: "w1" });
  assert.equal(core.state.workers.get("w2")?.running.size, 0);
  assert.deepEqual(dispatched(core.submit("b", TOKENS)), ["b→w2"]);
});

test("what a worker has still to compute is taken off when the first token comes, and when the attempt ends without one", () => {
  const core = coreWith("lmetric", ["w1", 4]);
  core.submit("a", { prompt_tokens: 100 });
  core.submit("b", { prompt_tokens: 50 });
  const tokens = () => core.state.workers.get("w1")?.prefill_tokens;
  assert.equal(tokens(), 150);
  prefilled(core, "a", 10);
  assert.equal(tokens(), 50);
  prefilled(core, "a", 10);
  assert.equal(tokens(), 50, "it is taken off once");
  core.cancel("b");
  core.reports("b", 1, "w1", { kind: "aborted" });
  assert.equal(tokens(), 0);
});

test("a dispatch and explain name the workers that were compared, with their scores", () => {
  const core = coreWith("lmetric", ["w1", 4], ["w2", 4]);
  core.submit("before", { pin: "w1", prompt_tokens: 30 });
  const { routing, worker_id } = the(core.submit("a", { prompt_tokens: 20 }), "dispatch");
  assert.equal(worker_id, "w2");
  assert.deepEqual(routing, {
    policy: "lmetric",
    cached_tokens: 0,
    rules: [],
    compared: [
      { worker_id: "w2", score: 20 },
      { worker_id: "w1", score: 100 },
    ],
  });
  const why = explain(core.state, "a", core.now_ms);
  assert.equal(why?.policy, "lmetric");
  const chosen = why?.workers.find(({ worker_id: id }) => id === "w2");
  assert.match(chosen?.reason ?? "", /the lowest score by lmetric \(w2 20, w1 100\)/);
  assert.equal(chosen?.score, 20);
});

test("the number of workers that one decision compares is bounded", () => {
  const core = coreWith("lmetric", ...Array.from({ length: COMPARED_MAX + 30 }, (_, n): [string, number] => [`w${n}`, 1]));
  const placed = Array.from({ length: COMPARED_MAX + 30 }, (_, n) => the(core.submit(`j${n}`), "dispatch"));
  assert.equal(new Set(placed.map(({ worker_id }) => worker_id)).size, COMPARED_MAX + 30, "none is left out for ever");
});

test("an index of beginnings keeps what was used last, ends before beginnings", () => {
  const index = new PrefixIndex(4);
  index.touch([1, 2, 3]);
  assert.equal(index.match([1, 2, 3, 4]), 3);
  assert.equal(index.match([9, 10]), 0);
  index.touch([1, 20, 21]);
  assert.equal(index.size, 4);
  assert.equal(index.match([1, 20, 21]), 3);
  assert.equal(index.match([1, 2, 3]), 2, "the end of the older one is gone");
  index.touch([5, 6, 7, 8, 9, 10]);
  assert.equal(index.match([5, 6, 7, 8, 9, 10]), 4, "a prompt that is too long keeps its beginning");
  assert.equal(index.match([1]), 0);
});

test("an index answers as a plain list of the last used blocks would", () => {
  const family = fc.array(fc.integer({ min: 0, max: 2 }), { minLength: 1, maxLength: 6 });
  fc.assert(
    fc.property(fc.array(family, { maxLength: 60 }), fc.integer({ min: 1, max: 12 }), (prompts, capacity) => {
      const index = new PrefixIndex(capacity);
      let kept: number[] = [];
      for (const prompt of prompts) {
        // A block's name covers all before it.
        const blocks = prompt.map((_, at) => Number(`1${prompt.slice(0, at + 1).join("")}`)).slice(0, capacity);
        let matched = 0;
        while (matched < blocks.length && kept.includes(blocks[matched] as number)) matched += 1;
        assert.equal(index.match(blocks), matched);
        index.touch(blocks);
        kept = [...blocks, ...kept.filter((block) => !blocks.includes(block))].slice(0, capacity);
        assert.equal(index.size, kept.length);
      }
    }),
    { numRuns: 300 },
  );
});

test("a speed is a mean that fades: long prompts count for more, old ones for less", () => {
  const speed = new Speed();
  assert.equal(speed.prefill_ms_per_token, undefined);
  speed.learnPrefill(1000, 1000, 0);
  speed.learnPrefill(1, 100, 0);
  assert.ok((speed.prefill_ms_per_token ?? 0) < 1.2);
  for (let n = 0; n < 60; n += 1) speed.learnPrefill(1000, 100, 0);
  assert.ok(Math.abs((speed.prefill_ms_per_token ?? 0) - 0.1) < 0.01);
  const before = speed.prefill_ms_per_token ?? 0;
  speed.learnPrefill(1000, -5, 0);
  assert.ok(
    (speed.prefill_ms_per_token ?? -1) >= 0 && (speed.prefill_ms_per_token ?? 0) < before,
    "a clock that was set back teaches nothing negative",
  );
});

test("what was learned of a worker a while ago counts for less, so that a slow one is measured again", () => {
  const speed = new Speed();
  assert.equal(speed.prefillMs(7, 0), 7, "nothing is known");
  speed.learnPrefill(1000, 4000, 0);
  assert.equal(speed.prefillMs(1, 0), 4);
  assert.equal(speed.prefillMs(1, 600_000), 2.5, "half of it after ten minutes");
  assert.ok(speed.prefillMs(1, 1e9) < 1.001);
  assert.equal(speed.prefillMs(1, -1000), 4, "a clock that was set back makes nothing of it");
});
