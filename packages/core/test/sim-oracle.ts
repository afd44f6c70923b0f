/**
 * The oracle of the simulation: knows from events and decisions alone what must be true, keeps the rows that a database
 * would hold, and throws at the first decision that can't be right. It reads nothing of the core's own state.
 */

import type { Decision, Event } from "../src/events.ts";
import type { JobSpec, Limits, WorkerSpec } from "../src/state.ts";
import { attemptKey } from "../src/state.ts";
import { BARRED } from "./sim-rules.ts";

/** What the database holds of a job. */
export interface Row {
  readonly spec: JobSpec;
  status: "queued" | "running" | "ended";
  attempt: number;
  spent: number;
  /** The first token of the last attempt was heard of. */
  began: boolean;
  /** An attempt that went on with the answer, or began it, was lost. */
  lost: boolean;
}

interface KnownWorker {
  spec: WorkerSpec;
  draining: boolean;
  /** By itself or by an operator: for good. */
  drained_by_others: boolean;
  last_beat_ms: number;
  /** Attempts sent there whose end nobody has reported. */
  readonly ledger: Set<string>;
}

export class Oracle {
  readonly rows = new Map<string, Row>();
  readonly models = new Set<string>();
  readonly refused = new Map<string, string>();
  settled = 0;
  readonly #limits: Limits;
  readonly #workers = new Map<string, KnownWorker>();
  /** The current attempt of each job that runs. */
  readonly #current = new Map<string, { attempt: number; worker_id: string }>();
  readonly #cancelled = new Set<string>();
  /** How many jobs of a tenant may run at once, where that is limited. */
  readonly #running_max = new Map<string, number>();
  /** Where a tenant's jobs must stay. */
  readonly #residencies = new Map<string, string>();
  readonly #pools = new Map<string, readonly string[]>();
  /** Whose jobs rules keep from workers that don't say where they are. */
  #barred: string | undefined;
  #halted = false;

  constructor(limits: Limits) {
    this.#limits = limits;
  }

  /** One step: what went in and what came out. */
  step(event: Event, decisions: readonly Decision[]): void {
    const waited = this.#waiting();
    const current = event.type === "attempt.ended" ? this.#current.get(event.job_id) : undefined;
    const fenced = event.type === "attempt.ended" && (current?.attempt !== event.attempt || current.worker_id !== event.worker_id);
    this.#hear(event, decisions);
    for (const decision of decisions) this.#check(decision, event, fenced);
    if (event.type === "job.recovered" && event.ran && event.spec.fails_if_lost) {
      this.#must(
        this.rows.get(event.spec.id)?.status === "ended",
        `the recovery of ${event.spec.id}, which fails if lost, decided nothing`,
      );
    }
    if (event.type === "job.submitted") {
      this.#oneAnswer(event.spec.id, decisions);
      const moved_aside = decisions.filter(({ type }) => type === "requeue").length;
      const limit = Math.max(waited, this.#limits.queue_jobs_max) + moved_aside;
      this.#must(this.#waiting() <= limit, `${this.#waiting()} jobs wait after a submission, the limit is ${limit}`);
    }
    if (event.type === "attempt.ended" && !fenced) {
      const { job_id } = event;
      const answered = decisions.some(
        (decision) => (decision.type === "settle" || decision.type === "requeue") && decision.job_id === job_id,
      );
      this.#must(answered, `the end of the current attempt of ${job_id} decided nothing`);
    }
  }

  /** The process died: links and memory are gone, the rows stay. */
  crash(): void {
    this.#workers.clear();
    this.#current.clear();
    this.#residencies.clear();
    this.#pools.clear();
    this.#barred = undefined;
    this.#halted = false;
  }

  /** What a restart reads: those that ran first, each in order of submission. */
  unfinished(): Row[] {
    const open = [...this.rows.values()].filter(({ status }) => status !== "ended");
    return [...open.filter(({ status }) => status === "running"), ...open.filter(({ status }) => status === "queued")];
  }

