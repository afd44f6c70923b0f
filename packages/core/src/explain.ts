/** Why a job runs where it does, or what it waits for: the same checks that place it, told to people. */
import { obstacle, reasonFor } from "./place.ts";
import { position } from "./queue.ts";
import type { Job, State } from "./state.ts";

export interface Explained {
  answer: string;
  workers: { worker_id: string; verdict: "chosen" | "possible" | "excluded"; reason: string }[];
}

export function explain(state: State, job_id: string, now_ms: number): Explained | undefined {
  const job = state.jobs.get(job_id);
  if (job === undefined) return undefined;
  const workers = [...state.workers.values()].map((worker) => {
    const worker_id = worker.spec.id;
    if (worker_id === job.worker_id) {
      return { worker_id, verdict: "chosen" as const, reason: `attempt ${job.attempt} runs there: ${whyChosen(job, worker_id)}` };
    }
    const found = obstacle(state, job, worker, now_ms);
    return found === undefined
      ? { worker_id, verdict: "possible" as const, reason: "it has a free slot" }
      : { worker_id, verdict: "excluded" as const, reason: reasonFor(found, job, worker, now_ms) };
  });
  return { answer: answerFor(state, job, workers.length, now_ms), workers };
}

function whyChosen({ spec }: Job, worker_id: string): string {
  if (spec.pin === worker_id) return "the job is pinned to it";
  if (spec.prefer.includes(worker_id)) return "the job prefers it";
  return "of those with a free slot it suited best";
}

function answerFor(state: State, job: Job, workers: number, now_ms: number): string {
  if (job.worker_id !== null) return `It runs on ${job.worker_id} (attempt ${job.attempt}).`;
  if (job.not_before_ms > now_ms) return `It waits ${job.not_before_ms - now_ms} ms before attempt ${job.attempt + 1}.`;
  if (workers === 0) return "It waits: no worker is registered. `rbees up`, or `rbees-pool worker spawn`, starts one.";
  const ahead = position(state, job);
  return ahead === 0 ? "It is next: it waits for a worker that can take it." : `It waits behind ${ahead} ${ahead === 1 ? "job" : "jobs"}.`;
}
