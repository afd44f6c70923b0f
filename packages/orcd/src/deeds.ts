/** Carrying out decisions: attempts are started and ended, streams are told, ended jobs kept for a while. May be repeated. */

import { ERRORS, type ErrorCode } from "@rbees/contracts/errors";
import type { JobEvent } from "@rbees/contracts/events";
import { EXTERNAL_DIGEST, type ReasoningEffort } from "@rbees/contracts/sets";
import type { AttemptOutcome, Decision } from "@rbees/core/events";
import { LiveMap } from "@rbees/core/live-map";
import { attemptKey } from "@rbees/core/state";
import type { Log } from "@rbees/kit/log";
import { type ActiveJob, sentTokens } from "./active-job.ts";
import type { JobRegistry } from "./job-registry.ts";
import type { AttemptListener, Link, LinkOutcome } from "./link.ts";
import type { OrcdMetrics } from "./metrics.ts";
import type { Pools } from "./pools.ts";
import { tellPosition } from "./queue-news.ts";
import type { WorkerDirectory } from "./worker-directory.ts";

export interface DeedPorts {
  readonly jobs: JobRegistry;
  readonly workers: WorkerDirectory;
  readonly metrics: OrcdMetrics;
  readonly log: Log;
  /** What workers are told of whose the request is. */
  readonly saltOf: (tenant: string) => string | undefined;
  readonly pools: Pick<Pools, "spawn" | "evict">;
  readonly attemptPrefilled: (job_id: string, attempt: number, worker_id: string) => void;
  readonly attemptProgressed: (job_id: string, attempt: number, worker_id: string, tokens_out: number) => void;
  /** Notes in the audit trail what became of a job whose attempt was lost. */
  readonly audit: (kind: string, fields: Readonly<Record<string, string | number>>) => void;
  readonly attemptEnded: (job_id: string, attempt: number, worker_id: string, outcome: AttemptOutcome) => void;
}

export class Deeds {
  readonly #ports: DeedPorts;
  /** How to end each running attempt. */
  readonly #running = new LiveMap<() => void>();

  constructor(ports: DeedPorts) {
    this.#ports = ports;
  }

  get running(): number {
    return this.#running.size;
  }

  carryOut(decision: Decision): void {
    const { jobs, workers, log } = this.#ports;
    switch (decision.type) {
      case "accept": {
        const job = jobs.get(decision.job_id);
        if (job !== undefined) tellPosition(job, decision.position, decision.eta_ms);
        break;
      }
      case "refuse":
        jobs.drop(decision.job_id);
        break;
      case "dispatch":
        this.#dispatch(decision);
        break;
      case "abort":
        this.#running.get(attemptKey(decision.job_id, decision.attempt))?.();
        break;
      case "requeue": {
        const job = jobs.get(decision.job_id);
        if (job !== undefined) job.moved_because = decision.reason;
        log.warn({ job_id: decision.job_id, attempt: decision.attempt, reason: decision.reason }, "attempt lost, job queued again");
        break;
      }
      case "settle":
        this.#settle(decision);
        break;
      case "worker.leave":
        workers.remove(decision.worker_id, decision.epoch, decision.model);
        log.warn({ worker_id: decision.worker_id, reason: decision.reason }, "worker left");
        break;
      case "worker.join":
        if (!decision.again) log.info({ worker_id: decision.worker_id, model: decision.model }, "worker joined");
        break;
      case "worker.drain":
        log.info({ worker_id: decision.worker_id }, "worker draining");
        break;
      case "worker.resume":
        log.info({ worker_id: decision.worker_id }, "worker gets work again");
        break;
      case "spawn":
        void this.#ports.pools.spawn(decision);
        break;
      case "evict":
        void this.#ports.pools.evict(decision);
        break;
      case "count":
      case "worker.reject":
        break;
    }
  }

