/** The orchestrator put together: the only wiring, called by `main` and by tests. */
import { join } from "node:path";
import { RbeesError } from "@rbees/contracts/errors";
import type { SubmitJob } from "@rbees/contracts/job";
import { orcdRoutes } from "@rbees/contracts/routes";
import { createState } from "@rbees/core/state";
import { serve } from "@rbees/kit/http";
import type { Log } from "@rbees/kit/log";
import { isLoopback } from "@rbees/kit/network";
import { jobHandlers, jobSpec } from "./api/jobs.ts";
import { systemHandlers } from "./api/system.ts";
import { workerHandlers } from "./api/workers.ts";
import type { OrcdConfig } from "./config.ts";
import { Deeds } from "./deeds.ts";
import { JobRegistry } from "./job-registry.ts";
import { Loop } from "./loop.ts";
import { OrcdMetrics } from "./metrics.ts";
import { openStore } from "./store/open.ts";
import type { Store } from "./store/port.ts";
import { WorkerDirectory } from "./worker-directory.ts";

export interface Orcd {
  readonly url: string;
  readonly port: number;
  /** Refuses new work, lets running jobs finish for `drain_ms`, then goes; what is left is recovered at the next start. */
  stop(): Promise<void>;
}

export interface OrcdPorts {
  readonly log: Log;
  /** The folder of the database. */
  readonly data_dir: string;
  /** Nothing can go on after this; the process should end and be started again. */
  readonly fatal: (error: unknown) => void;
}

export async function createOrcd(config: OrcdConfig, { log, data_dir, fatal }: OrcdPorts): Promise<Orcd> {
  if (!isLoopback(config.host) && !config.open_network) {
    throw new RbeesError(
      "INVALID_REQUEST",
      `Refusing to listen on ${config.host}: callers are not authenticated yet, so anyone who reaches it could use it. Keep --host 127.0.0.1 (reach it through an SSH tunnel), or say --open-network if the network itself is trusted.`,
    );
  }
  const store = await openStore(join(data_dir, "orcd.sqlite"));
  const recovered = await store.recover(Date.now());
  const metrics = new OrcdMetrics();
  const jobs = new JobRegistry(config);
  const workers = new WorkerDirectory(config);
  const loop: Loop = new Loop(createState(config, recovered.models), {
    store,
    jobOf: (id) => jobs.get(id),
    carryOut: (decision) => deeds.carryOut(decision),
    fatal,
  });
  const deeds = new Deeds({
    jobs,
    workers,
    metrics,
    log,
    attemptPrefilled: (job_id, attempt, worker_id) => void loop.send({ type: "attempt.prefilled", job_id, attempt, worker_id }),
    attemptEnded: (job_id, attempt, worker_id, outcome) =>
      void loop.send({ type: "attempt.ended", job_id, attempt, worker_id, outcome }).done.catch(() => {}),
  });
  metrics.watchQueue(loop.state);
  await note(store, "orchestrator.started", { recovered_jobs: recovered.jobs.length });
  await recoverJobs(recovered.jobs, jobs, loop);

  let stopping = false;
  const served = await serve(
    orcdRoutes,
    {
      ...jobHandlers({ ...config, loop, jobs, store, metrics, stopping: () => stopping }),
      ...workerHandlers(loop, workers, config.heartbeat_ms),
      ...systemHandlers(loop, metrics),
    },
    { ...config, log },
  );
  const ticks = setInterval(() => {
    jobs.sweep();
    void loop.send({ type: "tick" }).done.catch(() => {});
  }, config.tick_ms);
  log.info({ url: served.url, data_dir, recovered_jobs: recovered.jobs.length }, "ready");

  let stopped: Promise<void> | undefined;
  const stop = async () => {
    stopping = true;
    loop.send({ type: "halted" });
    await until(() => deeds.running === 0, config.drain_ms, config.tick_ms);
    clearInterval(ticks);
    loop.close();
    deeds.abortAll();
    await served.close(200);
    await note(store, "orchestrator.stopped", {});
    workers.close();
    await store.close();
  };
  return {
    url: served.url,
    port: served.port,
    stop() {
      stopped ??= stop();
      return stopped;
    },
  };
}

/** Jobs of an earlier life: those that ran begin anew, since nobody knows how far their text got. */
async function recoverJobs(rows: Awaited<ReturnType<Store["recover"]>>["jobs"], jobs: JobRegistry, loop: Loop): Promise<void> {
  for (const row of rows) {
    const request = JSON.parse(row.request) as SubmitJob & { seed: number };
    const { id, correlation_id, submitted_at_ms, attempt, spent, lives } = row;
    const job = jobs.add({ id, request, correlation_id, submitted_at_ms, lives, attempt });
    job.moved_because = "the orchestrator was restarted";
    await loop.send({ type: "job.recovered", spec: jobSpec(id, request, submitted_at_ms, loop.state.limits), attempt, spent }).done;
    job.stream.append({ type: "queued", job_id: id, position: 0 });
    // Said now and not when it runs again: it may be ended before that.
    if (attempt > 0) job.stream.append({ type: "restarted", reason: job.moved_because });
  }
}

function note(store: Store, kind: string, fields: Record<string, number | string>): Promise<void> {
  return store.commit([{ table: "audit", append: { at_ms: Date.now(), kind, fields } }]);
}

/** Waits for a condition that events bring about, looking every `every_ms`, for at most `ms_max`. */
async function until(met: () => boolean, ms_max: number, every_ms: number): Promise<void> {
  const deadline = performance.now() + ms_max;
  while (!met() && performance.now() < deadline) await new Promise((resolve) => setTimeout(resolve, every_ms));
}
