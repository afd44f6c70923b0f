/** What becomes of a job when its attempt begins to answer, ends, or is ended. */
import { backoffMs } from "./backoff.ts";
import { noteFailure, noteSuccess } from "./breaker.ts";
import { drain } from "./drain.ts";
import { learnServiceTime } from "./estimate.ts";
import type { AttemptOutcome, Decision, Event } from "./events.ts";
import { OUTPUT_TOKEN } from "./fairness.ts";
import { largerMayTake } from "./place.ts";
import { dequeue, enqueue } from "./queue.ts";
import { stops } from "./running.ts";
import { settle } from "./settle.ts";
import { attemptKey, type Job, type State, type Worker } from "./state.ts";

/** Ends a job for good, wherever it is. The slot of a running attempt stays taken until its link says that it is over. */
export function end(
  state: State,
  job_id: string,
  status: "failed" | "cancelled",
  { code, message, retriable = false }: { code: string; message: string; retriable?: boolean },
  now_ms: number,
  out: Decision[],
): void {
  const job = state.jobs.get(job_id);
  if (job === undefined) return;
  if (job.worker_id === null) dequeue(state, job);
  else out.push({ type: "abort", job_id, attempt: job.attempt, worker_id: job.worker_id, reason: code });
  settle(state, job, { status, code, message, retriable }, now_ms, out);
}

export function attemptPrefilled(
  state: State,
  { job_id, attempt, worker_id, now_ms }: Extract<Event, { type: "attempt.prefilled" }>,
): void {
  const worker = state.workers.get(worker_id);
  const job = state.jobs.get(job_id);
  if (worker === undefined || !prefilled(worker, keyOf(job, job_id, attempt))) return;
  if (job?.attempt !== attempt || job.worker_id !== worker_id) return;
  job.prefilled_at_ms = now_ms;
  job.begun = true;
  for (const speed of [worker.speed, state.fleets.get(worker.spec.model)?.speed]) {
    speed?.learnPrefill(job.backlog_tokens, now_ms - job.started_at_ms, now_ms);
  }
}

export function attemptProgressed(
  state: State,
  { job_id, attempt, worker_id, tokens_out }: Extract<Event, { type: "attempt.progressed" }>,
): void {
  const job = state.jobs.get(job_id);
  if (job?.attempt !== attempt || job.worker_id !== worker_id) return;
  // Of vectors the first ones; its prompt, which is all there is to compute, is known to be done at the end.
  if (job.spec.max_tokens === 0) job.begun = true;
  charge(state, job, tokens_out);
}

/** Charges the tenant for the tokens of the answer that are new; a worker can't have made more than it was asked for. */
function charge(state: State, job: Job, tokens_out: number): void {
  const made = Math.min(tokens_out, job.spec.max_tokens);
  if (made <= job.charged_tokens) return;
  state.shares.charge(job.share, (made - job.charged_tokens) * OUTPUT_TOKEN);
  job.charged_tokens = made;
}

/** The key that the job keeps of its present attempt: a new string would have to be put together and hashed. */
function keyOf(job: Job | undefined, job_id: string, attempt: number): string {
  return job?.attempt === attempt && job.attempt_key !== "" ? job.attempt_key : attemptKey(job_id, attempt);
}

/** Takes the attempt's prompt off what the worker has still to compute; true when it was on it. */
function prefilled(worker: Worker, key: string): boolean {
  const tokens = worker.prefilling.get(key);
  if (tokens === undefined) return false;
  worker.prefilling.delete(key);
  worker.prefill_tokens -= tokens;
  return true;
}

export function attemptEnded(state: State, event: Extract<Event, { type: "attempt.ended" }>, out: Decision[]): void {
  const { job_id, attempt, worker_id, outcome, now_ms } = event;
  const worker = state.workers.get(worker_id);
  const job = state.jobs.get(job_id);
  const key = keyOf(job, job_id, attempt);
  worker?.running.delete(key);
  if (worker !== undefined) prefilled(worker, key);
  // The fence: only the present attempt may decide over its job; a late report of an older one frees its slot, no more.
  if (job !== undefined && job.attempt === attempt && job.worker_id === worker_id) {
    if (worker !== undefined && (outcome.kind === "done" || (outcome.kind === "failed" && !outcome.retriable))) noteSuccess(worker);
    if (outcome.kind === "done") {
      charge(state, job, outcome.tokens_out);
      learnServiceTime(state, job.spec.model, now_ms - job.started_at_ms);
      settle(state, job, { status: "succeeded" }, now_ms, out, outcome.tokens_in);
    } else if (outcome.kind === "failed" && outcome.code === TOO_LONG && fitsElsewhere(state, job, worker, now_ms)) {
      queueAgain(state, job, outcome.message, now_ms, out);
    } else if (outcome.kind === "failed" && !outcome.retriable) {
      settle(state, job, { status: "failed", code: outcome.code, message: outcome.message, retriable: false }, now_ms, out);
    } else {
      retry(state, job, worker, outcome, now_ms, out);
    }
  }
  if (worker === undefined) return;
  if (worker.running.size === 0) worker.idle_since_ms = now_ms;
  state.fleets.get(worker.spec.model)?.offer(worker);
  drain(state, worker.spec.model, now_ms, out);
}

const TOO_LONG = "CONTEXT_TOO_LARGE";

/** What is certain of a prompt before a worker has counted is less than it has: one with a larger context may still take it. */
function fitsElsewhere(state: State, job: Job, worker: Worker | undefined, now_ms: number): boolean {
  const context_size = worker?.spec.context_size ?? null;
  if (context_size === null || (job.begun && job.spec.fails_if_lost)) return false;
  job.too_long_for = Math.max(job.too_long_for, context_size);
  return largerMayTake(state, job, job.too_long_for, now_ms);
}

export function retry(
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
  // Else jobs that a dead worker has lost would spend all their attempts on it while the others are busy.
  if (worker !== undefined && outcome.kind === "lost" && !outcome.reached) worker.unreached = true;
  if (outcome.kind !== "refused") {
    job.spent += 1;
    if (worker !== undefined && outcome.kind !== "aborted") noteFailure(worker, limits, now_ms);
  }
  if (job.spec.fails_if_lost && job.begun && (outcome.kind === "lost" || outcome.kind === "failed")) {
    return settle(state, job, lostForGood(reason), now_ms, out);
  }
  if (job.spent >= limits.attempts_max) {
    const code = outcome.kind === "failed" ? outcome.code : "WORKER_LOST";
    const message = `${job.spent} attempts failed; the last: ${reason}`;
    return settle(state, job, { status: "failed", code, message, retriable: true }, now_ms, out);
  }
  const waits = outcome.kind === "refused" ? 0 : backoffMs(limits.retry_backoff_ms, job.spent - 1, limits.retry_backoff_ms_max);
  queueAgain(state, job, reason, now_ms + waits, out);
}

function queueAgain(state: State, job: Job, reason: string, not_before_ms: number, out: Decision[]): void {
  job.failed_on = job.worker_id;
  stops(state, job);
  job.not_before_ms = not_before_ms;
  enqueue(state, job);
  out.push({ type: "requeue", job_id: job.spec.id, attempt: job.attempt, spent: job.spent, reason });
}

/** The end of a job that asked not to go on elsewhere; to submit it again is up to its client. */
export function lostForGood(reason: string) {
  const message = `The answer had begun when its worker was lost, and the job asked to fail then: ${reason}`;
  return { status: "failed", code: "WORKER_LOST", message, retriable: true } as const;
}
