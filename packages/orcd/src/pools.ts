/**
 * The machines on which workers can be started. The orchestrator's hand there is the operator's own command line, `rbees pool … --host`:
 * it knows the way (this machine, or SSH), and what it does can be done by hand as well. Asked now and then what is free; told what
 * the core decided.
 */
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { RbeesError } from "@rbees/contracts/errors";
import { PoolStatus } from "@rbees/contracts/pool";
import { areasOf, regionProblem } from "@rbees/contracts/regions";
import type { Decision } from "@rbees/core/events";
import { DEVICE_LABEL, POOL_LABEL } from "@rbees/core/provision";
import type { Device, Pool } from "@rbees/core/state";
import type { Log } from "@rbees/kit/log";
import { callPool } from "./pool-call.ts";

export interface PoolLimits {
  /** Name of each pool, and what `rbees pool --host` calls its machine. */
  readonly pools: Readonly<Record<string, string>>;
  /** Where they stand; of a pool that is not named here it is not known. */
  readonly pool_regions: Readonly<Record<string, string>>;
  readonly pool_refresh_ms: number;
  readonly pool_call_ms_max: number;
  readonly spawn_ms_max: number;
}

export interface PoolPorts {
  readonly log: Log;
  /** Where the workers register. */
  readonly url: () => string;
  readonly reported: (pool: Pool) => void;
  readonly lost: (pool_id: string) => void;
  readonly loadEnded: (model: string, demands_key: string, error: string | null) => void;
  readonly evictFailed: (worker_id: string) => void;
  /** With which the worker may register; undefined where nobody is asked. */
  readonly joinToken: (pool_id: string) => Promise<string | undefined>;
}

const STOP_TRIES = 3;
/** What a model is thought to take where its header was not read: the file, and something for context and engine. */
const MEMORY_GUESS = { times: 1.2, plus_bytes: 314_572_800 };
const PREFERENCE: Readonly<Record<string, number>> = { cuda: 0, metal: 0, cpu: 1 };

export class Pools {
  readonly #limits: PoolLimits;
  readonly #ports: PoolPorts;
  readonly #program: readonly string[];
  readonly #stopped = new AbortController();
  readonly #asking = new Set<string>();
  /** How much of each model that is being loaded is in memory. */
  readonly #loaded = new Map<string, number>();
  #refresh: NodeJS.Timeout | undefined;

  constructor(limits: PoolLimits, ports: PoolPorts) {
    this.#limits = limits;
    this.#ports = ports;
    this.#program = rbeesProgram(import.meta.url);
  }

