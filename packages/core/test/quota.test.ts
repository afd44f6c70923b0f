/** Limits of tenants and keys: every one of them must pass, what was not used is given back, and what waits for one waits in no one's way. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { explain } from "../src/explain.ts";
import { headroom, NO_LIMITS, type QuotaLimits } from "../src/quota.ts";
import { Core, DONE, dispatched, FAILED, only, the } from "./support.ts";

const limit = (core: Core, level: "tenant" | "key", id: string, limits: Partial<QuotaLimits>, tenant = id) =>
  core.send({ type: "quota.set", level, id, tenant, limits: { ...NO_LIMITS, ...limits } });

/** A core with room for everything that the limits allow. */
function roomy(level: "tenant" | "key", limits: Partial<QuotaLimits>): Core {
  const core = new Core();
  core.worker("w1", { slots: 50 });
  limit(core, level, level === "tenant" ? "t" : "k", limits, "t");
  return core;
}
const JOB = { tenant: "t", key: "k", prompt_tokens: 100, max_tokens: 100 };

test("requests a minute: over the rate is refused until it has drained, for one tenant and for nobody else", () => {
  for (const level of ["tenant", "key"] as const) {
    const core = roomy(level, { requests_per_minute_max: 6 });
    for (let n = 0; n < 6; n += 1) the(core.submit(`j${n}`, JOB), "accept");
    const refused = the(core.submit("over", JOB), "refuse");
    assert.equal(refused.code, "RATE_LIMITED");
    assert.equal(refused.limit, `requests_per_minute_max of ${level} ${level === "tenant" ? "t" : "k"}`);
    assert.equal(refused.retry_after_ms, 10_000, "one in ten seconds");
    the(core.submit("other", { ...JOB, tenant: "u", key: "l" }), "accept");
    core.after(9_999);
    assert.equal(only(core.submit("early", JOB), "refuse").length, 1);
    core.now_ms += 1;
    the(core.submit("in time", JOB), "accept");
    assert.equal(only(core.submit("again", JOB), "refuse").length, 1, "what was refused has not counted, and one is one");
  }
});

test("tokens a minute: as many as may be needed are reserved, and what was not used comes back at the end", () => {
  const core = roomy("tenant", { tokens_per_minute_max: 600 });
  for (const id of ["a", "b", "c"]) the(core.submit(id, JOB), "accept");
  assert.equal(the(core.submit("d", JOB), "refuse").retry_after_ms, 20_000, "200 tokens at ten a second");
  assert.deepEqual(headroom(core.state.jobs.get("a")?.accounts ?? [], "tokens", core.now_ms), {
    limit: 600,
    remaining: 0,
    reset_ms: 60_000,
  });
  assert.deepEqual(the(core.ends("a", { kind: "done", tokens_in: 40, tokens_out: 10 }), "settle").used, { tokens: 50, day: 0 });
  assert.equal(the(core.submit("e", JOB), "refuse").retry_after_ms, 5_000, "150 came back");
  core.cancel("b");
  the(core.submit("f", JOB), "accept");
});

test("what has been made when a job is cancelled or fails was used; what never ran was not", () => {
  const core = roomy("key", { tokens_per_day_max: 10_000 });
  core.submit("a", JOB);
  core.send({ type: "attempt.progressed", job_id: "a", attempt: 1, worker_id: "w1", tokens_out: 30 });
  assert.deepEqual(the(core.cancel("a"), "settle").used, { tokens: 130, day: 0 });
  core.submit("b", { ...JOB, model: "m", labels: { none: "such" } });
  assert.deepEqual(the(core.cancel("b"), "settle").used, { tokens: 0, day: 0 });
  core.submit("c", JOB);
  assert.deepEqual(the(core.ends("c", { ...FAILED, retriable: false } as typeof FAILED), "settle").used, { tokens: 100, day: 0 });
  assert.equal(core.state.quotas.usedToday("key", "k", core.now_ms), 230);
});

test("tokens a day: refused when they are used up, until midnight; a job counts for the day it was submitted on", () => {
  const core = roomy("tenant", { tokens_per_day_max: 500 });
  core.now_ms = 86_400_000 * 3 - 5000;
  core.beats("w1");
  core.submit("a", JOB);
  core.submit("b", JOB);
  const refused = the(core.submit("c", JOB), "refuse");
  assert.deepEqual([refused.code, refused.retry_after_ms], ["QUOTA_EXCEEDED", 5000]);
  assert.match(refused.message, /100 are left, and the request may take 200/);
  core.ends("a", { kind: "done", tokens_in: 10, tokens_out: 10 });
  the(core.submit("d", JOB), "accept");
  core.after(5000);
  core.beats("w1");
  for (const id of ["e", "f"]) the(core.submit(id, JOB), "accept");
  assert.deepEqual(the(core.ends("b"), "settle").used, { tokens: 110, day: 2 });
  assert.equal(core.state.quotas.usedToday("tenant", "t", core.now_ms), 400, "yesterday's job has not changed today");
});

