/**
 * The workers of one model, so arranged that the next one for a job is found without looking at all of them: whoever may have a
 * free slot stands in a heap, the one used least recently first. An entry may be out of date; that is found when it is taken.
 */
import { Heap } from "./heap.ts";
import { type Obstacle, obstacle } from "./place.ts";
import type { Job, State, Worker } from "./state.ts";

/** Obstacles that this worker has for every job, until something is heard of it. */
const GONE: ReadonlySet<Obstacle> = new Set<Obstacle>(["draining", "silent", "busy"]);
/** Obstacles that another job might not have. */
const OF_THE_JOB: ReadonlySet<Obstacle> = new Set<Obstacle>(["avoided", "context"]);

export interface Found {
  readonly worker: Worker | undefined;
  /** Nothing stood in the way but the workers themselves: no other job would have found one either. */
  readonly exhausted: boolean;
}

export class Fleet {
  readonly #members = new Set<Worker>();
  readonly #offered = new Heap<Worker>();
  /** Slots of all that are not draining. */
  slots = 0;
  /** The largest context of any; infinite when one does not say. */
  largest_context = 0;

  get size(): number {
    return this.#members.size;
  }

  [Symbol.iterator](): IterableIterator<Worker> {
    return this.#members.values();
  }

  join(worker: Worker): void {
    this.#members.add(worker);
    this.count();
    this.offer(worker);
  }

  leave(worker: Worker): void {
    this.#members.delete(worker);
    this.count();
  }

  /** Counts anew; after a member has changed. */
  count(): void {
    this.slots = 0;
    this.largest_context = 0;
    for (const { spec, draining } of this.#members) {
      if (!draining) this.slots += spec.slots;
      this.largest_context = Math.max(this.largest_context, spec.context_size ?? Number.POSITIVE_INFINITY);
    }
  }

  /** The worker may have a free slot (again). */
  offer(worker: Worker): void {
    if (worker.offered) return;
    worker.offered = true;
    this.#offered.push(worker, worker.last_dispatch);
  }

  /** The least recently used worker that can take the job; the one that lost the job's last attempt only if there is no other. */
  find(state: State, job: Job, now_ms: number): Found {
    const aside: Worker[] = [];
    let last_resort: Worker | undefined;
    let found: Worker | undefined;
    let exhausted = true;
    for (let entry = this.#offered.take(); entry !== undefined; entry = this.#offered.take()) {
      const { value: worker, key } = entry;
      if (!this.#members.has(worker)) continue;
      if (key !== worker.last_dispatch) {
        // It was used since, past this heap.
        this.#offered.push(worker, worker.last_dispatch);
        continue;
      }
      const found_obstacle = obstacle(state, job, worker, now_ms);
      if (found_obstacle !== undefined && GONE.has(found_obstacle)) {
        worker.offered = false;
        continue;
      }
      aside.push(worker);
      if (found_obstacle !== undefined) {
        if (OF_THE_JOB.has(found_obstacle)) exhausted = false;
      } else if (worker.spec.id === job.failed_on) last_resort = worker;
      else {
        found = worker;
        break;
      }
    }
    for (const worker of aside) this.#offered.push(worker, worker.last_dispatch);
    return { worker: found ?? last_resort, exhausted: exhausted && found === undefined && last_resort === undefined };
  }
}
