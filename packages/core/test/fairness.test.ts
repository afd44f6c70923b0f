/** Fair shares: whoever has got least is next, nobody saves up, and what one look passes over counts within it. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { FairLine } from "../src/fair-line.ts";
import { OUTPUT_TOKEN, PROMPT_TOKEN, type Share, Shares } from "../src/fairness.ts";
import { Core, dispatched } from "./support.ts";

test("of two tenants with work the one that has got less is next, not the one that asked first", () => {
  const core = new Core();
  core.worker("w1");
  core.submit("a0", { tenant: "a", prompt_tokens: 1000 });
  for (const n of [1, 2, 3]) core.submit(`a${n}`, { tenant: "a", prompt_tokens: 1000 });
  core.submit("b1", { tenant: "b", prompt_tokens: 10 });
  core.submit("b2", { tenant: "b", prompt_tokens: 10 });
  assert.deepEqual(dispatched(core.ends("a0")), ["b1→w1"]);
  // Both have had about a thousand tokens by now: what b did not ask for before is not owed to it.
  assert.deepEqual(dispatched(core.ends("b1")), ["a1→w1"]);
  assert.deepEqual(dispatched(core.ends("a1")), ["b2→w1"]);
  assert.deepEqual(dispatched(core.ends("b2")), ["a2→w1"]);
});

test("a tenant that comes back after a pause has no claim on what it did not use", () => {
  const shares = new Shares();
  shares.joins(shares.of("busy"));
  shares.charge(shares.of("busy"), 1_000_000);
  shares.joins(shares.of("new"));
  assert.equal(shares.serviceOf("new"), shares.serviceOf("busy"));
  shares.leaves(shares.of("new"));
  shares.leaves(shares.of("busy"));
  shares.joins(shares.of("late"));
  assert.equal(shares.serviceOf("late"), 1_000_000, "the last that left sets the floor");
});

test("a tenant of twice the weight gets twice as much", () => {
  const shares = new Shares();
  shares.weigh("double", 2);
  const got = { double: 0, single: 0 };
  shares.joins(shares.of("double"));
  shares.joins(shares.of("single"));
  for (let i = 0; i < 300; i += 1) {
    const next = shares.serviceOf("double") <= shares.serviceOf("single") ? "double" : "single";
    got[next] += 1;
    shares.charge(shares.of(next), 7);
  }
  assert.ok(Math.abs(got.double - 2 * got.single) <= 2, JSON.stringify(got));
});

test("tokens count while they come: who has a long answer under way is not next because it has not ended", () => {
  const core = new Core();
  core.worker("w1", { slots: 2 });
  core.submit("long", { tenant: "a", max_tokens: 5000 });
  core.submit("b1", { tenant: "b", prompt_tokens: 100 });
  for (const [id, tenant] of [
    ["a2", "a"],
    ["b2", "b"],
  ] as const)
    core.submit(id, { tenant });
  const progress = (tokens_out: number, attempt = 1) =>
    core.send({ type: "attempt.progressed", job_id: "long", attempt, worker_id: "w1", tokens_out });
  progress(1000);
  const charged = core.state.shares.serviceOf("a");
  assert.equal(charged, 10 + 1000 * OUTPUT_TOKEN);
  progress(1000);
  progress(900);
  progress(4000, 2);
  assert.equal(core.state.shares.serviceOf("a"), charged, "each token once, and only those of the present attempt");
  assert.deepEqual(dispatched(core.ends("b1", { kind: "done", tokens_out: 10 })), ["b2→w1"]);
  progress(1_000_000);
  core.cancel("long");
  assert.equal(
    core.state.shares.serviceOf("a"),
    10 + 5000 * OUTPUT_TOKEN,
    "no more than were asked for, and what came before the end stays charged",
  );
});

test("while two tenants have work, what they have got, also of answers under way, never differs by more than two of the largest jobs", () => {
  const job = fc.record({
    tenant: fc.constantFrom("a", "b", "c"),
    prompt: fc.integer({ min: 1, max: 500 }),
    out: fc.integer({ min: 0, max: 200 }),
  });
  const weights = fc.record({ a: fc.constantFrom(0.5, 1, 3), b: fc.constantFrom(0.5, 1, 3), c: fc.constant(1) });
  const shares_told = fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { minLength: 1, maxLength: 20 });
  fc.assert(
    fc.property(
      fc.array(job, { minLength: 20, maxLength: 120 }),
      fc.integer({ min: 1, max: 4 }),
      weights,
      shares_told,
      (jobs, slots, weight_of, told) => {
        const core = new Core({ queue_jobs_max: 1000 });
        for (const [tenant, weight] of Object.entries(weight_of)) core.send({ type: "tenant.set", tenant, weight, residency: null });
        core.worker("w1", { slots });
        const asked = new Map(jobs.map((each, n) => [`j${n}`, each]));
        for (const [id, { tenant, prompt }] of asked) core.submit(id, { tenant, prompt_tokens: prompt, max_tokens: 200 });
        const cost = ({ tenant, prompt, out }: (typeof jobs)[number]) =>
          (prompt * PROMPT_TOKEN + out * OUTPUT_TOKEN) / weight_of[tenant as "a"];
        const largest = Math.max(...jobs.map(cost));
        let round = 0;
        while (core.state.jobs.size > 0) {
          const waiting = [...core.state.jobs.values()].filter(({ worker_id }) => worker_id === null);
          const got = [...new Set(waiting.map(({ spec }) => spec.tenant))].map((tenant) => core.state.shares.serviceOf(tenant));
          // VTC's bound (its theorem 4.3), with the largest jobs that each slot may have in flight.
          if (got.length > 1) assert.ok(Math.max(...got) - Math.min(...got) <= 2 * largest * slots, `${got} with jobs of ${largest}`);
          const running = core.running("w1").map((key) => key.slice(0, key.indexOf("#")));
          for (const job_id of running) {
            round += 1;
            const tokens_out = Math.floor((asked.get(job_id)?.out ?? 0) * (told[round % told.length] ?? 0));
            core.send({ type: "attempt.progressed", job_id, attempt: 1, worker_id: "w1", tokens_out });
          }
          const [id = ""] = running;
          const [next] = dispatched(core.ends(id, { kind: "done", tokens_out: asked.get(id)?.out ?? 0 }));
          if (next === undefined) continue;
          const chosen = core.state.jobs.get(next.split("→")[0] ?? "");
          // Whoever was next had got least of all that waited, by all that was told before.
          for (const { spec } of waiting) {
            if (chosen === undefined || spec.tenant === chosen.spec.tenant) continue;
            const before =
              core.state.shares.serviceOf(chosen.spec.tenant) - chosen.spec.prompt_tokens / weight_of[chosen.spec.tenant as "a"];
            assert.ok(before <= core.state.shares.serviceOf(spec.tenant) + 1e-6, `${chosen.spec.id} before ${spec.id}`);
          }
        }
      },
    ),
    { numRuns: 150 },
  );
});

/** One that waits in the line `flow` of a tenant. */
function waits(name: string, flow: string, share: Share, prompt_tokens: number) {
  return { name, flow, share, number_in_line: 0, arrival: 0, spec: { prompt_tokens } };
}

