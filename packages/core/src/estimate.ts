/** What the queue knows of time: how long a job runs, when a new one would start, when a refused caller should come back. */
import { attemptOf, type Job, type State } from "./state.ts";

/** Weight of the newest sample in the mean run time. */
const NEWEST = 0.2;

export function learnServiceTime(state: State, model: string, ran_ms: number): void {
  // The clock was set back meanwhile.
  if (ran_ms < 0) return;
  const mean = state.service_ms.get(model);
  state.service_ms.set(model, mean === undefined ? ran_ms : mean + NEWEST * (ran_ms - mean));
}

export function isMeasured(state: State, model: string): boolean {
  return state.service_ms.has(model);
}

/** Mean run time of a job of this model; before the first one ended, the age of the oldest running one or the guess. */
function serviceMs(state: State, model: string, now_ms: number): number {
  const mean = state.service_ms.get(model);
  if (mean !== undefined) return Math.max(1, mean);
  let oldest = 0;
  for (const worker of state.fleets.get(model) ?? []) {
    for (const key of worker.running) {
      const job = state.jobs.get(attemptOf(key).job_id);
      if (job !== undefined) oldest = Math.max(oldest, now_ms - job.started_at_ms);
    }
  }
  return Math.max(oldest, state.limits.service_ms_guess);
}

/** Milliseconds until a job with `ahead` jobs before it starts; undefined when no worker serves its model. */
export function etaMs(state: State, job: Job, ahead: number, now_ms: number): number | undefined {
  const slots = state.fleets.get(job.spec.model)?.slots ?? 0;
  if (slots === 0) return undefined;
  return Math.ceil(((ahead + 1) * serviceMs(state, job.spec.model, now_ms)) / slots);
}

/** Milliseconds until a place in the full queue is free again: one job has to start, on any of the workers. */
export function placeFreeMs(state: State, job: Job, now_ms: number): number {
  let slots = 0;
  for (const fleet of state.fleets.values()) slots += fleet.slots;
  return Math.ceil(serviceMs(state, job.spec.model, now_ms) / Math.max(1, slots));
}
