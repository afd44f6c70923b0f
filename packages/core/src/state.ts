/** What the orchestrator knows: jobs that have not ended, workers, queues. Plain data; only `step` changes it. */

import type { Demand, Wanted } from "./demand.ts";
import type { FairLine } from "./fair-line.ts";
import { type Share, Shares } from "./fairness.ts";
import type { Fleet, Member } from "./fleet.ts";
import type { Denied, Gate } from "./gate.ts";
import { Heap } from "./heap.ts";
import type { Line, Waiting } from "./line.ts";
import { LiveMap } from "./live-map.ts";
import type { Block, PrefixIndex } from "./prefix-index.ts";
import { type Account, Quotas } from "./quota.ts";
import type { Speed } from "./speed.ts";

export const PRIORITIES = ["interactive", "batch"] as const;
export type Priority = (typeof PRIORITIES)[number];

/** What becomes of a newcomer when the queue is full: it is refused, or the batch job that has waited longest makes room. */
export const QUEUE_FULL_RULES = ["reject", "drop-oldest-batch"] as const;
export type QueueFullRule = (typeof QUEUE_FULL_RULES)[number];

/** How a worker is chosen among those that could take a job; `policy.ts` has the scores. */
export const POLICIES = ["round-robin", "least-loaded", "most-free-memory", "lmetric", "eta"] as const;
export type PolicyName = (typeof POLICIES)[number];

/** Every limit of the decisions, with its unit. */
export interface Limits {
  /** Jobs that may wait at once, over all models. */
  readonly queue_jobs_max: number;
  /** Bytes of the requests that may wait at once, over all models. */
  readonly queue_bytes_max: number;
  readonly queue_full: QueueFullRule;
  /** Longest wait for a first worker, since submission; 0: no limit. */
  readonly queue_wait_ms_max: number;
  /** Longest wait for the first token, since submission; 0: no limit. */
  readonly first_token_ms_max: number;
  /** A batch job that has waited this long is as urgent as an interactive one, so that it can't starve; 0: never. */
  readonly batch_promote_ms: number;
  /** A running batch job is moved aside, and continued later, when an interactive one waits and nothing is free. */
  readonly preempt_batch: boolean;
  /** Attempts that may be lost or fail in a retriable way before a job fails. */
  readonly attempts_max: number;
  /** A worker silent for this long gets no new work; when nothing runs there, it is forgotten. */
  readonly worker_silence_ms_max: number;
  /** Wait before attempt n + 1: this × 2^(n-1), at most `retry_backoff_ms_max`. */
  readonly retry_backoff_ms: number;
  readonly retry_backoff_ms_max: number;
  /** A worker that refused an attempt for want of a slot, or could not be reached, is left alone for this long. */
  readonly worker_inhibit_ms: number;
  /** Attempts lost or failed one after the other on a worker, after which it is left alone (the breaker opens). */
  readonly breaker_failures: number;
  /** For how long, before it is tried again with one attempt: this, doubled with each further failure, up to `breaker_open_ms_max`. */
  readonly breaker_open_ms: number;
  readonly breaker_open_ms_max: number;
  /** Workers are started for models that jobs wait for and nobody serves, in the pools that have them, and ended when idle. */
  readonly auto_spawn: boolean;
  /** These pools, by name. */
  readonly pools: Readonly<Record<string, unknown>>;
  /** A worker that was started so and had nothing to do for so long is ended; 0: never. */
  readonly idle_ttl_ms: number;
  /** It is not ended for another model's sake before it has been there for so long. */
  readonly residency_ms_min: number;
  /** A model that has had no room for so long gets that of workers which are never idle: they finish what they have, and go; 0: never. */
  readonly make_way_ms: number;
  /** How long ended workers may take to be gone before other room is made. */
  readonly make_room_ms_max: number;
  /**
   * Wait after a load that failed; doubles with each further one, up to `load_backoff_ms_max`. So long a worker that could not be ended is
   * left alone.
   */
  readonly load_backoff_ms: number;
  readonly load_backoff_ms_max: number;
  /** How long a job is thought to run while nothing was measured yet. */
  readonly service_ms_guess: number;
  /** How a worker is chosen among those that could take a job. */
  readonly policy: PolicyName;
  /** Tokens that one block of `JobSpec.prefix` stands for. */
  readonly prefix_block_tokens: number;
  /** What was computed of one tenant's prompt may spare another's. */
  readonly prefixes_shared: boolean;
}

