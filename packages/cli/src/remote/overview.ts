/** All pools side by side. They are asked at once, so a dead one costs its own timeout and no more. */
import { RbeesError } from "@rbees/contracts/errors";
import { PoolStatus } from "@rbees/contracts/pool";
import type { Context } from "../context.ts";
import { call, lastLine } from "./errand.ts";
import { address, readPools } from "./pools.ts";
import { targetOf } from "./target.ts";

export interface PoolLine {
  name: string;
  host: string;
  /** Null: it did not answer; `problem` says why. */
  status: PoolStatus | null;
  problem: string | null;
  ms: number;
}

export async function overview(context: Context, ms_max: number): Promise<{ pools: PoolLine[] }> {
  const pools = Object.entries(await readPools(context)).sort(([a], [b]) => a.localeCompare(b));
  return { pools: await Promise.all(pools.map(([name, pool]) => look(context, name, address(pool), ms_max))) };
}

async function look(context: Context, name: string, host: string, ms_max: number): Promise<PoolLine> {
  const began = performance.now();
  const late = AbortSignal.timeout(ms_max);
  const ms = () => Math.round(performance.now() - began);
  try {
    const within = { ...context, signal: AbortSignal.any([context.signal, late]) };
    const asked = call(within, await targetOf(context, name), ["status", "--json"], { connect_ms_max: ms_max, silent: true });
    const { out } = await Promise.race([asked, rejected(late)]);
    return { name, host, status: PoolStatus.parse(JSON.parse(lastLine(out))), problem: null, ms: ms() };
  } catch (error) {
    context.signal.throwIfAborted();
    if (late.aborted) return { name, host, status: null, problem: `no answer within ${ms_max / 1000} s`, ms: ms() };
    if (!(error instanceof RbeesError)) throw error;
    return { name, host, status: null, problem: error.message, ms: ms() };
  }
}

function rejected(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
}