test("what can never be let in is no matter of waiting, and a model that is not allowed is said to be so", () => {
  const core = roomy("tenant", { tokens_per_minute_max: 150, tokens_per_day_max: 1000 });
  const large = the(core.submit("a", JOB), "refuse");
  assert.deepEqual([large.code, large.retry_after_ms], ["INVALID_REQUEST", undefined]);
  assert.match(large.message, /max_tokens of at most 50/);
  limit(core, "key", "k", { models: ["other", "third"] }, "t");
  const forbidden = the(core.submit("b", { ...JOB, max_tokens: 10 }), "refuse");
  assert.equal(forbidden.code, "FORBIDDEN");
  assert.match(forbidden.message, /ask for other or third\. \(models of the key k\)/);
});

test("a tenant's and a key's limits must both pass, and the longer wait is told", () => {
  const core = roomy("tenant", { requests_per_minute_max: 2 });
  limit(core, "key", "k", { requests_per_minute_max: 1 }, "t");
  the(core.submit("a", JOB), "accept");
  assert.match(the(core.submit("b", JOB), "refuse").limit ?? "", /of key k$/);
  the(core.submit("c", { ...JOB, key: "l" }), "accept");
  const both = the(core.submit("d", JOB), "refuse");
  assert.deepEqual([both.limit, both.retry_after_ms], ["requests_per_minute_max of key k", 60_000]);
  assert.match(the(core.submit("e", { ...JOB, key: "l" }), "refuse").limit ?? "", /of tenant t$/);
});

test("jobs running: the rest waits, takes no slot from others, and comes when one of them ends", () => {
  const core = roomy("tenant", { jobs_running_max: 2, jobs_queued_max: 3 });
  for (const id of ["a", "b"]) assert.equal(dispatched(core.submit(id, JOB)).length, 1);
  for (const id of ["c", "d", "e"]) assert.deepEqual(dispatched(core.submit(id, JOB)), []);
  assert.match(explain(core.state, "c", core.now_ms)?.answer ?? "", /tenant t runs 2 jobs/);
  const full = the(core.submit("f", JOB), "refuse");
  assert.deepEqual([full.code, full.limit], ["RATE_LIMITED", "jobs_queued_max of tenant t"]);
  assert.deepEqual(dispatched(core.submit("u1", { ...JOB, tenant: "u", key: null })), ["u1→w1"]);
  assert.deepEqual(dispatched(core.ends("a")), ["c→w1"]);
  assert.deepEqual(dispatched(core.cancel("b")).concat(dispatched(core.after(1))), ["d→w1"]);
  limit(core, "tenant", "t", { jobs_running_max: 3 });
  assert.deepEqual(dispatched(core.after(1)), ["e→w1"]);
});

test("a key's limit on what runs holds up no other key of its tenant, and a pause at a limit is owed to nobody", () => {
  const core = roomy("key", { jobs_running_max: 1 });
  core.submit("k1", JOB);
  core.submit("k2", JOB);
  assert.deepEqual(dispatched(core.submit("l1", { ...JOB, key: "l" })), ["l1→w1"]);
  core.cancel("k2");
  const { shares } = core.state;
  limit(core, "tenant", "capped", { jobs_running_max: 1 });
  for (const n of [1, 2]) core.submit(`c${n}`, { ...JOB, tenant: "capped", key: null });
  shares.charge(shares.of("busy"), 1_000_000);
  shares.joins(shares.of("busy"));
  assert.ok(shares.serviceOf("capped") < 1000);
  core.ends("c1");
  assert.ok(shares.serviceOf("capped") >= 1_000_000, "it had not waited for anybody but itself");
  shares.leaves(shares.of("busy"));
});