/** Every optional rule off and every bound far away: what replays, benches and tests begin with. */
export const LIMITS_OFF: Limits = {
  queue_jobs_max: Number.MAX_SAFE_INTEGER,
  queue_bytes_max: Number.MAX_SAFE_INTEGER,
  queue_full: "reject",
  queue_wait_ms_max: 0,
  first_token_ms_max: 0,
  batch_promote_ms: 0,
  preempt_batch: false,
  attempts_max: 3,
  worker_silence_ms_max: Number.MAX_SAFE_INTEGER,
  retry_backoff_ms: 100,
  retry_backoff_ms_max: 1000,
  worker_inhibit_ms: 500,
  breaker_failures: 5,
  breaker_open_ms: 2000,
  breaker_open_ms_max: 60_000,
  auto_spawn: false,
  pools: {},
  idle_ttl_ms: 0,
  residency_ms_min: 30_000,
  make_way_ms: 0,
  make_room_ms_max: 60_000,
  load_backoff_ms: 5000,
  load_backoff_ms_max: 300_000,
  service_ms_guess: 4000,
  policy: "round-robin",
  prefix_block_tokens: 64,
  prefixes_shared: false,
};

export interface JobSpec {
  readonly id: string;
  readonly tenant: string;
  /** The key with which it was submitted; null when nobody was asked for one. */
  readonly key: string | null;
  readonly model: string;
  readonly priority: Priority;
  readonly submitted_at_ms: number;
  /** Of its request, which it takes up while it waits. */
  readonly bytes: number;
  /** 0: it makes vectors of its inputs and no text. */
  readonly max_tokens: number;
  /** Tokens of the prompt, counted or estimated. */
  readonly prompt_tokens: number;
  /** No fewer than this, for certain (of several inputs: in one of them): what may be refused for. */
  readonly prompt_tokens_min: number;
  /** The prompt from its beginning, block by block; equal blocks mean that everything up to there is equal. */
  readonly prefix: readonly Block[];
  readonly deadline_at_ms: number | null;
  readonly pin: string | null;
  readonly prefer: readonly string[];
  readonly avoid: readonly string[];
  /** Labels that its worker must have. */
  readonly labels: Readonly<Record<string, string>>;
  /** What its worker must be able to do. */
  readonly needs: readonly Need[];
  /** What rules demand of its worker. */
  readonly demands: readonly Demand[];
  /** A rule says that it may not run at all; asked when it comes. */
  readonly denied: Denied | null;
  /** For rules; nothing else looks at it. */
  readonly metadata: Readonly<Record<string, string>>;
  /** It ends when its worker is lost after the first token, instead of going on elsewhere. */
  readonly fails_if_lost: boolean;
  /** It begins its answer anew then. */
  readonly restarts_if_lost: boolean;
}

/** Something that not every engine can do, and the field of the request that asks for it. */
export interface Need {
  readonly feature: string;
  readonly field: string;
}

