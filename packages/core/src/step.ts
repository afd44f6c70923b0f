/**
 * Who runs what, when: `step(state, event) → decisions`. Deterministic: time and ids come in with the event, nothing is read
 * from outside and nothing is done; the shell writes the decisions down and then carries them out. `step` changes the one
 * state it is given, and the shell is that state's only holder.
 */
import { objection, queueFull, type Refusal } from "./admission.ts";
import { attemptEnded, attemptPrefilled, attemptProgressed, end, lostForGood } from "./attempts.ts";
import { count } from "./counting.ts";
import { demandsOn, NO_DEMANDS } from "./demand.ts";
import { clear, dispatch, drain } from "./drain.ts";
import { etaMs, placeFreeMs } from "./estimate.ts";
import type { Decision, Event } from "./events.ts";
import { place } from "./place.ts";
import { endIdle, evictFailed, loadEnded, provision } from "./provision.ts";
import { demandAnew, dequeue, enqueue, hold, lengthAhead } from "./queue.ts";
import { type Account, heldBy, heldJobs, heldMs, overLimit, pay, reserve } from "./quota.ts";
import { comesBack } from "./running.ts";
import { settle } from "./settle.ts";
import { type Alarm, type Job, type JobSpec, loadKey, type State } from "./state.ts";
import { beat, leaveIfSilent, register, remove, setDraining } from "./workers.ts";

/** So many entries of jobs that have ended are not worth looking for. */
const ENDED_KEPT = 1024;

/** Events that may call for a worker, or free the room for one. */
const PROVISIONED_AFTER: ReadonlySet<Event["type"]> = new Set([
  "job.submitted",
  "worker.registered",
  "pool.reported",
  "load.ended",
  "evict.failed",
  "tick",
]);

export function step(state: State, event: Event): Decision[] {
  const out: Decision[] = [];
  switch (event.type) {
    case "job.submitted":
      submit(state, event, out);
      break;
    case "job.recovered": {
      const job = newJob(state, event.spec, event.attempt, event.spent);
      // It was let in before; the rates begin anew with each life.
      reserve(job, event.now_ms);
      if (event.ran && job.spec.fails_if_lost) {
        // Nobody knows whether its first token was sent: it may have been.
        settle(state, job, lostForGood("the orchestrator was restarted"), event.now_ms, out);
        break;
      }
      keep(state, job);
      enqueue(state, job);
      drain(state, event.spec.model, event.now_ms, out);
      break;
    }
    case "prompt.counted":
      count(state, event.spec, event.now_ms, out);
      break;
    case "job.cancelled":
      end(state, event.job_id, "cancelled", { code: "CANCELLED", message: "The job was cancelled." }, event.now_ms, out);
      break;
    case "worker.registered":
      register(state, event.spec, event.now_ms, out);
      break;
    case "worker.beat":
      beat(state, event, out);
      break;
    case "worker.drained": {
      const worker = state.workers.get(event.worker_id);
      if (worker === undefined) out.push({ type: "worker.reject", worker_id: event.worker_id, because: "unknown" });
      else {
        setDraining(state, worker, out);
        if (event.move) clear(state, worker, event.now_ms, out);
      }
      break;
    }
    case "worker.left": {
      const worker = state.workers.get(event.worker_id);
      if (worker === undefined) out.push({ type: "worker.reject", worker_id: event.worker_id, because: "unknown" });
      else if (event.epoch !== null && event.epoch < worker.spec.epoch) {
        out.push({ type: "worker.reject", worker_id: event.worker_id, because: "stale" });
      } else remove(state, worker, "it left", event.now_ms, out);
      break;
    }
    case "attempt.prefilled":
      attemptPrefilled(state, event);
      break;
    case "attempt.progressed":
      attemptProgressed(state, event);
      break;
    case "attempt.ended":
      attemptEnded(state, event, out);
      leaveIfSilent(state, event.worker_id, event.now_ms, out);
      break;
    case "tenant.set":
      state.shares.weigh(event.tenant, event.weight);
      settleIn(state, event.tenant, event.residency, event.now_ms, out);
      break;
    case "policy.set":
      state.gate = event.gate;
      for (const job of state.jobs.values()) demandAnew(state, job, event.demands.get(job.spec.id) ?? NO_DEMANDS);
      drainAll(state, event.now_ms, out);
      break;
    case "quota.set": {
      const { level, id, tenant, limits, used_today, now_ms } = event;
      comesBack(state, state.quotas.set(level, id, limits, used_today, now_ms), tenant);
      break;
    }
    case "pool.reported":
      state.pools_asked.add(event.pool.id);
      state.pools.set(event.pool.id, event.pool);
      if (state.limits.auto_spawn) for (const model of event.pool.models.keys()) state.models.add(model);
      break;
    case "pool.lost":
      state.pools_asked.add(event.pool_id);
      state.pools.delete(event.pool_id);
      break;
    case "load.ended":
      loadEnded(state, loadKey(event.model, event.demands_key), event.error, event.now_ms);
      break;
    case "evict.failed":
      evictFailed(state, event.worker_id, event.now_ms, out);
      break;
    case "halted":
      state.halted = true;
      break;
    case "tick":
      tick(state, event.now_ms, out);
      break;
  }
  if (PROVISIONED_AFTER.has(event.type)) provision(state, event.now_ms, out);
  return out;
}

