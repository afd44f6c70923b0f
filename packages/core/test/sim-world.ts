/**
 * A seeded world around the core: clients, a network that lags and repeats itself, workers that die, refuse, drain and come
 * back, a clock that jumps, an orchestrator that crashes between any two acts and recovers from the oracle's rows. After the
 * storm the world is healed, and then everything that was accepted must settle.
 */

import { Random } from "../../../test/support/random.ts";
import type { AttemptOutcome, Decision, Event } from "../src/events.ts";
import { violations } from "../src/invariants.ts";
import { DEVICE_LABEL, POOL_LABEL } from "../src/provision.ts";
import { NO_LIMITS, type QuotaLimits } from "../src/quota.ts";
import {
  createState,
  type JobSpec,
  LIMITS_OFF,
  type Limits,
  POLICIES,
  QUEUE_FULL_RULES,
  type State,
  type WorkerSpec,
} from "../src/state.ts";
import { step } from "../src/step.ts";
import { Oracle } from "./sim-oracle.ts";
import { BARRED, RULES } from "./sim-rules.ts";
import { DONE, type Said } from "./support.ts";

export type Step = typeof step;

const LIMITS: Limits = {
  ...LIMITS_OFF,
  queue_jobs_max: 8,
  queue_bytes_max: 2000,
  attempts_max: 4,
  worker_silence_ms_max: 3000,
  worker_inhibit_ms: 300,
  breaker_failures: 3,
  breaker_open_ms: 200,
  breaker_open_ms_max: 2000,
  service_ms_guess: 1000,
  prefix_block_tokens: 4,
};
/** Tight enough to be felt by a hundred jobs in half a minute, and wide enough for all of them to end. */
const QUOTAS: readonly (readonly [level: "tenant" | "key", id: string, tenant: string, limits: QuotaLimits])[] = [
  ["tenant", "t0", "t0", { ...NO_LIMITS, jobs_running_max: 1, jobs_queued_max: 20, tokens_per_minute_max: 3000, over_limit: "queue" }],
  ["tenant", "t1", "t1", { ...NO_LIMITS, requests_per_minute_max: 40, tokens_per_day_max: 2000 }],
  ["key", "k1", "t2", { ...NO_LIMITS, requests_per_minute_max: 30, jobs_running_max: 2, over_limit: "queue" }],
];
/** The tenant whose jobs must stay in the EU, in worlds where one has to. */
const RESIDENT = "t3";
/** Where workers and the pool stand; some don't say. */
const AREAS: readonly (readonly string[])[] = [["de", "EU", "EEA"], ["de", "EU", "EEA"], ["no", "EEA"], ["us"], []];
const BEAT_MS = 1000;
const TICK_MS = 100;
const STORM_MS = 30_000;
/** Longer than any clock jump back, so that every back-off ends. */
const HEAL_MS_MAX = 120_000;
const JOBS = 100;

/** What the pool's one device holds, in models. */
const POOL_BYTES = 2;
const POOL_MODELS: ReadonlyMap<string, number> = new Map([
  ["p", 1],
  ["q", 1],
  ["r", 2],
]);

interface SimWorker {
  readonly id: string;
  readonly model: string;
  readonly slots: number;
  readonly context_size: number | null;
  readonly labels: Readonly<Record<string, string>>;
  readonly features: readonly string[];
  readonly areas: readonly string[];
  epoch: number;
  alive: boolean;
  draining: boolean;
  /** Attempts it generates, which may be more than the orchestrator believes. */
  readonly busy: Set<string>;
  /** Its heartbeats don't arrive before this time. */
  muted_until_ms: number;
}

/** One attempt's connection, seen from the orchestrator. */
interface Link {
  readonly job_id: string;
  readonly attempt: number;
  readonly worker: SimWorker;
  readonly epoch: number;
  ended: boolean;
}

