/**
 * All attempts of this worker: admits them while a slot is free, carries the engine's reports to them, ends them on request,
 * on their deadline and when the worker drains. The one owner of the question whether a slot is free.
 */
import type { Embed } from "@rbees/contracts/embed";
import { RbeesError } from "@rbees/contracts/errors";
import { type Feature, LORA_FEATURE } from "@rbees/contracts/sets";
import type { Counted, Tokenize } from "@rbees/contracts/tokenize";
import { callSchema } from "@rbees/contracts/tools";
import type { Execute } from "@rbees/contracts/worker";
import { grammarOf } from "@rbees/kit/grammar/grammar-of";
import type { Log } from "@rbees/kit/log";
import { Attempt } from "./attempt.ts";
import type { EmbedRequest, EngineCounts, RunAccepted, RunRequest, StepReport } from "./engine.ts";
import { type Outcome, Throughput, type WorkerMetrics } from "./metrics.ts";

export interface AttemptsOptions {
  /** Known once the worker listens. */
  worker_id: () => string;
  model: string;
  slots: number;
  /** What the engine can do beyond what every engine can, its adapters among it. */
  features: readonly string[];
  metrics_ms: number;
  stream_buffer_bytes_max: number;
  memory_bytes: () => number;
  metrics: WorkerMetrics;
  log: Log;
  engine: {
    readonly ready: boolean;
    start(run: number, request: RunRequest): Promise<RunAccepted>;
    embed(run: number, request: EmbedRequest): Promise<{ tokens_in: number }>;
    tokenize(run: number, request: Tokenize): Promise<Counted>;
    abort(run: number): void;
  };
}

/** Bounds of what a refused caller is told to wait. */
const RETRY_AFTER_MS = { min: 50, max: 30_000, unknown: 1_000 } as const;

export class Attempts {
  readonly #options: AttemptsOptions;
  readonly #running = new Map<number, Attempt>();
  readonly #deadlines = new Map<number, NodeJS.Timeout>();
  readonly #throughput = new Throughput();
  #next_run = 1;
  #draining = false;
  #idle: (() => void) | undefined;

  constructor(options: AttemptsOptions) {
    this.#options = options;
  }

  get draining(): boolean {
    return this.#draining;
  }

  /** While the engine is being started again no slot is free. */
  get slots_busy(): number {
    return this.#options.engine.ready ? this.#running.size : this.#options.slots;
  }

  get tokens_per_second(): number {
    return this.#throughput.rate(performance.now());
  }

