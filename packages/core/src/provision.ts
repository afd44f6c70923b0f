/**
 * Having a worker started for a model that jobs wait for and nobody serves, and letting go of workers that nobody needs. A model is
 * loaded once, however many jobs wait for it; it goes where it fits, or where the least has to go for it. Only workers that were started
 * this way are ever ended, and only idle ones that have been there for a while: so two models don't push each other out in turns. One
 * that is never idle makes way after a time: it takes nothing new, and is ended when what runs there has ended.
 */
import { backoffMs } from "./backoff.ts";
import { drain } from "./drain.ts";
import type { Decision } from "./events.ts";
import { depth } from "./queue.ts";
import { type Device, type Load, type Pool, pinKey, type State, type Worker } from "./state.ts";
import { setDraining } from "./workers.ts";

/** The labels of a worker that was started this way: which pool it stands in, and on which of its devices. */
export const POOL_LABEL = "rbees.pool";
export const DEVICE_LABEL = "rbees.device";
/** How long a load is thought to take while none was measured. */
const LOAD_MS_GUESS = 10_000;

interface Site {
  readonly pool: Pool;
  readonly device: Device;
  /** What the model takes there. */
  readonly memory_bytes: number;
  /** What would be free now. */
  readonly free_bytes: number;
}

/** Starts what is waited for. */
export function provision(state: State, now_ms: number, out: Decision[]): void {
  if (!state.limits.auto_spawn) return;
  for (const { model, began } of state.loads.values()) {
    // Nobody waits any more, or somebody else has started one: the room is not needed.
    if (!began && (isServed(state, model) || !state.queues.has(model))) {
      state.loads.delete(model);
      for (const worker of waysMadeFor(state, model)) stay(state, worker, now_ms, out);
    }
  }
  for (const model of state.no_room_since_ms.keys()) {
    if (isServed(state, model) || !state.queues.has(model)) state.no_room_since_ms.delete(model);
  }
  if (state.halted) return;
  for (const [key, queue] of state.queues) {
    if (key === queue.model && depth(queue) > 0 && !isServed(state, queue.model)) load(state, queue.model, now_ms, out);
  }
}

/** Ends what nobody has wanted for a while. Looks at every worker, so now and then is enough. */
export function endIdle(state: State, now_ms: number, out: Decision[]): void {
  const { auto_spawn, idle_ttl_ms } = state.limits;
  if (!auto_spawn || state.halted || idle_ttl_ms === 0) return;
  for (const worker of state.workers.values()) {
    if (isSpare(state, worker, now_ms) && now_ms - worker.idle_since_ms >= idle_ttl_ms)
      evict(state, worker, `idle for ${idle_ttl_ms} ms`, out);
  }
}

/** Somebody serves it who is not about to go. */
function isServed(state: State, model: string): boolean {
  for (const worker of state.fleets.get(model) ?? []) if (!worker.draining) return true;
  return false;
}

function load(state: State, model: string, now_ms: number, out: Decision[]): void {
  const under_way = state.loads.get(model);
  if (under_way?.began || (state.load_not_before_ms.get(model) ?? 0) > now_ms) return;
  const sites = sitesOf(state, model).filter((site) => clearedFor(state, model, site) === undefined);
  const fitting = sites.filter(({ free_bytes, memory_bytes }) => free_bytes >= memory_bytes);
  const [best] = fitting.sort((a, b) => compared(state, model, a, b));
  if (best !== undefined) {
    for (const worker of waysMadeFor(state, model)) stay(state, worker, now_ms, out);
    const { pool_id, device_id } = noteLoad(state, model, best, true, now_ms);
    out.push({ type: "spawn", model, pool_id, device_id, backend: best.device.backend });
    return;
  }
  if (under_way !== undefined) {
    const busy = waysMadeFor(state, model);
    for (const worker of busy.filter(({ running }) => running.size === 0)) evict(state, worker, `room for ${model}`, out);
    if (busy.length > 0) {
      state.loads.set(model, { ...under_way, since_ms: now_ms });
      return;
    }
    // Room is being made already: it shows in the pool's next report.
    if (now_ms - under_way.since_ms < state.limits.make_room_ms_max) return;
  }
  const cheapest =
    cheapestRoom(state, sites, now_ms, isSpare) ??
    (isOverdue(state, model, now_ms) ? cheapestRoom(state, sites, now_ms, isMovable) : undefined);
  if (cheapest === undefined) {
    state.loads.delete(model);
    return;
  }
  const { site, workers } = cheapest;
  noteLoad(state, model, site, false, now_ms);
  for (const worker of workers) {
    if (worker.running.size === 0) evict(state, worker, `room for ${model}`, out);
    else makeWay(state, worker, model, out);
  }
}

