/** The operator's pools by name: which machine each is. One JSON file in the configuration folder. */
import { join } from "node:path";
import { RbeesError } from "@rbees/contracts/errors";
import { z } from "zod";
import type { World } from "../context.ts";
import { type SharedFile, sharedFile } from "../local/json-file.ts";

const Pool = z.object({
  host: z.string(),
  user: z.string().optional(),
  port: z.int().optional(),
  registered_at: z.string(),
});
export type Pool = z.infer<typeof Pool>;
const PoolsFile = z.object({ version: z.literal(1), pools: z.record(z.string(), Pool) });
type PoolsFile = z.infer<typeof PoolsFile>;

function file(world: World): SharedFile<PoolsFile> {
  return sharedFile<PoolsFile>(join(world.home.config, "pools.json"), PoolsFile, () => ({ version: 1, pools: {} }), world.io.say);
}

export async function readPools(world: World): Promise<Record<string, Pool>> {
  return (await file(world).read()).pools;
}

export function poolName(given: string): string {
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/.test(given))
    throw new RbeesError("INVALID_REQUEST", `"${given}" can't be a pool's name: use letters, digits and . _ -`);
  if (given === "localhost") throw new RbeesError("CONFLICT", '"localhost" is always this machine; choose another name.');
  return given;
}

export async function writePool(world: World, name: string, pool: Omit<Pool, "registered_at">): Promise<Pool> {
  const registered = { ...pool, registered_at: new Date().toISOString() };
  await file(world).update((now) => ({ ...now, pools: { ...now.pools, [name]: registered } }));
  return registered;
}

export async function removePool(world: World, name: string): Promise<Pool> {
  let removed: Pool | undefined;
  await file(world).update((now) => {
    const { [name]: gone, ...pools } = now.pools;
    if (gone === undefined) throw new RbeesError("NOT_FOUND", `No pool is registered as "${name}". \`rbees pool list\` shows which are.`);
    removed = gone;
    return { ...now, pools };
  });
  return removed as Pool;
}

/** As `--host` takes it. */
export function address({ host, user, port }: Pool): string {
  return `${user === undefined ? "" : `${user}@`}${host.includes(":") ? `[${host}]` : host}${port === undefined ? "" : `:${port}`}`;
}
