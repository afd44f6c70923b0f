/** Placing: filter → score → pick. A worker that can't take a job gets a reason, and not placing is an answer, not an error. */
import { isBroken } from "./breaker.ts";
import { lack, unmet } from "./demand.ts";
import type { Found, Standing } from "./fleet.ts";
import { barredBy, denialOf, preferenceOf } from "./gate.ts";
import { type Prospect, scoreOf } from "./policy.ts";
import { mayRun } from "./quota.ts";
import { isSilent, type Job, type JobSpec, type Need, type State, type Worker } from "./state.ts";

/** What can stand between a job and a worker. */
export type Obstacle =
  | "other model"
  | "pinned elsewhere"
  | "avoided"
  | "labels"
  | "feature"
  | "demand"
  | "rule"
  | "draining"
  | "silent"
  | "context"
  | "busy"
  | "inhibited"
  | "unreached"
  | "broken";

/** What an obstacle makes of the worker for its fleet: some pass with the job, some with time, some when the worker says so. */
const STANDING: Readonly<Record<Obstacle, Standing>> = {
  "other model": "free for others",
  "pinned elsewhere": "free for others",
  avoided: "free for others",
  labels: "free for others",
  feature: "free for others",
  demand: "free for others",
  rule: "free for others",
  context: "free for others",
  broken: "not now",
  inhibited: "not now",
  unreached: "not now",
  draining: "gone",
  silent: "not now",
  busy: "gone",
};

/** What is looked at of a job, or of a prompt that is only counted. */
type Asking = Pick<Job, "spec" | "demands"> & Partial<Pick<Job, "too_long_for">>;

/** The filter: what keeps this job from running on this worker now; the first failed check. */
export function obstacle(state: State, job: Asking, worker: Worker, now_ms: number): Obstacle | undefined {
  const { spec, demands, too_long_for = 0 } = job;
  if (worker.spec.model !== spec.model) return "other model";
  if (spec.pin !== null && spec.pin !== worker.spec.id) return "pinned elsewhere";
  if (spec.avoid.includes(worker.spec.id)) return "avoided";
  if (missingLabel(spec, worker) !== undefined) return "labels";
  if (missingFeature(spec, worker) !== undefined) return "feature";
  if (demands.length > 0 && unmet(demands, worker.spec) !== undefined) return "demand";
  if (state.gate !== null && barredBy(state, spec, worker) !== null) return "rule";
  if (worker.draining) return "draining";
  if (isSilent(state, worker, now_ms)) return "silent";
  const { context_size } = worker.spec;
  if (context_size !== null && spec.prompt_tokens_min + spec.max_tokens > context_size) return "context";
  // Where nobody with a larger one is left, the worker says so again, and that is the end.
  if (context_size !== null && too_long_for >= context_size && largerMayTake(state, job, too_long_for, now_ms)) return "context";
  if (worker.running.size >= worker.spec.slots) return "busy";
  if (worker.unreached) return "unreached";
  if (worker.inhibited_until_ms > now_ms) return "inhibited";
  return isBroken(state, worker, now_ms) ? "broken" : undefined;
}

function missingLabel({ labels }: JobSpec, worker: Worker): string | undefined {
  for (const name in labels) if (worker.spec.labels[name] !== labels[name]) return name;
  return undefined;
}

function missingFeature({ needs }: JobSpec, { spec }: Worker): Need | undefined {
  return needs.find(({ feature }) => !spec.features.includes(feature));
}

/** Obstacles that go by themselves. */
const PASSING: ReadonlySet<Obstacle> = new Set(["busy", "inhibited", "unreached", "broken"]);

/** Now, or as soon as what stands in the way has passed. */
export function mayTake(state: State, job: Asking, worker: Worker, now_ms: number): boolean {
  const found = obstacle(state, job, worker, now_ms);
  return found === undefined || PASSING.has(found);
}

/** Some worker with a context of more tokens than that. */
export function largerMayTake(state: State, job: Asking, tokens: number, now_ms: number): boolean {
  for (const other of state.fleets.get(job.spec.model) ?? []) {
    if ((other.spec.context_size ?? Number.POSITIVE_INFINITY) > tokens && mayTake(state, job, other, now_ms)) return true;
  }
  return false;
}