/** How the worker was chosen. */
export interface Routing {
  readonly policy: PolicyName;
  /** Prompt tokens that the worker has probably kept. */
  readonly cached_tokens: number;
  /** Rules that hold for the job on that worker. */
  readonly rules: readonly string[];
  /** The workers that were compared, best first, at most a few; empty when there was nothing to compare. */
  readonly compared: readonly { readonly worker_id: string; readonly score: number }[];
}
export interface Job extends Waiting {
  readonly spec: JobSpec;
  /** Of its tenant. */
  readonly share: Share;
  /** Whose limits it must keep: of its tenant and its key, as far as these have any. */
  readonly accounts: readonly Account[];
  /** In which of a queue's lines it waits: that of its tenant, or of its key where that has a limit of its own on what runs. */
  readonly flow: string;
  /** What rules demand by now: another set may have been loaded since it came. */
  by_rules: readonly Demand[];
  /** What its worker must have by order of others: of its tenant, and of rules. */
  demands: readonly Demand[];
  /** The same for jobs with the same demands, empty for those without any. */
  demands_key: string;
  /** Its number among all that came to its fair line; kept by that. */
  arrival: number;
  /** Tokens that are reserved for it, and the day (UTC, since 1970) that they are of. */
  reserved_tokens: number;
  reserved_day: number;
  /** The rates were asked for it. */
  paid: boolean;
  /** It waits until the rates of this account allow it, in no queue yet. */
  held_by: Account | null;
  /** Its class now: batch jobs are promoted after a while. */
  priority: Priority;
  /** Attempts begun; the number of the present one while it runs. The fence against late reports. */
  attempt: number;
  /** The `attemptKey` of that attempt. */
  attempt_key: string;
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
  /** A worker with a context of so many tokens has counted: prompt and answer together are longer; 0: none has said so. */
  too_long_for: number;
  /** When its first token came; null before. */
  prefilled_at_ms: number | null;
  /** Some attempt has brought a token. */
  begun: boolean;
  /** Tokens of its answer that its tenant was charged for: those that are made anew after a loss are not charged again. */
  charged_tokens: number;
  /** Of the present or last attempt; undefined before the first of this life. */
  routing: Routing | undefined;
}

export interface WorkerSpec {
  readonly id: string;
  readonly epoch: number;
  readonly model: string;
  readonly slots: number;
  readonly context_size: number | null;
  /** Tokens that all its slots together keep; null when it does not say. */
  readonly cache_tokens: number | null;
  readonly labels: Readonly<Record<string, string>>;
  /** What its engine can do beyond what every engine can. */
  readonly features: readonly string[];
  readonly backend: string;
  /** All areas that it is in, its region first; none when it does not say where it is. */
  readonly areas: readonly string[];
  /** Another one can go on in the middle of its answers; else they begin anew there. */
  readonly continues: boolean;
  /** Whether it has come with a token, or nobody was asked; for rules. */
  readonly trust: "joined" | "open";
}

export interface Worker extends Member {
  spec: WorkerSpec;
  draining: boolean;
  /** The load (`loadKey`) whose room it frees as soon as nothing runs here any more. */
  makes_way_for: string | null;
  /** It is being ended. */
  ending: boolean;
  /** It could not be ended: not tried again before this time. */
  stays_until_ms: number;
  last_beat_ms: number;
  joined_at_ms: number;
  /** When its last attempt ended, or when it joined. */
  idle_since_ms: number;
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
  /** The last attempt did not reach it, and it has said nothing since: it may be gone, and gets no attempt until it is heard of again. */
  unreached: boolean;
  /** Attempts that were lost or failed there since the last one that went well. */
  failures: number;
  /** After so many that the breaker opened: not used before this time, and then with one attempt at once. */
  open_until_ms: number;
}

/** Jobs of one model (or one pinned worker) that wait: those that came back first, then in order of submission. */
export interface Queue {
  readonly model: string;
  /** The worker whose pinned jobs wait here; null for the jobs that are not pinned. */
  readonly pin: string | null;
  readonly returned: Record<Priority, Line<Job>>;
  readonly fresh: Record<Priority, FairLine<Job>>;
  /** By `demands_key`: what those who wait here demand of a worker. */
  readonly wanted: Map<string, Wanted>;
}

export interface Alarm {
  readonly job_id: string;
  readonly about: "deadline" | "queue wait" | "first token" | "promotion";
}

/** A device of a pool, as the pool last reported. */
export interface Device {
  readonly id: string;
  readonly backend: string;
  /** Where a model fits on several, those with the lowest number come first: a GPU before the processor. */
  readonly preference: number;
  /** Free for models. */
  readonly free_bytes: number;
}

