/** Which running batch jobs are moved aside when interactive work waits and nothing else is free; off unless the limits say so. */
import { mayStart, obstacle, wouldBeginAnew } from "./place.ts";
import { waiting } from "./queue.ts";
import { attemptOf, type Job, type State, type Worker } from "./state.ts";

/** One batch job for each interactive job that waits and for which no slot is being freed already. */
export function movedAside(state: State, model: string, now_ms: number): { job: Job; worker: Worker }[] {
  const queue = state.queues.get(model);
  if (!state.limits.preempt_batch || queue === undefined) return [];
  const fleet = [...(state.fleets.get(model) ?? [])];
  let freeing = fleet.reduce((sum, worker) => sum + worker.running.size - currentJobs(state, worker).length, 0);
  const moved: { job: Job; worker: Worker }[] = [];
  for (const urgent of waiting(queue, "interactive")) {
    if (!mayStart(urgent, now_ms)) continue;
    if (freeing > 0) {
      freeing -= 1;
      continue;
    }
    // The one begun last: it has the fewest tokens to compute again.
    const candidates = fleet
      .filter((worker) => onlyBusy(state, urgent, worker, now_ms))
      .flatMap((worker) => currentJobs(state, worker).map((job) => ({ job, worker })))
      .filter(({ job, worker }) => job.priority === "batch" && !wouldBeginAnew(job, worker) && !moved.some((other) => other.job === job))
      .sort((one, other) => other.job.started_at_ms - one.job.started_at_ms);
    const [last] = candidates;
    if (last === undefined) break;
    moved.push(last);
  }
  return moved;
}

/** Whether a free slot there would be enough. */
function onlyBusy(state: State, job: Job, worker: Worker, now_ms: number): boolean {
  const spared = worker.unreached || worker.inhibited_until_ms > now_ms || worker.failures >= state.limits.breaker_failures;
  return !spared && obstacle(state, job, worker, now_ms) === "busy";
}

/** The jobs whose present attempt runs there; the other attempts are being ended. */
export function currentJobs(state: State, worker: Worker): Job[] {
  return [...worker.running].flatMap((key) => {
    const { job_id, attempt } = attemptOf(key);
    const job = state.jobs.get(job_id);
    return job?.worker_id === worker.spec.id && job.attempt === attempt ? job : [];
  });
}