function newJob(state: State, spec: JobSpec, attempt: number, spent: number): Job {
  const accounts = state.quotas.of(spec);
  const of_key = accounts.some(({ level, limits }) => level === "key" && limits.jobs_running_max > 0);
  return {
    spec,
    share: state.shares.of(spec.tenant),
    accounts,
    flow: of_key ? `${spec.tenant} ${spec.key}` : spec.tenant,
    by_rules: spec.demands,
    ...demandsOn(state, spec, spec.demands),
    reserved_tokens: 0,
    reserved_day: 0,
    paid: false,
    held_by: null,
    priority: spec.priority,
    attempt,
    attempt_key: "",
    spent,
    worker_id: null,
    failed_on: null,
    not_before_ms: 0,
    started_at_ms: 0,
    backlog_tokens: 0,
    too_long_for: 0,
    prefilled_at_ms: null,
    begun: attempt > 0,
    charged_tokens: 0,
    routing: undefined,
    number_in_line: 0,
    arrival: 0,
  };
}

/** Where a tenant's jobs must stay from now on: what runs elsewhere ends there, what waits does not begin there any more. */
function settleIn(state: State, tenant: string, residency: string | null, now_ms: number, out: Decision[]): void {
  if ((state.residencies.get(tenant)?.areas[0] ?? null) === residency) return;
  if (residency === null) state.residencies.delete(tenant);
  else state.residencies.set(tenant, { by: `tenant ${tenant}`, areas: [residency], backends: [], labels: {} });
  for (const job of state.jobs.values()) if (job.spec.tenant === tenant) demandAnew(state, job);
  drainAll(state, now_ms, out);
}

function drainAll(state: State, now_ms: number, out: Decision[]): void {
  for (const model of new Set([...state.queues.values()].map((queue) => queue.model))) drain(state, model, now_ms, out);
}

function submit(state: State, { spec, beside, now_ms }: Extract<Event, { type: "job.submitted" }>, out: Decision[]): void {
  const job = newJob(state, spec, 0, 0);
  const outlook = {
    wouldWait: () => state.halted || place(state, job, now_ms).worker === undefined,
    freeMs: () => placeFreeMs(state, job, now_ms),
  };
  const refusal = objection(state, job, now_ms) ?? overLimit(job, outlook, now_ms, beside) ?? roomFor(state, job, now_ms, out);
  if (refusal !== undefined) {
    out.push({ type: "refuse", job_id: spec.id, ...refusal });
    return;
  }
  reserve(job, now_ms);
  keep(state, job);
  const by = heldBy(job, true, now_ms);
  if (by !== undefined) {
    out.push({ type: "accept", job_id: spec.id, position: heldJobs(by), eta_ms: heldMs(job, now_ms) });
    hold(state, job, by);
    return;
  }
  pay(job, now_ms);
  // Nobody waits: what draining the queue would find, without joining it first.
  const first = state.queued === 0 && !state.halted;
  const found = first ? place(state, job, now_ms) : undefined;
  if (found?.worker !== undefined) {
    out.push({ type: "accept", job_id: spec.id, position: 0, eta_ms: 0 });
    dispatch(state, job, found.worker, found.scored, now_ms, out);
    return;
  }
  const ahead = lengthAhead(state, job);
  enqueue(state, job);
  const dispatches: Decision[] = [];
  if (!first || state.limits.preempt_batch) drain(state, spec.model, now_ms, dispatches);
  const starts = job.worker_id !== null;
  out.push(
    { type: "accept", job_id: spec.id, position: starts ? 0 : ahead, eta_ms: starts ? 0 : etaMs(state, job, ahead, now_ms) },
    ...dispatches,
  );
}

