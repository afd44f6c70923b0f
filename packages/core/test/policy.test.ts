/** What the policies go by. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Core, dispatched } from "./support.ts";

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
