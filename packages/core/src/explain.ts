/** Why a job runs where it does, or what it waits for: the same checks and scores that place it, told to people. */
import { obstacle, prospect, reasonFor } from "./place.ts";
import { scoreOf } from "./policy.ts";
import { isServed } from "./provision.ts";
import { position } from "./queue.ts";
import { atRunningMax, heldMs, nameOf } from "./quota.ts";
import type { Job, PolicyName, State, Worker } from "./state.ts";
import { whyNotLoaded } from "./why-not-loaded.ts";

export interface ExplainedWorker {
  worker_id: string;
  verdict: "chosen" | "possible" | "excluded";
  reason: string;
  score: number | null;
  cached_tokens: number | null;
}

export interface Explained {
  answer: string;
  policy: PolicyName;
  workers: ExplainedWorker[];
}

export function explain(state: State, job_id: string, now_ms: number): Explained | undefined {
  const job = state.jobs.get(job_id);
  if (job === undefined) return undefined;
  const workers = [...state.workers.values()].map((worker) =>
    worker.spec.id === job.worker_id ? chosen(job, worker) : considered(state, job, worker, now_ms),
  );
  return { answer: answerFor(state, job, workers.length, now_ms), policy: state.limits.policy, workers };
}

function chosen(job: Job, { spec: { id } }: Worker): ExplainedWorker {
  return {
    worker_id: id,
    verdict: "chosen",
    reason: `attempt ${job.attempt} runs there: ${whyChosen(job, id)}`,
    score: job.routing?.compared.find(({ worker_id }) => worker_id === id)?.score ?? null,
    cached_tokens: job.routing?.cached_tokens ?? null,
  };
}

function considered(state: State, job: Job, worker: Worker, now_ms: number): ExplainedWorker {
  const worker_id = worker.spec.id;
  const found = obstacle(state, job, worker, now_ms);
  if (found !== undefined) {
    return { worker_id, verdict: "excluded", reason: reasonFor(state, found, job, worker, now_ms), score: null, cached_tokens: null };
  }
  const would_be = prospect(state, job, worker, now_ms);
  const score = scoreOf(state.limits.policy)(would_be, job.spec);
  return { worker_id, verdict: "possible", reason: "it has a free slot", score, cached_tokens: would_be.cached_tokens };
}

function whyChosen({ spec, routing }: Job, worker_id: string): string {
  if (spec.pin === worker_id) return "the job is pinned to it";
  if (spec.prefer.includes(worker_id)) return "the job prefers it";
  if (routing === undefined || routing.compared.length < 2) return "it was the first that could take it";
  const scores = routing.compared.map(({ worker_id: id, score }) => `${id} ${Number(score.toPrecision(4))}`);
  const ruled = routing.rules.length === 0 ? "" : `; rules that hold there: ${routing.rules.join(", ")}`;
  return `it had the lowest score by ${routing.policy} (${scores.join(", ")})${ruled}`;
}

function answerFor(state: State, job: Job, workers: number, now_ms: number): string {
  if (job.worker_id !== null) return `It runs on ${job.worker_id} (attempt ${job.attempt}).`;
  if (job.held_by !== null)
    return `It waits for the rates of the ${nameOf(job.held_by)}: about ${heldMs(job, now_ms)} ms, were it the next.`;
  const full = job.accounts.find(atRunningMax);
  if (full !== undefined) return `It waits: the ${nameOf(full)} runs ${full.running} jobs, as many as it may at once (jobs_running_max).`;
  if (job.not_before_ms > now_ms) return `It waits ${job.not_before_ms - now_ms} ms before attempt ${job.attempt + 1}.`;
  if (!isServed(state, job.spec.model, job.demands)) {
    const why = whyNotLoaded(state, job, now_ms);
    if (why !== undefined) return `It waits: ${why}`;
  }
  if (workers === 0) return "It waits: no worker is registered. `rbees up`, or `rbees-pool worker spawn`, starts one.";
  const ahead = position(state, job);
  return ahead === 0 ? "It is next: it waits for a worker that can take it." : `It waits behind ${ahead} ${ahead === 1 ? "job" : "jobs"}.`;
}
