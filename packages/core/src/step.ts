/**
 * Who runs what, when: `step(state, event) → decisions`. Deterministic: time and ids come in with the event, nothing is read
 * from outside and nothing is done; the shell writes the decisions down and then carries them out. `step` changes the one
 * state it is given, and the shell is that state's only holder.
 */
import { etaMs, learnServiceTime, placeFreeMs } from "./estimate.ts";
import { Fleet, type Scored } from "./fleet.ts";
import { place, prospect } from "./place.ts";
import type { PolicyName } from "./policy.ts";
import { PrefixIndex } from "./prefix-index.ts";
import { dequeue, enqueue, lengthAhead, waiting } from "./queue.ts";
import { Speed } from "./speed.ts";
import { attemptKey, isSilent, type Job, type JobSpec, PRIORITIES, type Queue, type State, type Worker, type WorkerSpec } from "./state.ts";

/** How an attempt ended, as its link saw it. */
export type AttemptOutcome =
  | { kind: "done"; tokens_out: number }
  /** The worker reported an error; a retriable one may go better elsewhere. */
  | { kind: "failed"; code: string; message: string; retriable: boolean }
  /** The worker had no slot after all, or was draining: nothing ran. */
  | { kind: "refused"; reason: string }
  /** The connection broke, never came about, or fell silent. `reached`: the worker had accepted the attempt. */
  | { kind: "lost"; reason: string; reached: boolean }
  /** We ended it. */
  | { kind: "aborted" };

export type Event = { readonly now_ms: number } & (
  | { type: "job.submitted"; spec: JobSpec }
  /** A job that was accepted in an earlier life of the orchestrator; `ran`: when that ended, which lost its attempt. */
  | { type: "job.recovered"; spec: JobSpec; attempt: number; spent: number; ran: boolean }
  | { type: "job.cancelled"; job_id: string }
  | { type: "worker.registered"; spec: WorkerSpec }
  | { type: "worker.beat"; worker_id: string; epoch: number; draining: boolean; memory_free_bytes: number | null }
  | { type: "worker.drained"; worker_id: string }
  /** `epoch`: of the life that says goodbye; null when it does not say. */
  | { type: "worker.left"; worker_id: string; epoch: number | null }
  /** Its first token has come: the prompt is computed. */
  | { type: "attempt.prefilled"; job_id: string; attempt: number; worker_id: string }
  | { type: "attempt.ended"; job_id: string; attempt: number; worker_id: string; outcome: AttemptOutcome }
  /** No new attempts from now on: the orchestrator is about to stop. */
  | { type: "halted" }
  | { type: "tick" }
);

export type Decision =
  | { type: "accept"; job_id: string; position: number; eta_ms: number | undefined }
  | { type: "refuse"; job_id: string; code: RefusalCode; message: string; retry_after_ms?: number }
  | { type: "dispatch"; job_id: string; attempt: number; worker_id: string; routing: Routing }
  | { type: "abort"; job_id: string; attempt: number; worker_id: string; reason: string }
  | { type: "requeue"; job_id: string; attempt: number; spent: number; reason: string }
  | { type: "settle"; job_id: string; status: "succeeded" | "failed" | "cancelled"; code?: string; message?: string; retriable?: boolean }
  | { type: "worker.join"; worker_id: string; epoch: number; model: string; again: boolean }
  | { type: "worker.drain"; worker_id: string }
  | { type: "worker.leave"; worker_id: string; epoch: number; model: string; reason: string }
  /** The message came from a life that is over (`stale`) or from a worker we don't know. */
  | { type: "worker.reject"; worker_id: string; because: "stale" | "unknown" };

/** How the worker was chosen. */
export interface Routing {
  readonly policy: PolicyName;
  /** Prompt tokens that the worker has probably kept. */
  readonly cached_tokens: number;
  /** The workers that were compared, best first, at most `ROUTING_SHOWN`; empty when there was nothing to compare. */
  readonly compared: readonly { readonly worker_id: string; readonly score: number }[];
}
const ROUTING_SHOWN = 8;

/** So many deadlines of jobs that have ended are not worth looking for. */
const DEADLINES_KEPT = 1024;

