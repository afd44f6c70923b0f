/** Letting a job in: the same for every door. */
import { randomInt } from "node:crypto";
import { RbeesError } from "@rbees/contracts/errors";
import { LORA_FEATURE } from "@rbees/contracts/sets";
import { callSchema } from "@rbees/contracts/tools";
import { largestContext } from "@rbees/core/admission";
import type { Decision } from "@rbees/core/events";
import { largestRequest, tokensNeeded } from "@rbees/core/quota";
import type { Job, JobSpec, Limits, State } from "@rbees/core/state";
import type { EventSink } from "@rbees/kit/event-stream";
import { grammarOf } from "@rbees/kit/grammar/grammar-of";
import type { Principal } from "@rbees/kit/http";
import type { ActiveJob, AskedJob } from "../active-job.ts";
import { throughAdapter } from "../adapters.ts";
import { cacheSalt } from "../cache-salt.ts";
import { callerOf } from "../caller.ts";
import { coreTime } from "../clock.ts";
import { mintJobId } from "../job-id.ts";
import type { JobRegistry } from "../job-registry.ts";
import { rateHeaders } from "../limits.ts";
import type { Loop } from "../loop.ts";
import type { OrcdMetrics } from "../metrics.ts";
import type { Policies } from "../policies.ts";
import { contentText, exactText, longestInput, promptBlocks, showsTools, tokensOfInputs, tokensOfPrompt } from "../prompt.ts";
import { shuttingDown } from "../shutting-down.ts";

export interface AdmitPorts {
  readonly loop: Loop;
  readonly jobs: JobRegistry;
  readonly metrics: OrcdMetrics;
  readonly stopping: () => boolean;
  readonly policies: Pick<Policies, "rule">;
}

export interface Admitted {
  readonly job: ActiveJob;
  /** For the answer's head, whatever form the answer has. */
  readonly headers: Record<string, string> & { location: string; "x-rbees-job-id": string; "x-rbees-routing": string };
  readonly position: number;
  readonly eta_ms: number | undefined;
}

/** Whose request it is. */
export interface Asker {
  readonly correlation_id: string;
  readonly who: string | undefined;
  readonly principal: Principal | undefined;
  /** Whose the job is, if not the asker's own tenant's. */
  readonly tenant?: string;
}

/** A job that nothing speaks against so far, and what the core is asked with. */
export interface Prepared {
  readonly asked: AskedJob;
  readonly job: Omit<Parameters<JobRegistry["add"]>[0], "correlation_id">;
  readonly spec: JobSpec;
}

/** What is let in together or not at all, and was not yet: the core refuses each of them by what all need. */
interface Together {
  jobs: number;
  tokens: number;
}

/** Resolves once the job is durable and has begun or waits; throws the refusal. */
export async function admit(ports: AdmitPorts, asked: AskedJob, asker: Asker): Promise<Admitted> {
  return await submit(ports, prepare(ports, asked, asker), asker);
}

/** Each as `admit` has it. All are sent to the core before the first is waited for, so that nobody comes between. */
export function admitTogether(ports: AdmitPorts, prepared: readonly Prepared[], asker: Asker): Promise<Admitted>[] {
  const together = { jobs: prepared.length, tokens: prepared.reduce((sum, { spec }) => sum + tokensNeeded(spec), 0) };
  return prepared.map((each) => submit(ports, each, asker, together));
}

