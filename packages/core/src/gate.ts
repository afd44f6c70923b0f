/**
 * What rules say of a job on a worker. They are read and evaluated outside; in here they are a function that is pure, so that whoever replays
 * the same events with the same function gets the same decisions.
 */
import type { JobSpec, State, Worker, WorkerSpec } from "./state.ts";

/** The rule that says no, and what it says. */
export interface Denied {
  readonly rule: string;
  readonly message: string;
}

export interface Verdict {
  readonly barred: Denied | null;
  /** The higher, the sooner; before any score. */
  readonly preference: number;
  /** Those that hold. */
  readonly rules: readonly string[];
}

/** Always the same for the same two; asked often. */
export type Gate = (job: JobSpec, worker: WorkerSpec) => Verdict;

export function barredBy({ gate }: State, job: JobSpec, worker: Worker): Denied | null {
  return gate === null ? null : gate(job, worker.spec).barred;
}

export function preferenceOf({ gate }: State, job: JobSpec, worker: Worker): number {
  return gate === null ? 0 : gate(job, worker.spec).preference;
}

export function denialOf({ rule, message }: Denied): string {
  return `The rule "${rule}" forbids it: ${message}`;
}
