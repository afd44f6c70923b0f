/** The policies: each scores a worker that could take a job; the lowest score wins, and of equals the one used least recently. */
import type { JobSpec, PolicyName, Worker } from "./state.ts";

/** What sending a job to a worker would mean. */
export interface Prospect {
  readonly worker: Worker;
  /** Prompt tokens of the job that the worker has probably kept. */
  readonly cached_tokens: number;
  /** Prompt tokens it would have to compute before the job's first token: those of attempts before it, and the job's own. */
  readonly backlog_tokens: number;
  /** What the worker needs for one: measured there, or in its fleet while nothing was measured there. */
  readonly prefill_ms_per_token: number;
}

type Score = (prospect: Prospect, spec: JobSpec) => number;

const SCORES: Readonly<Record<PolicyName, Score>> = {
  "round-robin": ({ worker }) => worker.last_dispatch,
  "least-loaded": ({ worker }) => worker.running.size / worker.spec.slots,
  "most-free-memory": ({ worker }) => -(worker.memory_free_bytes ?? 0),
  // LMetric (arXiv 2603.15202): new prefill tokens × batch size; as Dynamo writes it, with the job itself in the batch.
  lmetric: ({ worker, backlog_tokens }) => backlog_tokens * (worker.running.size + 1),
  eta,
};

/**
 * Milliseconds that sending the job there would cost: those until its first token, and those for which computing its prompt holds up
 * the others there. Whoever is ahead of it will be answering by then; of those that answer now many will have ended.
 */
function eta({ worker, backlog_tokens, prefill_ms_per_token }: Prospect): number {
  const ahead = worker.prefilling.size;
  const held_up = ahead + STILL_ANSWERING * (worker.running.size - ahead);
  const own_tokens = backlog_tokens - worker.prefill_tokens;
  return (backlog_tokens + own_tokens * held_up) * prefill_ms_per_token;
}

/** What an answer under way counts for in that; found by `rbees simulate`, docs/decisions.md says what other weights give. */
const STILL_ANSWERING = 0.25;

export function scoreOf(policy: PolicyName): Score {
  return SCORES[policy];
}
