/** The jobs this process holds: those that have not ended, and the streams of those that have, for readers who come late. */
import { performance } from "node:perf_hooks";
import { type ActiveJob, eventIdBase } from "./active-job.ts";
import { JobStream, type StreamLimits } from "./job-stream.ts";
import { SlabPool } from "./replay-log.ts";

export interface RegistryLimits extends StreamLimits {
  replay_bytes_total_max: number;
  replay_after_end_ms: number;
}

export class JobRegistry {
  readonly #limits: RegistryLimits;
  readonly #pool: SlabPool;
  readonly #reading = new Set<JobStream>();
  readonly #active = new Map<string, ActiveJob>();
  /** In the order in which they ended. */
  readonly #ended = new Map<string, { stream: JobStream; ended_at_ms: number }>();

  constructor(limits: RegistryLimits) {
    this.#limits = limits;
    this.#pool = new SlabPool(Math.min(limits.replay_bytes_total_max, 33_554_432));
  }

  add(job: Omit<ActiveJob, "stream" | "first_token_at_ms" | "end" | "moved_because">): ActiveJob {
    const stream = new JobStream(this.#pool, this.#limits, eventIdBase(job.lives), this.#reading);
    const active: ActiveJob = { ...job, stream, first_token_at_ms: null, end: undefined, moved_because: "" };
    this.#active.set(job.id, active);
    return active;
  }

  get(id: string): ActiveJob | undefined {
    return this.#active.get(id);
  }

  /** The stream of a job that runs or ended a short while ago. */
  stream(id: string): JobStream | undefined {
    return this.#active.get(id)?.stream ?? this.#ended.get(id)?.stream;
  }

  drop(id: string): void {
    this.#active.get(id)?.stream.release();
    this.#active.delete(id);
  }

  end(job: ActiveJob): void {
    this.#active.delete(job.id);
    this.#ended.set(job.id, { stream: job.stream, ended_at_ms: performance.now() });
  }

  /** Lets go of what has been kept long enough, and of the oldest when all of it together is too much; cuts stalled readers. */
  sweep(): void {
    const now_ms = performance.now();
    for (const [id, { stream, ended_at_ms }] of this.#ended) {
      const keep = now_ms - ended_at_ms < this.#limits.replay_after_end_ms && this.#pool.lent_bytes <= this.#limits.replay_bytes_total_max;
      if (keep) break;
      stream.release();
      this.#ended.delete(id);
    }
    for (const stream of this.#reading) stream.cutStalled(now_ms);
  }
}