/** What a worker that does not say keeps, tokens. */
const CACHE_TOKENS_GUESS = 65_536;

export type RefusalCode = "QUEUE_FULL" | "MODEL_NOT_FOUND" | "NO_WORKER" | "CONTEXT_TOO_LARGE";

export function step(state: State, event: Event): Decision[] {
  const out: Decision[] = [];
  switch (event.type) {
    case "job.submitted":
      submit(state, event.spec, event.now_ms, out);
      break;
    case "job.recovered": {
      const job = newJob(event.spec, event.attempt, event.spent);
      if (event.ran && job.spec.fails_if_lost) {
        // Nobody knows whether its first token was sent: it may have been.
        out.push(lostForGood(job, "the orchestrator was restarted"));
        break;
      }
      hold(state, job);
      enqueue(state, job);
      drain(state, event.spec.model, event.now_ms, out);
      break;
    }
    case "job.cancelled":
      end(state, event.job_id, "cancelled", { code: "CANCELLED", message: "The job was cancelled." }, out);
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
      else setDraining(state, worker, out);
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
    case "attempt.ended":
      attemptEnded(state, event, out);
      break;
    case "halted":
      state.halted = true;
      break;
    case "tick":
      tick(state, event.now_ms, out);
      break;
  }
  return out;
}

function newJob(spec: JobSpec, attempt: number, spent: number): Job {
  return {
    spec,
    attempt,
    spent,
    worker_id: null,
    failed_on: null,
    not_before_ms: 0,
    started_at_ms: 0,
    backlog_tokens: 0,
    prefilled_at_ms: null,
    number_in_line: 0,
  };
}

function submit(state: State, spec: JobSpec, now_ms: number, out: Decision[]): void {
  const job = newJob(spec, 0, 0);
  const refusal = admission(state, job, now_ms);
  if (refusal !== undefined) {
    out.push({ type: "refuse", job_id: spec.id, ...refusal });
    return;
  }
  hold(state, job);
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
  if (!first) drain(state, spec.model, now_ms, dispatches);
  const starts = job.worker_id !== null;
  out.push(
    { type: "accept", job_id: spec.id, position: starts ? 0 : ahead, eta_ms: starts ? 0 : etaMs(state, job, ahead, now_ms) },
    ...dispatches,
  );
}

function admission(state: State, job: Job, now_ms: number): { code: RefusalCode; message: string; retry_after_ms?: number } | undefined {
  const { model, pin, max_tokens } = job.spec;
  if (!state.models.has(model)) {
    const known = [...state.models].sort().join(", ");
    return {
      code: "MODEL_NOT_FOUND",
      message: `No worker has ever served "${model}". ${known === "" ? "No worker has joined yet." : `Known: ${known}.`}`,
    };
  }
  if (pin !== null && state.workers.get(pin)?.spec.model !== model) {
    return {
      code: "NO_WORKER",
      message: `The job is pinned to "${pin}", and no worker of that name serves ${model} now.`,
      retry_after_ms: state.limits.worker_silence_ms_max,
    };
  }
  const largest = largestContext(state, job.spec);
  if (max_tokens >= largest) {
    return {
      code: "CONTEXT_TOO_LARGE",
      message: `max_tokens is ${max_tokens}, and the largest context for ${model} holds ${largest} tokens, prompt and answer together.`,
    };
  }
  if (state.queued >= state.limits.queue_jobs_max && (state.halted || place(state, job, now_ms).worker === undefined)) {
    return {
      code: "QUEUE_FULL",
      message: `The queue is full (${state.queued} jobs wait).`,
      retry_after_ms: placeFreeMs(state, job, now_ms),
    };
  }
  return undefined;
}

/** The largest context that the job could have; infinite while no worker is there for it, or one does not say how much it holds. */
function largestContext(state: State, { model, pin }: JobSpec): number {
  const largest = pin === null ? state.fleets.get(model)?.largest_context : state.workers.get(pin)?.spec.context_size;
  return largest || Number.POSITIVE_INFINITY;
}

