/**
 * The loop: the one holder of the core's state. An event goes through `step`; what it decided is written down in one
 * transaction; only then is it carried out, in the order in which it was decided. A failed transaction ends the process:
 * the rows are the truth, and the next start recovers from them.
 */

import type { Decision, Event } from "@rbees/core/events";
import type { State } from "@rbees/core/state";
import { step } from "@rbees/core/step";
import type { ActiveJob } from "./active-job.ts";
import { coreNow } from "./clock.ts";
import { changesOf } from "./record.ts";
import { shuttingDown } from "./shutting-down.ts";
import type { Change, Store } from "./store/port.ts";

export interface LoopPorts {
  readonly store: Store;
  readonly jobOf: (job_id: string) => ActiveJob | undefined;
  readonly carryOut: (decision: Decision) => void;
  /** The store refused: nothing of this can be undone, so the process has to end. */
  readonly fatal: (error: unknown) => void;
}

type WithoutTime = Event extends infer Each ? (Each extends Event ? Omit<Each, "now_ms"> : never) : never;

export interface Sent {
  readonly decisions: readonly Decision[];
  /** Resolves when the decisions are durable and have been carried out. */
  readonly done: Promise<void>;
}

const NOTHING: Sent = { decisions: [], done: Promise.resolve() };

export class Loop {
  readonly state: State;
  readonly #ports: LoopPorts;
  #closed = false;

  constructor(state: State, ports: LoopPorts) {
    this.state = state;
    this.#ports = ports;
  }

  /** `who`: the key whose request this is, for the record. */
  send(event: WithoutTime, who?: string): Sent {
    if (this.#closed) return NOTHING;
    const decisions = step(this.state, { ...event, now_ms: coreNow() } as Event);
    if (decisions.length === 0) return NOTHING;
    const ended = event.type === "attempt.ended" ? { job_id: event.job_id, outcome: event.outcome.kind } : undefined;
    const changes = changesOf(decisions, this.#ports.jobOf, { now_ms: Date.now(), who, ended });
    for (const decision of decisions) {
      const job = decision.type === "settle" ? this.#ports.jobOf(decision.job_id) : undefined;
      if (job !== undefined) job.decided = true;
    }
    return { decisions, done: changes.length === 0 ? this.#now(decisions) : this.#after(changes, decisions) };
  }

  /** The same for somebody who is told that it is done: when nothing is decided any more, they are told to come again. */
  ask(event: WithoutTime, who: string | undefined): Sent {
    if (this.#closed) throw shuttingDown();
    return this.send(event, who);
  }

  async #now(decisions: readonly Decision[]): Promise<void> {
    for (const decision of decisions) this.#ports.carryOut(decision);
  }

  async #after(changes: Change[], decisions: readonly Decision[]): Promise<void> {
    try {
      await this.#ports.store.commit(changes);
    } catch (error) {
      this.#closed = true;
      this.#ports.fatal(error);
      throw error;
    }
    if (this.#closed) return;
    for (const decision of decisions) this.#ports.carryOut(decision);
  }

  /** From now on events change nothing: what ran is recovered at the next start. */
  close(): void {
    this.#closed = true;
  }
}
