/** Whether a job is let in: everything that speaks against it at once, so that its caller has to ask only once more. */
import { lack, unmet } from "./demand.ts";
import { etaMs, isMeasured, placeFreeMs } from "./estimate.ts";
import { barredBy, denialOf } from "./gate.ts";
import { place } from "./place.ts";
import { lengthAhead } from "./queue.ts";
import type { Job, JobSpec, State } from "./state.ts";

export type RefusalCode =
  | "QUEUE_FULL"
  | "MODEL_NOT_FOUND"
  | "NO_WORKER"
  | "CONTEXT_TOO_LARGE"
  | "DEADLINE_EXCEEDED"
  | "RATE_LIMITED"
  | "QUOTA_EXCEEDED"
  | "FORBIDDEN"
  | "INVALID_REQUEST";

export interface Refusal {
  readonly code: RefusalCode;
  readonly message: string;
  readonly retry_after_ms?: number;
  /** The field of the request that can't be honoured. */
  readonly param?: string;
  /** Which limit of whom it is, if it is one of a tenant or a key. */
  readonly limit?: string;
  /** The rule that says so, if it is one. */
  readonly rule?: string;
}

/** Why the job can't be run here at all: the first problem's code, every problem's message. Undefined when it can. */
export function objection(state: State, job: Job, now_ms: number): Refusal | undefined {
  const { denied } = job.spec;
  if (denied !== null) return { code: "FORBIDDEN", message: denialOf(denied), rule: denied.rule };
  const [first, ...others] = [
    modelUnknown(state, job.spec),
    pinVain(state, job.spec),
    beyondEngines(state, job.spec),
    pinForbidden(state, job),
    contextTooLarge(state, job.spec),
    tooLate(state, job, now_ms),
  ].filter((found) => found !== undefined);
  if (first === undefined || others.length === 0) return first;
  return { ...first, message: [first, ...others].map(({ message }) => message).join(" ") };
}

/** That there is no room for one more in the queue, if it would have to wait. */
export function queueFull(state: State, job: Job, now_ms: number): Refusal | undefined {
  const { queue_jobs_max, queue_bytes_max } = state.limits;
  const jobs = state.queued >= queue_jobs_max;
  if (!jobs && state.queued_bytes + job.spec.bytes <= queue_bytes_max) return undefined;
  if (!state.halted && place(state, job, now_ms).worker !== undefined) return undefined;
  const message = jobs
    ? `The queue is full (${state.queued} jobs wait).`
    : `The queue is full (${state.queued_bytes} bytes of requests wait, and ${queue_bytes_max} may).`;
  return { code: "QUEUE_FULL", message, retry_after_ms: placeFreeMs(state, job, now_ms) };
}

/** About how long it takes a pool to say what it has. */
const POOL_ANSWERS_MS = 2000;

export function modelUnknown(state: State, { model }: JobSpec): Refusal | undefined {
  if (state.models.has(model)) return undefined;
  const { auto_spawn, pools } = state.limits;
  const unheard = auto_spawn ? Object.keys(pools).filter((id) => !state.pools_asked.has(id)) : [];
  if (unheard.length > 0) {
    const message = `No worker has ever served "${model}", and what models there are in ${unheard.join(", ")} is being asked: try again soon.`;
    return { code: "NO_WORKER", message, retry_after_ms: POOL_ANSWERS_MS };
  }
  const known = [...state.models].sort().join(", ");
  return {
    code: "MODEL_NOT_FOUND",
    message: `No worker has ever served "${model}". ${known === "" ? "No worker has joined yet." : `Known: ${known}.`}`,
  };
}

function pinVain(state: State, { model, pin }: JobSpec): Refusal | undefined {
  if (pin === null || state.workers.get(pin)?.spec.model === model) return undefined;
  return {
    code: "NO_WORKER",
    message: `The job is pinned to "${pin}", and no worker of that name serves ${model} now.`,
    retry_after_ms: state.limits.worker_silence_ms_max,
  };
}

