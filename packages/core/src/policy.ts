/** The policies: each scores a worker that could take a job; the lowest score wins, and of equals the one used least recently. */
import type { JobSpec, Worker } from "./state.ts";

export const POLICIES = ["round-robin", "least-loaded", "most-free-memory", "lmetric", "eta"] as const;
export type PolicyName = (typeof POLICIES)[number];

/** What sending a job to a worker would mean. */
export interface Prospect {
  readonly worker: Worker;
  /** Prompt tokens of the job that the worker has probably kept. */
  readonly cached_tokens: number;
  /** Prompt tokens it would have to compute before the job's first token: those of attempts before it, and the job's own. */
  readonly backlog_tokens: number;
}

type Score = (prospect: Prospect, spec: JobSpec) => number;

const SCORES: Readonly<Record<PolicyName, Score>> = {
  "round-robin": ({ worker }) => worker.last_dispatch,
  "least-loaded": ({ worker }) => worker.running.size / worker.spec.slots,
  "most-free-memory": ({ worker }) => -(worker.memory_free_bytes ?? 0),
  // LMetric (arXiv 2603.15202): new prefill tokens × batch size; as Dynamo writes it, with the job itself in the batch.
  lmetric: ({ worker, backlog_tokens }) => backlog_tokens * (worker.running.size + 1),
  eta: ({ worker, backlog_tokens }) =>
    backlog_tokens * (worker.speed.prefill_ms_per_token ?? UNKNOWN_MS_PER_TOKEN) * (worker.running.size + 1),
};

/** What a worker is thought to need while nothing was measured: little, so that it soon is. */
const UNKNOWN_MS_PER_TOKEN = 0.01;

export function scoreOf(policy: PolicyName): Score {
  return SCORES[policy];
}
