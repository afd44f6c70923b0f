/** What goes into the core, and what comes out of it. */
import type { RefusalCode } from "./admission.ts";
import type { Demand } from "./demand.ts";
import type { Gate } from "./gate.ts";
import type { Beside, Level, QuotaLimits } from "./quota.ts";
import type { JobSpec, Pool, Routing, WorkerSpec } from "./state.ts";

/** How an attempt ended, as its link saw it. */
export type AttemptOutcome =
  | { kind: "done"; tokens_out: number; tokens_in?: number | undefined }
  /** The worker reported an error; a retriable one may go better elsewhere. */
  | { kind: "failed"; code: string; message: string; retriable: boolean }
  /** The worker had no slot after all, or was draining: nothing ran. */
  | { kind: "refused"; reason: string }
  /** The connection broke, never came about, or fell silent. `reached`: the worker had accepted the attempt. */
  | { kind: "lost"; reason: string; reached: boolean }
  /** We ended it. */
  | { kind: "aborted" };

export type Event = { readonly now_ms: number } & (
  | { type: "job.submitted"; spec: JobSpec; beside?: Beside | undefined }
  /** A job that was accepted in an earlier life of the orchestrator; `ran`: when that ended, which lost its attempt. */
  | { type: "job.recovered"; spec: JobSpec; attempt: number; spent: number; ran: boolean }
  | { type: "job.cancelled"; job_id: string }
  /** The tokens of a prompt are to be counted, and no more. */
  | { type: "prompt.counted"; spec: JobSpec }
  | { type: "worker.registered"; spec: WorkerSpec }
  | { type: "worker.beat"; worker_id: string; epoch: number; draining: boolean; memory_free_bytes: number | null }
  /** No new work for it; `move`: what runs there goes on elsewhere, where it can. */
  | { type: "worker.drained"; worker_id: string; move: boolean }
  /** `epoch`: of the life that says goodbye; null when it does not say. */
  | { type: "worker.left"; worker_id: string; epoch: number | null }
  /** Its first token has come: the prompt is computed. */
  | { type: "attempt.prefilled"; job_id: string; attempt: number; worker_id: string }
  /** So many tokens of the answer, from its beginning, have been made by now; told now and then, and when the first vector has come. */
  | { type: "attempt.progressed"; job_id: string; attempt: number; worker_id: string; tokens_out: number }
  | { type: "attempt.ended"; job_id: string; attempt: number; worker_id: string; outcome: AttemptOutcome }
  /** How a tenant's share is weighed from now on, and in which area its jobs must stay; also those that wait. */
  | { type: "tenant.set"; tenant: string; weight: number; residency: string | null }
  /** Other rules from now on, also for what waits: what they say of jobs on workers, and of its worker for each job that has not ended. */
  | { type: "policy.set"; gate: Gate | null; demands: ReadonlyMap<string, readonly Demand[]> }
  /** What a tenant or key may use from now on; `used_today`: tokens, where an earlier life has counted some. */
  | { type: "quota.set"; level: Level; id: string; tenant: string; limits: QuotaLimits; used_today?: number | undefined }
  | { type: "pool.reported"; pool: Pool }
  /** It can't be reached: nothing is started there. */
  | { type: "pool.lost"; pool_id: string }
  /** The worker of a `spawn` has registered, or (`error`) never will. */
  | { type: "load.ended"; model: string; demands_key: string; error: string | null }
  /** The worker of an `evict` could not be ended. */
  | { type: "evict.failed"; worker_id: string }
  /** No new attempts from now on: the orchestrator is about to stop. */
  | { type: "halted" }
  | { type: "tick" }
);

export type Decision =
  | { type: "accept"; job_id: string; position: number; eta_ms: number | undefined }
  | {
      type: "refuse";
      job_id: string;
      code: RefusalCode;
      message: string;
      retry_after_ms?: number;
      param?: string;
      limit?: string;
      rule?: string;
    }
  /** These workers may be asked to count the tokens of a prompt, the first first. */
  | { type: "count"; job_id: string; worker_ids: readonly string[] }
  | { type: "dispatch"; job_id: string; attempt: number; worker_id: string; routing: Routing }
  | { type: "abort"; job_id: string; attempt: number; worker_id: string; reason: string }
  | { type: "requeue"; job_id: string; attempt: number; spent: number; reason: string }
  | Settle
  /** A worker for the model is to be started there. */
  | { type: "spawn"; model: string; demands_key: string; pool_id: string; device_id: string; backend: string }
  /** The worker is to be ended: it has got no new work since this was decided. */
  | { type: "evict"; worker_id: string; pool_id: string; reason: string }
  | { type: "worker.join"; worker_id: string; epoch: number; model: string; again: boolean }
  | { type: "worker.drain"; worker_id: string }
  /** It was to make way for a model that nobody waits for any more: it gets work again. */
  | { type: "worker.resume"; worker_id: string }
  | { type: "worker.leave"; worker_id: string; epoch: number; model: string; reason: string }
  /** The message came from a life that is over (`stale`) or from a worker we don't know. */
  | { type: "worker.reject"; worker_id: string; because: "stale" | "unknown" };

/** The job is over. */
export interface Settle {
  readonly type: "settle";
  readonly job_id: string;
  readonly status: "succeeded" | "failed" | "cancelled";
  readonly code?: string;
  readonly message?: string;
  readonly retriable?: boolean;
  /** Prompt and answer, as its tenant and key are charged for them, and the day (UTC, since 1970); where somebody counts them. */
  readonly used?: { readonly tokens: number; readonly day: number };
}