/** Whether the model has had no room for so long that workers which are never idle make way for it; notes since when it has none. */
function isOverdue(state: State, model: string, now_ms: number): boolean {
  const since_ms = state.no_room_since_ms.get(model);
  if (since_ms === undefined) state.no_room_since_ms.set(model, now_ms);
  const { make_way_ms } = state.limits;
  return make_way_ms > 0 && now_ms - (since_ms ?? now_ms) >= make_way_ms;
}

/** Nothing new comes to it; when what runs there has ended, it is. */
function makeWay(state: State, worker: Worker, model: string, out: Decision[]): void {
  setDraining(state, worker, out);
  worker.makes_way_for = model;
}

/** Nobody wants its room any more. */
function stay(state: State, worker: Worker, now_ms: number, out: Decision[]): void {
  worker.makes_way_for = null;
  worker.draining = false;
  out.push({ type: "worker.resume", worker_id: worker.spec.id });
  const fleet = state.fleets.get(worker.spec.model);
  fleet?.count();
  fleet?.offer(worker);
  drain(state, worker.spec.model, now_ms, out);
}

function waysMadeFor(state: State, model: string): Worker[] {
  return [...state.workers.values()].filter(({ makes_way_for }) => makes_way_for === model);
}

function noteLoad(state: State, model: string, { pool, device, memory_bytes }: Site, began: boolean, now_ms: number): Load {
  const load = { model, pool_id: pool.id, device_id: device.id, memory_bytes, since_ms: now_ms, began };
  state.loads.set(model, load);
  return load;
}

/** The devices on which the model could stand: its pool has it on disk. */
function sitesOf(state: State, model: string): Site[] {
  return [...state.pools.values()].flatMap((pool) => {
    const memory_bytes = pool.models.get(model);
    if (memory_bytes === undefined) return [];
    return pool.devices.map((device) => ({ pool, device, memory_bytes, free_bytes: device.free_bytes - reserved(state, pool, device) }));
  });
}

/** The other model for which room is being made there: what has become free is for that one, or it would wait for ever for the rest. */
function clearedFor(state: State, model: string, { pool, device }: Site): string | undefined {
  for (const load of state.loads.values()) {
    if (!load.began && load.model !== model && load.pool_id === pool.id && load.device_id === device.id) return load.model;
  }
  return undefined;
}

/** Best first: the better device, then where it loads soonest, then where most stays free. */
function compared(state: State, model: string, a: Site, b: Site): number {
  const left = ({ free_bytes, memory_bytes }: Site) => free_bytes - memory_bytes;
  return a.device.preference - b.device.preference || loadMs(state, model, a) - loadMs(state, model, b) || left(b) - left(a);
}

/** What loads that have begun there since its last report will take. */
function reserved(state: State, pool: Pool, device: Device): number {
  let bytes = 0;
  for (const load of state.loads.values()) {
    if (load.began && load.pool_id === pool.id && load.device_id === device.id) bytes += load.memory_bytes;
  }
  return bytes;
}

interface Room {
  readonly site: Site;
  /** Those that would have to go. */
  readonly workers: readonly Worker[];
  readonly cost_ms: number;
}

type MayGo = (state: State, worker: Worker, now_ms: number) => boolean;

function cheapestRoom(state: State, sites: readonly Site[], now_ms: number, mayGo: MayGo): Room | undefined {
  return sites.flatMap((site) => roomAt(state, site, now_ms, mayGo) ?? []).sort((a, b) => a.cost_ms - b.cost_ms)[0];
}

/** Which workers would have to go so that the model fits; undefined when it would not even then. */
function roomAt(state: State, site: Site, now_ms: number, mayGo: MayGo): Room | undefined {
  const { pool, device } = site;
  const stands = ({ spec }: Worker) => spec.labels[POOL_LABEL] === pool.id && spec.labels[DEVICE_LABEL] === device.id;
  const spare = [...state.workers.values()].filter((worker) => stands(worker) && mayGo(state, worker, now_ms));
  // First those that cost least to bring back for how long nobody has wanted them; of busy ones those that have been there longest.
  spare.sort((a, b) => worth(state, b, now_ms) - worth(state, a, now_ms) || a.joined_at_ms - b.joined_at_ms);
  const workers: Worker[] = [];
  let missing = site.memory_bytes - site.free_bytes;
  let cost_ms = 0;
  for (const worker of spare) {
    if (missing <= 0) break;
    missing -= pool.models.get(worker.spec.model) ?? 0;
    cost_ms += loadMs(state, worker.spec.model, site);
    workers.push(worker);
  }
  return missing > 0 ? undefined : { site, workers, cost_ms };
}

/** Nothing runs there or waits for it, and it may make way. */
function isSpare(state: State, worker: Worker, now_ms: number): boolean {
  if (worker.running.size > 0 || !isMovable(state, worker, now_ms)) return false;
  for (const queue of state.queues.values()) if (queue.model === worker.spec.model) return false;
  return true;
}

