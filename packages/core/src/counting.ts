/**
 * Prompts whose tokens are counted and that nothing is made of: they are no jobs and wait for nothing, but they go to no worker that a job with the
 * same prompt could not go to, and each is a request by the limits of its tenant and key.
 */
import { beyondEngines, modelUnknown } from "./admission.ts";
import { demandsOn, inWords } from "./demand.ts";
import type { Decision } from "./events.ts";
import { denialOf } from "./gate.ts";
import { type Obstacle, obstacle } from "./place.ts";
import { overLimit, payRequest } from "./quota.ts";
import { isSilent, type JobSpec, type State } from "./state.ts";

/** What is no hindrance: a count takes no slot and no room in a context. What comes first is asked first. */
const NO_HINDRANCE: readonly (Obstacle | undefined)[] = [undefined, "busy", "context", "draining"];
/** Nobody waits for a count. */
const NO_QUEUE = { wouldWait: () => false, freeMs: () => 0 };

export function count(state: State, spec: JobSpec, now_ms: number, out: Decision[]): void {
  const accounts = state.quotas.of(spec);
  const refusal =
    (spec.denied === null ? undefined : { code: "FORBIDDEN" as const, message: denialOf(spec.denied), rule: spec.denied.rule }) ??
    modelUnknown(state, spec) ??
    beyondEngines(state, spec) ??
    // Counting uses no tokens.
    overLimit({ accounts, spec: { ...spec, prompt_tokens: 0, max_tokens: 0 } }, NO_QUEUE, now_ms);
  if (refusal !== undefined) {
    out.push({ type: "refuse", job_id: spec.id, ...refusal });
    return;
  }
  const { demands } = demandsOn(state, spec, spec.demands);
  const found = [...(state.fleets.get(spec.model) ?? [])].map((worker) => ({
    worker,
    hindered: obstacle(state, { spec, demands }, worker, now_ms),
  }));
  const able = found.filter(({ worker, hindered }) => NO_HINDRANCE.includes(hindered) && !isSilent(state, worker, now_ms));
  if (able.length === 0) {
    out.push({ type: "refuse", job_id: spec.id, ...nobody(state, spec, inWords(demands)) });
    return;
  }
  payRequest(accounts, now_ms);
  const rank = (one: { hindered: Obstacle | undefined }) => NO_HINDRANCE.indexOf(one.hindered);
  able.sort((a, b) => rank(a) - rank(b));
  out.push({ type: "count", job_id: spec.id, worker_ids: able.map(({ worker }) => worker.spec.id) });
}

function nobody(state: State, { model }: JobSpec, demanded: string) {
  const why = demanded === "" ? "" : ` (${demanded})`;
  const message = `No worker that holds ${model} and may see the prompt${why} is there now to count its tokens.`;
  return { code: "NO_WORKER" as const, message, retry_after_ms: state.limits.worker_silence_ms_max };
}