/** Throws what is wrong with it whatever else waits or runs; `together`: so many come. */
export function prepare(ports: AdmitPorts, by_name: AskedJob, asker: Asker, together = 1): Prepared {
  const { loop, jobs } = ports;
  const asked = throughAdapter(loop.state, by_name);
  if (ports.stopping()) throw shuttingDown();
  // Refused now or never: a job that was let in can be carried out.
  const call = callSchema(asked);
  if (call !== undefined) grammarOf({ json_schema: call }, "tools");
  grammarOf(asked, asked.needs?.find(({ feature }) => feature === "grammar" || feature === "json_schema")?.field);
  const now_ms = Date.now();
  const id = mintJobId(now_ms);
  const { tenant, key_id } = { ...callerOf(asker), ...(asker.tenant === undefined ? {} : { tenant: asker.tenant }) };
  const limited = largestRequest(loop.state.quotas.of({ tenant, key: key_id }), together);
  const fitted = { ...asked, max_tokens: tokensThatFit(loop.state, asked, limited), seed: asked.seed ?? randomInt(0, 2 ** 32) };
  checkLogprobs(fitted, jobs.bytes_per_job_max);
  const whose = { id, tenant, key_id, submitted_at_ms: now_ms };
  const plain = jobSpec({ ...whose, request: fitted }, loop.state.limits);
  const { denied, demands, rules, ...set } = ports.policies.rule(plain);
  const priority = set.priority ?? fitted.priority;
  const max_tokens = Math.min(fitted.max_tokens, set.max_tokens ?? fitted.max_tokens);
  const request = { ...fitted, priority, max_tokens };
  const { content_keep_ms } = set;
  return {
    asked,
    job: { ...whose, request, attempt: 0, first_token_at_ms: null, rules, content_keep_ms },
    spec: { ...plain, priority, max_tokens, denied, demands },
  };
}

async function submit(
  { loop, jobs, metrics }: AdmitPorts,
  { asked, spec, ...prepared }: Prepared,
  { correlation_id, who }: Asker,
  together?: Together,
): Promise<Admitted> {
  const { id } = spec;
  const job = jobs.add({ ...prepared.job, correlation_id });
  const tokens = tokensNeeded(spec);
  const beside = together && { jobs: together.jobs - 1, tokens: together.tokens - tokens };
  const began = performance.now();
  const { decisions, done } = loop.send({ type: "job.submitted", spec, beside }, who);
  metrics.scheduling_latency.observe({ algorithm: loop.state.limits.policy }, performance.now() - began);
  const verdict = decisions.find(
    (decision): decision is Extract<Decision, { type: "accept" | "refuse" }> => decision.type === "accept" || decision.type === "refuse",
  );
  if (together !== undefined && verdict?.type !== "refuse") {
    together.jobs -= 1;
    together.tokens -= tokens;
  }
  await done;
  metrics.enqueued.inc({ outcome: verdict?.type === "refuse" ? verdict.code : "accepted" });
  if (verdict?.type === "refuse") {
    const { code, message, retry_after_ms } = verdict;
    const input = code === "CONTEXT_TOO_LARGE" && asked.inputs !== undefined ? longestInput(asked.inputs) : undefined;
    const param = verdict.param ?? input;
    throw new RbeesError(code, input === undefined ? message : `${input}: ${message}`, {
      headers: rateHeaders(loop.state, job),
      ...(retry_after_ms === undefined ? {} : { retry_after_ms }),
      ...(param === undefined ? {} : { param }),
    });
  }
  const position = verdict?.position ?? 0;
  const headers = {
    location: `/v2/tasks/${id}`,
    "x-rbees-job-id": id,
    "x-rbees-routing": routingHeader(loop.state.jobs.get(id), position),
    ...rateHeaders(loop.state, job),
  };
  return { job, headers, position, eta_ms: verdict?.eta_ms };
}

/** About what an event says of one token that was likely, bytes. */
const LOGPROB_BYTES = 48;

/** An answer is put together of its events: what they say of each token must not be more than is kept of them. */
function checkLogprobs({ logprobs, max_tokens }: AskedJob, bytes_max: number): void {
  if (logprobs === undefined) return;
  const tokens_max = Math.floor(bytes_max / ((logprobs + 1) * LOGPROB_BYTES));
  if (max_tokens <= tokens_max) return;
  const why = `of ${max_tokens} tokens they are more than the ${bytes_max} bytes of events that are kept of a job (replay_bytes_per_job_max)`;
  throw new RbeesError("INVALID_REQUEST", `logprobs: ${why}. Ask for fewer at each place, or for at most ${tokens_max} tokens.`, {
    param: "logprobs",
  });
}

