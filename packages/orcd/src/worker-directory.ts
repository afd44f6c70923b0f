/** Where each registered worker is and what it said of itself; the link to it lives and ends with its registration. */
import type { Beat, RegisterWorker, WorkerView } from "@rbees/contracts/worker";
import type { State } from "@rbees/core/state";
import { authority } from "@rbees/kit/network";
import { wallTime } from "./clock.ts";
import { Link } from "./link.ts";
import type { ConnectionLimits } from "./worker-http/connections.ts";

interface Entry {
  registration: RegisterWorker;
  beat: Beat | undefined;
  origin: string;
  link: Link;
  registered_at_ms: number;
}

export function originOf({ host, port }: Pick<RegisterWorker, "host" | "port">): string {
  return `http://${authority(host, port)}`;
}

export class WorkerDirectory {
  readonly #limits: ConnectionLimits;
  readonly #entries = new Map<string, Entry>();

  constructor(limits: ConnectionLimits) {
    this.#limits = limits;
  }

  /** Once the core has admitted it, before any dispatch is carried out. A newer life gets a link of its own. */
  put(registration: RegisterWorker, now_ms: number): void {
    const { id, host, port } = registration;
    const origin = originOf({ host, port });
    const known = this.#entries.get(id);
    if (
      known !== undefined &&
      known.origin === origin &&
      known.registration.epoch === registration.epoch &&
      known.registration.model === registration.model
    ) {
      known.registration = registration;
      return;
    }
    if (known !== undefined) known.link.close();
    this.#entries.set(id, { registration, beat: undefined, origin, link: new Link(host, port, this.#limits), registered_at_ms: now_ms });
  }

  beat(worker_id: string, beat: Beat): void {
    const entry = this.#entries.get(worker_id);
    if (entry !== undefined) entry.beat = beat;
  }

  link(worker_id: string): Link | undefined {
    return this.#entries.get(worker_id)?.link;
  }

  /** Where the worker is; undefined when it is not registered. */
  origin(worker_id: string): string | undefined {
    return this.#entries.get(worker_id)?.origin;
  }

  /** Of the model that it serves; undefined when it does not say. */
  modelDigest(worker_id: string): string | undefined {
    return this.#entries.get(worker_id)?.registration.model_digest;
  }

  /** Forgets that life of the worker; a newer one that took its place stays. */
  remove(worker_id: string, epoch: number, model: string): void {
    const entry = this.#entries.get(worker_id);
    if (entry?.registration.epoch !== epoch || entry.registration.model !== model) return;
    entry.link.close();
    this.#entries.delete(worker_id);
  }

  views(state: State): WorkerView[] {
    return [...state.workers.keys()].flatMap((id) => this.view(state, id) ?? []);
  }

  view(state: State, worker_id: string): WorkerView | undefined {
    const worker = state.workers.get(worker_id);
    const entry = this.#entries.get(worker_id);
    if (worker === undefined || entry === undefined) return undefined;
    const { registration, beat, origin, registered_at_ms } = entry;
    return {
      worker_id,
      status: worker.draining ? "draining" : "ready",
      address: origin,
      model: registration.model,
      backend: registration.backend,
      device: registration.device,
      slots: registration.slots,
      jobs_running: worker.running.size,
      context_size: registration.context_size ?? null,
      memory_bytes: beat?.memory_bytes ?? registration.memory_bytes ?? null,
      tokens_per_second: beat?.tokens_per_second ?? null,
      region: registration.region ?? null,
      labels: registration.labels,
      version: registration.version,
      epoch: registration.epoch,
      registered_at: new Date(registered_at_ms).toISOString(),
      last_heartbeat_at: new Date(wallTime(worker.last_beat_ms)).toISOString(),
    };
  }

  /** The registration of a worker that serves the model, for what it says of the model. */
  serving(state: State, model: string): RegisterWorker[] {
    return [...state.workers.values()].flatMap(({ spec }) =>
      spec.model === model ? (this.#entries.get(spec.id)?.registration ?? []) : [],
    );
  }

  /** When the first of the present workers that serve the model joined. */
  servedSince(state: State, model: string): number | undefined {
    const since = [...state.workers.values()].flatMap(({ spec }) =>
      spec.model === model ? (this.#entries.get(spec.id)?.registered_at_ms ?? []) : [],
    );
    return since.length === 0 ? undefined : Math.min(...since);
  }

  close(): void {
    for (const { link } of this.#entries.values()) link.close();
    this.#entries.clear();
  }
}