/** Gives free slots to the waiting jobs of a model; the same for a new job, a free slot, a new worker. */
function drain(state: State, model: string, now_ms: number, out: Decision[]): void {
  if (state.halted || state.queued === 0) return;
  const queues = queuesOf(state, model);
  for (const priority of PRIORITIES) {
    for (const queue of queues) {
      for (const job of waiting(queue, priority)) {
        const { worker, scored, exhausted } = place(state, job, now_ms);
        if (worker !== undefined) dispatch(state, job, worker, scored, now_ms, out);
        else if (exhausted) break;
      }
    }
  }
}

/** Those of the model in which somebody waits: pinned jobs first, since they have no other choice. */
function queuesOf(state: State, model: string): Queue[] {
  const own = state.queues.get(model);
  const queues = [...state.queues.values()].filter((queue) => queue.pin !== null && queue.model === model);
  if (own !== undefined) queues.push(own);
  return queues;
}

function hold(state: State, job: Job): void {
  const { id, deadline_at_ms } = job.spec;
  state.jobs.set(id, job);
  if (deadline_at_ms === null) return;
  // Most jobs end long before their deadline: those are not kept until it comes.
  if (state.deadlines.size >= DEADLINES_KEPT + 2 * state.jobs.size) state.deadlines.keep((one) => state.jobs.has(one));
  state.deadlines.push(id, deadline_at_ms);
}

function fleetOf(state: State, model: string): Fleet<Worker> {
  let fleet = state.fleets.get(model);
  if (fleet === undefined) {
    fleet = new Fleet();
    state.fleets.set(model, fleet);
  }
  return fleet;
}

function dispatch(state: State, job: Job, worker: Worker, scored: readonly Scored<Worker>[], now_ms: number, out: Decision[]): void {
  dequeue(state, job);
  const { cached_tokens, backlog_tokens } = prospect(state, job, worker);
  const compared = scored.slice(0, ROUTING_SHOWN).map(({ worker: { spec }, score }) => ({ worker_id: spec.id, score }));
  job.attempt += 1;
  job.worker_id = worker.spec.id;
  job.started_at_ms = now_ms;
  state.dispatches += 1;
  worker.last_dispatch = state.dispatches;
  const key = attemptKey(job.spec.id, job.attempt);
  worker.running.add(key);
  worker.prefilling.set(key, backlog_tokens - worker.prefill_tokens);
  worker.prefill_tokens = backlog_tokens;
  worker.kept.touch(job.spec.prefix);
  job.backlog_tokens = backlog_tokens;
  job.prefilled_at_ms = null;
  const routing = { policy: state.limits.policy, cached_tokens, compared };
  out.push({ type: "dispatch", job_id: job.spec.id, attempt: job.attempt, worker_id: worker.spec.id, routing });
}

/** Ends a job for good, wherever it is. The slot of a running attempt stays taken until its link says that it is over. */
function end(state: State, job_id: string, status: "failed" | "cancelled", why: { code: string; message: string }, out: Decision[]): void {
  const job = state.jobs.get(job_id);
  if (job === undefined) return;
  state.jobs.delete(job_id);
  if (job.worker_id === null) dequeue(state, job);
  else out.push({ type: "abort", job_id, attempt: job.attempt, worker_id: job.worker_id, reason: why.code });
  out.push({ type: "settle", job_id, status, ...why, retriable: false });
}

function attemptPrefilled(state: State, { job_id, attempt, worker_id, now_ms }: Extract<Event, { type: "attempt.prefilled" }>): void {
  const worker = state.workers.get(worker_id);
  if (worker === undefined || !prefilled(worker, attemptKey(job_id, attempt))) return;
  const job = state.jobs.get(job_id);
  if (job?.attempt !== attempt || job.worker_id !== worker_id) return;
  job.prefilled_at_ms = now_ms;
  worker.speed.learnPrefill(job.backlog_tokens, now_ms - job.started_at_ms);
}

/** Takes the attempt's prompt off what the worker has still to compute; true when it was on it. */
function prefilled(worker: Worker, key: string): boolean {
  const tokens = worker.prefilling.get(key);
  if (tokens === undefined) return false;
  worker.prefilling.delete(key);
  worker.prefill_tokens -= tokens;
  return true;
}