/** Nobody is asked to wait for a worker that may never come: what none of those that serve the model can do is refused. */
export function beyondEngines(state: State, { model, pin, needs }: JobSpec): Refusal | undefined {
  if (needs.length === 0) return undefined;
  const serving = [...(state.fleets.get(model) ?? [])].filter(({ spec }) => pin === null || spec.id === pin);
  if (serving.length === 0 || serving.some(({ spec }) => needs.every(({ feature }) => spec.features.includes(feature)))) return undefined;
  const lacking = needs.filter(({ feature }) => !serving.some(({ spec }) => spec.features.includes(feature)));
  // Each may be within reach of some worker, and all together of none.
  const named = lacking.length > 0 ? lacking : needs;
  const asked = named.map(({ field, feature }) => `${field} (${feature})`).join(" and ");
  const message = `${asked}: the engine of no worker that serves ${model}${pin === null ? "" : ` under the name ${pin}`} can do that. \`rbees workers list\` says what each can.`;
  return { code: "INVALID_REQUEST", message, ...(named[0] === undefined ? {} : { param: named[0].field }) };
}

/** It would wait for ever. */
function pinForbidden(state: State, { spec, demands }: Job): Refusal | undefined {
  const { pin } = spec;
  const worker = pin === null ? undefined : state.workers.get(pin);
  if (worker === undefined) return undefined;
  const barred = barredBy(state, spec, worker);
  if (barred !== null) return { code: "FORBIDDEN", message: `The job is pinned to "${pin}": ${denialOf(barred)}`, rule: barred.rule };
  const demand = unmet(demands, worker.spec);
  if (demand === undefined) return undefined;
  return { code: "FORBIDDEN", message: `The job is pinned to "${pin}", but ${demand.by} demands ${lack(demand, worker.spec)}.` };
}

/** Tokens that the largest context for a job holds: infinite while no worker is there for it, or one does not say how much it holds. */
export function largestContext(state: State, model: string, pin: string | null): number {
  return (pin === null ? state.fleets.get(model)?.largest_context : state.workers.get(pin)?.spec.context_size) || Number.POSITIVE_INFINITY;
}

function contextTooLarge(state: State, { model, pin, prompt_tokens_min, max_tokens }: JobSpec): Refusal | undefined {
  const largest = largestContext(state, model, pin);
  if (prompt_tokens_min + max_tokens <= largest) return undefined;
  if (max_tokens === 0) {
    const message = `The longest input has at least ${prompt_tokens_min} tokens (estimated from its length), and the largest context for ${model} holds ${largest}.`;
    return { code: "CONTEXT_TOO_LARGE", message };
  }
  const asked =
    max_tokens >= largest
      ? `max_tokens is ${max_tokens}`
      : `The prompt has at least ${prompt_tokens_min} tokens (estimated from its length) and max_tokens is ${max_tokens}`;
  return {
    code: "CONTEXT_TOO_LARGE",
    message: `${asked}, and the largest context for ${model} holds ${largest} tokens, prompt and answer together.`,
  };
}

/** Only what was measured counts against a job: a guess refuses nobody. */
function tooLate(state: State, job: Job, now_ms: number): Refusal | undefined {
  const { deadline_at_ms, model } = job.spec;
  if (deadline_at_ms === null || !isMeasured(state, model)) return undefined;
  const eta_ms = etaMs(state, job, lengthAhead(state, job), now_ms);
  if (eta_ms === undefined || now_ms + eta_ms < deadline_at_ms) return undefined;
  // Looked for last, since it costs most.
  if (place(state, job, now_ms).worker !== undefined) return undefined;
  return {
    code: "DEADLINE_EXCEEDED",
    message: `The job would start in about ${eta_ms} ms, after its deadline in ${Math.max(0, deadline_at_ms - now_ms)} ms.`,
    retry_after_ms: eta_ms,
  };
}