export class World {
  readonly oracle: Oracle;
  readonly #limits: Limits;
  steps = 0;
  crashes = 0;
  /** How often each kind of outcome was reported, for tests that the storm storms. */
  readonly outcomes: Record<string, number> = {};
  readonly #random: Random;
  readonly #step: Step;
  #state: State;
  #time_ms = 0;
  #skew_ms = 1_000_000;
  #healed = false;
  readonly #agenda: { at_ms: number; order: number; act: () => void }[] = [];
  #order = 0;
  readonly #workers: SimWorker[] = [];
  readonly #links = new Map<string, Link>();
  /** Tenants and keys have limits here. */
  readonly #quotas: boolean;
  /** `RESIDENT` has to stay in the EU, at times. */
  readonly #residency: boolean;
  #resident = true;
  readonly #pool_areas: readonly string[];
  /** `RULES` are in force. */
  readonly #rules: boolean;
  /** Models on their way into the pool's memory. */
  readonly #loading: string[] = [];
  #loads = 0;

  /** The rules of this world, for whoever replays it. */
  get rules(): string {
    return JSON.stringify(this.#limits);
  }

  constructor(seed: number, stepFunction: Step = step) {
    this.#random = new Random(seed);
    this.#limits = rulesOf(this.#random);
    this.oracle = new Oracle(this.#limits);
    this.#state = createState(this.#limits);
    this.#step = stepFunction;
    this.#quotas = this.#random.chance(0.5);
    this.#residency = this.#random.chance(0.5);
    this.#pool_areas = this.#random.pick(AREAS);
    this.#rules = this.#random.chance(0.5);
  }

  /** As an orchestrator does when it starts, and whenever it changes. */
  #tellResidency(): void {
    if (this.#residency)
      this.#send({ type: "tenant.set", tenant: RESIDENT, weight: 1, residency: this.#resident || this.#healed ? "EU" : null });
  }

  /** As an orchestrator does when it starts: some tenants and keys have limits. */
  #tellTenants(): void {
    const life = this.crashes;
    if (this.#rules) this.#send({ type: "policy.set", gate: RULES, demands: new Map() });
    if (this.crashes !== life) return;
    this.#tellResidency();
    if (!this.#quotas || this.crashes !== life) return;
    for (const [level, id, tenant, limits] of QUOTAS) {
      this.#send({ type: "quota.set", level, id, tenant, limits });
      if (this.crashes !== life) return;
    }
  }

  /** Runs storm and healing; throws at the first thing that can't be right. */
  run(): void {
    this.#tellTenants();
    this.#populate();
    this.#runUntil(STORM_MS, () => false);
    this.#heal();
    this.#runUntil(STORM_MS + HEAL_MS_MAX, () => this.oracle.unfinished().length === 0 && this.#links.size === 0);
    const open = this.oracle.unfinished().map(({ spec, status, attempt }) => `${spec.id} (${status}, attempt ${attempt})`);
    if (open.length > 0) throw new Error(`not settled in a healthy world: ${open.join(", ")}`);
    const leaked = [...this.#state.workers.values()].flatMap(({ running }) => [...running]);
    if (leaked.length > 0) throw new Error(`slots still taken although nothing runs: ${leaked.join(", ")}`);
  }

  #populate(): void {
    const random = this.#random;
    for (let i = 0; i < random.from(2, 5); i++) {
      this.#workers.push({
        id: `w${i}`,
        model: i === 0 || random.chance(0.6) ? "m" : "n",
        slots: random.from(1, 3),
        context_size: random.chance(0.3) ? random.from(50, 200) : null,
        labels: random.chance(0.5) ? { disk: "fast" } : {},
        features: random.chance(0.5) ? ["grammar"] : [],
        areas: random.pick(AREAS),
        epoch: random.from(0, 3),
        alive: true,
        draining: false,
        busy: new Set(),
        muted_until_ms: 0,
      });
    }
    for (const worker of this.#workers) {
      this.#in(random.from(0, 2000), () => this.#register(worker));
      this.#in(BEAT_MS + random.from(0, BEAT_MS), () => this.#beat(worker));
    }
    this.#in(TICK_MS, () => this.#tick());
    if (this.#limits.auto_spawn) this.#in(random.from(0, 1000), () => this.#reportPool());
    for (let i = 0; i < JOBS; i++) this.#in(random.from(0, STORM_MS - 2000), () => this.#submit(`j${i}`));
    for (let i = 0; i < random.from(5, 25); i++) this.#in(random.from(0, STORM_MS), () => this.#mishap());
  }

  // The agenda: what happens when, in the order of time.

  #in(delay_ms: number, act: () => void): void {
    this.#agenda.push({ at_ms: this.#time_ms + delay_ms, order: this.#order++, act });
  }

  #runUntil(end_ms: number, done: () => boolean): void {
    while (!done()) {
      let next = 0;
      for (let i = 1; i < this.#agenda.length; i++) {
        const [a, b] = [this.#agenda[i], this.#agenda[next]];
        if (a !== undefined && b !== undefined && (a.at_ms < b.at_ms || (a.at_ms === b.at_ms && a.order < b.order))) next = i;
      }
      const entry = this.#agenda[next];
      if (entry === undefined || entry.at_ms > end_ms) return;
      this.#agenda[next] = this.#agenda[this.#agenda.length - 1] ?? entry;
      this.#agenda.pop();
      this.#time_ms = Math.max(this.#time_ms, entry.at_ms);
      entry.act();
    }
  }

  // The orchestrator: an event, its decisions, the rows, the deeds; and a crash between any two of them.

  #send(said: Said): readonly Decision[] {
    const event = { ...said, now_ms: this.#time_ms + this.#skew_ms } as Event;
    this.steps += 1;
    const decisions = this.#step(this.#state, event);
    if (this.#crashesHere(0.002)) return [];
    this.oracle.step(event, decisions);
    const broken = violations(this.#state, event.now_ms);
    if (broken.length > 0) throw new Error(`after ${event.type}: ${broken.join("; ")}`);
    if (this.#crashesHere(0.002)) return decisions;
    for (const decision of decisions) this.#carryOut(decision);
    return decisions;
  }

  #crashesHere(p: number): boolean {
    if (this.#healed || !this.#random.chance(p)) return false;
    this.#crash();
    return true;
  }

  #crash(): void {
    this.crashes += 1;
    this.oracle.crash();
    for (const link of this.#links.values()) {
      link.ended = true;
      this.#in(this.#lag(), () => link.worker.busy.delete(busyKey(link)));
    }
    this.#links.clear();
    this.#state = createState(this.#limits, this.oracle.models);
    const life = this.crashes;
    this.#tellTenants();
    if (this.crashes !== life) return;
    for (const row of this.oracle.unfinished()) {
      const { spec, attempt, spent } = row;
      const ran = row.status === "running";
      this.oracle.recovered(row);
      this.#send({ type: "job.recovered", spec, attempt, spent, ran });
      // It crashed in the middle of its recovery, and has done it again since.
      if (this.crashes !== life) return;
    }
  }

  #carryOut(decision: Decision): void {
    if (decision.type === "dispatch") this.#dispatch(decision);
    if (decision.type === "spawn") this.#spawn(decision);
    if (decision.type === "evict") this.#evict(decision);
    if (decision.type === "abort") {
      const link = this.#links.get(`${decision.job_id}#${decision.attempt}`);
      if (link !== undefined) this.#in(this.#random.from(0, 50), () => this.#ended(link, { kind: "aborted" }));
    }
  }

  // The pool: it starts and ends workers as it is told, and says now and then what is free.

  #reportPool(): void {
    this.#in(BEAT_MS, () => this.#reportPool());
    if (!this.#healed && this.#random.chance(0.1)) return void this.#send({ type: "pool.lost", pool_id: "pool" });
    const devices = [{ id: "0", backend: "cpu", preference: 1, free_bytes: POOL_BYTES - this.#poolBytes() }];
    this.#send({ type: "pool.reported", pool: { id: "pool", areas: this.#pool_areas, devices, models: POOL_MODELS } });
  }

  #poolBytes(): number {
    const standing = this.#workers.filter(({ alive, labels }) => alive && labels[POOL_LABEL] !== undefined).map(({ model }) => model);
    return [...standing, ...this.#loading].reduce((sum, model) => sum + (POOL_MODELS.get(model) ?? 0), 0);
  }

  #spawn({ model, demands_key, pool_id, device_id }: Extract<Decision, { type: "spawn" }>): void {
    const random = this.#random;
    this.#loading.push(model);
    // After a crash nobody knows of the loads that were under way: their workers come all the same.
    if (this.crashes === 0 && this.#poolBytes() > POOL_BYTES) throw new Error(`${model} was loaded where it does not fit`);
    this.#loads += 1;
    const id = `${model}-${this.#loads}`;
    this.#in(random.from(50, 2000), () => {
      this.#loading.splice(this.#loading.indexOf(model), 1);
      if (!this.#healed && random.chance(0.2))
        return void this.#send({ type: "load.ended", model, demands_key, error: "the file is broken" });
      const labels = { [POOL_LABEL]: pool_id, [DEVICE_LABEL]: device_id };
      const worker = {
        id,
        model,
        slots: 2,
        context_size: null,
        labels,
        features: [],
        areas: this.#pool_areas,
        epoch: 0,
        alive: true,
        draining: false,
        busy: new Set<string>(),
        muted_until_ms: 0,
      };
      this.#workers.push(worker);
      this.#in(BEAT_MS, () => this.#beat(worker));
      this.#register(worker);
      this.#in(this.#lag(), () => this.#send({ type: "load.ended", model, demands_key, error: null }));
    });
  }

  #evict({ worker_id }: Extract<Decision, { type: "evict" }>): void {
    this.#in(this.#lag(), () => {
      const worker = this.#workers.find(({ id }) => id === worker_id);
      if (worker === undefined) return;
      if (!this.#healed && this.#random.chance(0.2)) return void this.#send({ type: "evict.failed", worker_id });
      worker.alive = false;
      this.#send({ type: "worker.left", worker_id, epoch: worker.epoch });
    });
  }

  #dispatch({ job_id, attempt, worker_id }: Extract<Decision, { type: "dispatch" }>): void {
    const worker = this.#workers.find(({ id }) => id === worker_id);
    if (worker === undefined) throw new Error(`${job_id} was sent to ${worker_id}, which does not exist`);
    const link: Link = { job_id, attempt, worker, epoch: worker.epoch, ended: false };
    this.#links.set(`${job_id}#${attempt}`, link);
    this.#in(this.#lag(), () => this.#arrive(link));
  }

