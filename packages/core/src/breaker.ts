/**
 * The circuit breaker of a worker: after some attempts in a row that were lost or failed there it is left alone for a while, then
 * tried with one attempt (half-open), and used as before when that goes well. The last worker of a model is never left alone.
 */
import { backoffMs } from "./backoff.ts";
import { isSilent, type Limits, type State, type Worker } from "./state.ts";

export function noteSuccess(worker: Worker): void {
  worker.failures = 0;
  worker.open_until_ms = 0;
}

export function noteFailure(worker: Worker, limits: Limits, now_ms: number): void {
  worker.failures += 1;
  const beyond = worker.failures - limits.breaker_failures;
  if (beyond < 0) return;
  worker.open_until_ms = now_ms + backoffMs(limits.breaker_open_ms, beyond, limits.breaker_open_ms_max);
}

/** Whether it gets no attempt now: the breaker is open, or half-open and on trial. */
export function isBroken(state: State, worker: Worker, now_ms: number): boolean {
  if (worker.failures < state.limits.breaker_failures) return false;
  if (worker.open_until_ms <= now_ms && worker.running.size === 0) return false;
  return othersCan(state, worker, now_ms);
}

function othersCan(state: State, worker: Worker, now_ms: number): boolean {
  for (const other of state.fleets.get(worker.spec.model) ?? []) {
    if (
      other !== worker &&
      !other.draining &&
      !other.unreached &&
      other.failures < state.limits.breaker_failures &&
      !isSilent(state, other, now_ms)
    )
      return true;
  }
  return false;
}
