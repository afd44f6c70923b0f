/**
 * What running jobs have got, on disk: written in the background, for all of them in one transaction, so that after a crash an answer
 * goes on from there. It is the beginning of a job's replay log, event for event; the next life's log begins with the same.
 */
import type { ActiveJob } from "./active-job.ts";
import { eventIdBase } from "./event-id.ts";
import type { Change, Store } from "./store/port.ts";
import type { ProgressTable } from "./store/schema.ts";

/** The most event bytes that one flush writes, over all jobs: about 5 ms of the event loop. What is left waits for the next. */
const FLUSH_BYTES_MAX = 1_048_576;
/** Each life's log begins with a `queued` of its own: that is not written. */
const QUEUED_EVENTS = 1;

/** The last event of a life that need not be written: from here on there is progress. */
export function beforeProgress(life: number): number {
  return eventIdBase(life) + QUEUED_EVENTS;
}

/** Whether the job has rows that must go when it ends. Most jobs end before the first flush, and have none. */
export function hasProgress({ kept_id, lives }: ActiveJob): boolean {
  return kept_id > beforeProgress(lives);
}

/** How many events each of the `lives` before this one had on disk when it ended. */
export function keptEvents(rows: readonly ProgressTable[], lives: number): number[] {
  const kept = new Array<number>(lives).fill(QUEUED_EVENTS);
  for (const { life, events } of rows) {
    const more = linesOf(events).length;
    for (let later = life; later < lives; later += 1) kept[later] = (kept[later] as number) + more;
  }
  return kept;
}

/** Puts what is on disk into the stream of a job that has just been recovered. */
export function restore(job: ActiveJob, rows: readonly ProgressTable[]): void {
  for (const { events } of rows) for (const line of linesOf(events)) job.stream.append(JSON.parse(line));
  job.model_digest = rows.at(-1)?.model_digest ?? undefined;
  job.kept_id = job.stream.last_id;
}

export interface ProgressPorts {
  /** The jobs that have not ended. */
  readonly active: () => Iterable<ActiveJob>;
  readonly store: Store;
}

export class ProgressFlush {
  readonly #ports: ProgressPorts;
  #flushing: Promise<boolean> | undefined;

  constructor(ports: ProgressPorts) {
    this.#ports = ports;
  }

  /** Writes what is new, unless the last flush is still under way; true when that was something. */
  flush(): Promise<boolean> {
    this.#flushing ??= this.#write().finally(() => {
      this.#flushing = undefined;
    });
    return this.#flushing;
  }

  async #write(): Promise<boolean> {
    const { active, store } = this.#ports;
    const due = [...active()].filter(isDue);
    let left = FLUSH_BYTES_MAX;
    const share = Math.ceil(left / due.length);
    const changes: Change[] = [];
    for (const job of due) {
      if (left <= 0) break;
      const { json, last_id } = job.stream.lines(job.kept_id, Math.min(share, left));
      left -= json.length;
      const { id, lives: life, model_digest = null } = job;
      // The time is in the job's row otherwise only at its end.
      if (!hasProgress(job)) changes.push({ table: "jobs", id, update: { first_token_at_ms: job.first_token_at_ms } });
      const first_event = job.kept_id + 1 - eventIdBase(life);
      changes.push({ table: "progress", insert: { job_id: id, first_event, life, model_digest, events: json } });
      job.kept_id = last_id;
    }
    if (changes.length > 0) await store.commit(changes);
    return changes.length > 0;
  }
}

/** It has sent something new since, that another life could go on with. Once its end is decided, its progress goes with that. */
function isDue({ stream, kept_id, first_token_at_ms, request, decided }: ActiveJob): boolean {
  if (decided) return false;
  if (first_token_at_ms === null || stream.last_id <= kept_id || request.on_worker_lost === "restart") return false;
  // Otherwise some of it has been dropped from the log already: what is on disk is all that there will be.
  return stream.first_id <= kept_id + 1;
}

function linesOf(events: string): string[] {
  return events.split("\n").slice(0, -1);
}