/** A machine on which workers can be started. */
export interface Pool {
  readonly id: string;
  /** All areas that its machine is in, as those of a worker. */
  readonly areas: readonly string[];
  readonly devices: readonly Device[];
  /** The models it has on disk, with the memory that each takes, bytes. */
  readonly models: ReadonlyMap<string, number>;
}

/** A model on its way into memory: first, where need be, room is made, then it has begun. */
export interface Load {
  readonly model: string;
  /** What those for whom it is loaded demand; its key with the model: `loadKey`. */
  readonly demands_key: string;
  readonly pool_id: string;
  readonly device_id: string;
  readonly memory_bytes: number;
  readonly since_ms: number;
  readonly began: boolean;
}

export interface State {
  readonly limits: Limits;
  readonly jobs: LiveMap<Job>;
  readonly workers: Map<string, Worker>;
  /** The workers once more, by the model that they serve. */
  readonly fleets: Map<string, Fleet<Worker>>;
  /** What may become due for a job, the soonest first; some have ended since. */
  readonly alarms: Heap<Alarm>;
  /** Batch jobs, the longest submitted first, where the longest waiting may be dropped; some don't wait any more. */
  readonly batch: Heap<string>;
  readonly shares: Shares;
  readonly quotas: Quotas;
  /** By tenant: where its jobs must stay. */
  readonly residencies: Map<string, Demand>;
  /** What rules say of jobs on workers; null: no rule asks about workers. */
  gate: Gate | null;
  /** By `queueKey`. */
  readonly queues: Map<string, Queue>;
  /** Jobs that wait, over all queues. */
  queued: number;
  /** How many of the queues are of jobs pinned to a worker. */
  pinned_queues: number;
  queued_bytes: number;
  /** Every model that some worker has ever served. */
  readonly models: Set<string>;
  /** How long a finished job ran, milliseconds: exponentially weighted, by model. */
  readonly service_ms: Map<string, number>;
  readonly pools: Map<string, Pool>;
  /** Pools that have said what they have, or did not answer: from the others it may be heard yet which models there are. */
  readonly pools_asked: Set<string>;
  /** By `loadKey`, as the next three: one load of each at a time. */
  readonly loads: Map<string, Load>;
  /** How long the last load took, by model and device. */
  readonly load_ms: Map<string, number>;
  readonly load_failures: Map<string, { readonly count: number; readonly error: string }>;
  readonly load_not_before_ms: Map<string, number>;
  /** Since when jobs wait for it that no pool has room for. */
  readonly no_room_since_ms: Map<string, number>;
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
    alarms: new Heap(),
    batch: new Heap(),
    shares: new Shares(),
    quotas: new Quotas(),
    residencies: new Map(),
    gate: null,
    queues: new Map(),
    queued: 0,
    pinned_queues: 0,
    queued_bytes: 0,
    models: new Set(models),
    service_ms: new Map(),
    pools: new Map(),
    pools_asked: new Set(),
    loads: new Map(),
    load_ms: new Map(),
    load_failures: new Map(),
    load_not_before_ms: new Map(),
    no_room_since_ms: new Map(),
    dispatches: 0,
    halted: false,
  };
}

export function attemptKey(job_id: string, attempt: number): string {
  return `${job_id}#${attempt}`;
}

/** What an `attemptKey` was made of. */
export function attemptOf(key: string): { job_id: string; attempt: number } {
  const cut = key.lastIndexOf("#");
  return { job_id: key.slice(0, cut), attempt: Number(key.slice(cut + 1)) };
}

/** Pinned jobs wait in a line of their own, so that they never hold up the others of their model. */
export function queueKey(spec: JobSpec): string {
  return spec.pin === null ? spec.model : pinKey(spec.pin, spec.model);
}

export function pinKey(worker_id: string, model: string): string {
  return `pin ${worker_id} ${model}`;
}

/** A model, and what those who wait for it demand of its worker. */
export function loadKey(model: string, demands_key: string): string {
  return demands_key === "" ? model : `${model} ${demands_key}`;
}

export function isSilent(state: State, worker: Worker, now_ms: number): boolean {
  return now_ms - worker.last_beat_ms > state.limits.worker_silence_ms_max;
}
