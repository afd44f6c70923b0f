/** `rbees down`: ends what `rbees up` started and nothing else, also when part of it is dead. */
import type { Context } from "../context.ts";
import { orchestratorAt } from "../orchestrator.ts";
import { insist, stopWorker } from "../pool/stop.ts";
import { readWorkers } from "../pool/worker-record.ts";
import { withLock } from "./lock.ts";
import { isAlive } from "./process-identity.ts";
import { UP_LOCK_MS_MAX } from "./up.ts";
import { isOfUp, readUp, removeUp, upLock } from "./up-record.ts";

export interface DownReport {
  workers: { worker_id: string; ended: string }[];
  orchestrator: { url: string; ended: string } | null;
}

/** The orchestrator lets running jobs finish for 10 s and then needs a moment. */
const ORCHESTRATOR_TERM_MS_MAX = 20_000;
const DRAIN_MS_MAX = 2000;

/** Nothing was up: both parts of the report are empty. */
export async function down(context: Context, { now }: { now: boolean }): Promise<DownReport> {
  const options = { wait_ms_max: UP_LOCK_MS_MAX, what: "starting or stopping", or_when_full: true };
  return withLock(upLock(context.home), options, async () => {
    const record = await readUp(context.home);
    if (record === undefined) return { workers: [], orchestrator: null };
    const { orchestrator } = record;
    const records = (await readWorkers(context.home)).filter((worker) => isOfUp(record, worker));
    const workers = await Promise.all(
      records.map(async (worker) => {
        if (!now && orchestrator !== undefined) await drain(context, orchestrator.url, worker.worker_id);
        return { worker_id: worker.worker_id, ended: await stopWorker(context, worker, { now }) };
      }),
    );
    let ended = "dead";
    if (orchestrator !== undefined && (await isAlive(orchestrator.process))) {
      context.progress("stopping the orchestrator");
      ended = await insist(orchestrator.process, "the orchestrator", ORCHESTRATOR_TERM_MS_MAX);
    }
    await removeUp(context.home);
    return { workers, orchestrator: orchestrator === undefined ? null : { url: orchestrator.url, ended } };
  });
}

/** So that no job is sent to a worker that is about to end. Without an orchestrator nobody sends any. */
async function drain(context: Context, url: string, worker_id: string): Promise<void> {
  try {
    const orchestrator = orchestratorAt(context, url, { stop: new AbortController().signal, call_ms_max: DRAIN_MS_MAX });
    await orchestrator.call("drainWorker", { params: { id: worker_id } });
  } catch {
    // It ends all the same: what ran there goes on elsewhere or is told.
  }
}