test("queue instead of refuse: held in order until the rates allow them, interactive ones first, and what is given back helps at once", () => {
  const core = roomy("tenant", { tokens_per_minute_max: 600, over_limit: "queue", jobs_queued_max: 4 });
  for (const id of ["a", "b", "c"]) assert.equal(dispatched(core.submit(id, JOB)).length, 1);
  const accepted = the(core.submit("batch", { ...JOB, priority: "batch" }), "accept");
  assert.equal(accepted.eta_ms, 20_000);
  for (const id of ["d", "e"]) assert.deepEqual(dispatched(core.submit(id, JOB)), []);
  core.submit("gone", JOB);
  assert.match(explain(core.state, "d", core.now_ms)?.answer ?? "", /rates of the tenant t: about 20000 ms/);
  assert.equal(the(core.submit("f", JOB), "refuse").limit, "jobs_queued_max of tenant t");
  core.cancel("gone");
  // A smaller one would have room sooner, but it came later.
  core.submit("small", { ...JOB, prompt_tokens: 1, max_tokens: 1 });
  assert.deepEqual(dispatched(core.after(1000)), []);
  core.ends("a", { kind: "done", tokens_in: 10, tokens_out: 10 });
  assert.deepEqual(dispatched(core.after(100)), []);
  core.beats("w1");
  assert.deepEqual(dispatched(core.after(900)), ["d→w1"]);
  core.ends("b", { ...DONE, tokens_in: 1 } as typeof DONE);
  core.ends("c", { ...DONE, tokens_in: 1 } as typeof DONE);
  assert.deepEqual(dispatched(core.after(100)), ["e→w1", "small→w1"]);
  core.beats("w1");
  for (let n = 0; n < 5 && core.at("batch") === null; n += 1) {
    core.after(5000);
    core.beats("w1");
  }
  assert.equal(core.at("batch"), "w1");
});

test("a rate that is lowered below what a held job needs does not hold it for ever, nor those behind it", () => {
  const core = roomy("tenant", { tokens_per_minute_max: 600, over_limit: "queue" });
  for (const id of ["a", "b"]) core.submit(id, { ...JOB, max_tokens: 400 });
  core.submit("behind", JOB);
  assert.deepEqual(core.running("w1"), ["a#1"]);
  limit(core, "tenant", "t", { tokens_per_minute_max: 300, over_limit: "queue" });
  const after = (ms: number) => {
    core.now_ms += ms;
    core.beats("w1");
    return dispatched(core.after(0));
  };
  assert.deepEqual(after(99_000), [], "500 tokens of a drain at five a second");
  assert.deepEqual(after(1000), ["b→w1"], "all that a minute has");
  assert.deepEqual(after(79_000), [], "what b took beyond that counts");
  assert.deepEqual(after(1000), ["behind→w1"]);
});

test("whatever comes, no rate is exceeded in any minute by more than what fits into one, and all is given back in the end", () => {
  const event = fc.record({
    after_ms: fc.integer({ min: 0, max: 4000 }),
    key: fc.constantFrom("k", "l"),
    prompt: fc.integer({ min: 1, max: 50 }),
    out: fc.integer({ min: 0, max: 50 }),
    ends: fc.boolean(),
  });
  fc.assert(
    fc.property(fc.array(event, { minLength: 10, maxLength: 80 }), fc.constantFrom("refuse", "queue" as const), (events, over_limit) => {
      const core = new Core({ worker_silence_ms_max: 1e9 });
      core.worker("w1", { slots: 6 });
      limit(core, "tenant", "t", { requests_per_minute_max: 20, tokens_per_minute_max: 1000, jobs_running_max: 4, over_limit });
      limit(core, "key", "k", { requests_per_minute_max: 10, jobs_running_max: 2, over_limit }, "t");
      const begun: { at_ms: number; key: string }[] = [];
      const run = (decisions: ReturnType<Core["after"]>) => {
        for (const { job_id } of only(decisions, "dispatch")) {
          const key = core.state.jobs.get(job_id)?.spec.key ?? "";
          begun.push({ at_ms: core.now_ms, key });
        }
        const running = [...core.state.jobs.values()].filter(({ worker_id }) => worker_id !== null);
        assert.ok(running.length <= 4 && running.filter(({ spec }) => spec.key === "k").length <= 2);
      };
      for (const [n, { after_ms, key, prompt, out, ends }] of events.entries()) {
        run(core.after(after_ms));
        run(core.submit(`j${n}`, { tenant: "t", key, prompt_tokens: prompt, max_tokens: 50 }));
        const [first] = core.running("w1");
        if (ends && first !== undefined) run(core.ends(first.split("#")[0] ?? "", { kind: "done", tokens_in: prompt, tokens_out: out }));
      }
      for (const { at_ms } of begun) {
        const minute = begun.filter((other) => other.at_ms >= at_ms && other.at_ms < at_ms + 60_000);
        // A full bucket, and what drains meanwhile.
        assert.ok(minute.length <= 40 && minute.filter(({ key }) => key === "k").length <= 20);
      }
      for (const { spec } of [...core.state.jobs.values()]) core.cancel(spec.id);
      assert.equal(core.state.queued, 0);
      assert.equal(core.state.quotas.holding.size, 0);
      core.now_ms += 60_000;
      const accounts = core.state.quotas.of({ tenant: "t", key: "k" });
      assert.equal(headroom(accounts, "tokens", core.now_ms)?.remaining, 1000);
      assert.deepEqual(
        accounts.map(({ queued, running }) => [queued, running]),
        [
          [0, 0],
          [0, 0],
        ],
      );
    }),
    { numRuns: 60 },
  );
});