  #dispatch({ job_id, attempt, worker_id }: Extract<Decision, { type: "dispatch" }>): void {
    const { jobs, workers, metrics, log, attemptProgressed } = this.#ports;
    const job = jobs.get(job_id);
    const link = workers.link(worker_id);
    let over = false;
    let prefilled = false;
    const ended = (reported: LinkOutcome) => {
      over = true;
      this.#running.delete(attemptKey(job_id, attempt));
      const found = reported.kind === "done" && job !== undefined && lacksVectors(job) ? NOT_ALL_VECTORS : reported;
      const outcome = found.kind === "done" ? { ...found, tokens_in: job?.end?.tokens_in, tokens_out: job?.end?.tokens_out ?? 0 } : found;
      metrics.dispatched.inc({ worker_id, outcome: outcome.kind });
      metrics.connections.dec({ worker_id });
      this.#ports.attemptEnded(job_id, attempt, worker_id, outcome);
    };
    metrics.connections.inc({ worker_id });
    if (job === undefined || link === undefined) return ended({ kind: "lost", reason: "the worker left", reached: false });
    job.attempt = attempt;
    job.ran_with = workers.build(worker_id, job.request.lora);
    const tokens = this.#continueFrom(job, job.ran_with?.model_digest);
    const { request } = job;
    log.debug({ job_id, attempt, worker_id, continued: tokens.length }, "dispatch");
    job.vectors = [];
    const prefill = () => {
      if (!prefilled) this.#ports.attemptPrefilled(job_id, attempt, worker_id);
      prefilled = true;
    };
    const told = workers.can(worker_id, "reasoning_effort") ? request.reasoning_effort : undefined;
    const sent = { attempt, tokens, cache_salt: this.#ports.saltOf(job.tenant), reasoning_effort: told };
    const abort = begin(link, job, sent, {
      onBurst: () => job.stream.hold(),
      onToken: (block) => {
        if (job.decided) return;
        prefill();
        if (job.first_token_at_ms === null) {
          job.first_token_at_ms = Date.now();
          metrics.time_to_first_token.observe({ model: request.model }, Math.max(0, job.first_token_at_ms - job.submitted_at_ms) / 1000);
        }
        job.stream.appendBlock(block);
      },
      onStarted: () => {
        if (tokens.length === 0) return job.stream.append({ type: "started", job_id, attempt, worker_id, model: request.model });
        const reason = job.moved_because;
        job.stream.append({ type: "migrated", attempt, worker_id, reason });
        metrics.migrated.inc({ outcome: "continued" });
        this.#ports.audit("job.migrated", { job_id, tenant: job.tenant, attempt, worker_id, reason, continued_tokens: tokens.length });
      },
      onEvent(event) {
        if (event.type === "end") job.end = event;
        if (event.type === "embedding") {
          if (job.decided || event.i >= (request.inputs?.length ?? 0)) return;
          if (job.vectors.length === 0) attemptProgressed(job_id, attempt, worker_id, 0);
          job.vectors[event.i] = event.v;
        } else if (event.type === "end" && request.inputs !== undefined) prefill();
        else if (event.type === "metrics") {
          job.stream.append(event);
          attemptProgressed(job_id, attempt, worker_id, event.tokens_out);
        }
      },
      onEnded: ended,
    });
    if (!over) this.#running.set(attemptKey(job_id, attempt), abort);
  }

  /** The tokens that the next attempt continues after; none when it begins from the start. `digest`: of its worker's model. */
  #continueFrom(job: ActiveJob, digest: string | undefined): number[] {
    const sent = job.attempt === 1 ? [] : sentTokens(job);
    const why = whyAnew(job, sent, digest);
    if (why !== undefined) this.beginAnew(job, why);
    const tokens = why === undefined && sent !== undefined ? sent : [];
    job.model_digest = tokens.length === 0 ? digest : (job.model_digest ?? digest);
    return tokens;
  }

  /** Takes back what was sent: the next attempt makes the answer from its first token. */
  beginAnew(job: ActiveJob, reason: string): void {
    job.stream.append({ type: "restarted", reason, from: 0 });
    this.#ports.metrics.migrated.inc({ outcome: "restarted" });
    this.#ports.audit("job.restarted", { job_id: job.id, tenant: job.tenant, attempt: job.attempt, reason });
  }

  #settle({ job_id, status, code, message, retriable }: Extract<Decision, { type: "settle" }>): void {
    const { jobs, metrics } = this.#ports;
    const job = jobs.get(job_id);
    if (job === undefined) return;
    const failed: JobEvent = {
      type: "error",
      code: code ?? "INTERNAL",
      message: message ?? ERRORS[(code ?? "INTERNAL") as ErrorCode]?.title ?? "",
      retriable: retriable ?? false,
    };
    job.stream.append(status === "succeeded" && job.end !== undefined ? job.end : failed);
    metrics.ended.inc({ status });
    jobs.end(job);
  }

  /** Ends every running attempt: the last thing before the process goes. */
  abortAll(): void {
    for (const abort of this.#running.values()) abort();
  }
}