function attemptEnded(state: State, event: Extract<Event, { type: "attempt.ended" }>, out: Decision[]): void {
  const { job_id, attempt, worker_id, outcome, now_ms } = event;
  const worker = state.workers.get(worker_id);
  const key = attemptKey(job_id, attempt);
  worker?.running.delete(key);
  if (worker !== undefined) prefilled(worker, key);
  const job = state.jobs.get(job_id);
  // The fence: only the present attempt may decide over its job; a late report of an older one frees its slot, no more.
  if (job !== undefined && job.attempt === attempt && job.worker_id === worker_id) {
    if (outcome.kind === "done") {
      learnServiceTime(state, job.spec.model, now_ms - job.started_at_ms);
      if (job.prefilled_at_ms !== null) worker?.speed.learnDecode(outcome.tokens_out, now_ms - job.prefilled_at_ms);
      state.jobs.delete(job_id);
      out.push({ type: "settle", job_id, status: "succeeded" });
    } else if (outcome.kind === "failed" && !outcome.retriable) {
      state.jobs.delete(job_id);
      out.push({ type: "settle", job_id, status: "failed", code: outcome.code, message: outcome.message, retriable: false });
    } else {
      retry(state, job, worker, outcome, now_ms, out);
    }
  }
  if (worker === undefined) return;
  state.fleets.get(worker.spec.model)?.offer(worker);
  if (isSilent(state, worker, now_ms) && worker.running.size === 0) remove(state, worker, "no heartbeat", now_ms, out);
  else drain(state, worker.spec.model, now_ms, out);
}

function retry(
  state: State,
  job: Job,
  worker: Worker | undefined,
  outcome: Exclude<AttemptOutcome, { kind: "done" }>,
  now_ms: number,
  out: Decision[],
): void {
  const { limits } = state;
  const reason = outcome.kind === "failed" ? outcome.message : outcome.kind === "aborted" ? "it was ended" : outcome.reason;
  const ran = outcome.kind === "failed" || (outcome.kind === "lost" && outcome.reached);
  if (worker !== undefined && !ran) worker.inhibited_until_ms = now_ms + limits.worker_inhibit_ms;
  if (outcome.kind !== "refused") job.spent += 1;
  if (job.spec.fails_if_lost && job.prefilled_at_ms !== null) {
    state.jobs.delete(job.spec.id);
    out.push(lostForGood(job, reason));
    return;
  }
  if (job.spent >= limits.attempts_max) {
    state.jobs.delete(job.spec.id);
    const code = outcome.kind === "failed" ? outcome.code : "WORKER_LOST";
    out.push({
      type: "settle",
      job_id: job.spec.id,
      status: "failed",
      code,
      message: `${job.spent} attempts failed; the last: ${reason}`,
      retriable: true,
    });
    return;
  }
  const waits = outcome.kind === "refused" ? 0 : Math.min(limits.retry_backoff_ms * 2 ** (job.spent - 1), limits.retry_backoff_ms_max);
  job.failed_on = job.worker_id;
  job.worker_id = null;
  job.not_before_ms = now_ms + waits;
  enqueue(state, job);
  out.push({ type: "requeue", job_id: job.spec.id, attempt: job.attempt, spent: job.spent, reason });
}

/** The end of a job that asked not to go on elsewhere; to submit it again is up to its client. */
function lostForGood({ spec }: Job, reason: string): Decision {
  const message = `The answer had begun when its worker was lost, and the job asked to fail then: ${reason}`;
  return { type: "settle", job_id: spec.id, status: "failed", code: "WORKER_LOST", message, retriable: true };
}

