/** The routes of workers and models: register, heartbeat, leave, list, drain. */
import { RbeesError } from "@rbees/contracts/errors";
import type { orcdRoutes } from "@rbees/contracts/routes";
import type { Decision } from "@rbees/core/events";
import type { Handlers } from "@rbees/kit/http";
import { callBack } from "../call-back.ts";
import type { Loop } from "../loop.ts";
import type { WorkerDirectory } from "../worker-directory.ts";

type WorkerRoutes = Pick<typeof orcdRoutes, "registerWorker" | "beat" | "removeWorker" | "listWorkers" | "drainWorker" | "listModels">;

export function workerHandlers(loop: Loop, workers: WorkerDirectory, heartbeat_ms: number): Handlers<WorkerRoutes> {
  return {
    async registerWorker({ body, wants, who }) {
      const { id, epoch, model, slots, context_size, labels } = body;
      await callBack(body, workers.origin(id));
      const { decisions, done } = loop.send(
        {
          type: "worker.registered",
          spec: {
            id,
            epoch,
            model,
            slots,
            context_size: context_size ?? null,
            cache_tokens: context_size === undefined ? null : slots * context_size,
            labels,
          },
        },
        who,
      );
      if (!decisions.some(({ type }) => type === "worker.reject")) workers.put(body, Date.now());
      await done;
      checkNotRejected(decisions, id);
      return wants.json ? { json: { status: "OK", heartbeat_ms } } : { text: "OK" };
    },
    async beat({ params, body }) {
      const { epoch, draining, memory_free_bytes = null } = body;
      const { decisions, done } = loop.send({ type: "worker.beat", worker_id: params.id, epoch, draining, memory_free_bytes });
      checkNotRejected(decisions, params.id);
      workers.beat(params.id, body);
      await done;
      return { json: { status: "OK" } };
    },
    async removeWorker({ params, query, who }) {
      const { decisions, done } = loop.send({ type: "worker.left", worker_id: params.id, epoch: query.epoch ?? null }, who);
      await done;
      checkNotRejected(decisions, params.id);
      return { none: true };
    },
    listWorkers: () => ({ json: { workers: workers.views(loop.state) } }),
    async drainWorker({ params, query, who }) {
      const { decisions, done } = loop.send({ type: "worker.drained", worker_id: params.id, move: query.move === "true" }, who);
      await done;
      checkNotRejected(decisions, params.id);
      const view = workers.view(loop.state, params.id);
      if (view === undefined) throw unknownWorker(params.id);
      return { status: 202, json: view };
    },
    listModels() {
      const models = [...loop.state.models].sort().map((model) => {
        const serving = workers.serving(loop.state, model);
        const contexts = serving.flatMap(({ context_size }) => context_size ?? []);
        return {
          model,
          workers: serving.map(({ id }) => id),
          digest: serving.find(({ model_digest }) => model_digest !== undefined)?.model_digest ?? null,
          context_size: contexts.length > 0 ? Math.max(...contexts) : null,
        };
      });
      return { json: { models } };
    },
  };
}

function checkNotRejected(decisions: readonly Decision[], id: string): void {
  const rejected = decisions.find(
    (decision): decision is Extract<Decision, { type: "worker.reject" }> => decision.type === "worker.reject",
  );
  if (rejected === undefined) return;
  if (rejected.because === "unknown") throw unknownWorker(id);
  throw new RbeesError("CONFLICT", `A newer life of worker ${id.slice(0, 128)} is registered; this one is over.`);
}

function unknownWorker(id: string): RbeesError {
  return new RbeesError("NOT_FOUND", `No worker ${id.slice(0, 128)} is registered. A worker that is told so registers again.`);
}
