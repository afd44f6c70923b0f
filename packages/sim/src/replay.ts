/**
 * A trace on a fleet under one policy. What decides is the orchestrator's own core, told what it would be told in life: requests,
 * heartbeats, first tokens, ends. Nothing is drawn and no clock is read, so the same trace gives the same result.
 */

import type { Decision, Event } from "@rbees/core/events";
import { OUTPUT_TOKEN, PROMPT_TOKEN } from "@rbees/core/fairness";
import { Heap } from "@rbees/core/heap";
import type { PolicyName } from "@rbees/core/state";
import { createState, type JobSpec, LIMITS_OFF, type State } from "@rbees/core/state";
import { step } from "@rbees/core/step";
import type { Machine } from "./fleet.ts";
import { BLOCK_TOKENS, type Request } from "./trace.ts";
import { WorkerModel } from "./worker-model.ts";

/** What became of a request; times since the start of the trace. */
export interface Served {
  readonly request: Request;
  /** Sent to a worker. */
  sent_ms: number;
  first_ms: number;
  ended_ms: number;
  tokens_out: number;
}

export interface Replayed {
  readonly policy: PolicyName;
  readonly served: readonly Served[];
  readonly tenants: TenantGap;
  readonly workers: readonly Pick<WorkerModel, "machine" | "busy_ms" | "cached_tokens" | "computed_tokens">[];
}

/** How far apart the core let those drift who waited at the same time. */
export interface TenantGap {
  readonly count: number;
  /** The largest difference of what two tenants that both waited had got: computed prompt tokens, and generated ones at twice the price. */
  readonly gap_tokens: number;
  /** What it may be at most: twice the largest job for each slot (theorem 4.3 of the virtual token counter, arXiv 2401.00588). */
  readonly bound_tokens: number;
}

const MODEL = "model";
/** As a worker of rbees does by default. */
const HEARTBEAT_MS = 5000;
/** A cap such as callers set: the length of the answer is not known to whoever decides. */
const MAX_TOKENS = 4096;
/** Requests that end between two reports of how far it has come. */
const REPORT_EVERY = 200;

/** Yields how many requests have ended, every now and then, so that whoever drives it can do something else or stop. */
export function* replay(requests: readonly Request[], machines: readonly Machine[], policy: PolicyName): Generator<number, Replayed> {
  const state = createState({ ...LIMITS_OFF, worker_silence_ms_max: 4 * HEARTBEAT_MS, policy, prefix_block_tokens: BLOCK_TOKENS });
  const workers = new Map(machines.map((machine) => [machine.id, new WorkerModel(machine)]));
  const served = requests.map((request): Served => ({ request, sent_ms: NEVER, first_ms: NEVER, ended_ms: NEVER, tokens_out: 0 }));
  /** Workers by when they are due; an entry whose time is no longer the worker's is out of date. */
  const agenda = new Heap<WorkerModel>();
  const gap = new Gap(requests, machines);
  let ended = 0;
  let submitted = 0;
  let beat_ms = HEARTBEAT_MS;

  const send = (event: Event) => {
    for (const decision of step(state, event)) carryOut(decision, event.now_ms);
    gap.look(state);
  };
  const carryOut = (decision: Decision, now_ms: number) => {
    if (decision.type === "dispatch") {
      const number = Number(decision.job_id);
      const worker = workers.get(decision.worker_id) as WorkerModel;
      const one = served[number] as Served;
      one.sent_ms = now_ms;
      gap.sent(one.request);
      worker.take(number, one.request, now_ms);
      agenda.push(worker, worker.due_ms);
    } else if (!EXPECTED.has(decision.type)) {
      throw new Error(`In a pool where nothing fails the core decided: ${JSON.stringify(decision)}`);
    }
  };

  for (const { id, slots, cache_tokens } of machines) {
    send({
      now_ms: 0,
      type: "worker.registered",
      spec: {
        id,
        epoch: 1,
        model: MODEL,
        slots,
        context_size: null,
        cache_tokens,
        labels: {},
        features: [],
        backend: "cpu",
        areas: [],
        continues: true,
        trust: "open",
      },
    });
  }
  let reported = 0;
  while (ended < requests.length) {
    const due_ms = agenda.first?.key ?? NEVER;
    const arrival_ms = requests[submitted]?.at_ms ?? NEVER;
    if (due_ms <= arrival_ms && due_ms <= beat_ms) {
      const { value: worker, key: now_ms } = agenda.take() as { value: WorkerModel; key: number };
      if (worker.due_ms !== now_ms) continue;
      const signs = worker.advance();
      agenda.push(worker, worker.due_ms);
      for (const { kind, number } of signs) {
        const one = served[number] as Served;
        const attempt = { job_id: String(number), attempt: 1, worker_id: worker.machine.id };
        if (kind === "first token") {
          one.first_ms = now_ms;
          send({ now_ms, type: "attempt.prefilled", ...attempt });
        } else {
          one.ended_ms = now_ms;
          one.tokens_out = one.request.output_tokens;
          ended += 1;
          send({ now_ms, type: "attempt.ended", ...attempt, outcome: { kind: "done", tokens_out: one.tokens_out } });
        }
      }
    } else if (beat_ms <= arrival_ms) {
      for (const [worker_id, { free_tokens }] of workers) {
        send({ now_ms: beat_ms, type: "worker.beat", worker_id, epoch: 1, draining: false, memory_free_bytes: free_tokens });
      }
      // What answers have got so far matters between tenants alone.
      if (gap.count > 1) {
        for (const [worker_id, worker] of workers) {
          for (const { number, tokens_out } of worker.progress(beat_ms))
            send({ now_ms: beat_ms, type: "attempt.progressed", job_id: String(number), attempt: 1, worker_id, tokens_out });
        }
      }
      send({ now_ms: beat_ms, type: "tick" });
      beat_ms += HEARTBEAT_MS;
    } else {
      const request = requests[submitted] as Request;
      gap.arrived(request);
      send({ now_ms: arrival_ms, type: "job.submitted", spec: jobOf(submitted, request) });
      submitted += 1;
    }
    if (ended >= reported + REPORT_EVERY) {
      reported = ended;
      yield ended;
    }
  }
  return {
    policy,
    served,
    tenants: { count: gap.count, gap_tokens: Math.round(gap.widest_tokens), bound_tokens: gap.bound_tokens },
    workers: [...workers.values()],
  };
}

