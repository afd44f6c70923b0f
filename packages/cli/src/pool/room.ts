/** How much memory and disk this host has, and has left. */
import { mkdir, statfs } from "node:fs/promises";
import { totalmem } from "node:os";
import type { PoolStatus } from "@rbees/contracts/pool";

/** A container's limit counts before the machine's size. */
export function memory(): PoolStatus["memory"] {
  const limit = process.constrainedMemory();
  const total_bytes = limit > 0 && limit < totalmem() ? limit : totalmem();
  return { total_bytes, available_bytes: Math.min(total_bytes, process.availableMemory()) };
}

export async function diskOf(path: string): Promise<PoolStatus["disk"]> {
  await mkdir(path, { recursive: true });
  const { bsize, blocks, bavail } = await statfs(path);
  return { path, total_bytes: bsize * blocks, available_bytes: bsize * bavail };
}
