/** The end of a job: nothing holds it any more, what it did not use is given back, and it is said once. */
import type { Decision, Settle } from "./events.ts";
import { giveBack } from "./quota.ts";
import { stops } from "./running.ts";
import type { Job, State } from "./state.ts";

type How = Omit<Settle, "type" | "job_id" | "used">;

/** `prompt_tokens`: as the worker counted them, where it did. */
export function settle(state: State, job: Job, how: How, now_ms: number, out: Decision[], prompt_tokens = job.spec.prompt_tokens): void {
  state.jobs.delete(job.spec.id);
  stops(state, job);
  const settled: Settle = { type: "settle", job_id: job.spec.id, ...how };
  if (job.accounts.length === 0) {
    out.push(settled);
    return;
  }
  // Nothing was computed for one that was never sent to a worker.
  const tokens = job.attempt === 0 ? 0 : prompt_tokens + job.charged_tokens;
  giveBack(job, tokens, now_ms);
  out.push({ ...settled, used: { tokens, day: job.reserved_day } });
}