function register(state: State, spec: WorkerSpec, now_ms: number, out: Decision[]): void {
  const known = state.workers.get(spec.id);
  if (known !== undefined && spec.epoch < known.spec.epoch) {
    out.push({ type: "worker.reject", worker_id: spec.id, because: "stale" });
    return;
  }
  const again = known !== undefined && spec.epoch === known.spec.epoch && known.spec.model === spec.model;
  if (again) {
    known.spec = spec;
    known.last_beat_ms = now_ms;
    known.inhibited_until_ms = 0;
    const fleet = fleetOf(state, spec.model);
    fleet.count();
    fleet.offer(known);
  } else {
    if (known !== undefined) remove(state, known, "a newer life of it registered", now_ms, out);
    const worker: Worker = {
      spec,
      draining: false,
      last_beat_ms: now_ms,
      running: new Set(),
      prefilling: new Map(),
      prefill_tokens: 0,
      kept: new PrefixIndex(Math.ceil((spec.cache_tokens ?? CACHE_TOKENS_GUESS) / state.limits.prefix_block_tokens)),
      speed: new Speed(),
      memory_free_bytes: null,
      last_dispatch: 0,
      inhibited_until_ms: 0,
      offered: false,
    };
    state.workers.set(spec.id, worker);
    fleetOf(state, spec.model).join(worker);
    state.models.add(spec.model);
  }
  out.push({ type: "worker.join", worker_id: spec.id, epoch: spec.epoch, model: spec.model, again });
  drain(state, spec.model, now_ms, out);
}

function beat(state: State, event: Extract<Event, { type: "worker.beat" }>, out: Decision[]): void {
  const worker = state.workers.get(event.worker_id);
  if (worker === undefined || event.epoch !== worker.spec.epoch) {
    out.push({
      type: "worker.reject",
      worker_id: event.worker_id,
      because: worker !== undefined && event.epoch < worker.spec.epoch ? "stale" : "unknown",
    });
    return;
  }
  const was_silent = isSilent(state, worker, event.now_ms);
  worker.last_beat_ms = event.now_ms;
  worker.memory_free_bytes = event.memory_free_bytes;
  state.fleets.get(worker.spec.model)?.offer(worker);
  if (event.draining) setDraining(state, worker, out);
  else if (was_silent) drain(state, worker.spec.model, event.now_ms, out);
}

function setDraining(state: State, worker: Worker, out: Decision[]): void {
  if (worker.draining) return;
  worker.draining = true;
  state.fleets.get(worker.spec.model)?.count();
  out.push({ type: "worker.drain", worker_id: worker.spec.id });
}

/** The worker is gone: what ran there goes back to the queue. */
function remove(state: State, worker: Worker, reason: string, now_ms: number, out: Decision[]): void {
  state.workers.delete(worker.spec.id);
  const fleet = state.fleets.get(worker.spec.model);
  fleet?.leave(worker);
  if (fleet?.size === 0) state.fleets.delete(worker.spec.model);
  out.push({ type: "worker.leave", worker_id: worker.spec.id, epoch: worker.spec.epoch, model: worker.spec.model, reason });
  for (const key of worker.running) {
    const cut = key.lastIndexOf("#");
    const [job_id, attempt] = [key.slice(0, cut), Number(key.slice(cut + 1))];
    out.push({ type: "abort", job_id, attempt, worker_id: worker.spec.id, reason });
    const job = state.jobs.get(job_id);
    if (job?.attempt !== attempt || job.worker_id !== worker.spec.id) continue;
    retry(state, job, undefined, { kind: "lost", reason: `worker ${worker.spec.id}: ${reason}`, reached: true }, now_ms, out);
  }
  worker.running.clear();
  worker.prefilling.clear();
  worker.prefill_tokens = 0;
  drain(state, worker.spec.model, now_ms, out);
}

function tick(state: State, now_ms: number, out: Decision[]): void {
  for (const worker of [...state.workers.values()]) {
    if (isSilent(state, worker, now_ms) && worker.running.size === 0) remove(state, worker, "no heartbeat", now_ms, out);
  }
  for (let due = state.deadlines.first; due !== undefined && due.key <= now_ms; due = state.deadlines.first) {
    state.deadlines.take();
    end(state, due.value, "failed", { code: "DEADLINE_EXCEEDED", message: "The job's deadline passed before it ended." }, out);
  }
  for (const model of new Set([...state.queues.values()].map((queue) => queue.model))) drain(state, model, now_ms, out);
}