/** What of an attempt is not in the job's request, or not as it stands there. */
interface Sent {
  readonly attempt: number;
  /** That it goes on after. */
  readonly tokens: number[];
  readonly cache_salt: string | undefined;
  /** Undefined where the worker does not know it: a request only asks for it. */
  readonly reasoning_effort: ReasoningEffort | undefined;
}

/** Sends the attempt; the returned function ends it. */
function begin(link: Link, job: ActiveJob, { attempt, tokens, cache_salt, reasoning_effort }: Sent, listener: AttemptListener): () => void {
  const { id: job_id, request, submitted_at_ms, correlation_id } = job;
  const { prompt, token_prompt, messages, raw, lora, max_tokens, fit_context, temperature, top_p, top_k, min_p, seed, stop, deadline_ms } =
    request;
  const { json_schema, grammar, frequency_penalty, presence_penalty, repeat_penalty, repeat_last_n, logit_bias, logprobs } = request;
  const time_left_ms = deadline_ms === undefined ? undefined : Math.max(1, submitted_at_ms + deadline_ms - Date.now());
  if (request.inputs !== undefined) {
    const { inputs, truncate } = request;
    return link.embed({ job_id, attempt, inputs: [...inputs], truncate, time_left_ms }, correlation_id, listener);
  }
  const continue_from = tokens.length > 0 ? { tokens } : undefined;
  const drawing = { temperature, top_p, top_k, min_p, seed };
  const weighing = { frequency_penalty, presence_penalty, repeat_penalty, repeat_last_n, logit_bias };
  const sampling = { max_tokens, fit_context, ...drawing, ...weighing, stop, json_schema, grammar, logprobs };
  const { tools, tool_choice, parallel_tool_calls, separate_reasoning } = request;
  const talk = { tools, tool_choice, parallel_tool_calls, separate_reasoning, reasoning_effort };
  return link.execute(
    { job_id, attempt, prompt, token_prompt, messages, raw, lora, cache_salt, ...talk, ...sampling, continue_from, time_left_ms },
    correlation_id,
    listener,
  );
}

const NOT_ALL_VECTORS: LinkOutcome = {
  kind: "failed",
  code: "ENGINE_FAILED",
  message: "The worker ended without the vectors of all inputs.",
  retriable: true,
};

function lacksVectors({ request: { inputs = [] }, vectors }: ActiveJob): boolean {
  return inputs.some((_, i) => vectors[i] === undefined);
}

/** Why the answer can't go on after the tokens that were sent, or must not; undefined when it does, or none were. */
function whyAnew({ request, moved_because, model_digest }: ActiveJob, sent: number[] | undefined, digest: string | undefined) {
  if (sent === undefined) return "more was sent than is kept for replay";
  if (sent.length === 0) return undefined;
  if (request.on_worker_lost === "restart") return moved_because;
  if (digest?.startsWith(EXTERNAL_DIGEST) || model_digest?.startsWith(EXTERNAL_DIGEST))
    return "the server that computes can't go on in the middle of an answer";
  // Its tokens may be other ones, and its probabilities are: what came out would be no answer of either.
  if (digest !== undefined && model_digest !== undefined && digest !== model_digest)
    return "the next worker has another build of the model";
  return undefined;
}
