/** Where each registered worker is and what it said of itself; the link to it lives and ends with its registration. */

import type { Feature } from "@rbees/contracts/sets";
import type { Beat, RegisterWorker, WorkerView } from "@rbees/contracts/worker";
import type { State } from "@rbees/core/state";
import { wallTime } from "./clock.ts";
import { Link } from "./link.ts";
import { buildDigest } from "./model-build.ts";
import type { ConnectionLimits } from "./worker-http/connections.ts";
import type { Place } from "./worker-place.ts";

interface Entry {
  registration: RegisterWorker;
  beat: Beat | undefined;
  place: Place;
  /** Of its last heartbeat that said one. */
  beat_seq: number;
  link: Link;
  registered_at_ms: number;
}

export class WorkerDirectory {
  readonly #limits: ConnectionLimits;
  readonly #entries = new Map<string, Entry>();

  constructor(limits: ConnectionLimits) {
    this.#limits = limits;
  }

  /** Once the core has admitted it, before any dispatch is carried out. A newer life gets a link of its own. */
  put(registration: RegisterWorker, place: Place, now_ms: number): void {
    const { id, door } = registration;
    const known = this.#entries.get(id);
    if (
      known !== undefined &&
      known.place.origin === place.origin &&
      known.place.address === place.address &&
      known.registration.door === door &&
      known.registration.epoch === registration.epoch &&
      known.registration.model === registration.model
    ) {
      known.registration = registration;
      return;
    }
    if (known !== undefined) known.link.close();
    const link = new Link(place, door, this.#limits);
    this.#entries.set(id, { registration, beat: undefined, beat_seq: -1, place, link, registered_at_ms: now_ms });
  }

  /** Whether that heartbeat was heard before, of the life that is registered. */
  isOldBeat(worker_id: string, { epoch, seq }: Beat): boolean {
    const entry = this.#entries.get(worker_id);
    return entry?.registration.epoch === epoch && entry.beat_seq >= (seq ?? -1) && entry.beat_seq >= 0;
  }

  beat(worker_id: string, beat: Beat): void {
    const entry = this.#entries.get(worker_id);
    if (entry === undefined) return;
    entry.beat = beat;
    entry.beat_seq = beat.seq ?? entry.beat_seq;
  }

  link(worker_id: string): Link | undefined {
    return this.#entries.get(worker_id)?.link;
  }

  /** Where the worker is; undefined when it is not registered. */
  place(worker_id: string): Place | undefined {
    return this.#entries.get(worker_id)?.place;
  }

  /** What computes there, through that adapter; undefined when it is not registered. */
  build(worker_id: string, lora: string | undefined): { model_digest: string | undefined; engine: string | undefined } | undefined {
    const registration = this.#entries.get(worker_id)?.registration;
    return registration === undefined ? undefined : { model_digest: buildDigest(registration, lora), engine: registration.engine };
  }

  can(worker_id: string, feature: Feature): boolean {
    return this.#entries.get(worker_id)?.registration.features.includes(feature) === true;
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
    const { registration, beat, place, registered_at_ms } = entry;
    return {
      worker_id,
      status: worker.draining ? "draining" : "ready",
      address: place.origin,
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
      features: registration.features,
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
