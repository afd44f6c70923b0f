/** Deleting what was downloaded: never a file that was only registered, and none that a worker has mapped into its memory. */
import { readdir, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { RbeesError } from "@rbees/contracts/errors";
import type { PoolModel } from "@rbees/contracts/pool";
import { canonicalModel } from "@rbees/contracts/sets";
import { isDiskFull } from "@rbees/kit/system-refusal";
import type { Context } from "../context.ts";
import { withLock } from "../local/lock.ts";
import { isAlive } from "../local/process-identity.ts";
import { catalogue, DEMO, modelsFolder, unregister } from "../pool/catalogue.ts";
import { readWorkers } from "../pool/worker-record.ts";
import { readJournal } from "./journal.ts";

interface Deleted {
  name: string;
  /** What is free again. */
  bytes: number;
  /** Another name for the same files, which stay for it. */
  kept_for: string | null;
}

export async function deleteModel(context: Context, given: string, force: boolean): Promise<Deleted> {
  const name = canonicalModel(given);
  if (name === DEMO) throw new RbeesError("CONFLICT", `"${DEMO}" is the model that ships with rbees; it can't be deleted.`);
  const models = await catalogue(context);
  const model = models.find((one) => one.name === name);
  const unfinished = await deleteUnfinished(context, name);
  if (model === undefined || model.path === null) {
    if (unfinished > 0) return { name, bytes: unfinished, kept_for: null };
    throw new RbeesError("NOT_FOUND", `"${given}" is not on this host. \`rbees-pool models list\` shows what is.`);
  }
  const folder = dirname(model.path);
  if (!isDownload(context, model))
    throw new RbeesError(
      "CONFLICT",
      `"${name}" was not downloaded but registered: \`rbees-pool models unregister ${name}\` forgets it, and ${model.path} is yours to delete.`,
    );
  const [user] = await workersUsing(context, folder);
  if (user !== undefined && !force)
    throw new RbeesError("CONFLICT", `Worker ${user} uses "${name}": stop it first (rbees-pool worker stop ${user}), or add --force.`);
  const twin = models.find((one) => one.path === model.path && one.name !== name);
  const removeFiles = () => rm(folder, { recursive: true, force: true });
  await withLock(lockOf(folder), { wait_ms_max: 0, what: `downloading ${name}`, or_when_full: true }, async () => {
    try {
      // First the name: whatever happens then, nobody finds half a model.
      await unregister(context, name);
    } catch (error) {
      if (!isDiskFull(error) || twin !== undefined) throw error;
      // What has no room is the shorter list of names.
      await removeFiles();
      await unregister(context, name);
    }
    if (twin === undefined) await removeFiles();
  });
  return { name, bytes: unfinished + (twin === undefined ? (model.bytes ?? 0) : 0), kept_for: twin?.name ?? null };
}

/** After a name has got newer files: the older ones go, unless somebody still has a use for them. */
export async function deleteReplaced(context: Context, before: PoolModel | undefined): Promise<void> {
  if (before?.path == null || !isDownload(context, before)) return;
  const folder = dirname(before.path);
  const named = (await catalogue(context)).some(({ path }) => path === before.path);
  if (named || (await workersUsing(context, folder)).length > 0) return;
  await withLock(lockOf(folder), { wait_ms_max: 0, what: `downloading ${before.name}` }, () =>
    rm(folder, { recursive: true, force: true }),
  );
}

/** Beside the folder, so that whoever deletes the folder can hold it. */
export function lockOf(folder: string): string {
  return `${folder}.lock`;
}

function isDownload(context: Context, { path, files }: PoolModel): boolean {
  return path !== null && files.length > 0 && dirname(dirname(path)) === modelsFolder(context.home);
}

async function workersUsing(context: Context, folder: string): Promise<string[]> {
  const users: string[] = [];
  for (const { worker_id, model_path, process } of await readWorkers(context.home))
    if (dirname(model_path) === folder && (await isAlive(process))) users.push(worker_id);
  return users;
}

/** What broken downloads of this name have left; how many bytes that were. */
async function deleteUnfinished(context: Context, name: string): Promise<number> {
  let bytes = 0;
  for (const entry of await readdir(modelsFolder(context.home)).catch(() => [])) {
    const folder = join(modelsFolder(context.home), entry);
    const journals = (await readdir(folder).catch(() => [])).filter((file) => file.endsWith(".progress"));
    for (const file of journals) {
      const journal = await readJournal(join(folder, file.slice(0, -".progress".length)));
      if (journal?.head.name !== name) continue;
      bytes += journal.ranges.bytes;
      await withLock(lockOf(folder), { wait_ms_max: 0, what: `downloading ${name}`, or_when_full: true }, () =>
        rm(folder, { recursive: true, force: true }),
      );
    }
  }
  return bytes;
}
