/**
 * A loaded set of rules. It is asked once when a job comes, and for each worker where rules ask about that. The first rule of `allow` and
 * `deny` that holds decides; the others add up. A rule that can't be evaluated denies.
 */
import { areaName, areasOf } from "@rbees/contracts/regions";
import type { PolicyMode } from "@rbees/contracts/sets";
import { summaryOf } from "./condition.ts";
import { type Clock, type JobFacts, jobContext, type WorkerFacts, workerContext } from "./facts.ts";
import type { CompiledRule } from "./rule-file.ts";

export interface Denied {
  readonly rule: string;
  readonly message: string;
}

/** As the core has it. */
export interface Demand {
  readonly by: string;
  readonly areas: readonly string[];
  readonly backends: readonly string[];
  readonly labels: Readonly<Record<string, string>>;
}

/** What rules say of a job when it comes. */
export interface Ruling {
  readonly denied: Denied | null;
  readonly demands: readonly Demand[];
  readonly priority: "interactive" | "batch" | undefined;
  /** It gets no more than this. */
  readonly max_tokens: number | undefined;
  /** Its prompt and answer are kept no longer than this after its end. */
  readonly content_keep_ms: number | undefined;
  /** Those that hold; `log_only:` before those that hold and have no effect. */
  readonly rules: readonly string[];
}

/** What rules say of a job on a worker. */
export interface Verdict {
  readonly barred: Denied | null;
  readonly preference: number;
  readonly rules: readonly string[];
}

export const UNRULED: Ruling = {
  ...{ denied: null, demands: [], priority: undefined, max_tokens: undefined, content_keep_ms: undefined, rules: [] },
};

export interface PolicyParts {
  readonly file: string;
  readonly sha256: string;
  readonly mode: PolicyMode;
  readonly timezone: string;
  readonly clock: Clock;
  readonly rules: readonly CompiledRule[];
}

type Answer = boolean | Denied;

export class Policy implements PolicyParts {
  readonly file: string;
  readonly sha256: string;
  readonly mode: PolicyMode;
  readonly timezone: string;
  readonly clock: Clock;
  readonly rules: readonly CompiledRule[];
  /** Some rule has to be asked for each worker. */
  readonly asks_workers: boolean;

  constructor(parts: PolicyParts) {
    this.file = parts.file;
    this.sha256 = parts.sha256;
    this.mode = parts.mode;
    this.timezone = parts.timezone;
    this.clock = parts.clock;
    this.rules = parts.rules;
    this.asks_workers = parts.rules.some(({ condition, prefer }) => condition.asks_worker || prefer !== undefined);
  }

  /** When it comes. Whether it may run at all can't be said yet where a rule before allows it on some worker. */
  rule(facts: JobFacts): Ruling {
    const context = jobContext(facts, this.clock);
    const found = { demands: [] as Demand[], rules: [] as string[] };
    let denied: Denied | null = null;
    let decided = false;
    let priority: Ruling["priority"];
    let max_tokens: number | undefined;
    let content_keep_ms: number | undefined;
    for (const rule of this.rules) {
      const { name, condition, allow, deny, require, set } = rule;
      if (condition.asks_worker) {
        decided ||= allow === true;
        continue;
      }
      const answer = ask(rule, context);
      if (answer === false) continue;
      found.rules.push(name);
      if (answer !== true) {
        denied ??= answer;
        decided = true;
        continue;
      }
      if (deny !== undefined && !decided) denied ??= { rule: name, message: deny };
      decided ||= allow === true || deny !== undefined;
      if (require !== undefined) found.demands.push(demandOf(name, require));
      priority = set?.priority ?? priority;
      max_tokens = smaller(max_tokens, set?.max_tokens);
      content_keep_ms = smaller(content_keep_ms, set?.content_keep_ms);
    }
    if (this.mode === "log_only") return { ...UNRULED, rules: found.rules.map(logged) };
    return { denied, demands: found.demands, priority, max_tokens, content_keep_ms, rules: found.rules };
  }

  /** On a worker; pure: the same for the same two. */
  judge(facts: JobFacts, worker: WorkerFacts): Verdict {
    const context = { ...jobContext(facts, this.clock), worker: workerContext(worker) };
    const rules: string[] = [];
    let barred: Denied | null = null;
    let decided = false;
    let preference = 0;
    for (const rule of this.rules) {
      const { name, condition, allow, deny, prefer } = rule;
      // Of the others `rule` has said all that there is.
      const decides = allow === true || deny !== undefined;
      if (!condition.asks_worker && prefer === undefined && (!decides || decided)) continue;
      const answer = ask(rule, context);
      if (answer === false) continue;
      if (answer !== true) {
        barred ??= answer;
        decided = true;
        rules.push(name);
        continue;
      }
      if (deny !== undefined && !decided) barred ??= { rule: name, message: deny };
      decided ||= decides;
      if (prefer !== undefined && isThere(prefer, worker)) preference += prefer.weight;
      if (condition.asks_worker || (prefer !== undefined && isThere(prefer, worker))) rules.push(name);
    }
    if (this.mode === "log_only") return { barred: null, preference: 0, rules: rules.map(logged) };
    return { barred, preference, rules };
  }
}

function ask({ name, condition }: CompiledRule, context: Record<string, unknown>): Answer {
  try {
    return condition.holds(context);
  } catch (error) {
    return { rule: name, message: `it could not be evaluated, and so denies (${summaryOf(error)}; has(…) says whether a key is there)` };
  }
}

function smaller(one: number | undefined, other: number | undefined): number | undefined {
  return one === undefined || other === undefined ? (one ?? other) : Math.min(one, other);
}

function logged(name: string): string {
  return `log_only:${name}`;
}

/** What names a worker by what it is. */
export interface Place {
  region?: readonly string[] | undefined;
  backend?: readonly string[] | undefined;
  pool?: string | undefined;
  labels?: Readonly<Record<string, string>> | undefined;
}

/** The label by which a worker says in which pool it stands. */
const POOL_LABEL = "rbees.pool";

function demandOf(rule: string, { region = [], backend = [], pool, labels = {} }: Place): Demand {
  const all = pool === undefined ? labels : { ...labels, [POOL_LABEL]: pool };
  return { by: `rule ${rule}`, areas: region.map(areaName), backends: backend, labels: all };
}

export function isThere({ region, backend, pool, labels = {} }: Place, worker: WorkerFacts): boolean {
  if (region !== undefined && !region.some((area) => areasOf(worker.region).includes(areaName(area)))) return false;
  if (backend !== undefined && !backend.includes(worker.backend)) return false;
  if (pool !== undefined && worker.pool !== pool) return false;
  return Object.entries(labels).every(([name, value]) => worker.labels[name] === value);
}
