/** Prompts whose tokens are counted: to whom they may go, and what they cost. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { NO_LIMITS } from "../src/quota.ts";
import type { JobSpec } from "../src/state.ts";
import { Core, the } from "./support.ts";

const FEATURES = ["tokenize"];
const needs = [{ feature: "tokenize", field: "model" }];
const count = (core: Core, more: Partial<JobSpec> = {}) =>
  core.send({ type: "prompt.counted", spec: core.spec("c", { needs, max_tokens: 0, prompt_tokens_min: 0, ...more }) });

test("those that have a slot free are asked first, then busy ones, then those that drain; silent ones and others are not", () => {
  const core = new Core();
  core.worker("busy", { features: FEATURES });
  core.submit("j");
  core.worker("old", { features: FEATURES });
  core.send({ type: "worker.drained", worker_id: "old", move: false });
  core.worker("free", { features: FEATURES, context_size: 4 });
  core.worker("unable");
  core.worker("other", { model: "n", features: FEATURES });
  assert.deepEqual(the(count(core), "count").worker_ids, ["free", "busy", "old"]);
  assert.equal(core.state.jobs.size, 1, "it is no job");
  core.now_ms += core.state.limits.worker_silence_ms_max + 1;
  assert.equal(the(count(core), "refuse").code, "NO_WORKER");
});

test("nobody counts what a job with the same prompt could not be sent to", () => {
  const core = new Core();
  core.send({ type: "tenant.set", tenant: "eu", weight: 1, residency: "EU" });
  core.worker("us", { features: FEATURES, areas: ["us"] });
  const refused = the(count(core, { tenant: "eu" }), "refuse");
  assert.equal(refused.code, "NO_WORKER");
  assert.match(refused.message, /tenant eu demands a worker in EU/);
  core.worker("de", { features: FEATURES, areas: ["de", "EU"] });
  assert.deepEqual(the(count(core, { tenant: "eu" }), "count").worker_ids, ["de"]);
  const demand = { by: "rule gpu", areas: [], backends: ["cuda"], labels: {} };
  assert.equal(the(count(core, { demands: [demand] }), "refuse").code, "NO_WORKER");
  const denied = the(count(core, { denied: { rule: "no", message: "not today" } }), "refuse");
  assert.deepEqual([denied.code, denied.rule], ["FORBIDDEN", "no"]);
  const gate = (_job: JobSpec, worker: { id: string }) => ({
    ...{ preference: 0, rules: [] },
    barred: worker.id === "us" ? { rule: "no-us", message: "not there" } : null,
  });
  core.send({ type: "policy.set", gate, demands: new Map() });
  assert.deepEqual(the(count(core), "count").worker_ids, ["de"]);
});

test("a model that is not known, and engines that can't, are refused by name", () => {
  const core = new Core();
  core.worker("w1");
  assert.equal(the(count(core, { model: "x" }), "refuse").code, "MODEL_NOT_FOUND");
  const refused = the(count(core), "refuse");
  assert.deepEqual([refused.code, refused.param], ["INVALID_REQUEST", "model"]);
});

test("it is a request by the limits of its tenant, and takes no tokens", () => {
  const core = new Core();
  core.worker("w1", { features: FEATURES });
  const limits = { ...NO_LIMITS, requests_per_minute_max: 2, tokens_per_minute_max: 5, models: ["m"] };
  core.send({ type: "quota.set", level: "tenant", id: "t", tenant: "t", limits });
  core.worker("w2", { model: "n", features: FEATURES });
  assert.equal(the(count(core, { model: "n" }), "refuse").code, "FORBIDDEN");
  the(count(core, { prompt_tokens: 1000 }), "count");
  the(count(core, { prompt_tokens: 1000 }), "count");
  const refused = the(count(core), "refuse");
  assert.deepEqual([refused.code, (refused.retry_after_ms ?? 0) > 0], ["RATE_LIMITED", true]);
  the(count(core, { tenant: "u" }), "count");
});