  /** Starts an attempt; resolves when it has its slot. Refusals are thrown before any event is written. */
  start(body: Execute, correlation_id: string): Promise<Attempt> {
    return this.#begin(body, body.max_tokens, correlation_id, (run) =>
      this.#options.engine.start(run, runRequest(body, this.#options.features)),
    );
  }

  /** The same for vectors: they take a slot of the worker while they are made. */
  embed(body: Embed, correlation_id: string): Promise<Attempt> {
    const { inputs, truncate } = body;
    return this.#begin(body, 0, correlation_id, (run) => this.#options.engine.embed(run, { inputs, truncate }));
  }

  /** Counts a prompt's tokens: takes no slot, and is done while the worker drains too. */
  tokenize(body: Tokenize): Promise<Counted> {
    return this.#options.engine.tokenize(this.#next_run++, body);
  }

  async #begin(
    body: Execute | Embed,
    max_tokens: number,
    correlation_id: string,
    start: (run: number) => Promise<{ tokens_in: number }>,
  ): Promise<Attempt> {
    const { metrics, engine } = this.#options;
    try {
      this.#admit(body);
    } catch (error) {
      metrics.requests.inc({ outcome: "refused" });
      throw error;
    }
    const run = this.#next_run++;
    const { metrics_ms, stream_buffer_bytes_max, memory_bytes, worker_id, model } = this.#options;
    const { job_id, attempt: number } = body;
    const abort = () => engine.abort(run);
    const attempt = new Attempt({
      run,
      job_id,
      attempt: number,
      correlation_id,
      max_tokens,
      metrics_ms,
      stream_buffer_bytes_max,
      memory_bytes,
      abort,
    });
    attempt.send({ type: "started", job_id, attempt: number, worker_id: worker_id(), model });
    this.#running.set(run, attempt);
    try {
      const { tokens_in } = await start(run);
      metrics.tokens_in.inc(tokens_in);
    } catch (error) {
      // When the engine died meanwhile, `lost` has already settled this attempt.
      if (this.#running.delete(run)) metrics.requests.inc({ outcome: "refused" });
      this.#checkIdle();
      throw error;
    }
    const left_ms = timeLeftMs(body);
    if (left_ms !== undefined) this.#watchDeadline(run, attempt, left_ms);
    return attempt;
  }

  cancel(job_id: string): boolean {
    let found = false;
    for (const attempt of this.#running.values()) {
      if (attempt.options.job_id !== job_id) continue;
      found = true;
      attempt.finishEarly("CANCELLED", "The job was cancelled.", "cancelled");
    }
    return found;
  }

  took(reports: readonly StepReport[]): void {
    const now = performance.now();
    let generated = 0;
    for (const report of reports) {
      generated += report.generated;
      const attempt = this.#running.get(report.run);
      if (attempt === undefined) continue;
      const first = attempt.tokens_out === 0 && report.generated > 0;
      if (first) this.#options.metrics.time_to_first_token.observe((now - attempt.started_ms) / 1000);
      const outcome = attempt.took(report);
      if (outcome !== undefined) this.#settle(report.run, attempt, outcome);
    }
    if (generated === 0) return;
    this.#options.metrics.tokens_generated.inc(generated);
    this.#throughput.add(generated, now);
  }

  counted(counts: EngineCounts): void {
    const { prefixes_stored = 0, prefixes_restored = 0, prefixes_evicted = 0, tokens_guessed = 0, tokens_guessed_right = 0 } = counts;
    const { metrics } = this.#options;
    metrics.tokens_guessed.inc(tokens_guessed);
    metrics.tokens_guessed_right.inc(tokens_guessed_right);
    metrics.prefixes_stored.inc(prefixes_stored);
    metrics.prefixes_restored.inc(prefixes_restored);
    metrics.prefixes_evicted.inc(prefixes_evicted);
  }

  /** The engine is gone: every attempt has failed, and each may be tried elsewhere. */
  lost(error: RbeesError): void {
    for (const [run, attempt] of [...this.#running]) this.#settle(run, attempt, attempt.lost("ENGINE_FAILED", error.message));
  }

  /** Takes no more attempts and lets the running ones finish, `drain_ms` at most; the rest are ended. */
  async drain(drain_ms: number): Promise<void> {
    this.#draining = true;
    if (this.#running.size === 0) return;
    const idle = new Promise<void>((resolve) => {
      this.#idle = resolve;
    });
    const timer = setTimeout(() => {
      for (const attempt of this.#running.values())
        attempt.finishEarly("SHUTTING_DOWN", "The worker shut down before the answer was complete.", "failed");
    }, drain_ms);
    await idle;
    clearTimeout(timer);
  }

  #admit(body: Timed): void {
    const { slots } = this.#options;
    if (this.#draining) throw new RbeesError("SHUTTING_DOWN", "This worker is shutting down.", { retry_after_ms: RETRY_AFTER_MS.unknown });
    if (this.slots_busy >= slots) {
      throw new RbeesError("ALL_SLOTS_BUSY", `All ${slots} slots of this worker are busy.`, {
        details: { slots_total: slots, slots_busy: this.slots_busy },
        retry_after_ms: this.#retryAfter(),
      });
    }
    if ((timeLeftMs(body) ?? 1) <= 0) throw new RbeesError("DEADLINE_EXCEEDED", DEADLINE);
  }

  /** When the first of the running answers will be complete, if each needs all tokens it may have. */
  #retryAfter(): number {
    const left = [...this.#running.values()].map(({ tokens_out, decode_ms, options }) =>
      tokens_out === 0 ? RETRY_AFTER_MS.unknown : ((options.max_tokens - tokens_out) * decode_ms) / tokens_out,
    );
    return Math.min(RETRY_AFTER_MS.max, Math.max(RETRY_AFTER_MS.min, Math.min(...left, RETRY_AFTER_MS.max)));
  }

  #watchDeadline(run: number, attempt: Attempt, left_ms: number): void {
    if (!this.#running.has(run)) return;
    const timer = setTimeout(() => attempt.finishEarly("DEADLINE_EXCEEDED", DEADLINE, "deadline"), Math.min(TIMER_MS_MAX, left_ms));
    this.#deadlines.set(run, timer);
  }

  #settle(run: number, attempt: Attempt, outcome: Outcome): void {
    const { metrics } = this.#options;
    this.#running.delete(run);
    clearTimeout(this.#deadlines.get(run));
    this.#deadlines.delete(run);
    metrics.requests.inc({ outcome });
    metrics.inference_duration_ms.observe(performance.now() - attempt.started_ms);
    const { job_id, attempt: number, correlation_id } = attempt.options;
    const duration_ms = Math.round(performance.now() - attempt.started_ms);
    this.#options.log.info(
      { job_id, attempt: number, correlation_id, outcome, tokens_out: attempt.tokens_out, duration_ms },
      "attempt ended",
    );
    if (attempt.tokens_out > 1) metrics.time_per_output_token.observe(attempt.decode_ms / (attempt.tokens_out - 1) / 1000);
    this.#checkIdle();
  }

  #checkIdle(): void {
    if (this.#running.size === 0) this.#idle?.();
  }
}

type Timed = Pick<Execute, "deadline" | "time_left_ms">;

const DEADLINE = "The deadline passed before the answer was complete.";
/** Longer than any attempt; a longer timer would fire at once. */
const TIMER_MS_MAX = 2_147_483_647;

function heldTo(body: Execute, features: readonly string[]): string | undefined {
  const call = callSchema(body);
  const grammar = call === undefined ? grammarOf(body) : grammarOf({ json_schema: call }, "tools");
  const param = call !== undefined ? "tool_choice" : body.grammar === undefined ? "json_schema" : "grammar";
  if (grammar === undefined || features.includes(param === "grammar" ? "grammar" : "json_schema")) return grammar;
  throw new RbeesError("INVALID_REQUEST", `${param}: the engine of this worker can't hold answers to one`, { param });
}

/** What an engine must be able to do for a field. */
const FEATURE_OF = {
  token_prompt: "token_prompts",
  frequency_penalty: "penalties",
  presence_penalty: "penalties",
  repeat_penalty: "repeat_penalty",
  logit_bias: "logit_bias",
  logprobs: "logprobs",
  reasoning_effort: "reasoning_effort",
} as const satisfies Record<string, Feature>;

function runRequest(body: Execute, features: readonly string[]): RunRequest {
  const { lora } = body;
  if (lora !== undefined && !features.includes(LORA_FEATURE + lora))
    throw new RbeesError("INVALID_REQUEST", `lora: this worker has no adapter ${lora}`, { param: "lora" });
  const grammar = heldTo(body, features);
  const { frequency_penalty, presence_penalty, repeat_penalty, repeat_last_n, logit_bias, logprobs } = body;
  const special = { frequency_penalty, presence_penalty, repeat_penalty, repeat_last_n, logit_bias, logprobs };
  for (const param of Object.keys(FEATURE_OF) as (keyof typeof FEATURE_OF)[]) {
    const can = features.includes(FEATURE_OF[param]);
    if (!can && body[param] !== undefined)
      throw new RbeesError("INVALID_REQUEST", `${param}: the engine of this worker has none`, { param });
  }
  const { job_id, prompt, token_prompt, messages, raw, cache_salt, tools, tool_choice, parallel_tool_calls, separate_reasoning } = body;
  const { max_tokens, fit_context, temperature, top_p, top_k, min_p, stop, reasoning_effort } = body;
  const seed = body.seed ?? Math.floor(Math.random() * 4_294_967_296);
  const continue_tokens = body.continue_from?.tokens ?? [];
  const asked = {
    job_id,
    prompt,
    token_prompt,
    messages,
    raw,
    lora,
    cache_salt,
    tools,
    tool_choice,
    parallel_tool_calls,
    separate_reasoning,
    reasoning_effort,
  };
  const held = { grammar, json_schema: body.json_schema };
  return { ...asked, max_tokens, fit_context, temperature, top_p, top_k, min_p, seed, stop, ...held, ...special, continue_tokens };
}

/** Until the deadline, by whichever of the two ways it was given comes first; undefined when there is none. */
function timeLeftMs({ deadline, time_left_ms }: Timed): number | undefined {
  if (deadline === undefined) return time_left_ms;
  return Math.min(Date.parse(deadline) - Date.now(), time_left_ms ?? Number.POSITIVE_INFINITY);
}
