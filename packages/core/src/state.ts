/** What the orchestrator knows: jobs that have not ended, workers, queues. Plain data; only `step` changes it. */

import type { Fleet, Member } from "./fleet.ts";
import { Heap } from "./heap.ts";
import type { Line, Waiting } from "./line.ts";
import { LiveMap } from "./live-map.ts";
import type { PolicyName } from "./policy.ts";
import type { Block, PrefixIndex } from "./prefix-index.ts";
import type { Speed } from "./speed.ts";

export const PRIORITIES = ["interactive", "batch"] as const;
export type Priority = (typeof PRIORITIES)[number];

/** Every limit of the decisions, with its unit. */
export interface Limits {
  /** Jobs that may wait at once, over all models. */
  readonly queue_jobs_max: number;
  /** Attempts that may be lost or fail in a retriable way before a job fails. */
  readonly attempts_max: number;
  /** A worker silent for this long gets no new work; when nothing runs there, it is forgotten. */
  readonly worker_silence_ms_max: number;
  /** Wait before attempt n + 1: this × 2^(n-1), at most `retry_backoff_ms_max`. */
  readonly retry_backoff_ms: number;
  readonly retry_backoff_ms_max: number;
  /** A worker that refused an attempt for want of a slot, or could not be reached, is left alone for this long. */
  readonly worker_inhibit_ms: number;
  /** How long a job is thought to run while nothing was measured yet. */
  readonly service_ms_guess: number;
  /** How a worker is chosen among those that could take a job. */
  readonly policy: PolicyName;
  /** Tokens that one block of `JobSpec.prefix` stands for. */
  readonly prefix_block_tokens: number;
}

export interface JobSpec {
  readonly id: string;
  readonly model: string;
  readonly priority: Priority;
  readonly max_tokens: number;
  /** Tokens of the prompt, counted or estimated. */
  readonly prompt_tokens: number;
  /** The prompt from its beginning, block by block; equal blocks mean that everything up to there is equal. */
  readonly prefix: readonly Block[];
  readonly deadline_at_ms: number | null;
  readonly pin: string | null;
  readonly prefer: readonly string[];
  readonly avoid: readonly string[];
  /** It ends when its worker is lost after the first token, instead of going on elsewhere. */
  readonly fails_if_lost: boolean;
}

export interface Job extends Waiting {
  readonly spec: JobSpec;
  /** Attempts begun; the number of the present one while it runs. The fence against late reports. */
  attempt: number;
  /** Attempts that counted against `attempts_max`. */
  spent: number;
  /** The worker of the present attempt; null while queued. */
  worker_id: string | null;
  /** The worker that lost or failed the last attempt: the next one goes elsewhere if it can. */
  failed_on: string | null;
  /** Not placed before this time (back-off). */
  not_before_ms: number;
  started_at_ms: number;
  /** Of the present attempt: prompt tokens that its worker had to compute before its first token, with those of attempts before it. */
  backlog_tokens: number;
  /** When its first token came; null before. */
  prefilled_at_ms: number | null;
}

export interface WorkerSpec {
  readonly id: string;
  readonly epoch: number;
  readonly model: string;
  readonly slots: number;
  readonly context_size: number | null;
  /** Tokens that all its slots together keep; null when it does not say. */
  readonly cache_tokens: number | null;
}

export interface Worker extends Member {
  spec: WorkerSpec;
  draining: boolean;
  last_beat_ms: number;
  /** Attempts in flight as `attemptKey`s: the orchestrator's own ledger, never a reported gauge. */
  readonly running: Set<string>;
  /** Of those the ones without a first token, with the prompt tokens that are still to be computed for each. */
  readonly prefilling: Map<string, number>;
  /** The sum of those. */
  prefill_tokens: number;
  readonly kept: PrefixIndex;
  readonly speed: Speed;
  /** As its last heartbeat said; null when it does not say. Informs, never gates. */
  memory_free_bytes: number | null;
  /** Rises with each dispatch: the least recently used worker is next. */
  last_dispatch: number;
  inhibited_until_ms: number;
}

/** Jobs of one model (or one pinned worker) that wait: those that came back first, then in order of submission. */
export interface Queue {
  readonly model: string;
  /** The worker whose pinned jobs wait here; null for the jobs that are not pinned. */
  readonly pin: string | null;
  readonly returned: Record<Priority, Line<Job>>;
  readonly fresh: Record<Priority, Line<Job>>;
}

export interface State {
  readonly limits: Limits;
  readonly jobs: LiveMap<Job>;
  readonly workers: Map<string, Worker>;
  /** The workers once more, by the model that they serve. */
  readonly fleets: Map<string, Fleet<Worker>>;
  /** Jobs with a deadline, the soonest first; some have ended since. */
  readonly deadlines: Heap<string>;
  /** By `queueKey`. */
  readonly queues: Map<string, Queue>;
  /** Jobs that wait, over all queues. */
  queued: number;
  /** Every model that some worker has ever served. */
  readonly models: Set<string>;
  /** How long a finished job ran, milliseconds: exponentially weighted, by model. */
  readonly service_ms: Map<string, number>;
  dispatches: number;
  /** The orchestrator is stopping: nothing is dispatched any more. */
  halted: boolean;
}

export function createState(limits: Limits, models: Iterable<string> = []): State {
  return {
    limits,
    jobs: new LiveMap(),
    workers: new Map(),
    fleets: new Map(),
    deadlines: new Heap(),
    queues: new Map(),
    queued: 0,
    models: new Set(models),
    service_ms: new Map(),
    dispatches: 0,
    halted: false,
  };
}

export function attemptKey(job_id: string, attempt: number): string {
  return `${job_id}#${attempt}`;
}

/** Pinned jobs wait in a line of their own, so that they never hold up the others of their model. */
export function queueKey(spec: JobSpec): string {
  return spec.pin === null ? spec.model : pinKey(spec.pin, spec.model);
}

export function pinKey(worker_id: string, model: string): string {
  return `pin ${worker_id} ${model}`;
}

export function isSilent(state: State, worker: Worker, now_ms: number): boolean {
  return now_ms - worker.last_beat_ms > state.limits.worker_silence_ms_max;
}
