/** Every setting of `rbees-orcd`, with its unit and default. */

import { WIRE_LIMITS } from "@rbees/contracts/job";
import { POLICIES, QUEUE_FULL_RULES } from "@rbees/core/state";
import { type ConfigOf, flag, number, text } from "@rbees/kit/config";
import { LOG_FORMATS, LOG_LEVELS } from "@rbees/kit/log";

export const settings = {
  host: text<string>({ default: "127.0.0.1", help: "Address to listen on" }),
  port: number({ default: 8080, max: 65_535, help: "Port to listen on; 0 takes a free one" }),
  open_network: flag({ default: false, help: "Allow an address beyond loopback although callers are not authenticated yet" }),
  data_dir: text<string>({ default: "", help: "Folder of the database; empty: the platform's data folder" }),
  body_bytes_max: number({ default: 4_194_304, min: 1024, help: "Largest request body, bytes" }),
  queue_jobs_max: number({ default: 1000, min: 1, help: "Jobs that may wait at once" }),
  queue_bytes_max: number({ default: 268_435_456, min: 1024, help: "Bytes of the requests that may wait at once" }),
  queue_full: text({ default: "reject", one_of: QUEUE_FULL_RULES, help: `When the queue is full: ${QUEUE_FULL_RULES.join(", ")}` }),
  queue_wait_ms_max: number({ default: 0, help: "Longest wait of a job for its first worker; 0: no limit" }),
  first_token_ms_max: number({ default: 0, help: "Longest wait of a job for its first token; 0: no limit" }),
  batch_promote_ms: number({ default: 300_000, help: "A batch job that waited this long counts as interactive; 0: never" }),
  preempt_batch: flag({ default: false, help: "Move running batch jobs aside for waiting interactive ones, and continue them later" }),
  policy: text({ default: "eta", one_of: POLICIES, help: `How a worker is chosen: ${POLICIES.join(", ")}` }),
  prefix_block_tokens: number({ default: 64, min: 1, max: 4096, help: "Tokens by which beginnings of prompts are compared" }),
  attempts_max: number({ default: 3, min: 1, max: 20, help: "Attempts that may be lost or fail before a job fails" }),
  heartbeat_ms: number({ default: 5000, min: 50, help: "How often workers report" }),
  worker_silence_ms_max: number({ default: 15_000, min: 100, help: "A worker silent for this long gets no new work" }),
  worker_inhibit_ms: number({ default: 500, help: "A worker that refused or was unreachable is left alone for this long" }),
  breaker_failures: number({ default: 5, min: 1, help: "Attempts lost or failed in a row after which a worker is left alone" }),
  breaker_open_ms: number({ default: 5000, min: 1, help: "How long, before it is tried again; doubles with each further failure" }),
  breaker_open_ms_max: number({ default: 60_000, min: 1, help: "The longest that a worker is left alone" }),
  retry_backoff_ms: number({ default: 100, help: "Wait before a second attempt; doubles with each further one" }),
  retry_backoff_ms_max: number({ default: 5000, help: "Longest wait between attempts" }),
  service_ms_guess: number({ default: 5000, min: 1, help: "How long a job is thought to run while nothing was measured" }),
  connect_ms_max: number({ default: 5000, min: 10, help: "Longest wait for a worker to accept an attempt's connection" }),
  attempt_silence_ms_max: number({ default: 60_000, min: 100, help: "An attempt whose worker sends nothing for this long is lost" }),
  replay_bytes_per_job_max: number({ default: 16_777_216, min: 65_536, help: "Event bytes kept per job for readers who resume" }),
  replay_bytes_total_max: number({ default: 268_435_456, min: 1_048_576, help: "Event bytes kept over all ended jobs" }),
  replay_after_end_ms: number({ default: 120_000, help: "How long an ended job's events can be read again" }),
  progress_flush_ms: number({ default: 1000, help: "How often what running jobs have got is written to disk; 0: never" }),
  reader_stall_ms_max: number({ default: 30_000, min: 100, help: "A reader that takes nothing for this long is cut off (lagged)" }),
  readers_per_job_max: number({ default: 64, min: 1, help: "Readers of one job's events at once" }),
  ping_ms: number({ default: 15_000, min: 50, help: "A silent event stream gets a comment this often" }),
  start_hold_ms: number({ default: 2, help: "How long the headers of a job's stream may wait to leave with its first event" }),
  queue_news_ms: number({ default: 1000, min: 10, help: "How often waiting jobs are told their position, if it has changed" }),
  tick_ms: number({ default: 100, min: 5, help: "How often deadlines, back-offs and silence are looked at" }),
  v1_max_tokens_default: number({
    default: 2048,
    min: 1,
    max: WIRE_LIMITS.max_tokens_max,
    help: "Most tokens of a chat answer at /v1 whose request does not say; fewer where the context has no room",
  }),
  drain_ms: number({ default: 10_000, help: "How long running jobs may still finish when the orchestrator is told to stop" }),
  log_level: text({ default: "info", one_of: LOG_LEVELS, help: `Log level: ${LOG_LEVELS.join(", ")}` }),
  log_format: text({ default: "auto", one_of: LOG_FORMATS, help: "Log format: auto (pretty on a terminal), json, pretty" }),
} as const;

export type OrcdConfig = ConfigOf<typeof settings>;