/** Started this way, it has been there long enough, and no job waits for this very worker. */
function isMovable(state: State, { spec, draining, joined_at_ms }: Worker, now_ms: number): boolean {
  if (spec.labels[POOL_LABEL] === undefined || draining || now_ms - joined_at_ms < state.limits.residency_ms_min) return false;
  return !state.queues.has(pinKey(spec.id, spec.model));
}

/** Idle time over load time. */
function worth(state: State, { spec, running, idle_since_ms }: Worker, now_ms: number): number {
  if (running.size > 0) return 0;
  const site = { pool: { id: spec.labels[POOL_LABEL] ?? "" }, device: { id: spec.labels[DEVICE_LABEL] ?? "" } };
  return (now_ms - idle_since_ms) / loadMs(state, spec.model, site);
}

function evict(state: State, worker: Worker, reason: string, out: Decision[]): void {
  worker.makes_way_for = null;
  worker.draining = true;
  state.fleets.get(worker.spec.model)?.count();
  out.push({ type: "evict", worker_id: worker.spec.id, pool_id: worker.spec.labels[POOL_LABEL] ?? "", reason });
}

/** A load has ended: the worker has registered meanwhile, or it never will. */
export function loadEnded(state: State, model: string, error: string | null, now_ms: number): void {
  const load = state.loads.get(model);
  if (load === undefined) return;
  state.loads.delete(model);
  if (error === null) {
    takeMemory(state, load);
    state.load_ms.set(siteKey(model, load.pool_id, load.device_id), Math.max(1, now_ms - load.since_ms));
    state.load_failures.delete(model);
    return;
  }
  const failures = (state.load_failures.get(model)?.count ?? 0) + 1;
  const { load_backoff_ms, load_backoff_ms_max } = state.limits;
  state.load_failures.set(model, { count: failures, error });
  state.load_not_before_ms.set(model, now_ms + backoffMs(load_backoff_ms, failures - 1, load_backoff_ms_max));
}

/** What the loaded worker takes is not free any more, also before the pool says so itself. */
function takeMemory(state: State, { pool_id, device_id, memory_bytes }: Load): void {
  const pool = state.pools.get(pool_id);
  if (pool === undefined) return;
  const devices = pool.devices.map((device) =>
    device.id === device_id ? { ...device, free_bytes: device.free_bytes - memory_bytes } : device,
  );
  state.pools.set(pool_id, { ...pool, devices });
}

function loadMs(state: State, model: string, { pool, device }: { pool: { id: string }; device: { id: string } }): number {
  return state.load_ms.get(siteKey(model, pool.id, device.id)) ?? LOAD_MS_GUESS;
}

/** What the last load of that model there took; undefined when there was none. */
export function expectedLoadMs(state: State, { model, pool_id, device_id }: Load): number | undefined {
  return state.load_ms.get(siteKey(model, pool_id, device_id));
}

function siteKey(model: string, pool_id: string, device_id: string): string {
  return `${model} ${pool_id} ${device_id}`;
}

/** What a job for a model without a worker waits for, in words; undefined when nothing can be said. */
export function whyNotLoaded(state: State, model: string, now_ms: number): string | undefined {
  if (!state.limits.auto_spawn) return undefined;
  const load = state.loads.get(model);
  if (load?.began) return `${model} is being loaded in ${load.pool_id} (${load.device_id}), since ${now_ms - load.since_ms} ms.`;
  if (load !== undefined) {
    const until = waysMadeFor(state, model).map(({ spec, running }) => `${spec.id} has ended its ${running.size} jobs`);
    return `${model} will be loaded in ${load.pool_id} (${load.device_id}) as soon as ${until.length > 0 ? until.join(" and ") : "there is room"}.`;
  }
  const failed = state.load_failures.get(model);
  const again_ms = (state.load_not_before_ms.get(model) ?? 0) - now_ms;
  if (failed !== undefined && again_ms > 0) return `Loading ${model} failed (${failed.error}); it is tried again in ${again_ms} ms.`;
  const sites = sitesOf(state, model);
  if (sites.length === 0) return `No pool has ${model} on disk.`;
  const places = sites.map((site) => {
    const { pool, device, memory_bytes, free_bytes } = site;
    const other = clearedFor(state, model, site);
    const place = `${pool.id} (${device.id})`;
    return other === undefined
      ? `${place} has ${free_bytes} bytes free of ${memory_bytes} that it needs`
      : `${place} is being cleared for ${other}`;
  });
  const stays = `workers that are busy, or have been there for less than ${state.limits.residency_ms_min} ms, stay`;
  return `${model} fits nowhere now: ${places.join("; ")}; ${stays}${whenTheyGo(state, model, now_ms)}.`;
}

function whenTheyGo(state: State, model: string, now_ms: number): string {
  const { make_way_ms } = state.limits;
  if (make_way_ms === 0) return "";
  const left_ms = make_way_ms - (now_ms - (state.no_room_since_ms.get(model) ?? now_ms));
  return left_ms > 0 ? `; busy ones make way in ${left_ms} ms` : "; busy ones make way as soon as they may";
}
