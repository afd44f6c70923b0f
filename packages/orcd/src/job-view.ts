/** How a job is shown: its row, completed by what only the running process knows. */
import type { JobStatus, JobSummary, JobView, StopReason } from "@rbees/contracts/job";
import { position } from "@rbees/core/queue";
import type { State } from "@rbees/core/state";
import { type ActiveJob, type JobRequest, type Said, saidSoFar } from "./active-job.ts";
import type { AttemptTable, JobRow, JobTable } from "./store/schema.ts";

export function summary(row: JobRow, state: State, active: ActiveJob | undefined): JobSummary {
  const waiting = row.status === "queued" ? state.jobs.get(row.id) : undefined;
  return {
    job_id: row.id,
    tenant: row.tenant,
    kind: row.kind as JobSummary["kind"],
    status: row.status as JobStatus,
    model: row.model,
    priority: row.priority as JobSummary["priority"],
    worker_id: row.worker_id,
    submitted_at: iso(row.submitted_at_ms),
    started_at: isoOrNull(row.started_at_ms),
    first_token_at: isoOrNull(active?.first_token_at_ms ?? row.first_token_at_ms),
    ended_at: isoOrNull(row.ended_at_ms),
    queue_position: waiting === undefined ? null : position(state, waiting),
    stop_reason: row.stop_reason as StopReason | null,
    usage:
      row.tokens_in === null ? null : { tokens_in: row.tokens_in, tokens_out: row.tokens_out ?? 0, tokens_cached: row.tokens_cached ?? 0 },
    error:
      row.error_code === null ? null : { code: row.error_code, message: row.error_message ?? "", retriable: row.error_retriable === 1 },
  };
}

export function view(row: JobTable, attempts: readonly AttemptTable[], state: State, active: ActiveJob | undefined): JobView {
  const request = row.request === "" ? undefined : (JSON.parse(row.request) as JobRequest);
  return {
    ...summary(row, state, active),
    ...(active === undefined ? storedAnswer(row) : saidSoFar(active)),
    timings: row.prefill_ms === null ? null : { prefill_ms: row.prefill_ms, decode_ms: row.decode_ms ?? 0 },
    attempts: attempts.map(({ attempt, worker_id, started_at_ms, ended_at_ms, outcome }) => ({
      attempt,
      worker_id,
      started_at: iso(started_at_ms),
      ended_at: isoOrNull(ended_at_ms),
      outcome,
    })),
    seed: request?.seed ?? row.seed ?? 0,
    metadata: request?.metadata ?? {},
    content: row.content === "clear" ? "kept" : row.content,
    correlation_id: row.correlation_id,
  };
}

export function storedAnswer({ text, said }: JobTable): Said {
  return { text, ...(said === null ? {} : JSON.parse(said)) };
}

function iso(at_ms: number): string {
  return new Date(at_ms).toISOString();
}

function isoOrNull(at_ms: number | null): string | null {
  return at_ms === null ? null : iso(at_ms);
}
