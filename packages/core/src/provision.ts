/**
 * Having a worker started for a model that jobs wait for and nobody serves, and letting go of workers that nobody needs. A model is
 * loaded once, however many jobs wait for it; it goes where it fits, or where the least has to go for it. Only workers that were started
 * this way are ever ended, and only idle ones that have been there for a while: so two models don't push each other out in turns. One
 * that is never idle makes way after a time: it takes nothing new, and is ended when what runs there has ended.
 */
import { backoffMs } from "./backoff.ts";
import { type Demand, unmet, wantedOf } from "./demand.ts";
import { drain } from "./drain.ts";
import type { Decision } from "./events.ts";
import { depth } from "./queue.ts";
import { type Device, type Job, type Load, loadKey, type Pool, pinKey, type State, type Worker } from "./state.ts";
import { setDraining } from "./workers.ts";

/** The labels of a worker that was started this way: which pool it stands in, and on which of its devices. */
export const POOL_LABEL = "rbees.pool";
export const DEVICE_LABEL = "rbees.device";
/** How long a load is thought to take while none was measured. */
const LOAD_MS_GUESS = 10_000;

/** A model, and what those who wait for it demand of its worker: of jobs with the same demands one loads it for all. */
interface Want {
  readonly model: string;
  readonly demands: readonly Demand[];
  readonly demands_key: string;
  /** `loadKey` of these. */
  readonly key: string;
}

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
  const wants = new Map(wantsOf(state).map((want) => [want.key, want]));
  // Asked each time: whoever stays below serves its model again.
  const isOpen = (key: string) => {
    const want = wants.get(key);
    return want !== undefined && !isServed(state, want.model, want.demands);
  };
  for (const [key, { began }] of state.loads) {
    // Nobody waits any more, or somebody else has started one: the room is not needed.
    if (!began && !isOpen(key)) {
      state.loads.delete(key);
      for (const worker of waysMadeFor(state, key)) stay(state, worker, now_ms, out);
    }
  }
  for (const key of state.no_room_since_ms.keys()) if (!isOpen(key)) state.no_room_since_ms.delete(key);
  if (state.halted) return;
  for (const want of wants.values()) {
    if (isOpen(want.key) && otherLoadFor(state, want) === undefined) load(state, want, now_ms, out);
  }
}

/** What is waited for; of one model the most demanding first, since what serves them may serve the others too. */
function wantsOf(state: State): Want[] {
  return [...state.queues].flatMap(([key, queue]) => {
    const { model } = queue;
    if (key !== model) return [];
    return wantedOf(queue, depth(queue)).map(({ key: demands_key, demands }) => ({
      model,
      demands,
      demands_key,
      key: loadKey(model, demands_key),
    }));
  });
}

/** The load of its model that a job which waits for one gets. */
export function loadFor(state: State, { spec: { model }, demands, demands_key }: Job): Load | undefined {
  const key = loadKey(model, demands_key);
  return state.loads.get(key) ?? otherLoadFor(state, { model, demands, key });
}

/** A load of the model for others that will do for these too. */
function otherLoadFor(state: State, { model, demands, key }: Pick<Want, "model" | "demands" | "key">): Load | undefined {
  for (const [other, load] of state.loads) {
    if (other === key || load.model !== model) continue;
    const pool = state.pools.get(load.pool_id);
    const device = pool?.devices.find(({ id }) => id === load.device_id);
    if (pool !== undefined && device !== undefined && unmet(demands, started(pool, device)) === undefined) return load;
  }
  return undefined;
}