  /** The attempt reaches its worker, if there still is one. */
  #arrive(link: Link): void {
    const { worker } = link;
    const storm = !this.#healed;
    if (link.ended) return;
    if (!worker.alive || worker.epoch !== link.epoch)
      return this.#ended(link, { kind: "lost", reason: "nothing listens at its address", reached: false });
    if (worker.draining || worker.busy.size >= worker.slots || (storm && this.#random.chance(0.05))) {
      return this.#ended(link, { kind: "refused", reason: "all slots are busy" });
    }
    worker.busy.add(busyKey(link));
    this.#in(this.#random.from(0, 300), () => this.#prefilled(link));
    const outcome = storm ? this.#fate() : DONE;
    this.#in(this.#random.from(10, 1500), () => {
      if (!worker.busy.delete(busyKey(link))) return;
      this.#in(this.#lag(), () => this.#ended(link, outcome));
    });
  }

  /** The first token; sometimes heard of when it does not matter any more. */
  #prefilled({ job_id, attempt, worker }: Link): void {
    this.#send({ type: "attempt.prefilled", job_id, attempt, worker_id: worker.id });
    this.#send({ type: "attempt.progressed", job_id, attempt, worker_id: worker.id, tokens_out: this.#random.from(0, 12) });
  }

  #fate(): AttemptOutcome {
    const dice = this.#random.next();
    if (dice < 0.7) return DONE;
    if (dice < 0.8) return { kind: "failed", code: "ENGINE_FAILED", message: "the engine broke", retriable: true };
    if (dice < 0.85) return { kind: "failed", code: "CONTEXT_TOO_LARGE", message: "too long", retriable: false };
    return { kind: "lost", reason: "the connection broke", reached: true };
  }

  /** The link's one report; and what a confused network makes of it. */
  #ended(link: Link, outcome: AttemptOutcome): void {
    if (link.ended) return;
    link.ended = true;
    this.#links.delete(`${link.job_id}#${link.attempt}`);
    if (link.worker.busy.has(busyKey(link))) this.#in(this.#lag(), () => link.worker.busy.delete(busyKey(link)));
    this.outcomes[outcome.kind] = (this.outcomes[outcome.kind] ?? 0) + 1;
    const { job_id, attempt, worker } = link;
    const report: Said = { type: "attempt.ended", job_id, attempt, worker_id: worker.id, outcome };
    this.#send(report);
    if (this.#healed) return;
    // The same report again, much later; one with another end; one from a worker that never had it; one of no attempt at all.
    if (this.#random.chance(0.3)) this.#in(this.#random.from(0, 8000), () => this.#send(report));
    if (this.#random.chance(0.2)) this.#in(this.#random.from(0, 8000), () => this.#send({ ...report, outcome: this.#fate() } as Said));
    if (this.#random.chance(0.1)) this.#send({ ...report, attempt: attempt + 7, outcome: DONE } as Said);
    const liar = this.#random.pick(this.#workers);
    if (liar !== worker && this.#random.chance(0.1)) this.#send({ ...report, worker_id: liar.id, outcome: DONE } as Said);
  }

  // The others.

  #tick(): void {
    this.#send({ type: "tick" });
    this.#in(TICK_MS, () => this.#tick());
  }

  #register(worker: SimWorker): void {
    if (!worker.alive) return;
    this.#send({ type: "worker.registered", spec: specOf(worker) });
  }

  #beat(worker: SimWorker): void {
    this.#in(BEAT_MS, () => this.#beat(worker));
    if (!worker.alive || this.#time_ms < worker.muted_until_ms) return;
    const { id, epoch, draining } = worker;
    const rejected = this.#send({ type: "worker.beat", worker_id: id, epoch, draining, memory_free_bytes: id.length }).some(
      ({ type }) => type === "worker.reject",
    );
    if (rejected) this.#in(this.#lag(), () => this.#register(worker));
  }

  #submit(id: string): void {
    const random = this.#random;
    const now_ms = this.#time_ms + this.#skew_ms;
    const pooled = this.#limits.auto_spawn && random.chance(0.3);
    const model = random.chance(0.05) ? "never" : pooled ? random.pick([...POOL_MODELS.keys()]) : random.pick(this.#workers).model;
    // Workers of the pool come and go for good: nobody is tied to one of them.
    const all = this.#workers.filter((worker) => worker.model === model && worker.labels[POOL_LABEL] === undefined);
    const tenant = `t${random.from(0, 3)}`;
    const stays = this.#residency && tenant === RESIDENT;
    const may = stays ? inEu : this.#rules && tenant === BARRED ? saysWhere : () => true;
    const possible = POOL_MODELS.has(model) ? may({ areas: this.#pool_areas }) : all.some(may);
    const serving = all.filter(may);
    // Sometimes to one where it may not go, which is refused.
    const pin = serving.length > 0 && random.chance(0.15) ? random.pick(this.#resident && random.chance(0.2) ? all : serving).id : null;
    // Never all of a model's workers: such a job would rightly wait for ever.
    const avoid = pin === null && serving.length > 1 && random.chance(0.2) ? [random.pick(serving).id] : [];
    const fast = serving.some((worker) => worker.labels["disk"] === "fast" && pin === null && !avoid.includes(worker.id));
    const roomy = serving.some(({ id, context_size }) => context_size === null && (pin ?? id) === id && !avoid.includes(id));
    const able = serving.some(
      ({ id, context_size, features }) =>
        features.includes("grammar") && context_size === null && (pin ?? id) === id && !avoid.includes(id),
    );
    const key = tenant === "t2" ? random.pick(["k1", "k2", null]) : null;
    const spec: JobSpec = {
      id,
      tenant,
      key,
      model,
      submitted_at_ms: now_ms,
      bytes: random.from(10, 500),
      priority: random.chance(0.6) ? "interactive" : "batch",
      max_tokens: roomy && !fast && random.chance(0.2) ? random.from(50, 400) : 10,
      labels: fast && random.chance(0.2) ? { disk: "fast" } : {},
      needs: able && !fast && random.chance(0.3) ? [{ feature: "grammar", field: "grammar" }] : [],
      demands: [],
      denied: null,
      metadata: {},
      prompt_tokens_min: 1,
      prompt_tokens: random.from(1, 40),
      prefix: Array.from({ length: random.from(0, 5) }, (_, at) => at + 10 * (at < 2 ? 0 : random.from(0, 3))),
      // Nobody may do it: it would rightly wait for ever.
      deadline_at_ms: !possible || random.chance(0.15) ? now_ms + random.from(0, 6000) : null,
      pin,
      prefer: random.chance(0.2) ? [random.pick(this.#workers).id] : [],
      avoid,
      fails_if_lost: random.chance(0.2),
      restarts_if_lost: random.chance(0.1),
    };
    this.#send({ type: "job.submitted", spec });
    if (random.chance(0.2)) this.#in(random.from(0, 3000), () => this.#send({ type: "job.cancelled", job_id: id }));
  }

  #mishap(): void {
    const random = this.#random;
    const worker = random.pick(this.#workers);
    const mishaps: (() => void)[] = [
      () => this.#die(worker),
      () => this.#die(worker),
      () => {
        worker.muted_until_ms = this.#time_ms + random.from(500, 9000);
      },
      () => this.#register(worker),
      () => this.#send({ type: "worker.registered", spec: { ...specOf(worker), epoch: worker.epoch - 1 } }),
      () => this.#send({ type: "worker.drained", worker_id: worker.id, move: random.chance(0.5) }),
      () => {
        worker.draining = true;
      },
      () => this.#send({ type: "worker.left", worker_id: worker.id, epoch: null }),
      () => {
        this.#skew_ms += random.from(-20_000, 20_000);
      },
      () => {
        this.#resident = !this.#resident;
        this.#tellResidency();
      },
      () => this.#crash(),
      // A stop in good order, and the start after it.
      () => {
        this.#send({ type: "halted" });
        this.#in(random.from(0, 2000), () => this.#crash());
      },
    ];
    random.pick(mishaps)();
  }

  /** Its connections break, at once or when the silence is noticed; a new life may come, sooner than that. */
  #die(worker: SimWorker): void {
    worker.alive = false;
    worker.draining = false;
    worker.busy.clear();
    worker.epoch += 1;
    for (const link of this.#links.values()) {
      if (link.worker !== worker) continue;
      this.#in(this.#random.from(0, 5000), () => this.#ended(link, { kind: "lost", reason: "the connection broke", reached: true }));
    }
    // Whoever was started by the pool does not come back by itself.
    if (worker.labels[POOL_LABEL] !== undefined || !this.#random.chance(0.8)) return;
    this.#in(this.#random.from(0, 6000), () => {
      worker.alive = true;
      this.#register(worker);
    });
  }

  /** From now on nothing goes wrong any more: every worker lives, in a new life that does not drain. */
  #heal(): void {
    this.#healed = true;
    this.#tellResidency();
    for (const worker of this.#workers) {
      this.#die(worker);
      if (worker.labels[POOL_LABEL] !== undefined) continue;
      worker.alive = true;
      worker.muted_until_ms = 0;
      this.#register(worker);
    }
  }

  #lag(): number {
    return this.#healed || !this.#random.chance(0.1) ? this.#random.from(0, 20) : this.#random.from(0, 2500);
  }
}

function specOf({ id, epoch, model, slots, context_size, labels, features, areas }: SimWorker): WorkerSpec {
  const more = { cache_tokens: slots * 8, backend: "cpu", continues: true, trust: "open" } as const;
  return { id, epoch, model, slots, context_size, labels, features, areas, ...more };
}

function saysWhere({ areas }: { readonly areas: readonly string[] }): boolean {
  return areas.length > 0;
}

function inEu({ areas }: { readonly areas: readonly string[] }): boolean {
  return areas.includes("EU");
}

/** Each world has rules of its own. */
function rulesOf(random: Random): Limits {
  return {
    ...LIMITS,
    policy: random.pick(POLICIES),
    queue_full: random.pick(QUEUE_FULL_RULES),
    queue_wait_ms_max: random.chance(0.3) ? random.from(1000, 8000) : 0,
    first_token_ms_max: random.chance(0.3) ? random.from(2000, 10_000) : 0,
    batch_promote_ms: random.chance(0.5) ? random.from(500, 5000) : 0,
    preempt_batch: random.chance(0.4),
    auto_spawn: random.chance(0.4),
    idle_ttl_ms: random.chance(0.5) ? random.from(1000, 10_000) : 0,
    residency_ms_min: random.from(0, 3000),
    make_way_ms: random.chance(0.5) ? random.from(500, 5000) : 0,
    make_room_ms_max: 3000,
    load_backoff_ms: 200,
    load_backoff_ms_max: 2000,
  };
}

function busyKey({ job_id, attempt }: Link): string {
  return `${job_id}#${attempt}`;
}