/** The connection that submitted the job reads its stream: when it breaks, `on_disconnect` says what becomes of the job. */
export function followOwn({ loop }: AdmitPorts, job: ActiveJob, reader: EventSink): void {
  job.stream.attach(reader, job.stream.first_id - 1);
  if (job.request.on_disconnect === "cancel") reader.onClose(() => void loop.send({ type: "job.cancelled", job_id: job.id }));
}

/**
 * `max_tokens`; with `fit_context` no more than the largest context has room for, by what is certain of the prompt (the worker counts),
 * and no more than `limited` tokens together with the prompt, by the estimate that limits go by.
 */
function tokensThatFit(state: State, asked: AskedJob, limited: number): number {
  if (asked.fit_context !== true) return asked.max_tokens;
  const { prompt_tokens, prompt_tokens_min } = tokensOfPrompt(asked, contentText(asked));
  const largest = largestContext(state, asked.model, asked.placement?.pin ?? null);
  const room = Math.min(largest - prompt_tokens_min, limited - prompt_tokens);
  return Math.max(1, Math.min(asked.max_tokens, room));
}

export function jobSpec(
  { id, tenant, key_id, request, submitted_at_ms }: Pick<ActiveJob, "id" | "tenant" | "key_id" | "request" | "submitted_at_ms">,
  { prefix_block_tokens, prefixes_shared }: Limits,
): JobSpec {
  const { model, priority, max_tokens, deadline_ms, placement, inputs, truncate = false } = request;
  const content = contentText(request);
  return {
    id,
    tenant,
    key: key_id,
    model,
    priority,
    submitted_at_ms: coreTime(submitted_at_ms),
    bytes: Buffer.byteLength(exactText(request), "utf8"),
    max_tokens,
    ...(inputs === undefined ? tokensOfPrompt(request, content) : tokensOfInputs(inputs, truncate)),
    prefix: promptBlocks(request, content, { block_tokens: prefix_block_tokens, salt: cacheSalt(tenant, prefixes_shared) }),
    deadline_at_ms: deadline_ms === undefined ? null : coreTime(submitted_at_ms + deadline_ms),
    pin: placement?.pin ?? null,
    prefer: placement?.prefer ?? [],
    avoid: placement?.avoid ?? [],
    labels: placement?.labels ?? {},
    needs: [
      ...(request.needs ?? []),
      ...(request.lora === undefined ? [] : [{ feature: LORA_FEATURE + request.lora, field: "lora" }]),
      ...(showsTools(request) ? [{ feature: "tools", field: "tools" } as const] : []),
      ...(callSchema(request) === undefined ? [] : [{ feature: "json_schema", field: "tool_choice" } as const]),
    ],
    demands: [],
    denied: null,
    metadata: request.metadata,
    fails_if_lost: request.on_worker_lost === "fail",
    restarts_if_lost: request.on_worker_lost === "restart",
  };
}

/** How it was placed, for whoever reads the answer's head: `worker=w1; policy=eta; score=…; cached_tokens=…; compared=3`, or `queued; position=4`. */
function routingHeader(job: Job | undefined, position: number): string {
  if (job?.routing === undefined) return `queued; position=${position}`;
  const { worker_id, routing } = job;
  const { policy, cached_tokens, compared } = routing;
  const score = compared.find((other) => other.worker_id === worker_id)?.score;
  const scored = score === undefined ? "" : `; score=${Number(score.toPrecision(4))}; compared=${compared.length}`;
  return `worker=${worker_id}; policy=${policy}; cached_tokens=${cached_tokens}${scored}`;
}
