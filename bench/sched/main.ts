/**
 * `npm run bench:sched`: what a scheduling decision of the real core costs, as the workers and the waiting jobs become more, and
 * beside a scan of all of them in the same run. A decision: an attempt ends, its slot goes to the next job, a new job joins.
 */

import type { Decision } from "../../packages/core/src/events.ts";
import { createState, type JobSpec, LIMITS_OFF, type Limits, type State } from "../../packages/core/src/state.ts";
import { step } from "../../packages/core/src/step.ts";
import { median, spread, table, type Verdict, verdictTable } from "../report.ts";

const LIMITS: Limits = {
  ...LIMITS_OFF,
  batch_promote_ms: 60_000,
  policy: "eta",
};
const SLOTS = 4;
const MODELS = 20;
const TENANTS = 50;
const CONVERSATIONS = 5000;
/** The length of prompt at which the index of beginnings is measured. */
const BLOCKS = 64;
const ROUNDS = 5;
/** Decisions that are timed together, so that the clock costs nothing. */
const BATCH = 50;
const BATCHES = 60;
const WORKERS = [1, 10, 100, 1000] as const;
const MOST_QUEUED = 1_000_000;
const QUEUED = [100, 1000, 10_000, 100_000, MOST_QUEUED] as const;
/** The size of the target. */
const USUAL = { workers: 1000, queued: 10_000 };

