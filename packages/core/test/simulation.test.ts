/**
 * Seeded worlds against an oracle. A failure prints its seed; `npm run sim -- --seed <n>` replays that one. The last tests break `step` on purpose: a simulation that can't bite proves nothing.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { cases } from "../../../test/support/cases.ts";
import type { Decision } from "../src/events.ts";
import { attemptKey } from "../src/state.ts";
import { step } from "../src/step.ts";
import { type Step, World } from "./sim-world.ts";

const SEEDS = Array.from({ length: cases({ few: 250, all: 2000 }) }, (_, i) => i + 1);

function simulate(seed: number, stepFunction?: Step): World {
  const world = new World(seed, stepFunction);
  try {
    world.run();
  } catch (error) {
    throw new Error(`seed ${seed}, step ${world.steps}: ${(error as Error).message}`, { cause: error });
  }
  return world;
}

test("in every world each accepted job is settled exactly once, whatever dies, lags, lies or crashes", () => {
  const total = { settled: 0, refused: 0, crashes: 0, steps: 0 };
  const outcomes = new Set<string>();
  for (const seed of SEEDS) {
    const world = simulate(seed);
    assert.equal(world.oracle.settled, world.oracle.rows.size, `seed ${seed}`);
    total.settled += world.oracle.settled;
    total.refused += world.oracle.refused.size;
    total.crashes += world.crashes;
    total.steps += world.steps;
    for (const kind of Object.keys(world.outcomes)) outcomes.add(kind);
  }
  // The storm has to be one: every kind of end, refusals, crashes.
  assert.deepEqual([...outcomes].sort(), ["aborted", "done", "failed", "lost", "refused"]);
  assert.ok(total.settled > 5000 && total.refused > 200 && total.crashes > 200, JSON.stringify(total));
});

test("the same seed gives the same world", () => {
  const trace = (seed: number) => {
    const lines: string[] = [];
    simulate(seed, (state, event) => {
      const decisions = step(state, event);
      lines.push(JSON.stringify([event, decisions]));
      return decisions;
    });
    return lines;
  };
  assert.deepEqual(trace(7), trace(7));
  assert.notDeepEqual(trace(7), trace(8));
});

const broken: [what: string, stepFunction: Step, expected: RegExp][] = [
  [
    "without the fence, a late report decides over a newer attempt",
    (state, event) => {
      const job = event.type === "attempt.ended" ? state.jobs.get(event.job_id) : undefined;
      if (event.type !== "attempt.ended" || job === undefined || job.worker_id === null) return step(state, event);
      return step(state, { ...event, attempt: job.attempt, worker_id: job.worker_id });
    },
    /settled by a report that is not of its current attempt|a fenced report queued/,
  ],
  [
    "a job sent out twice has two current attempts",
    (state, event) =>
      step(state, event).flatMap((decision): Decision[] =>
        decision.type === "dispatch" ? [decision, { ...decision, attempt: decision.attempt + 1 }] : [decision],
      ),
    /two attempts of \w+ are current at once/,
  ],
  [
    "a cancelled job's slot given away before its link has ended is overcommitted",
    (state, event) => {
      const job = event.type === "job.cancelled" ? state.jobs.get(event.job_id) : undefined;
      const worker_id = job?.worker_id ?? null;
      const decisions = step(state, event);
      if (job !== undefined && worker_id !== null) state.workers.get(worker_id)?.running.delete(attemptKey(job.spec.id, job.attempt));
      return decisions;
    },
    /attempts in \d slots|nobody will find|attempts that it does not run/,
  ],
  [
    "a drain that is not heeded sends jobs to a draining worker",
    (state, event) => {
      const decisions = step(state, event);
      for (const worker of state.workers.values()) worker.draining = false;
      return decisions;
    },
    /which is draining|nobody will find/,
  ],
  [
    "heartbeats that are taken for granted send jobs to a silent worker",
    (state, event) => {
      for (const worker of state.workers.values()) worker.last_beat_ms = event.now_ms;
      return step(state, event);
    },
    /which is silent/,
  ],
  [
    "a settlement that is swallowed leaves a job open for ever",
    (state, event) => step(state, event).filter((decision) => decision.type !== "settle" || decision.code !== "WORKER_LOST"),
    /not settled in a healthy world|decided nothing|was accepted/,
  ],
  [
    "a settlement that is repeated settles twice",
    (state, event) =>
      step(state, event).flatMap((decision): Decision[] => (decision.type === "settle" ? [decision, decision] : [decision])),
    /was settled after it was settled/,
  ],
  [
    "a queue without a limit is found",
    (state, event) => {
      if (event.type !== "job.submitted") return step(state, event);
      const { limits } = state;
      const decisions = step(Object.assign(state, { limits: { ...limits, queue_jobs_max: 1000 } }), event);
      Object.assign(state, { limits });
      return decisions;
    },
    /jobs wait after a submission/,
  ],
  [
    "labels that are not looked at send jobs where they must not run",
    (state, event) => step(state, event.type === "job.submitted" ? { ...event, spec: { ...event.spec, labels: {} } } : event),
    /whose disk is not fast/,
  ],
  [
    "a residency that is forgotten lets jobs leave",
    (state, event) => step(state, event.type === "tenant.set" ? { ...event, residency: null } : event),
    /which is outside EU/,
  ],
  [
    "workers that are believed to be in the EU get what may not leave it",
    (state, event) => step(state, event.type === "worker.registered" ? { ...event, spec: { ...event.spec, areas: ["EU"] } } : event),
    /which is outside EU/,
  ],
  [
    "a residency that holds for the first attempt alone is left by the next one",
    (state, event) => {
      const decisions = step(state, event);
      for (const job of state.jobs.values()) {
        if (job.attempt === 0 || job.worker_id === null) continue;
        job.demands = [];
        job.demands_key = "";
      }
      return decisions;
    },
    /which is outside EU|may leave EU/,
  ],
  [
    "a pool that is believed to be in the EU gets workers for those who may not leave it",
    (state, event) => step(state, event.type === "pool.reported" ? { ...event, pool: { ...event.pool, areas: ["EU"] } } : event),
    /a worker for the EU was started elsewhere|not settled/,
  ],
  [
    "rules that are not asked send jobs to workers that they bar",
    (state, event) => step(state, event.type === "policy.set" ? { ...event, gate: null } : event),
    /which a rule bars/,
  ],
  [
    "a rule's answer that is kept for another worker bars nobody",
    (state, event) => {
      const gate = event.type === "policy.set" ? event.gate : null;
      if (event.type !== "policy.set" || gate === null) return step(state, event);
      const once = new Map<object, ReturnType<typeof gate>>();
      return step(state, {
        ...event,
        gate(job, worker) {
          const verdict = once.get(job) ?? gate(job, worker);
          once.set(job, verdict);
          return verdict;
        },
      });
    },
    /which a rule bars/,
  ],
  [
    "batch work moved aside where nobody allowed it",
    (state, event) => step(Object.assign(state, { limits: { ...state.limits, preempt_batch: true } }), event),
    /was moved aside/,
  ],
  [
    "a tenant's limit on what runs that is not kept lets it run more",
    (state, event) => step(state, event.type === "quota.set" ? { ...event, limits: { ...event.limits, jobs_running_max: 0 } } : event),
    /of its tenant's run already/,
  ],
  [
    "a limit that rings too early ends jobs that had time left",
    (state, event) => {
      const { limits } = state;
      if (event.type !== "job.submitted" || limits.first_token_ms_max === 0) return step(state, event);
      const decisions = step(Object.assign(state, { limits: { ...limits, first_token_ms_max: 10 } }), event);
      Object.assign(state, { limits });
      return decisions;
    },
    /could still have begun in time/,
  ],
];

for (const [what, stepFunction, expected] of broken) {
  test(`the simulation bites: ${what}`, () => {
    const bitten = () => {
      for (let seed = 1; seed <= 40; seed++) simulate(seed, stepFunction);
    };
    assert.throws(bitten, (error: Error) => {
      assert.match(error.message, /^seed \d+, step \d+: /);
      assert.match(error.message, expected);
      return true;
    });
  });
}
