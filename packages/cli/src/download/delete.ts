/** `models delete`: never a file that was only registered, and none that a worker has mapped into its memory. */
import { rm } from "node:fs/promises";
import { dirname } from "node:path";
import { RbeesError } from "@rbees/contracts/errors";
import type { Context } from "../context.ts";
import { withLock } from "../local/lock.ts";
import { isAlive } from "../local/process-identity.ts";
import { canonical, catalogue, DEMO, modelsFolder, unregister } from "../pool/catalogue.ts";
import { readWorkers } from "../pool/worker-record.ts";
import { lockOf } from "./download.ts";

export async function deleteModel(context: Context, given: string, force: boolean): Promise<{ name: string; path: string; bytes: number }> {
  const name = canonical(given);
  const model = (await catalogue(context)).find((one) => one.name === name);
  if (model === undefined || model.path === null)
    throw new RbeesError("NOT_FOUND", `"${given}" is not on this host. \`rbees-pool models list\` shows what is.`);
  const folder = dirname(model.path);
  if (name === DEMO) throw new RbeesError("CONFLICT", `"${DEMO}" is the model that ships with rbees; it can't be deleted.`);
  if (model.files.length === 0 || dirname(folder) !== modelsFolder(context.home))
    throw new RbeesError(
      "CONFLICT",
      `"${name}" was not downloaded but registered: \`rbees-pool models unregister ${name}\` forgets it, and ${model.path} is yours to delete.`,
    );
  const users: string[] = [];
  for (const worker of await readWorkers(context.home))
    if (dirname(worker.model_path) === folder && (await isAlive(worker.process))) users.push(worker.worker_id);
  if (users.length > 0 && !force)
    throw new RbeesError(
      "CONFLICT",
      `${users.join(", ")} ${users.length === 1 ? "uses" : "use"} "${name}": stop the worker first (rbees-pool worker stop ${users[0]}), or add --force.`,
    );
  await withLock(lockOf(folder), { wait_ms_max: 0, what: `downloading ${name}` }, async () => {
    // First the name: whatever happens then, nobody finds half a model.
    await unregister(context, name);
    await rm(folder, { recursive: true, force: true });
  });
  return { name, path: model.path, bytes: model.bytes ?? 0 };
}