const NEVER = Number.POSITIVE_INFINITY;
const EXPECTED: ReadonlySet<Decision["type"]> = new Set(["accept", "dispatch", "settle", "worker.join"]);

/** Watches what tenants get that wait at the same time. */
class Gap {
  /** How many requests of each tenant wait. */
  readonly #waiting = new Map<string, number>();
  readonly bound_tokens: number;
  widest_tokens = 0;

  constructor(requests: readonly Request[], machines: readonly Machine[]) {
    let largest = 0;
    for (const request of requests) {
      this.#waiting.set(tenantOf(request), 0);
      largest = Math.max(largest, request.prompt_tokens * PROMPT_TOKEN + request.output_tokens * OUTPUT_TOKEN);
    }
    this.bound_tokens = 2 * largest * machines.reduce((sum, { slots }) => sum + slots, 0);
  }

  get count(): number {
    return this.#waiting.size;
  }

  arrived(request: Request): void {
    this.#count(request, 1);
  }

  sent(request: Request): void {
    this.#count(request, -1);
  }

  #count(request: Request, by: number): void {
    const tenant = tenantOf(request);
    this.#waiting.set(tenant, (this.#waiting.get(tenant) ?? 0) + by);
  }

  look({ shares }: State): void {
    if (this.count < 2) return;
    let [least, most] = [NEVER, -NEVER];
    for (const [tenant, waiting] of this.#waiting) {
      if (waiting === 0) continue;
      const service = shares.serviceOf(tenant);
      least = Math.min(least, service);
      most = Math.max(most, service);
    }
    this.widest_tokens = Math.max(this.widest_tokens, most - least);
  }
}

function tenantOf({ tenant = "trace" }: Request): string {
  return tenant;
}

function jobOf(number: number, request: Request): JobSpec {
  const { at_ms, prompt_tokens, prefix } = request;
  return {
    id: String(number),
    tenant: tenantOf(request),
    key: null,
    submitted_at_ms: at_ms,
    bytes: 0,
    model: MODEL,
    priority: "interactive",
    max_tokens: MAX_TOKENS,
    prompt_tokens,
    prompt_tokens_min: 1,
    prefix,
    labels: {},
    needs: [],
    demands: [],
    denied: null,
    metadata: {},
    fails_if_lost: false,
    restarts_if_lost: false,
    deadline_at_ms: null,
    pin: null,
    prefer: [],
    avoid: [],
  };
}

/** A whole replay in one go. */
export function replayed(requests: readonly Request[], machines: readonly Machine[], policy: PolicyName): Replayed {
  const going = replay(requests, machines, policy);
  for (;;) {
    const { done, value } = going.next();
    if (done) return value;
  }
}
