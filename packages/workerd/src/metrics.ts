/** What the worker counts: the Prometheus names of the contract, OpenTelemetry's GenAI histograms, and the present speed. */
import { Counter, createRegistry, Gauge, Histogram, type Registry } from "@rbees/kit/metrics";

export const OUTCOMES = ["done", "cancelled", "disconnected", "refused", "failed", "deadline"] as const;
export type Outcome = (typeof OUTCOMES)[number];

const TTFT_BUCKETS_S = [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 30];
const PER_TOKEN_BUCKETS_S = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5];
const DURATION_BUCKETS_MS = [10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 300_000];

export interface WorkerMetrics {
  registry: Registry;
  requests: Counter<"outcome">;
  tokens_in: Counter;
  tokens_generated: Counter;
  tokens_guessed: Counter;
  tokens_guessed_right: Counter;
  prefixes_stored: Counter;
  prefixes_restored: Counter;
  prefixes_evicted: Counter;
  inference_duration_ms: Histogram;
  time_to_first_token: Histogram;
  time_per_output_token: Histogram;
}

/** What is read when somebody asks. */
export interface WorkerGauges {
  memory_bytes: () => number;
  prefix_cache_bytes: () => number;
  uptime_seconds: () => number;
}

export function createMetrics(worker_id: () => string, facts: WorkerGauges): WorkerMetrics {
  const registry = createRegistry();
  const registers = [registry];
  const gauge = (name: string, help: string, labels: () => Record<string, string>, read: () => number) =>
    new Gauge({
      name,
      help,
      labelNames: Object.keys(labels()),
      registers,
      collect() {
        this.set(labels(), read());
      },
    });
  gauge(
    "worker_vram_bytes",
    "Memory of the device that model and context take; on a CPU worker its RAM",
    () => ({ worker_id: worker_id() }),
    facts.memory_bytes,
  );
  gauge(
    "worker_prefix_cache_bytes",
    "Memory that holds prefixes which slots have lost to other prompts",
    () => ({}),
    facts.prefix_cache_bytes,
  );
  gauge("worker_uptime_seconds", "Seconds since the worker began", () => ({}), facts.uptime_seconds);
  const requests = new Counter({ name: "worker_requests_total", help: "Attempts by how they ended", labelNames: ["outcome"], registers });
  for (const outcome of OUTCOMES) requests.inc({ outcome }, 0);
  const histogram = (name: string, help: string, buckets: number[]) => new Histogram({ name, help, buckets, registers });
  const counter = (name: string, help: string) => new Counter({ name, help, registers });
  return {
    registry,
    requests,
    tokens_in: new Counter({ name: "worker_tokens_in_total", help: "Prompt tokens taken in", registers }),
    tokens_generated: new Counter({ name: "worker_tokens_generated_total", help: "Tokens generated", registers }),
    tokens_guessed: counter("worker_speculated_tokens_total", "Tokens of answers that were guessed"),
    tokens_guessed_right: counter("worker_speculated_tokens_accepted_total", "Of these, tokens that the model then said"),
    prefixes_stored: counter("worker_prefix_cache_stored_total", "Prefixes that slots have lost and that were kept"),
    prefixes_restored: counter("worker_prefix_cache_hits_total", "Prefixes put back into a slot because a prompt began with them"),
    prefixes_evicted: counter("worker_prefix_cache_evicted_total", "Kept prefixes that had to make room"),
    inference_duration_ms: histogram("worker_inference_duration_ms", "From the start of an attempt to its end", DURATION_BUCKETS_MS),
    time_to_first_token: histogram(
      "gen_ai_server_time_to_first_token_seconds",
      "From the start of an attempt to its first token",
      TTFT_BUCKETS_S,
    ),
    time_per_output_token: histogram("gen_ai_server_time_per_output_token_seconds", "Between tokens after the first", PER_TOKEN_BUCKETS_S),
  };
}

const WINDOW_MS = 5_000;
const BUCKET_MS = 250;

/** Tokens a second over the last seconds. */
export class Throughput {
  readonly #buckets: { at_ms: number; tokens: number }[] = [];

  add(tokens: number, now_ms: number): void {
    const last = this.#buckets.at(-1);
    if (last !== undefined && now_ms - last.at_ms < BUCKET_MS) last.tokens += tokens;
    else this.#buckets.push({ at_ms: now_ms, tokens });
    this.#forget(now_ms);
  }

  rate(now_ms: number): number {
    this.#forget(now_ms);
    const first = this.#buckets[0];
    if (first === undefined) return 0;
    const tokens = this.#buckets.reduce((sum, bucket) => sum + bucket.tokens, 0);
    return tokens / (Math.max(BUCKET_MS, now_ms - first.at_ms) / 1000);
  }

  #forget(now_ms: number): void {
    while (this.#buckets[0] !== undefined && now_ms - this.#buckets[0].at_ms > WINDOW_MS) this.#buckets.shift();
  }
}
