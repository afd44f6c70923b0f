/** Tells waiting jobs, now and then, where they stand: each stream gets a `queued` event when its position or ETA has changed. */
import { etaMs } from "@rbees/core/estimate";
import { inOrder } from "@rbees/core/queue";
import type { State } from "@rbees/core/state";
import { coreNow } from "./clock.ts";
import { queuedEvent } from "./deeds.ts";
import type { JobRegistry } from "./job-registry.ts";

/** An ETA that moved by less than this share is no news. */
const ETA_NEWS = 0.2;

interface Told {
  readonly position: number;
  readonly eta_ms: number | undefined;
}

export class QueueNews {
  /** What each waiting job was told last. */
  #told = new Map<string, Told>();

  /** Walks all queues once; only jobs that somebody reads are told. */
  tell(state: State, jobs: JobRegistry): void {
    const now_ms = coreNow();
    const told = new Map<string, Told>();
    for (const queue of state.queues.values()) {
      let position = 0;
      for (const job of inOrder(queue)) {
        const { id } = job.spec;
        const stream = jobs.get(id)?.stream;
        if (stream !== undefined && stream.readers > 0) {
          const eta_ms = etaMs(state, job, position, now_ms);
          const before = this.#told.get(id);
          const news = before === undefined || before.position !== position || moved(before.eta_ms, eta_ms);
          // What it was told when it was accepted is no news yet.
          if (before !== undefined && news) stream.append(queuedEvent(id, position, eta_ms));
          told.set(id, news ? { position, eta_ms } : before);
        }
        position += 1;
      }
    }
    this.#told = told;
  }
}

function moved(before: number | undefined, now: number | undefined): boolean {
  if (before === undefined || now === undefined) return before !== now;
  return Math.abs(now - before) > ETA_NEWS * before;
}