  start(): void {
    if (Object.keys(this.#limits.pools).length === 0) return;
    this.#refresh = setInterval(() => this.#askAll(), this.#limits.pool_refresh_ms);
    this.#askAll();
  }

  /** Commands under way end in good order: a worker that one was starting ends too. */
  stop(): void {
    clearInterval(this.#refresh);
    this.#stopped.abort();
  }

  /** How much of a model that is being loaded is in memory, 0 to 1; undefined while its worker has not said. */
  shareLoaded(model: string): number | undefined {
    return this.#loaded.get(model);
  }

  async spawn({ model, demands_key, pool_id, device_id, backend }: Extract<Decision, { type: "spawn" }>): Promise<void> {
    const { log, url, loadEnded, joinToken } = this.#ports;
    const gpu = /^\D+(\d+)$/.exec(device_id)?.[1];
    const labels = `${POOL_LABEL}=${pool_id},${DEVICE_LABEL}=${device_id}`;
    const region = this.#limits.pool_regions[pool_id];
    const place = [...(gpu === undefined ? [] : ["--gpu", gpu]), ...(region === undefined ? [] : ["--region", region])];
    const flags = ["--model", model, "--labels", labels, "--orchestrator", url(), ...place];
    log.info({ model, pool: pool_id, device: device_id }, "starting a worker");
    try {
      const join_token = await joinToken(pool_id);
      const handover = join_token === undefined ? undefined : JSON.stringify({ join_token });
      const words = ["worker", "spawn", backend, ...flags, ...(handover === undefined ? [] : ["--handover"])];
      await this.#call(pool_id, words, this.#limits.spawn_ms_max, handover, (share) => this.#loaded.set(model, share));
      loadEnded(model, demands_key, null);
    } catch (error) {
      log.warn({ model, pool: pool_id, reason: messageOf(error) }, "the worker did not start");
      loadEnded(model, demands_key, messageOf(error));
    } finally {
      this.#loaded.delete(model);
    }
    void this.#ask(pool_id);
  }

  async evict({ worker_id, pool_id, reason }: Extract<Decision, { type: "evict" }>): Promise<void> {
    const { log, evictFailed } = this.#ports;
    log.info({ worker_id, pool: pool_id, reason }, "ending a worker");
    for (let tries = 1; !this.#stopped.signal.aborted; tries += 1) {
      try {
        await this.#call(pool_id, ["worker", "stop", worker_id], this.#limits.pool_call_ms_max * 2);
        break;
      } catch (error) {
        log.warn({ worker_id, pool: pool_id, tries, reason: messageOf(error) }, "the worker could not be ended");
        if (tries === STOP_TRIES) return evictFailed(worker_id);
      }
    }
    void this.#ask(pool_id);
  }

  #askAll(): void {
    for (const pool_id of Object.keys(this.#limits.pools)) void this.#ask(pool_id);
  }

  /** One question at a time to each. */
  async #ask(pool_id: string): Promise<void> {
    if (this.#asking.has(pool_id) || this.#stopped.signal.aborted) return;
    this.#asking.add(pool_id);
    const { log, reported, lost } = this.#ports;
    try {
      const out = await this.#call(pool_id, ["status"], this.#limits.pool_call_ms_max);
      reported(poolOf(pool_id, this.#limits.pool_regions[pool_id], PoolStatus.parse(JSON.parse(out))));
    } catch (error) {
      if (this.#stopped.signal.aborted) return;
      log.warn({ pool: pool_id, reason: messageOf(error) }, "the pool did not answer");
      lost(pool_id);
    } finally {
      this.#asking.delete(pool_id);
    }
  }

  #call(pool_id: string, words: readonly string[], ms_max: number, handover?: string, onShare?: (share: number) => void): Promise<string> {
    const host = this.#limits.pools[pool_id];
    if (host === undefined) return Promise.reject(new Error(`there is no pool ${pool_id} in the settings`));
    const command = [...this.#program, "pool", ...words, "--host", host, "--json"];
    return callPool(command, { ms_max, signal: this.#stopped.signal, handover, onShare });
  }
}

/** Throws everything that is wrong with the regions in the settings. */
export function checkRegions({ pools, pool_regions }: Pick<PoolLimits, "pools" | "pool_regions">): void {
  const problems = Object.entries(pool_regions).flatMap(([pool, region]) => {
    const problem = regionProblem(region);
    return [
      ...(Object.hasOwn(pools, pool) ? [] : [`there is no pool ${pool} in pools`]),
      ...(problem === undefined ? [] : [`the region of ${pool} ${problem}`]),
    ];
  });
  if (problems.length > 0) throw new RbeesError("INVALID_REQUEST", `pool_regions: ${problems.join("; ")}.`);
}

/** A pool as the core sees it. */
function poolOf(id: string, region: string | undefined, { memory, backends, models, workers }: PoolStatus): Pool {
  const devices = backends
    .filter(({ works }) => works)
    .flatMap(({ backend, devices: found }): Device[] => {
      const preference = PREFERENCE[backend] ?? 1;
      if (backend !== "cuda") return [{ id: backend, backend, preference, free_bytes: memory.available_bytes }];
      const held = workers.filter((worker) => worker.backend === backend).reduce((sum, worker) => sum + (worker.memory_bytes ?? 0), 0);
      return found.map(({ index, memory_bytes }) => ({
        id: `${backend}${index}`,
        backend,
        preference,
        // Which GPU a worker stands on is not told: of several, each is thought to hold its share.
        free_bytes: Math.max(0, (memory_bytes ?? 0) - held / found.length),
      }));
    });
  const needs = models.map(({ name, bytes, needed_bytes }): [string, number] => [
    name,
    needed_bytes ?? Math.ceil((bytes ?? 0) * MEMORY_GUESS.times + MEMORY_GUESS.plus_bytes),
  ]);
  return { id, areas: areasOf(region), devices, models: new Map(needs) };
}

/** The operator's command line: beside this program's sources in a checkout, beside its bundle in a release. */
function rbeesProgram(from: string): string[] {
  const here = dirname(fileURLToPath(from));
  const source = join(here, "../../cli/src/rbees.ts");
  return [process.execPath, from.endsWith(".ts") && existsSync(source) ? source : join(here, "rbees.mjs")];
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
