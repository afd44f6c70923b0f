/** The routes of workers and models: register, heartbeat, leave, list, drain. */
import { RbeesError } from "@rbees/contracts/errors";
import { ORCHESTRATOR_SPEAKS, protocolMismatch } from "@rbees/contracts/protocol";
import { areasOf } from "@rbees/contracts/regions";
import type { orcdRoutes } from "@rbees/contracts/routes";
import { EXTERNAL_DIGEST } from "@rbees/contracts/sets";
import type { Decision } from "@rbees/core/events";
import type { Handlers } from "@rbees/kit/http";
import { VERSION } from "@rbees/kit/version";
import { callBack } from "../call-back.ts";
import { callerOf } from "../caller.ts";
import { modelsFor } from "../limits.ts";
import type { Loop } from "../loop.ts";
import type { WorkerCredentials } from "../worker-credentials.ts";
import type { WorkerDirectory } from "../worker-directory.ts";
import { placeOf } from "../worker-place.ts";
import { ONCE } from "./keys.ts";

type WorkerRoutes = Pick<
  typeof orcdRoutes,
  "registerWorker" | "beat" | "removeWorker" | "listWorkers" | "drainWorker" | "inviteWorker" | "expelWorker" | "listModels"
>;

export interface WorkerPorts {
  readonly loop: Loop;
  readonly workers: WorkerDirectory;
  readonly credentials: WorkerCredentials;
  readonly heartbeat_ms: number;
  readonly insecure_no_tls: boolean;
  /** Whom the certificates of workers are from. */
  readonly ca: string[] | undefined;
}

export function workerHandlers({ loop, workers, credentials, heartbeat_ms, insecure_no_tls, ca }: WorkerPorts): Handlers<WorkerRoutes> {
  return {
    async registerWorker({ body, wants, who, peer }) {
      const { id, epoch, model, slots, context_size, labels, features, backend } = body;
      const mismatch = protocolMismatch(body, { ...ORCHESTRATOR_SPEAKS, version: VERSION });
      if (mismatch !== undefined) throw mismatch;
      const { address: approved } = credentials.warrant(body, who);
      const place = await placeOf(body, peer, { approved, ca, insecure_no_tls });
      await callBack(body, place, workers.place(id));
      // Looked at again: the token may have been used meanwhile. From here on there is no waiting until it is used up.
      const warrant = credentials.warrant(body, who);
      const region = warrant.region ?? body.region;
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
            features,
            backend,
            areas: areasOf(region),
            continues: body.model_digest?.startsWith(EXTERNAL_DIGEST) !== true,
            trust: who === undefined ? "open" : "joined",
          },
        },
        who,
      );
      checkNotRejected(decisions, id);
      workers.put(region === undefined ? body : { ...body, region }, place, Date.now());
      await Promise.all([done, credentials.admit(body, warrant)]);
      return wants.json ? { json: { status: "OK", heartbeat_ms } } : { text: "OK" };
    },
    async beat({ params, body, who }) {
      credentials.checkSelf(who, params.id);
      if (workers.isOldBeat(params.id, body))
        throw new RbeesError("CONFLICT", `This heartbeat of worker ${params.id.slice(0, 128)} has been heard before, or a later one has.`);
      const { epoch, draining, memory_free_bytes = null } = body;
      const { decisions, done } = loop.send({ type: "worker.beat", worker_id: params.id, epoch, draining, memory_free_bytes });
      checkNotRejected(decisions, params.id);
      workers.beat(params.id, body);
      await done;
      return { json: { status: "OK" } };
    },
    async removeWorker({ params, query, who }) {
      credentials.checkSelf(who, params.id);
      const { decisions, done } = loop.ask({ type: "worker.left", worker_id: params.id, epoch: query.epoch ?? null }, who);
      await done;
      checkNotRejected(decisions, params.id);
      return { none: true };
    },
    listWorkers: () => ({ json: { workers: workers.views(loop.state), orchestrator_version: VERSION } }),
    async drainWorker({ params, query, who }) {
      const { decisions, done } = loop.ask({ type: "worker.drained", worker_id: params.id, move: query.move === "true" }, who);
      await done;
      checkNotRejected(decisions, params.id);
      const view = workers.view(loop.state, params.id);
      if (view === undefined) throw unknownWorker(params.id);
      return { status: 202, json: view };
    },
    inviteWorker: async ({ body, who }) => ({ status: 201, json: await credentials.invite(body, who), headers: ONCE }),
    async expelWorker({ params, who }) {
      const { done } = loop.send({ type: "worker.left", worker_id: params.id, epoch: null }, who);
      const [expelled] = await Promise.all([credentials.expel(params.id, who), done]);
      return { json: { worker_id: params.id, expelled } };
    },
    listModels(request) {
      const caller = callerOf(request);
      const shown = caller.everywhere ? [...loop.state.models].sort() : modelsFor(loop.state, caller);
      const models = shown.map((model) => {
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