test("a look goes through all lines in the order in which they would run, and leaves them as they were", () => {
  const shares = new Shares();
  const line = new FairLine<ReturnType<typeof waits>>();
  const one = (name: string, tenant: string, prompt_tokens: number) => waits(name, tenant, shares.of(tenant), prompt_tokens);
  const all = [one("a1", "a", 10), one("a2", "a", 10), one("a3", "a", 10), one("b1", "b", 25), one("b2", "b", 25)];
  for (const each of all) line.push(each);
  const order = () => [...line].map(({ name }) => name).join(" ");
  assert.equal(order(), "a1 b1 a2 a3 b2");
  assert.equal(order(), "a1 b1 a2 a3 b2");
  for (const each of line) if (each.name === "b1") break;
  assert.equal(order(), "a1 b1 a2 a3 b2");
  shares.charge(shares.of("a"), 100);
  assert.equal(order(), "b1 b2 a1 a2 a3");
  assert.ok(line.remove(all[3] as (typeof all)[number]));
  assert.equal(line.remove(all[3] as (typeof all)[number]), false);
  assert.equal(order(), "b2 a1 a2 a3");
  assert.equal(line.size, 4);
  assert.equal(line.ahead("new"), 2, "one of each tenant goes before a newcomer's first");
});

test("the keys of one tenant are served in the order in which their jobs came: none of them waits for all of another's", () => {
  const shares = new Shares();
  const line = new FairLine<ReturnType<typeof waits>>();
  const push = (name: string) => line.push(waits(name, name[0] as string, shares.of("t"), 10));
  const names = ["a1", "b1", "a2", "b2", "b3", "a3", "a4", "b4"];
  for (const name of names) push(name);
  const served: string[] = [];
  for (let one = line.first; one !== undefined; one = line.first) {
    served.push(one.name);
    line.remove(one);
    shares.charge(shares.of("t"), 10);
  }
  assert.deepEqual(served, names);
});
