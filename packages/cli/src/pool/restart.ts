/** Starting a worker again with what it was asked for: the same id, port and options. */
import { RbeesError } from "@rbees/contracts/errors";
import type { PoolWorker } from "@rbees/contracts/pool";
import type { Context } from "../context.ts";
import { withLock } from "../local/lock.ts";
import type { ProcessIdentity } from "../local/process-identity.ts";
import { isOfUp, readUp, upLock, writeUp } from "../local/up-record.ts";
import { requireBackend } from "./backends.ts";
import { isFile } from "./catalogue.ts";
import type { Handover } from "./handover.ts";
import { spawnWorker } from "./spawn.ts";
import type { SpawnRequest } from "./spawn-request.ts";
import { endWorker, type StopOptions, type StopWay } from "./stop.ts";
import { describeWorker, readWorkers, type WorkerRecord, writeWorker } from "./worker-record.ts";

const LOCK_MS_MAX = 60_000;

export interface Restarted extends PoolWorker {
  /** How its earlier life ended. */
  ended: StopWay;
}

/** What is other than before. */
export interface Changes {
  readonly request: Partial<SpawnRequest>;
  readonly handover: Handover;
}

/** What could make the start fail is looked at before anything is stopped. When it fails nonetheless, the record stays to try again. */
export async function restartWorker(context: Context, record: WorkerRecord, options: StopOptions, changes: Changes): Promise<Restarted> {
  const { home } = context;
  const { worker_id, port, request } = record;
  if (request === null) {
    throw new RbeesError(
      "CONFLICT",
      `Worker ${worker_id} was started by an earlier rbees, which did not keep its options. Stop it with \`rbees-pool worker stop ${worker_id}\` and spawn it again.`,
    );
  }
  await requireBackend(context, request.backend, request.gpu, request.engine);
  const { path } = request.model;
  if (request.engine !== "openai" && !(await isFile(path))) {
    throw new RbeesError(
      "MODEL_NOT_FOUND",
      `The model's file is gone from ${path}, so worker ${worker_id} could not start again; it is left as it is.`,
    );
  }
  await readUp(home);
  const ended = await endWorker(context, record, options);
  try {
    const again = { ...request, ...changes.request, name: worker_id, port };
    const started = await spawnWorker(context, again, {
      handover: changes.handover,
      onStarted: ({ process }) => replaceInUp(context, record, process),
      is_back: true,
    });
    return { ...(await describeWorker(home, started)), ended };
  } catch (error) {
    const taken = (await readWorkers(home)).some((other) => other.worker_id === worker_id);
    if (!taken) await writeWorker(home, record);
    throw error;
  }
}

/** A worker that `rbees up` started stays one that `rbees down` ends. */
async function replaceInUp({ home }: Context, { worker_id, process: before }: WorkerRecord, process: ProcessIdentity): Promise<void> {
  const now = await readUp(home);
  if (now === undefined || !isOfUp(now, { worker_id, process: before })) return;
  await withLock(upLock(home), { wait_ms_max: LOCK_MS_MAX, what: "starting or stopping" }, async () => {
    const up = await readUp(home);
    if (up === undefined) return;
    const others = up.workers.filter((worker) => !isOfUp({ workers: [worker] }, { worker_id, process: before }));
    await writeUp(home, { ...up, workers: [...others, { worker_id, process }] });
  });
}
