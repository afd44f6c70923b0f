/** A core under test: events in, decisions out, and no invariant may break on the way. */
import assert from "node:assert/strict";
import type { AttemptOutcome, Decision, Event } from "../src/events.ts";
import { violations } from "../src/invariants.ts";
import { createState, type JobSpec, LIMITS_OFF, type Limits, type State, type WorkerSpec } from "../src/state.ts";
import { step } from "../src/step.ts";

export const LIMITS: Limits = {
  ...LIMITS_OFF,
  queue_jobs_max: 100,
  queue_bytes_max: 1_000_000,
  worker_silence_ms_max: 10_000,
};

/** What an event says apart from when. */
export type Said = Event extends infer Each ? (Each extends Event ? Omit<Each, "now_ms"> : never) : never;
export type Of<Type extends Decision["type"]> = Extract<Decision, { type: Type }>;

export class Core {
  readonly state: State;
  now_ms = 1_000_000;

  constructor(limits: Partial<Limits> = {}) {
    this.state = createState({ ...LIMITS, ...limits });
  }

  send(said: Said): Decision[] {
    const decisions = step(this.state, { ...said, now_ms: this.now_ms } as Event);
    assert.deepEqual(violations(this.state, this.now_ms), []);
    return decisions;
  }

  /** Lets time pass, and tells the core. */
  after(ms: number): Decision[] {
    this.now_ms += ms;
    return this.send({ type: "tick" });
  }

  worker(id: string, more: Partial<WorkerSpec> = {}): Decision[] {
    return this.send({
      type: "worker.registered",
      spec: {
        id,
        epoch: 1,
        model: "m",
        slots: 1,
        context_size: null,
        cache_tokens: null,
        labels: {},
        features: [],
        backend: "cpu",
        areas: [],
        continues: true,
        trust: "open",
        ...more,
      },
    });
  }

  /** Heartbeats of living workers, in their present epoch. */
  beats(...ids: string[]): Decision[] {
    return ids.flatMap((id) =>
      this.send({
        type: "worker.beat",
        worker_id: id,
        epoch: this.state.workers.get(id)?.spec.epoch ?? 0,
        draining: false,
        memory_free_bytes: null,
      }),
    );
  }

  spec(id: string, more: Partial<JobSpec> = {}): JobSpec {
    return {
      id,
      tenant: "t",
      key: null,
      model: "m",
      submitted_at_ms: this.now_ms,
      bytes: 100,
      priority: "interactive",
      max_tokens: 10,
      prompt_tokens: 10,
      prompt_tokens_min: 1,
      prefix: [],
      deadline_at_ms: null,
      pin: null,
      prefer: [],
      avoid: [],
      labels: {},
      needs: [],
      demands: [],
      denied: null,
      metadata: {},
      fails_if_lost: false,
      restarts_if_lost: false,
      ...more,
    };
  }

  submit(id: string, more: Partial<JobSpec> = {}): Decision[] {
    return this.send({ type: "job.submitted", spec: this.spec(id, more) });
  }

  cancel(job_id: string): Decision[] {
    return this.send({ type: "job.cancelled", job_id });
  }

  /** The end of the present attempt of a job, as its link reports it. */
  ends(job_id: string, outcome: AttemptOutcome = DONE): Decision[] {
    const job = this.state.jobs.get(job_id);
    assert.ok(job !== undefined && job.worker_id !== null, `job ${job_id} does not run`);
    return this.reports(job_id, job.attempt, job.worker_id, outcome);
  }

  /** Any report, also a late one. */
  reports(job_id: string, attempt: number, worker_id: string, outcome: AttemptOutcome = DONE): Decision[] {
    return this.send({ type: "attempt.ended", job_id, attempt, worker_id, outcome });
  }

  /** Where a job runs; null while it waits, undefined once it has ended. */
  at(job_id: string): string | null | undefined {
    return this.state.jobs.get(job_id)?.worker_id;
  }

  running(worker_id: string): string[] {
    return [...(this.state.workers.get(worker_id)?.running ?? [])];
  }
}

export const DONE: AttemptOutcome = { kind: "done", tokens_out: 10 };
export const LOST: AttemptOutcome = { kind: "lost", reason: "the connection broke", reached: true };
export const UNREACHED: AttemptOutcome = { kind: "lost", reason: "nothing listens at its address", reached: false };
export const REFUSED: AttemptOutcome = { kind: "refused", reason: "all slots are busy" };
export const FAILED: AttemptOutcome = { kind: "failed", code: "ENGINE_FAILED", message: "the engine broke", retriable: true };

export function only<Type extends Decision["type"]>(decisions: readonly Decision[], type: Type): Of<Type>[] {
  return decisions.filter((decision): decision is Of<Type> => decision.type === type);
}

/** The one decision of its type. */
export function the<Type extends Decision["type"]>(decisions: readonly Decision[], type: Type): Of<Type> {
  const [found, ...more] = only(decisions, type);
  assert.ok(found !== undefined, `no ${type} in ${JSON.stringify(decisions)}`);
  assert.equal(more.length, 0, `more than one ${type} in ${JSON.stringify(decisions)}`);
  return found;
}

/** `job→worker` for each dispatch, in order. */
export function dispatched(decisions: readonly Decision[]): string[] {
  return only(decisions, "dispatch").map(({ job_id, worker_id }) => `${job_id}→${worker_id}`);
}