/** What a worker that is started there will say of itself. */
function started(pool: Pool, device: Device) {
  return { areas: pool.areas, backend: device.backend, labels: { [POOL_LABEL]: pool.id, [DEVICE_LABEL]: device.id } };
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

/** Somebody serves it, as is demanded, who is not about to go. */
export function isServed(state: State, model: string, demands: readonly Demand[]): boolean {
  for (const worker of state.fleets.get(model) ?? []) {
    if (!worker.draining && unmet(demands, worker.spec) === undefined) return true;
  }
  return false;
}

function load(state: State, want: Want, now_ms: number, out: Decision[]): void {
  const { model, demands_key, key } = want;
  const under_way = state.loads.get(key);
  if (under_way?.began || (state.load_not_before_ms.get(key) ?? 0) > now_ms) return;
  const sites = sitesOf(state, want).filter((site) => clearedFor(state, key, site) === undefined);
  const fitting = sites.filter(({ free_bytes, memory_bytes }) => free_bytes >= memory_bytes);
  const [best] = fitting.sort((a, b) => compared(state, model, a, b));
  if (best !== undefined) {
    for (const worker of waysMadeFor(state, key)) stay(state, worker, now_ms, out);
    const { pool_id, device_id } = noteLoad(state, want, best, true, now_ms);
    out.push({ type: "spawn", model, demands_key, pool_id, device_id, backend: best.device.backend });
    return;
  }
  if (under_way !== undefined) {
    const busy = waysMadeFor(state, key);
    for (const worker of busy.filter(({ running }) => running.size === 0)) evict(state, worker, `room for ${model}`, out);
    if (busy.length > 0) {
      state.loads.set(key, { ...under_way, since_ms: now_ms });
      return;
    }
    // Room is being made already: it shows in the pool's next report.
    if (now_ms - under_way.since_ms < state.limits.make_room_ms_max) return;
  }
  const cheapest =
    cheapestRoom(state, sites, now_ms, isSpare) ??
    (isOverdue(state, key, now_ms) ? cheapestRoom(state, sites, now_ms, isMovable) : undefined);
  if (cheapest === undefined) {
    state.loads.delete(key);
    return;
  }
  const { site, workers } = cheapest;
  noteLoad(state, want, site, false, now_ms);
  for (const worker of workers) {
    if (worker.running.size === 0) evict(state, worker, `room for ${model}`, out);
    else makeWay(state, worker, key, out);
  }
}

/** Whether the model has had no room for so long that workers which are never idle make way for it; notes since when it has none. */
function isOverdue(state: State, key: string, now_ms: number): boolean {
  const since_ms = state.no_room_since_ms.get(key);
  if (since_ms === undefined) state.no_room_since_ms.set(key, now_ms);
  const { make_way_ms } = state.limits;
  return make_way_ms > 0 && now_ms - (since_ms ?? now_ms) >= make_way_ms;
}

/** Nothing new comes to it; when what runs there has ended, it is. */
function makeWay(state: State, worker: Worker, key: string, out: Decision[]): void {
  setDraining(state, worker, out);
  worker.makes_way_for = key;
}

/** Nobody wants its room any more, or it can't be had. */
function stay(state: State, worker: Worker, now_ms: number, out: Decision[]): void {
  worker.makes_way_for = null;
  worker.draining = false;
  out.push({ type: "worker.resume", worker_id: worker.spec.id });
  const fleet = state.fleets.get(worker.spec.model);
  fleet?.count();
  fleet?.offer(worker);
  drain(state, worker.spec.model, now_ms, out);
}

export function waysMadeFor(state: State, key: string): Worker[] {
  return [...state.workers.values()].filter(({ makes_way_for }) => makes_way_for === key);
}

function noteLoad(state: State, want: Want, { pool, device, memory_bytes }: Site, began: boolean, now_ms: number): Load {
  const { model, demands_key, key } = want;
  const load = { model, demands_key, pool_id: pool.id, device_id: device.id, memory_bytes, since_ms: now_ms, began };
  state.loads.set(key, load);
  return load;
}

/** The devices on which the model could stand, as is demanded: its pool has it on disk. */
export function sitesOf(state: State, { model, demands }: Pick<Want, "model" | "demands">): Site[] {
  return [...state.pools.values()].flatMap((pool) => {
    const memory_bytes = pool.models.get(model);
    if (memory_bytes === undefined) return [];
    return pool.devices
      .filter((device) => unmet(demands, started(pool, device)) === undefined)
      .map((device) => ({ pool, device, memory_bytes, free_bytes: device.free_bytes - reserved(state, pool, device) }));
  });
}

/** The other load for which room is being made there: what has become free is for that one, or it would wait for ever for the rest. */
export function clearedFor(state: State, key: string, { pool, device }: Site): string | undefined {
  for (const [other, load] of state.loads) {
    if (!load.began && other !== key && load.pool_id === pool.id && load.device_id === device.id) return load.model;
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

/** Nothing runs there, nobody waits whom it may serve, and it may make way. */
function isSpare(state: State, worker: Worker, now_ms: number): boolean {
  if (worker.running.size > 0 || !isMovable(state, worker, now_ms)) return false;
  for (const queue of state.queues.values()) {
    if (queue.model !== worker.spec.model) continue;
    if (wantedOf(queue, depth(queue)).some(({ demands }) => unmet(demands, worker.spec) === undefined)) return false;
  }
  return true;
}

/** Started this way, it has been there long enough, and no job waits for this very worker. */
function isMovable(state: State, { spec, draining, joined_at_ms, stays_until_ms }: Worker, now_ms: number): boolean {
  if (spec.labels[POOL_LABEL] === undefined || draining || now_ms - joined_at_ms < state.limits.residency_ms_min) return false;
  if (now_ms < stays_until_ms) return false;
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
  worker.ending = true;
  state.fleets.get(worker.spec.model)?.count();
  out.push({ type: "evict", worker_id: worker.spec.id, pool_id: worker.spec.labels[POOL_LABEL] ?? "", reason });
}

/** It is still there, and would hold its memory for nothing: it gets work again, and is left alone for a while. */
export function evictFailed(state: State, worker_id: string, now_ms: number, out: Decision[]): void {
  const worker = state.workers.get(worker_id);
  if (worker === undefined || !worker.ending) return;
  worker.ending = false;
  worker.stays_until_ms = now_ms + state.limits.load_backoff_ms_max;
  stay(state, worker, now_ms, out);
}

/** A load has ended: the worker has registered meanwhile, or it never will. */
export function loadEnded(state: State, key: string, error: string | null, now_ms: number): void {
  const load = state.loads.get(key);
  if (load === undefined) return;
  state.loads.delete(key);
  if (error === null) {
    takeMemory(state, load);
    state.load_ms.set(siteKey(load.model, load.pool_id, load.device_id), Math.max(1, now_ms - load.since_ms));
    state.load_failures.delete(key);
    return;
  }
  const failures = (state.load_failures.get(key)?.count ?? 0) + 1;
  const { load_backoff_ms, load_backoff_ms_max } = state.limits;
  state.load_failures.set(key, { count: failures, error });
  state.load_not_before_ms.set(key, now_ms + backoffMs(load_backoff_ms, failures - 1, load_backoff_ms_max));
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
