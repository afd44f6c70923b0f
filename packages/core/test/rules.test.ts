/** What rules make of placing: workers that are barred, preferred, demanded; and another set for what waits. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { explain } from "../src/explain.ts";
import type { Gate, Verdict } from "../src/gate.ts";
import type { JobSpec } from "../src/state.ts";
import { Core, dispatched, LOST, only, the } from "./support.ts";

const SILENT: Verdict = { barred: null, preference: 0, rules: [] };

/** A gate by tenant and worker. */
function gate(verdicts: Record<string, Partial<Verdict>>): Gate {
  return ({ tenant }, { id }) => ({ ...SILENT, ...(verdicts[`${tenant}@${id}`] ?? {}) });
}

function ruled(core: Core, by: Gate | null, demands: [string, JobSpec["demands"]][] = []) {
  return core.send({ type: "policy.set", gate: by, demands: new Map(demands) });
}

const NO = { barred: { rule: "not there", message: "too far" } };

test("a denied job is refused with the rule and its message, whatever else is wrong with it", () => {
  const core = new Core();
  const refusal = the(core.submit("j", { model: "none", denied: { rule: "no", message: "Not on Sundays." } }), "refuse");
  assert.deepEqual([refusal.code, refusal.rule], ["FORBIDDEN", "no"]);
  assert.equal(refusal.message, 'The rule "no" forbids it: Not on Sundays.');
});

test("a worker that a rule bars is not used: not at first, not after a loss, not for a wish, and a pin to it is refused", () => {
  const core = new Core();
  ruled(core, gate({ "t@w1": NO }));
  core.worker("w1", { slots: 4 });
  core.worker("w2");
  assert.deepEqual(dispatched(core.submit("a", { prefer: ["w1"] })), ["a→w2"]);
  core.ends("a", LOST);
  assert.deepEqual(dispatched(core.after(5000)), ["a→w2"]);
  const pinned = the(core.submit("p", { pin: "w1" }), "refuse");
  assert.deepEqual([pinned.code, pinned.rule], ["FORBIDDEN", "not there"]);
  core.submit("b");
  assert.equal(core.at("b"), null);
  const reasons = explain(core.state, "b", core.now_ms)?.workers.map(({ reason }) => reason);
  assert.deepEqual(reasons, ['The rule "not there" forbids it: too far', "all 1 slots are busy"]);
  assert.deepEqual(dispatched(core.submit("other", { tenant: "u" })), ["other→w1"]);
});

for (const policy of ["eta", "lmetric", "least-loaded", "most-free-memory", "round-robin"] as const) {
  test(`those with most preference go first, whatever ${policy} says, and those with a slot before those without`, () => {
    const core = new Core({ policy });
    ruled(core, gate({ "t@w2": { preference: 5, rules: ["near"] }, "t@w3": { preference: 20 } }));
    for (const id of ["w1", "w2", "w3"]) core.worker(id, { slots: id === "w1" ? 8 : 1 });
    const first = core.submit("a");
    assert.deepEqual(dispatched(first), ["a→w3"]);
    const second = core.submit("b");
    assert.deepEqual(dispatched(second), ["b→w2"]);
    assert.deepEqual(the(second, "dispatch").routing.rules, ["near"]);
    assert.deepEqual(dispatched(core.submit("c")), ["c→w1"]);
    assert.deepEqual(dispatched(core.submit("d", { tenant: "u" })), ["d→w1"]);
  });
}

test("what rules demand holds beside what the tenant demands, and explain names the rule", () => {
  const core = new Core();
  core.send({ type: "tenant.set", tenant: "t", weight: 1, residency: "EU" });
  const demands = [{ by: "rule gpu", areas: [], backends: ["cuda"], labels: { disk: "nvme" } }];
  core.worker("us", { backend: "cuda", labels: { disk: "nvme" }, areas: ["us"] });
  core.worker("cpu", { areas: ["de", "EU"], labels: { disk: "nvme" } });
  core.worker("disk", { areas: ["de", "EU"], backend: "cuda" });
  core.submit("j", { demands });
  assert.deepEqual(
    explain(core.state, "j", core.now_ms)?.workers.map(({ reason }) => reason),
    [
      "tenant t demands a worker in EU, and its region is us",
      "rule gpu demands the backend cuda, and it has cpu",
      "rule gpu demands the label disk=nvme, and its is not set",
    ],
  );
  assert.deepEqual(dispatched(core.worker("all", { areas: ["fr", "EU"], backend: "cuda", labels: { disk: "nvme" } })), ["j→all"]);
});

test("other rules hold for what waits: what they demand, what they bar, and what they don't any more", () => {
  const core = new Core();
  core.worker("w1", { backend: "cpu" });
  const demands = [{ by: "rule gpu", areas: [], backends: ["cuda"], labels: {} }];
  core.submit("a", { demands });
  assert.equal(core.at("a"), null);
  assert.deepEqual(dispatched(ruled(core, null)), ["a→w1"], "nothing is demanded any more");
  core.submit("b");
  ruled(core, null, [["b", demands]]);
  assert.deepEqual(dispatched(core.ends("a")), []);
  assert.deepEqual(dispatched(ruled(core, gate({ "t@w1": NO }))), []);
  assert.deepEqual(dispatched(ruled(core, null)), ["b→w1"]);
});

test("a tenant's residency that changes leaves what rules demand as it is", () => {
  const core = new Core();
  core.worker("w1", { areas: ["de", "EU"] });
  core.submit("a", { demands: [{ by: "rule gpu", areas: [], backends: ["cuda"], labels: {} }] });
  core.send({ type: "tenant.set", tenant: "t", weight: 1, residency: "EU" });
  core.send({ type: "tenant.set", tenant: "t", weight: 1, residency: null });
  assert.equal(core.at("a"), null);
  assert.deepEqual(only(core.after(1000), "dispatch"), []);
});