/** The same numbers in every run. */
function random(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

/** A core under full load: every slot taken, so many jobs waiting. */
class Loaded {
  readonly state: State = createState(LIMITS);
  readonly running: Extract<Decision, { type: "dispatch" }>[] = [];
  readonly #draw = random(7);
  readonly #models: number;
  #jobs = 0;
  #now_ms = 1;

  readonly #blocks: number;
  readonly #prefixes: number[][] = [];

  /** `blocks`: of each prompt's beginning. */
  constructor(workers: number, queued: number, blocks = 0) {
    this.#blocks = blocks;
    this.#models = Math.min(MODELS, workers);
    for (let w = 0; w < workers; w += 1) {
      const spec = {
        id: `w${w}`,
        epoch: 1,
        model: `m${w % this.#models}`,
        slots: SLOTS,
        context_size: null,
        cache_tokens: null,
        labels: {},
        features: [],
        backend: "cpu",
        areas: [],
        continues: true,
        trust: "open" as const,
      };
      step(this.state, { type: "worker.registered", spec, now_ms: this.#now_ms });
    }
    while (this.running.length < workers * SLOTS) this.submit();
    // Some jobs of each model have ended: how long they take is known.
    for (let n = 0; n < 10 * this.#models; n += 1) this.turn();
    while (this.state.queued < queued) this.submit();
  }

  submit(): void {
    this.#jobs += 1;
    const spec: JobSpec = {
      id: `job_${this.#jobs}`,
      tenant: `t${this.#draw(TENANTS)}`,
      key: null,
      model: `m${this.#draw(this.#models)}`,
      submitted_at_ms: this.#now_ms,
      bytes: 2000,
      priority: this.#draw(4) === 0 ? "batch" : "interactive",
      max_tokens: 100,
      prompt_tokens: 500,
      prompt_tokens_min: 1,
      prefix: this.#prefix(),
      deadline_at_ms: null,
      pin: null,
      prefer: [],
      fails_if_lost: false,
      restarts_if_lost: false,
      avoid: [],
      labels: {},
      needs: [],
      demands: [],
      denied: null,
      metadata: {},
    };
    this.#note(step(this.state, { type: "job.submitted", spec, now_ms: this.#now_ms }));
  }

  /** One of some conversations, each with a beginning of its own that all of its kind share. */
  #prefix(): number[] {
    if (this.#blocks === 0) return [];
    const conversation = this.#draw(CONVERSATIONS);
    const shared = this.#blocks >> 2;
    // Made once each: what is measured is not how they are made.
    this.#prefixes[conversation] ??= Array.from({ length: this.#blocks }, (_, at) => (at < shared ? at : (1 + conversation) * 1000 + at));
    return this.#prefixes[conversation];
  }

  /** One decision. */
  turn(): void {
    this.#now_ms += 1;
    const at = this.#draw(this.running.length);
    const { job_id, attempt, worker_id } = this.running[at] as (typeof this.running)[number];
    const last = this.running.pop() as (typeof this.running)[number];
    if (at < this.running.length) this.running[at] = last;
    this.#note(
      step(this.state, {
        type: "attempt.ended",
        job_id,
        attempt,
        worker_id,
        outcome: { kind: "done", tokens_out: 100 },
        now_ms: this.#now_ms,
      }),
    );
    this.submit();
  }

  #note(decisions: readonly Decision[]): void {
    for (const decision of decisions) if (decision.type === "dispatch") this.running.push(decision);
  }
}

/** What has to be looked at when nothing is arranged: every job for the best one, every worker for it. */
function scan({ state }: Loaded): number {
  let found = 0;
  let job: { spec: JobSpec } | undefined;
  for (const one of state.jobs.values()) {
    if (one.worker_id === null && (job === undefined || one.spec.priority < job.spec.priority)) job = one;
  }
  for (const worker of state.workers.values()) {
    if (worker.spec.model === job?.spec.model && worker.running.size < worker.spec.slots && !worker.draining) found += 1;
  }
  return found;
}

/** Median microseconds of one call. */
function timed(act: () => void, batch: number, batches: number): number {
  const took: number[] = [];
  for (let n = 0; n < batches; n += 1) {
    const began = performance.now();
    for (let i = 0; i < batch; i += 1) act();
    took.push(((performance.now() - began) * 1000) / batch);
  }
  return median(took);
}

const cells = WORKERS.flatMap((workers) => QUEUED.map((queued) => ({ workers, queued }))).filter(
  ({ workers, queued }) => queued < MOST_QUEUED || workers === USUAL.workers,
);
const us = new Map(cells.map((cell) => [cell, [] as number[]]));
const ratio: number[] = [];
const index_us: number[] = [];
const warm = new Loaded(100, 1000);
timed(() => warm.turn(), 20_000, 2);
for (let round = 0; round < ROUNDS; round += 1) {
  for (const cell of cells) {
    const loaded = new Loaded(cell.workers, cell.queued);
    const took = timed(() => loaded.turn(), BATCH, BATCHES);
    us.get(cell)?.push(took);
    if (cell.workers !== USUAL.workers || cell.queued !== USUAL.queued) continue;
    ratio.push(timed(() => scan(loaded), 5, 20) / took);
    const indexed = new Loaded(cell.workers, cell.queued, BLOCKS);
    index_us.push(timed(() => indexed.turn(), BATCH, BATCHES) - took);
  }
}
const at = (workers: number, queued: number) => [...us].find(([cell]) => cell.workers === workers && cell.queued === queued)?.[1] ?? [];
process.stdout.write(
  `Node ${process.versions.node}; µs a decision (an attempt ends, the next job is placed, a job joins); ${ROUNDS} rounds, median [min–max]\n\n`,
);
const rows = WORKERS.map((workers) => [`${workers} workers`, ...QUEUED.map((queued) => spread(at(workers, queued), 2))]);
process.stdout.write(`${table(["", ...QUEUED.map((queued) => `${queued.toLocaleString("en")} waiting`)], rows)}\n\n`);
process.stdout.write(`A scan of all jobs and workers at ${USUAL.workers} × ${USUAL.queued}: ${spread(ratio, 0)} × a decision\n\n`);
const verdicts: Verdict[] = [
  {
    what: `a decision at 1,000 workers × 10,000 jobs × ${TENANTS} tenants`,
    value: median(at(USUAL.workers, USUAL.queued)),
    at_most: 10,
    unit: "µs",
  },
  {
    what: "growth from 100 to 1,000,000 waiting",
    value: median(at(USUAL.workers, MOST_QUEUED)) / median(at(USUAL.workers, 100)),
    at_most: 4,
  },
  { what: `what the index adds for a prompt of ${BLOCKS} blocks`, value: median(index_us), at_most: 10, unit: "µs" },
  { what: "a decision ÷ a scan at 1,000 × 10,000", value: 1 / median(ratio), at_most: 1 / 20 },
];
process.stdout.write(`${verdictTable(verdicts)}\n`);