/** Makes room in a full queue, where that is the rule and possible; else says that there is none. */
function roomFor(state: State, job: Job, now_ms: number, out: Decision[]): Refusal | undefined {
  for (;;) {
    const refusal = queueFull(state, job, now_ms);
    if (refusal === undefined || state.limits.queue_full === "reject") return refusal;
    const oldest = oldestBatch(state);
    if (oldest === undefined) return refusal;
    const message = "The queue was full, and this batch job had waited longest.";
    end(state, oldest.spec.id, "failed", { code: "DROPPED", message, retriable: true }, now_ms, out);
  }
}

/** The waiting batch job that was submitted first. */
function oldestBatch(state: State): Job | undefined {
  for (let entry = state.batch.first; entry !== undefined; entry = state.batch.first) {
    const job = state.jobs.get(entry.value);
    if (job?.worker_id === null && job.priority === "batch") return job;
    state.batch.take();
  }
  return undefined;
}

/** It is known from now on, until it is settled. */
function keep(state: State, job: Job): void {
  const { id, deadline_at_ms, submitted_at_ms, priority } = job.spec;
  const { queue_wait_ms_max, first_token_ms_max, batch_promote_ms, queue_full } = state.limits;
  state.jobs.set(id, job);
  const alarm = (about: Alarm["about"], at_ms: number) => state.alarms.push({ job_id: id, about }, at_ms);
  if (deadline_at_ms !== null) alarm("deadline", deadline_at_ms);
  if (queue_wait_ms_max > 0) alarm("queue wait", submitted_at_ms + queue_wait_ms_max);
  if (first_token_ms_max > 0) alarm("first token", submitted_at_ms + first_token_ms_max);
  if (priority === "batch" && batch_promote_ms > 0) alarm("promotion", submitted_at_ms + batch_promote_ms);
  if (priority === "batch" && queue_full === "drop-oldest-batch") state.batch.push(id, submitted_at_ms);
  // Most jobs end long before their alarms: those are not kept until the time comes.
  const enough = ENDED_KEPT + 8 * state.jobs.size;
  if (state.alarms.size >= enough) state.alarms.keep(({ job_id }) => state.jobs.has(job_id));
  if (state.batch.size >= enough) state.batch.keep((job_id) => state.jobs.has(job_id));
}

function tick(state: State, now_ms: number, out: Decision[]): void {
  for (const worker_id of [...state.workers.keys()]) leaveIfSilent(state, worker_id, now_ms, out);
  for (let due = state.alarms.first; due !== undefined && due.key <= now_ms; due = state.alarms.first) {
    state.alarms.take();
    ring(state, due.value, now_ms, out);
  }
  letGo(state, now_ms);
  drainAll(state, now_ms, out);
  endIdle(state, now_ms, out);
}

/** What has become due for a job, if it still is as it was. */
function ring(state: State, { job_id, about }: Alarm, now_ms: number, out: Decision[]): void {
  const job = state.jobs.get(job_id);
  if (job === undefined) return;
  const { queue_wait_ms_max, first_token_ms_max } = state.limits;
  switch (about) {
    case "deadline":
      return end(
        state,
        job_id,
        "failed",
        { code: "DEADLINE_EXCEEDED", message: "The job's deadline passed before it ended." },
        now_ms,
        out,
      );
    case "queue wait":
      if (job.attempt > 0) return;
      return end(
        state,
        job_id,
        "failed",
        { code: "QUEUE_TIMEOUT", message: `No worker took the job within ${queue_wait_ms_max} ms.`, retriable: true },
        now_ms,
        out,
      );
    case "first token":
      if (job.begun) return;
      return end(
        state,
        job_id,
        "failed",
        { code: "FIRST_TOKEN_TIMEOUT", message: `No token came within ${first_token_ms_max} ms.`, retriable: true },
        now_ms,
        out,
      );
    case "promotion": {
      if (job.worker_id !== null || job.priority !== "batch") return;
      const by = job.held_by;
      dequeue(state, job);
      job.priority = "interactive";
      if (by === null) enqueue(state, job);
      else hold(state, job, by);
    }
  }
}

/** Those that were held for a rate that has room for them by now join their queues. */
function letGo(state: State, now_ms: number): void {
  for (const account of [...state.quotas.holding]) {
    for (let job = firstHeld(account); job !== undefined; job = firstHeld(account)) {
      const by = heldBy(job, false, now_ms);
      if (by === account) break;
      dequeue(state, job);
      if (by === undefined) {
        pay(job, now_ms);
        enqueue(state, job);
      } else hold(state, job, by);
    }
  }
}

function firstHeld({ held }: Account): Job | undefined {
  return held.interactive.first ?? held.batch.first;
}
