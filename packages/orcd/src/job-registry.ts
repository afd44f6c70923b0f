/** The jobs this process holds: those that have not ended, and the events of those that have, for readers who come late. */
import { performance } from "node:perf_hooks";
import { LiveMap } from "@rbees/core/live-map";
import { LiveSet } from "@rbees/kit/live-set";
import type { ActiveJob } from "./active-job.ts";
import { eventIdBase } from "./event-id.ts";
import { JobStream, type Reading, type StreamLimits } from "./job-stream.ts";
import { beforeProgress } from "./progress.ts";
import { ReplayLog, SlabPool } from "./replay-log.ts";

export interface RegistryLimits extends StreamLimits {
  replay_bytes_per_job_max: number;
  replay_bytes_total_max: number;
  replay_after_end_ms: number;
}

type NewJob = Pick<
  ActiveJob,
  | "id"
  | "request"
  | "tenant"
  | "key_id"
  | "correlation_id"
  | "submitted_at_ms"
  | "attempt"
  | "first_token_at_ms"
  | "rules"
  | "content_keep_ms"
>;

const NO_LIVES: readonly number[] = [];

export class JobRegistry {
  readonly #limits: RegistryLimits;
  readonly #pool: SlabPool;
  readonly #reading: Reading = new LiveSet();
  readonly #active = new LiveMap<ActiveJob>();
  /** In the order in which they ended. */
  readonly #ended = new Map<string, ReplayLog>();

  constructor(limits: RegistryLimits) {
    this.#limits = limits;
    this.#pool = new SlabPool(Math.min(limits.replay_bytes_total_max, 33_554_432));
  }

  /** `kept`: how many events each earlier life of the job had on disk when it ended; none for a new job. */
  add(job: NewJob, kept: readonly number[] = NO_LIVES): ActiveJob {
    const lives = kept.length;
    const log = new ReplayLog(this.#pool, this.#limits.replay_bytes_per_job_max, eventIdBase(lives), kept);
    const stream = new JobStream(log, this.#limits, this.#reading);
    const kept_id = beforeProgress(lives);
    const active: ActiveJob = {
      ...job,
      lives,
      stream,
      vectors: [],
      end: undefined,
      decided: false,
      told: undefined,
      moved_because: "",
      model_digest: undefined,
      ran_with: undefined,
      kept_id,
    };
    this.#active.set(job.id, active);
    return active;
  }

  /** Event bytes that are kept of a job, of which its answer is put together. */
  get bytes_per_job_max(): number {
    return this.#limits.replay_bytes_per_job_max;
  }

  get(id: string): ActiveJob | undefined {
    return this.#active.get(id);
  }

  /** Those that have not ended. */
  active(): Iterable<ActiveJob> {
    return this.#active.values();
  }

  /** The stream of a job that runs or ended a short while ago. */
  stream(id: string): JobStream | undefined {
    const active = this.#active.get(id);
    if (active !== undefined) return active.stream;
    const log = this.#ended.get(id);
    if (log === undefined) return undefined;
    for (const stream of this.#reading) if (stream.log === log) return stream;
    return new JobStream(log, this.#limits, this.#reading);
  }

  drop(id: string): void {
    this.#active.get(id)?.stream.log.release();
    this.#active.delete(id);
  }

  /** Its stream has had its last event: only the log is kept. */
  end({ id, stream }: ActiveJob): void {
    this.#active.delete(id);
    this.#ended.set(id, stream.log);
  }

  /** The events of a job that has ended are not read again. */
  forget(id: string): void {
    this.#ended.get(id)?.release();
    this.#ended.delete(id);
  }

  /** Lets go of what has been kept long enough, and of the oldest when all of it together is too much; cuts stalled readers. */
  sweep(): void {
    const now_ms = performance.now();
    const { replay_after_end_ms, replay_bytes_total_max } = this.#limits;
    for (const [id, log] of this.#ended) {
      if (now_ms - (log.sealed_at_ms ?? now_ms) < replay_after_end_ms && this.#pool.lent_bytes <= replay_bytes_total_max) break;
      log.release();
      this.#ended.delete(id);
    }
    for (const stream of this.#reading) stream.cutOffReaders(now_ms);
  }
}
