/**
 * The workers of one model, so arranged that the next one for a job is found without looking at all of them: whoever may have a
 * free slot stands in a heap, the one used least recently first. An entry may be out of date; that is found when it is taken.
 */
import { Heap } from "./heap.ts";
import { Speed } from "./speed.ts";

/** What a fleet has to know of a worker. */
export interface Member {
  readonly spec: { readonly id: string; readonly slots: number; readonly context_size: number | null };
  readonly draining: boolean;
  /** Rises with each dispatch: the least recently used worker is next. */
  readonly last_dispatch: number;
  /** It stands among those that may have a free slot; kept by the fleet. */
  offered: boolean;
}

/**
 * What a worker is for a job: free; free for others but not for this one; not free for a while; not free until it is offered again.
 */
export type Standing = "free" | "free for others" | "not now" | "gone";

/** How a worker that is free for the job compares; the lowest wins. */
export interface Scored<W> {
  readonly worker: W;
  readonly score: number;
  /** Goes before the score: the highest first. */
  readonly preference: number;
}

export interface Found<W> {
  readonly worker: W | undefined;
  /** Those that were compared, best first; empty when the first free one was taken. */
  readonly scored: readonly Scored<W>[];
  /** Nothing stood in the way but the workers themselves: no other job would have found one either. */
  readonly exhausted: boolean;
}

/** So many free workers are compared for one job, those used least recently: a bound on what one decision costs. */
export const COMPARED_MAX = 64;

export class Fleet<W extends Member> {
  readonly #members = new Set<W>();
  readonly #offered = new Heap<W>();
  /** Slots of all that are not draining. */
  slots = 0;
  /** The largest context of any; infinite when one does not say. */
  largest_context = 0;
  /** Of whoever computed something last: what a new member is thought to be like. */
  readonly speed = new Speed();

  get size(): number {
    return this.#members.size;
  }

  /** Whether some member may have a free slot; when not, nobody has. */
  get may_be_free(): boolean {
    return this.#offered.size > 0;
  }

  [Symbol.iterator](): IterableIterator<W> {
    return this.#members.values();
  }

  join(worker: W): void {
    this.#members.add(worker);
    this.count();
    this.offer(worker);
  }

  leave(worker: W): void {
    this.#members.delete(worker);
    this.#offered.keep((other) => other !== worker);
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
  offer(worker: W): void {
    if (worker.offered) return;
    worker.offered = true;
    this.#offered.push(worker, worker.last_dispatch);
  }

  /**
   * The worker for a job among those that are free for it: the one used least recently, or with `scoreOf` the one with the lowest
   * score of at most `COMPARED_MAX`, of those with the highest preference where there is one; the one named `last_resort` only if there is no other.
   */
  find(
    standingOf: (worker: W) => Standing,
    scoreOf: ((worker: W) => number) | undefined,
    last_resort: string | null,
    preferenceOf: ((worker: W) => number) | undefined = undefined,
  ): Found<W> {
    const aside: W[] = [];
    const scored: Scored<W>[] = [];
    const enough = scoreOf === undefined ? 1 : COMPARED_MAX;
    let last: W | undefined;
    let exhausted = true;
    while (scored.length < enough) {
      const entry = this.#offered.first;
      if (entry === undefined) break;
      const { value: worker, key } = entry;
      if (key !== worker.last_dispatch) {
        // It was used since, past this heap.
        this.#offered.renewFirst(worker.last_dispatch);
        continue;
      }
      this.#offered.take();
      const standing = standingOf(worker);
      if (standing === "gone") {
        worker.offered = false;
        continue;
      }
      aside.push(worker);
      if (standing === "free for others") exhausted = false;
      else if (standing === "free") {
        if (worker.spec.id === last_resort) last = worker;
        else scored.push({ worker, score: scoreOf?.(worker) ?? 0, preference: preferenceOf?.(worker) ?? 0 });
      }
    }
    for (const worker of aside) this.#offered.push(worker, worker.last_dispatch);
    // Of equals the one used least recently, which was found first: the order is kept.
    if (scored.length > 1) scored.sort((a, b) => b.preference - a.preference || a.score - b.score);
    const worker = scored[0]?.worker ?? last;
    return { worker, scored, exhausted: exhausted && worker === undefined };
  }
}