  /** The rows after a restart: nothing runs any more. What fails by it is as it was until that is written down. */
  recovered(row: Row): void {
    if (!row.spec.fails_if_lost) row.status = "queued";
  }

  #waiting(): number {
    let waiting = 0;
    for (const { status } of this.rows.values()) if (status === "queued") waiting += 1;
    return waiting;
  }

  /** What the event itself tells, where the decisions did not turn it away. */
  #hear(event: Event, decisions: readonly Decision[]): void {
    const rejected = decisions.some(({ type }) => type === "worker.reject");
    if (event.type === "worker.beat" && !rejected) {
      const worker = this.#workers.get(event.worker_id);
      this.#must(worker !== undefined && worker.spec.epoch === event.epoch, `a beat of an unknown life of ${event.worker_id} was taken`);
      if (worker === undefined) return;
      worker.last_beat_ms = event.now_ms;
      worker.draining ||= event.draining;
      worker.drained_by_others ||= event.draining;
    }
    if (event.type === "worker.registered" && !rejected) {
      const known = this.#workers.get(event.spec.id);
      this.#must(known === undefined || known.spec.epoch <= event.spec.epoch, `an older life of ${event.spec.id} was registered`);
    }
    if (event.type === "worker.drained" && !rejected) {
      const worker = this.#workers.get(event.worker_id);
      if (worker !== undefined) worker.draining = worker.drained_by_others = true;
    }
    if (event.type === "attempt.ended") this.#workers.get(event.worker_id)?.ledger.delete(attemptKey(event.job_id, event.attempt));
    if (event.type === "job.cancelled") this.#cancelled.add(event.job_id);
    if (event.type === "halted") this.#halted = true;
    if (event.type === "quota.set" && event.level === "tenant") this.#running_max.set(event.id, event.limits.jobs_running_max);
    if (event.type === "tenant.set" && event.residency !== null) this.#residencies.set(event.tenant, event.residency);
    if (event.type === "tenant.set" && event.residency === null) this.#residencies.delete(event.tenant);
    if (event.type === "policy.set") this.#barred = BARRED;
    if (event.type === "pool.reported") this.#pools.set(event.pool.id, event.pool.areas);
    if (event.type === "attempt.prefilled") {
      const { job_id, attempt, worker_id } = event;
      const current = this.#current.get(job_id);
      const row = this.rows.get(job_id);
      if (row !== undefined && current?.attempt === attempt && current.worker_id === worker_id) row.began = true;
    }
  }

  #check(decision: Decision, event: Event, fenced: boolean): void {
    switch (decision.type) {
      case "accept":
        this.#must(
          event.type === "job.submitted" && event.spec.id === decision.job_id,
          `job ${decision.job_id} was accepted by a ${event.type}`,
        );
        if (event.type !== "job.submitted") return;
        this.#must(!this.rows.has(decision.job_id), `job ${decision.job_id} was accepted twice`);
        this.rows.set(decision.job_id, { spec: event.spec, status: "queued", attempt: 0, spent: 0, began: false, lost: false });
        return;
      case "refuse":
        this.#must(!this.rows.has(decision.job_id), `job ${decision.job_id} was refused after it was accepted`);
        if (decision.code === "QUEUE_FULL") this.#must((decision.retry_after_ms ?? 0) > 0, "QUEUE_FULL without a retry_after");
        this.refused.set(decision.job_id, decision.code);
        return;
      case "dispatch":
        return this.#dispatch(decision, event.now_ms);
      case "abort":
        return;
      case "requeue": {
        const row = this.#open(decision.job_id, "queued again");
        const current = this.#current.get(decision.job_id);
        const moved_aside = /^moved (aside|away)/.test(decision.reason);
        this.#must(
          !fenced || moved_aside || (event.type === "attempt.ended" && event.job_id !== decision.job_id),
          `a fenced report queued ${decision.job_id} again`,
        );
        this.#must(
          current?.attempt === decision.attempt,
          `attempt ${decision.attempt} of ${decision.job_id} was queued again and is not current`,
        );
        this.#must(
          decision.spent >= row.spent && decision.spent <= row.spent + 1,
          `${decision.job_id} spent ${decision.spent} after ${row.spent}`,
        );
        if (moved_aside) {
          const by_drain = event.type === "worker.drained" && event.move;
          this.#must(by_drain || (this.#limits.preempt_batch && row.spec.priority === "batch"), `${decision.job_id} was moved aside`);
          this.#must(decision.spent === row.spent, `${decision.job_id} was charged for being moved aside`);
        }
        const nothing_ran = event.type === "attempt.ended" && (event.outcome.kind === "refused" || event.outcome.kind === "aborted");
        if (row.began && !moved_aside && !nothing_ran) row.lost = true;
        this.#current.delete(decision.job_id);
        row.status = "queued";
        row.spent = decision.spent;
        return;
      }
      case "settle":
        return this.#settle(decision, event, fenced);
      case "worker.join": {
        if (event.type !== "worker.registered") return this.#must(false, `a worker joined by a ${event.type}`);
        const known = this.#workers.get(decision.worker_id);
        this.models.add(decision.model);
        this.#must(decision.again === (known !== undefined), `${decision.worker_id} joined ${decision.again ? "again" : "anew"}`);
        if (known !== undefined) Object.assign(known, { spec: event.spec, last_beat_ms: event.now_ms });
        else
          this.#workers.set(decision.worker_id, {
            spec: event.spec,
            draining: false,
            drained_by_others: false,
            last_beat_ms: event.now_ms,
            ledger: new Set(),
          });
        return;
      }
      case "worker.leave":
        this.#must(this.#workers.delete(decision.worker_id), `${decision.worker_id} left and was not there`);
        return;
      case "spawn": {
        const resident = decision.demands_key !== "";
        const served = [...this.#workers.values()].some(
          ({ spec, draining }) => spec.model === decision.model && !draining && (!resident || spec.areas.includes("EU")),
        );
        this.#must(!resident || this.#pools.get(decision.pool_id)?.includes("EU") === true, `a worker for the EU was started elsewhere`);
        return this.#must(this.#limits.auto_spawn && !served, `a worker was started for ${decision.model}, which is served`);
      }
      case "evict": {
        const worker = this.#workers.get(decision.worker_id);
        this.#must(worker !== undefined && worker.ledger.size === 0, `${decision.worker_id} was ended at work`);
        if (worker !== undefined) worker.draining = true;
        return;
      }
      case "worker.drain": {
        const worker = this.#workers.get(decision.worker_id);
        if (worker !== undefined) worker.draining = true;
        return;
      }
      case "worker.resume": {
        const worker = this.#workers.get(decision.worker_id);
        this.#must(worker?.draining === true && !worker.drained_by_others, `${decision.worker_id} gets work again, though it was drained`);
        if (worker !== undefined) worker.draining = false;
        return;
      }
      case "worker.reject":
        return;
    }
  }

  #dispatch({ job_id, attempt, worker_id }: Extract<Decision, { type: "dispatch" }>, now_ms: number): void {
    const row = this.#open(job_id, "dispatched");
    const { spec } = row;
    const worker = this.#workers.get(worker_id);
    const to = `${job_id} went to ${worker_id}`;
    this.#must(!this.#halted, `${to} after the halt`);
    this.#must(!this.#current.has(job_id), `two attempts of ${job_id} are current at once`);
    this.#must(attempt === row.attempt + 1, `attempt ${attempt} of ${job_id} follows attempt ${row.attempt}`);
    this.#must(row.spent < this.#limits.attempts_max, `${to} although its attempts are spent`);
    this.#must(!(spec.fails_if_lost && row.lost), `${to} although its answer was lost elsewhere`);
    if (worker === undefined) return this.#must(false, `${to}, which is not registered`);
    this.#must(worker.spec.model === spec.model, `${to}, which serves another model`);
    this.#must(!worker.draining, `${to}, which is draining`);
    this.#must(now_ms - worker.last_beat_ms <= this.#limits.worker_silence_ms_max, `${to}, which is silent`);
    this.#must(spec.pin === null || spec.pin === worker_id, `${to} and is pinned to ${spec.pin}`);
    this.#must(!spec.avoid.includes(worker_id), `${to}, which it avoids`);
    for (const [name, value] of Object.entries(spec.labels))
      this.#must(worker.spec.labels[name] === value, `${to}, whose ${name} is not ${value}`);
    for (const { feature } of spec.needs) this.#must(worker.spec.features.includes(feature), `${to}, which can't do ${feature}`);
    const area = this.#residencies.get(spec.tenant);
    this.#must(area === undefined || worker.spec.areas.includes(area), `${to}, which is outside ${area}`);
    this.#must(this.#barred !== spec.tenant || worker.spec.areas.length > 0, `${to}, which a rule bars`);
    const context = worker.spec.context_size ?? Number.POSITIVE_INFINITY;
    this.#must(spec.prompt_tokens_min + spec.max_tokens <= context, `${to}, whose context is too small`);
    const most = this.#running_max.get(spec.tenant) ?? 0;
    const run = [...this.#current.keys()].filter((id) => this.rows.get(id)?.spec.tenant === spec.tenant).length;
    this.#must(most === 0 || run < most, `${to}, and ${run} of its tenant's run already`);
    worker.ledger.add(attemptKey(job_id, attempt));
    this.#must(worker.ledger.size <= worker.spec.slots, `${worker_id} has ${worker.ledger.size} attempts in ${worker.spec.slots} slots`);
    this.#current.set(job_id, { attempt, worker_id });
    row.attempt = attempt;
    row.began = false;
    row.status = "running";
  }

  #settle({ job_id, status, code }: Extract<Decision, { type: "settle" }>, event: Event, fenced: boolean): void {
    const row = this.#open(job_id, "settled");
    if (event.type === "attempt.ended") {
      this.#must(!fenced && event.job_id === job_id, `${job_id} was settled by a report that is not of its current attempt`);
      this.#must(
        (status === "succeeded") === (event.outcome.kind === "done"),
        `${job_id} ${status} by an attempt that was ${event.outcome.kind}`,
      );
    } else this.#must(status !== "succeeded", `${job_id} succeeded by a ${event.type}`);
    if (status === "cancelled") this.#must(this.#cancelled.has(job_id), `${job_id} was cancelled by nobody`);
    if (code === "DEADLINE_EXCEEDED")
      this.#must(event.now_ms >= (row.spec.deadline_at_ms ?? Number.POSITIVE_INFINITY), `${job_id} ended before its deadline`);
    const { queue_full, queue_wait_ms_max, first_token_ms_max } = this.#limits;
    const waited_ms = event.now_ms - row.spec.submitted_at_ms;
    if (code === "DROPPED") {
      const rightly = event.type === "job.submitted" && queue_full === "drop-oldest-batch" && row.spec.priority === "batch";
      this.#must(rightly && row.status === "queued", `${job_id} was dropped`);
    }
    if (code === "QUEUE_TIMEOUT") this.#must(row.attempt === 0 && waited_ms >= queue_wait_ms_max, `${job_id} had not waited too long`);
    if (code === "FIRST_TOKEN_TIMEOUT") this.#must(waited_ms >= first_token_ms_max, `${job_id} could still have begun in time`);
    this.#current.delete(job_id);
    row.status = "ended";
    this.settled += 1;
  }

  #open(job_id: string, what: string): Row {
    const row = this.rows.get(job_id);
    if (row === undefined) throw new Error(`job ${job_id} was ${what} and never accepted`);
    this.#must(row.status !== "ended", `job ${job_id} was ${what} after it was settled`);
    return row;
  }

  #oneAnswer(job_id: string, decisions: readonly Decision[]): void {
    const answers = decisions.filter(({ type }) => type === "accept" || type === "refuse");
    this.#must(answers.length === 1, `the submission of ${job_id} got ${answers.length} answers`);
  }

  #must(holds: boolean, otherwise: string): void {
    if (!holds) throw new Error(otherwise);
  }
}
