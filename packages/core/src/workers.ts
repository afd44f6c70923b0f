/** Workers come, report, drain and go. */
import { retry } from "./attempts.ts";
import { drain } from "./drain.ts";
import type { Decision, Event } from "./events.ts";
import { Fleet } from "./fleet.ts";
import { PrefixIndex } from "./prefix-index.ts";
import { Speed } from "./speed.ts";
import { attemptOf, isSilent, type State, type Worker, type WorkerSpec } from "./state.ts";

/** What a worker that does not say keeps, tokens. */
const CACHE_TOKENS_GUESS = 65_536;

export function register(state: State, spec: WorkerSpec, now_ms: number, out: Decision[]): void {
  const known = state.workers.get(spec.id);
  if (known !== undefined && spec.epoch < known.spec.epoch) {
    out.push({ type: "worker.reject", worker_id: spec.id, because: "stale" });
    return;
  }
  const again = known !== undefined && spec.epoch === known.spec.epoch && known.spec.model === spec.model;
  if (again) {
    known.spec = spec;
    known.last_beat_ms = now_ms;
    known.inhibited_until_ms = 0;
    known.unreached = false;
    const fleet = fleetOf(state, spec.model);
    fleet.count();
    fleet.offer(known);
  } else {
    if (known !== undefined) remove(state, known, "a newer life of it registered", now_ms, out);
    const worker: Worker = {
      spec,
      draining: false,
      makes_way_for: null,
      ending: false,
      stays_until_ms: 0,
      last_beat_ms: now_ms,
      joined_at_ms: now_ms,
      idle_since_ms: now_ms,
      running: new Set(),
      prefilling: new Map(),
      prefill_tokens: 0,
      kept: new PrefixIndex(Math.ceil((spec.cache_tokens ?? CACHE_TOKENS_GUESS) / state.limits.prefix_block_tokens)),
      speed: new Speed(),
      memory_free_bytes: null,
      last_dispatch: 0,
      inhibited_until_ms: 0,
      unreached: false,
      failures: 0,
      open_until_ms: 0,
      offered: false,
    };
    state.workers.set(spec.id, worker);
    fleetOf(state, spec.model).join(worker);
    state.models.add(spec.model);
  }
  out.push({ type: "worker.join", worker_id: spec.id, epoch: spec.epoch, model: spec.model, again });
  drain(state, spec.model, now_ms, out);
}

export function beat(state: State, event: Extract<Event, { type: "worker.beat" }>, out: Decision[]): void {
  const worker = state.workers.get(event.worker_id);
  if (worker === undefined || event.epoch !== worker.spec.epoch) {
    out.push({
      type: "worker.reject",
      worker_id: event.worker_id,
      because: worker !== undefined && event.epoch < worker.spec.epoch ? "stale" : "unknown",
    });
    return;
  }
  const was_away = worker.unreached || isSilent(state, worker, event.now_ms);
  worker.last_beat_ms = event.now_ms;
  worker.unreached = false;
  worker.memory_free_bytes = event.memory_free_bytes;
  state.fleets.get(worker.spec.model)?.offer(worker);
  if (event.draining) setDraining(state, worker, out);
  else if (was_away) drain(state, worker.spec.model, event.now_ms, out);
}

/** For good: whoever was to make way for a while does so no longer, and whoever can't be ended gets no work all the same. */
export function setDraining(state: State, worker: Worker, out: Decision[]): void {
  worker.makes_way_for = null;
  worker.ending = false;
  if (worker.draining) return;
  worker.draining = true;
  state.fleets.get(worker.spec.model)?.count();
  out.push({ type: "worker.drain", worker_id: worker.spec.id });
}

/** A worker that says nothing any more is forgotten, once nothing runs there. */
export function leaveIfSilent(state: State, worker_id: string, now_ms: number, out: Decision[]): void {
  const worker = state.workers.get(worker_id);
  if (worker === undefined || worker.running.size > 0 || !isSilent(state, worker, now_ms)) return;
  remove(state, worker, "no heartbeat", now_ms, out);
}

/** The worker is gone: what ran there goes back to the queue. */
export function remove(state: State, worker: Worker, reason: string, now_ms: number, out: Decision[]): void {
  state.workers.delete(worker.spec.id);
  const fleet = state.fleets.get(worker.spec.model);
  fleet?.leave(worker);
  if (fleet?.size === 0) state.fleets.delete(worker.spec.model);
  out.push({ type: "worker.leave", worker_id: worker.spec.id, epoch: worker.spec.epoch, model: worker.spec.model, reason });
  for (const key of worker.running) {
    const { job_id, attempt } = attemptOf(key);
    out.push({ type: "abort", job_id, attempt, worker_id: worker.spec.id, reason });
    const job = state.jobs.get(job_id);
    if (job?.attempt !== attempt || job.worker_id !== worker.spec.id) continue;
    retry(state, job, undefined, { kind: "lost", reason: `worker ${worker.spec.id}: ${reason}`, reached: true }, now_ms, out);
  }
  worker.running.clear();
  worker.prefilling.clear();
  worker.prefill_tokens = 0;
  drain(state, worker.spec.model, now_ms, out);
}

function fleetOf(state: State, model: string): Fleet<Worker> {
  let fleet = state.fleets.get(model);
  if (fleet === undefined) {
    fleet = new Fleet();
    state.fleets.set(model, fleet);
  }
  return fleet;
}
