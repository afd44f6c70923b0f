/** What `rbees up` started, so that `rbees down` ends exactly that. */
import { existsSync } from "node:fs";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { RbeesError } from "@rbees/contracts/errors";
import type { Home } from "@rbees/kit/home";
import { z } from "zod";
import { readJson, writeJson } from "./json-file.ts";
import { ProcessIdentity } from "./process-identity.ts";

export const ORCHESTRATOR_PORT = 8080;

const UpRecord = z.object({
  /** Absent when `up` found an orchestrator that it did not start. */
  orchestrator: z
    .object({
      ...{ process: ProcessIdentity, url: z.string(), port: z.int(), log: z.string(), started_at: z.string() },
      /** What it was started with; absent in records of earlier versions. */
      listen: z.string().optional(),
      insecure_no_auth: z.boolean().optional(),
      insecure_no_tls: z.boolean().optional(),
    })
    .optional(),
  /** Its workers, by process: another worker may come to have the same id. */
  workers: z.array(z.object({ worker_id: z.string(), process: ProcessIdentity })),
});
export type UpRecord = z.infer<typeof UpRecord>;

function pathOf(home: Home): string {
  return join(home.state, "up.json");
}

export function upLock(home: Home): string {
  return join(home.state, "up.lock");
}

/** Undefined: nothing is up. Throws when the file is damaged, since then nobody knows. */
export async function readUp(home: Home): Promise<UpRecord | undefined> {
  const path = pathOf(home);
  const record = await readJson(path, UpRecord);
  if (record !== undefined || !existsSync(path)) return record;
  throw new RbeesError(
    "CONFLICT",
    `${path} is damaged, so nobody knows what \`rbees up\` started. End it by hand: \`rbees-pool worker stop-all\` for the workers of this machine, \`kill\` for the orchestrator (\`pgrep -f rbees-orcd\` shows its pid). Then remove that file.`,
  );
}

export async function writeUp(home: Home, record: UpRecord): Promise<void> {
  await writeJson(pathOf(home), record);
}

/** Whether this worker is one that `up` started. */
export function isOfUp({ workers }: UpRecord, worker: { worker_id: string; process: ProcessIdentity }): boolean {
  return workers.some(
    ({ worker_id, process }) =>
      worker_id === worker.worker_id && process.pid === worker.process.pid && process.started_ticks === worker.process.started_ticks,
  );
}

export async function removeUp(home: Home): Promise<void> {
  await rm(pathOf(home), { force: true });
}
