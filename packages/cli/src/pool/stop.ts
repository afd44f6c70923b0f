/** Stopping a worker: ask it to drain and end, then insist, then make it. Each step has its time. */
import { setTimeout as sleep } from "node:timers/promises";
import { RbeesError } from "@rbees/contracts/errors";
import type { Context } from "../context.ts";
import { ended, isAlive, type ProcessIdentity, signal } from "../local/process-identity.ts";
import { duration, plural } from "../look.ts";
import { countEvent } from "./counters.ts";
import { remember } from "./measured.ts";
import { forgetWorker, healthOf, type WorkerRecord, workerAt } from "./worker-record.ts";

/** A worker drains for at most 30 s. */
const DRAIN_MS_MAX = 35_000;
const TERM_MS_MAX = 5000;
/** The same for somebody who does not want to wait. */
const TERM_NOW_MS_MAX = 1500;
const KILL_MS_MAX = 5000;
const ASK_MS_MAX = 2000;
const LOOK_MS = 50;

export type StopWay = "drained" | "terminated" | "killed" | "dead";

export interface StopOptions {
  /** Don't wait for jobs that run. */
  now: boolean;
}

/** How it ended; `dead`: it had ended before. Its record is gone afterwards. */
export async function stopWorker(context: Context, record: WorkerRecord, { now }: StopOptions): Promise<StopWay> {
  const way = await endWorker(context, record, { now });
  if (record.unit !== null) await (await import("../local/systemd.ts")).dropUnit(record.unit);
  await forgetWorker(context.home, record.worker_id);
  return way;
}

/** The same, but its record stays: it is to be started again. */
export async function endWorker(context: Context, record: WorkerRecord, { now }: StopOptions): Promise<StopWay> {
  const health = await healthOf(context.home, record);
  if (health !== undefined) await remember(context.home, health, "stopping");
  const way = await end(context, record, now);
  context.progress(undefined);
  await countEvent(context.home, "worker_stops", way);
  return way;
}

async function end(context: Context, record: WorkerRecord, now: boolean): Promise<StopWay> {
  if (!(await isAlive(record.process))) {
    // systemd may be about to start it again.
    if (record.unit !== null) await (await import("../local/systemd.ts")).releaseUnit(record.unit);
    return "dead";
  }
  if (!now && (await askToDrain(context, record)) && (await drained(context, record))) return "drained";
  // Else systemd would start it again as soon as it was killed.
  if (record.unit !== null) await (await import("../local/systemd.ts")).releaseUnit(record.unit);
  return insist(record.process, `worker ${record.worker_id}`, now ? TERM_NOW_MS_MAX : TERM_MS_MAX);
}

/** SIGTERM, then SIGKILL. */
export async function insist(process: ProcessIdentity, what: string, term_ms_max = TERM_MS_MAX): Promise<StopWay> {
  await signal(process, "SIGTERM");
  if (await ended(process, term_ms_max)) return "terminated";
  await signal(process, "SIGKILL");
  if (await ended(process, KILL_MS_MAX)) return "killed";
  throw new RbeesError(
    "CONFLICT",
    `The process of ${what} (pid ${process.pid}) survived SIGKILL for ${duration(KILL_MS_MAX)}; the system holds it.`,
  );
}

async function askToDrain({ home }: Context, record: WorkerRecord): Promise<boolean> {
  // Another worker may have its port by now: only the one that is meant is asked.
  if ((await healthOf(home, record)) === undefined) return false;
  return workerAt(home, record)
    .call("shutdown", {}, { signal: AbortSignal.timeout(ASK_MS_MAX) })
    .then(
      () => true,
      () => false,
    );
}

async function drained(context: Context, record: WorkerRecord): Promise<boolean> {
  const began = performance.now();
  for (let looks = 0; await isAlive(record.process); looks += 1) {
    context.signal.throwIfAborted();
    const passed_ms = performance.now() - began;
    if (passed_ms > DRAIN_MS_MAX) return false;
    if (looks % 10 === 0) {
      const busy = (await healthOf(context.home, record))?.slots_busy;
      context.progress(
        `stopping ${record.worker_id}`,
        busy === undefined ? duration(passed_ms) : `${plural(busy, "job")} still running  ${duration(passed_ms)}`,
      );
    }
    await sleep(LOOK_MS, undefined, { signal: context.signal });
  }
  return true;
}
