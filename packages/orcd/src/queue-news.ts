/** What a waiting job is told of its wait: a `queued` event when it is accepted, and again when its position or ETA has changed. */

import type { LoadingEvent } from "@rbees/contracts/events";
import { etaMs } from "@rbees/core/estimate";
import { expectedLoadMs, isServed, loadFor } from "@rbees/core/provision";
import { inOrder } from "@rbees/core/queue";
import type { Job, State } from "@rbees/core/state";
import type { ActiveJob } from "./active-job.ts";
import { coreNow } from "./clock.ts";
import type { JobRegistry } from "./job-registry.ts";

/** An ETA that moved by less than this share is no news. */
const ETA_NEWS = 0.2;

export function tellPosition(job: ActiveJob, position: number, eta_ms: number | undefined): void {
  job.told = { position, eta_ms };
  job.stream.append({ type: "queued", job_id: job.id, position, ...(eta_ms === undefined ? {} : { eta_ms }) });
}

/** Walks all queues once; only jobs that somebody reads are told. `shareLoaded`: how much of a model is in memory, 0 to 1, if known. */
export function tellNews(state: State, jobs: JobRegistry, shareLoaded: (model: string) => number | undefined): void {
  const now_ms = coreNow();
  for (const queue of state.queues.values()) {
    /** What is told to those with the same demands. */
    const loading = new Map<string, LoadingEvent | undefined>();
    let position = 0;
    for (const waiting of inOrder(queue)) {
      const job = jobs.get(waiting.spec.id);
      if (job !== undefined && job.stream.readers > 0) {
        const eta_ms = etaMs(state, waiting, position, now_ms);
        if (job.told?.position !== position || moved(job.told.eta_ms, eta_ms)) tellPosition(job, position, eta_ms);
        const { demands_key } = waiting;
        if (!loading.has(demands_key)) loading.set(demands_key, loadingOf(state, waiting, shareLoaded(queue.model), now_ms));
        const news = loading.get(demands_key);
        if (news !== undefined) job.stream.append(news);
      }
      position += 1;
    }
  }
}

function loadingOf(state: State, waiting: Job, share: number | undefined, now_ms: number): LoadingEvent | undefined {
  if (state.loads.size === 0 || isServed(state, waiting.spec.model, waiting.demands)) return undefined;
  const load = loadFor(state, waiting);
  if (!load?.began) return undefined;
  const { model, pool_id: pool, device_id: device, since_ms } = load;
  const expected_ms = expectedLoadMs(state, load);
  return {
    type: "loading",
    model,
    pool,
    device,
    elapsed_ms: now_ms - since_ms,
    ...(expected_ms === undefined ? {} : { expected_ms }),
    ...(share === undefined ? {} : { share }),
  };
}

function moved(before: number | undefined, now: number | undefined): boolean {
  if (before === undefined || now === undefined) return before !== now;
  return Math.abs(now - before) > ETA_NEWS * before;
}
