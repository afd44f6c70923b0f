/** `rbees pool register`, `unregister` and `list`. */
import { RbeesError } from "@rbees/contracts/errors";
import type { Context } from "../context.ts";
import { address, type Pool, poolName, readPools, removePool, writePool } from "./pools.ts";
import { type Check, examine } from "./probe.ts";
import { parseTarget, type Target } from "./target.ts";

export interface Registered {
  name: string;
  pool: Pool;
  ready: boolean;
  version: string | null;
  checks: Check[];
}

/** Registered is what can be entered; what it still lacks is said with the next step. */
export async function registerPool(context: Context, given: string, host: string, user: string | undefined): Promise<Registered> {
  const name = poolName(given);
  const parsed = parseTarget(host);
  if (parsed.here) throw new RbeesError("CONFLICT", "This machine needs no register: `rbees-pool` speaks for it, and --host localhost.");
  const target: Target = { ...parsed, name, user: user ?? parsed.user };
  context.progress(`looking at ${host}`);
  const { ready, version, checks } = await examine(context, target);
  context.progress(undefined);
  const pool = await writePool(context, name, {
    host: target.host,
    ...(target.user === undefined ? {} : { user: target.user }),
    ...(target.port === undefined ? {} : { port: target.port }),
  });
  return { name, pool, ready, version, checks };
}

export async function unregisterPool(context: Context, name: string): Promise<{ name: string; host: string }> {
  return { name, host: address(await removePool(context, name)) };
}

export async function listPools(context: Context): Promise<{ pools: (Pool & { name: string })[] }> {
  const pools = Object.entries(await readPools(context)).map(([name, pool]) => ({ name, ...pool }));
  return { pools: pools.sort((a, b) => a.name.localeCompare(b.name)) };
}
