/**
 * Placing: filter → score → pick. A worker that can't take a job gets a reason, and not placing is an answer, not an error.
 * The pick is round-robin: among the workers with the best score, the one used least recently.
 */
import { isSilent, type Job, type State, type Worker } from "./state.ts";

/** What can stand between a job and a worker. */
export type Obstacle = "other model" | "pinned elsewhere" | "avoided" | "draining" | "silent" | "context" | "busy" | "inhibited";

/** The filter: what keeps this job from running on this worker now; the first failed check. */
export function obstacle(state: State, { spec }: Job, worker: Worker, now_ms: number): Obstacle | undefined {
  if (worker.spec.model !== spec.model) return "other model";
  if (spec.pin !== null && spec.pin !== worker.spec.id) return "pinned elsewhere";
  if (spec.avoid.includes(worker.spec.id)) return "avoided";
  if (worker.draining) return "draining";
  if (isSilent(state, worker, now_ms)) return "silent";
  if (worker.spec.context_size !== null && spec.max_tokens >= worker.spec.context_size) return "context";
  if (worker.running.size >= worker.spec.slots) return "busy";
  if (worker.inhibited_until_ms > now_ms) return "inhibited";
  return undefined;
}

/** The obstacle in words, for people. */
export function reasonFor(found: Obstacle, { spec }: Job, worker: Worker, now_ms: number): string {
  switch (found) {
    case "other model":
      return `it serves ${worker.spec.model}, not ${spec.model}`;
    case "pinned elsewhere":
      return `the job is pinned to ${spec.pin}`;
    case "avoided":
      return "the job avoids it";
    case "draining":
      return "it is draining";
    case "silent":
      return `no heartbeat for ${now_ms - worker.last_beat_ms} ms`;
    case "context":
      return `max_tokens ${spec.max_tokens} leaves no room for a prompt in its context of ${worker.spec.context_size} tokens`;
    case "busy":
      return `all ${worker.spec.slots} slots are busy`;
    case "inhibited":
      return `it refused or was unreachable; left alone for ${worker.inhibited_until_ms - now_ms} ms`;
  }
}

/** The score: more is better. The worker that lost the job's last attempt comes last, even if the job prefers it. */
function score(job: Job, worker: Worker): number {
  return (job.spec.prefer.includes(worker.spec.id) ? 1 : 0) - (job.failed_on === worker.spec.id ? 2 : 0);
}

export function place(state: State, job: Job, now_ms: number): Worker | undefined {
  if (job.not_before_ms > now_ms) return undefined;
  if (job.spec.deadline_at_ms !== null && now_ms >= job.spec.deadline_at_ms) return undefined;
  let best: Worker | undefined;
  let bestScore = Number.NEGATIVE_INFINITY;
  for (const worker of state.workers.values()) {
    if (obstacle(state, job, worker, now_ms) !== undefined) continue;
    const points = score(job, worker);
    if (points > bestScore || (points === bestScore && best !== undefined && worker.last_dispatch < best.last_dispatch)) {
      best = worker;
      bestScore = points;
    }
  }
  return best;
}

/** Free slots for a model now: lets the drain of a queue skip models without room. */
export function freeSlots(state: State, model: string, now_ms: number): number {
  let free = 0;
  for (const worker of state.workers.values()) {
    if (worker.spec.model !== model || worker.draining || isSilent(state, worker, now_ms) || worker.inhibited_until_ms > now_ms) continue;
    free += Math.max(0, worker.spec.slots - worker.running.size);
  }
  return free;
}