/** The obstacle in words, for people. */
export function reasonFor(state: State, found: Obstacle, { spec, demands, too_long_for }: Job, worker: Worker, now_ms: number): string {
  switch (found) {
    case "labels": {
      const name = missingLabel(spec, worker) ?? "";
      return `its label ${name} is ${worker.spec.labels[name] ?? "not set"}, and the job asks for ${spec.labels[name]}`;
    }
    case "feature": {
      const need = missingFeature(spec, worker);
      return `its engine can't do what ${need?.field} asks for (${need?.feature})`;
    }
    case "demand": {
      const demand = unmet(demands, worker.spec);
      return demand === undefined ? "" : `${demand.by} demands ${lack(demand, worker.spec)}`;
    }
    case "rule": {
      const barred = barredBy(state, spec, worker);
      return barred === null ? "" : denialOf(barred);
    }
    case "broken": {
      const failed = `its last ${worker.failures} attempts were lost or failed`;
      return worker.open_until_ms > now_ms
        ? `${failed}; left alone for ${worker.open_until_ms - now_ms} ms`
        : `${failed}; one attempt is trying it`;
    }
    case "other model":
      return `it serves ${worker.spec.model}, not ${spec.model}`;
    case "pinned elsewhere":
      return `the job is pinned to ${spec.pin}`;
    case "avoided":
      return "the job avoids it";
    case "draining":
      return "it is draining";
    case "silent":
      return `no heartbeat for ${now_ms - worker.last_beat_ms} ms`;
    case "context":
      if (too_long_for >= (worker.spec.context_size ?? 0))
        return `prompt and max_tokens ${spec.max_tokens} exceed its context of ${worker.spec.context_size} tokens: a worker has counted`;
      return `a prompt of at least ${spec.prompt_tokens_min} tokens and max_tokens ${spec.max_tokens} exceed its context of ${worker.spec.context_size} tokens`;
    case "busy":
      return `all ${worker.spec.slots} slots are busy`;
    case "inhibited":
      return `it refused or was unreachable; left alone for ${worker.inhibited_until_ms - now_ms} ms`;
    case "unreached":
      return "it could not be reached; left alone until its next heartbeat";
  }
}

/**
 * The worker for a job: of those that can take it one that it prefers, else the policy's choice; the one that lost its last attempt
 * comes last in any case. Undefined when none can.
 */
export function place(state: State, job: Job, now_ms: number): Found<Worker> {
  const { spec } = job;
  if (!mayStart(job, now_ms)) return NOT_YET;
  const { policy } = state.limits;
  const score = scoreOf(policy);
  const scoreFor = (worker: Worker) => score(prospect(state, job, worker, now_ms), spec);
  if (spec.pin !== null) return chosen(isFree(state, job, spec.pin, now_ms), scoreFor) ?? NOT_YET;
  let preferred: Found<Worker> | undefined;
  for (const id of spec.prefer) {
    const found = id === job.failed_on ? undefined : chosen(isFree(state, job, id, now_ms), scoreFor);
    if (found !== undefined && (found.scored[0]?.score ?? 0) < (preferred?.scored[0]?.score ?? Number.POSITIVE_INFINITY)) preferred = found;
  }
  if (preferred !== undefined) return preferred;
  const standingOf = (worker: Worker): Standing => {
    const found = obstacle(state, job, worker, now_ms);
    return found === undefined ? "free" : STANDING[found];
  };
  const fleet = state.fleets.get(spec.model);
  const preference = state.gate === null ? undefined : (worker: Worker) => preferenceOf(state, spec, worker);
  // The fleet knows by itself who was used least recently.
  const scored = policy === "round-robin" && preference === undefined ? undefined : scoreFor;
  return fleet?.find(standingOf, scored, job.failed_on, preference) ?? NOBODY;
}

/** While nothing was measured at all, any figure compares workers equally. */
const ALL_ALIKE = 1;

/** Whether it may be sent anywhere now: no back-off holds it, its deadline has not passed, and its tenant may run one more. */
export function mayStart(job: Job, now_ms: number): boolean {
  const { spec, not_before_ms } = job;
  return not_before_ms <= now_ms && (spec.deadline_at_ms === null || now_ms < spec.deadline_at_ms) && mayRun(job);
}

/** Moved away from there, it would lose what was made of its answer: that is not done where nothing compels it. */
export function wouldBeginAnew({ begun, spec }: Job, worker: Worker): boolean {
  return begun && (spec.restarts_if_lost || !worker.spec.continues);
}

/** What it would mean to send the job there. */
export function prospect(state: State, { spec }: Job, worker: Worker, now_ms: number): Prospect {
  const { prompt_tokens, prefix } = spec;
  const cached_tokens = prefix.length === 0 ? 0 : Math.min(worker.kept.match(prefix) * state.limits.prefix_block_tokens, prompt_tokens);
  return {
    worker,
    cached_tokens,
    backlog_tokens: worker.prefill_tokens + Math.max(1, prompt_tokens - cached_tokens),
    prefill_ms_per_token: worker.speed.prefillMs(state.fleets.get(worker.spec.model)?.speed.prefill_ms_per_token ?? ALL_ALIKE, now_ms),
  };
}

function isFree(state: State, job: Job, worker_id: string, now_ms: number): Worker | undefined {
  const worker = state.workers.get(worker_id);
  return worker !== undefined && obstacle(state, job, worker, now_ms) === undefined ? worker : undefined;
}

function chosen(worker: Worker | undefined, scoreFor: (worker: Worker) => number): Found<Worker> | undefined {
  return worker && { worker, scored: [{ worker, score: scoreFor(worker), preference: 0 }], exhausted: false };
}

const NOT_YET: Found<Worker> = { worker: undefined, scored: [], exhausted: false };
const NOBODY: Found<Worker> = { worker: undefined, scored: [], exhausted: true };
