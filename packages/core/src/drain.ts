/** Giving free slots to waiting jobs: the only way a job comes to a worker. */

import type { Decision } from "./events.ts";
import { PROMPT_TOKEN } from "./fairness.ts";
import type { Fleet, Scored } from "./fleet.ts";
import { mayTake, place, prospect, wouldBeginAnew } from "./place.ts";
import { currentJobs, movedAside } from "./preempt.ts";
import { dequeue, enqueue } from "./queue.ts";
import { begins, stops } from "./running.ts";
import { attemptKey, type Job, PRIORITIES, type Queue, type Routing, type State, type Worker } from "./state.ts";

/** So many of the workers that were compared are named. */
const ROUTING_SHOWN = 8;
const NONE: Routing["compared"] = [];
const NO_RULES: readonly string[] = [];

/** Gives free slots to the waiting jobs of a model; the same for a new job, a free slot, a new worker. */
export function drain(state: State, model: string, now_ms: number, out: Decision[]): void {
  if (state.halted || state.queued === 0) return;
  fill(state, model, now_ms, out);
  for (const { job, worker } of movedAside(state, model, now_ms)) move(state, job, worker, "moved aside for interactive work", out);
}

function fill(state: State, model: string, now_ms: number, out: Decision[]): void {
  const fleet = state.fleets.get(model);
  if (!fleet?.may_be_free) return;
  const queues = queuesOf(state, model);
  for (const priority of PRIORITIES) {
    for (const queue of queues) {
      // Those that came back go first; when they find nobody, the others may still find somebody.
      for (const line of [queue.returned[priority], queue.fresh[priority]]) {
        if (line.size > 0) fillFrom(state, line, fleet, now_ms, out);
        if (!fleet.may_be_free) return;
      }
    }
  }
}

function fillFrom(
  state: State,
  line: Iterable<Job> & { first: Job | undefined },
  fleet: Fleet<Worker>,
  now_ms: number,
  out: Decision[],
): void {
  // Mostly the first one gets the one slot that is free. Only when it can't is the rest of the line looked through, which costs more.
  for (let job = line.first; job !== undefined; job = line.first) {
    const found = seat(state, job, fleet, now_ms, out);
    if (found === "none left") return;
    if (found === "none for it") break;
  }
  for (const job of line) if (seat(state, job, fleet, now_ms, out) === "none left") return;
}

/** Gives the job a slot. `none left`: whoever comes next would find nobody either. */
function seat(state: State, job: Job, fleet: Fleet<Worker>, now_ms: number, out: Decision[]): "seated" | "none for it" | "none left" {
  const { worker, scored, exhausted } = place(state, job, now_ms);
  if (worker !== undefined) dispatch(state, job, worker, scored, now_ms, out);
  if (!fleet.may_be_free || (worker === undefined && exhausted)) return "none left";
  return worker === undefined ? "none for it" : "seated";
}

/** Lets what runs on a draining worker go on elsewhere; what no other worker could take, or go on with, stays, and finishes there. */
export function clear(state: State, worker: Worker, now_ms: number, out: Decision[]): void {
  const others = [...(state.fleets.get(worker.spec.model) ?? [])].filter((other) => other !== worker);
  for (const job of currentJobs(state, worker)) {
    if (wouldBeginAnew(job, worker)) continue;
    if (others.some((other) => mayTake(state, job, other, now_ms))) move(state, job, worker, "moved away: its worker is draining", out);
  }
  drain(state, worker.spec.model, now_ms, out);
}

/** Its tokens are kept, and it goes on when a slot is free again; the slot is when its link says that the attempt is over. */
function move(state: State, job: Job, worker: Worker, reason: string, out: Decision[]): void {
  const { spec, attempt, spent } = job;
  stops(state, job);
  job.failed_on = null;
  enqueue(state, job);
  out.push({ type: "abort", job_id: spec.id, attempt, worker_id: worker.spec.id, reason });
  out.push({ type: "requeue", job_id: spec.id, attempt, spent, reason });
}

/** Those of the model in which somebody waits: pinned jobs first, since they have no other choice. */
function queuesOf(state: State, model: string): Queue[] {
  const own = state.queues.get(model);
  if (state.pinned_queues === 0) return own === undefined ? [] : [own];
  const queues = [...state.queues.values()].filter((queue) => queue.pin !== null && queue.model === model);
  if (own !== undefined) queues.push(own);
  return queues;
}

export function dispatch(state: State, job: Job, worker: Worker, scored: readonly Scored<Worker>[], now_ms: number, out: Decision[]): void {
  dequeue(state, job);
  const { cached_tokens, backlog_tokens } = prospect(state, job, worker, now_ms);
  const compared =
    scored.length < 2 ? NONE : scored.slice(0, ROUTING_SHOWN).map(({ worker: { spec }, score }) => ({ worker_id: spec.id, score }));
  job.attempt += 1;
  begins(state, job, worker.spec.id);
  job.started_at_ms = now_ms;
  state.dispatches += 1;
  worker.last_dispatch = state.dispatches;
  const key = attemptKey(job.spec.id, job.attempt);
  job.attempt_key = key;
  worker.running.add(key);
  worker.prefilling.set(key, backlog_tokens - worker.prefill_tokens);
  state.shares.charge(job.share, (backlog_tokens - worker.prefill_tokens) * PROMPT_TOKEN);
  worker.prefill_tokens = backlog_tokens;
  worker.kept.touch(job.spec.prefix);
  job.backlog_tokens = backlog_tokens;
  job.prefilled_at_ms = null;
  const rules = state.gate === null ? NO_RULES : state.gate(job.spec, worker.spec).rules;
  const routing = { policy: state.limits.policy, cached_tokens, rules, compared };
  job.routing = routing;
  out.push({ type: "dispatch", job_id: job.spec.id, attempt: job.attempt, worker_id: worker.spec.id, routing });
}
