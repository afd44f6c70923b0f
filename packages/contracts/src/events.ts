/**
 * The events of a job's stream. The worker writes `started`, `token`, `metrics`, `end`, `error` in exactly the shape the
 * client gets, so that the orchestrator can pass a token on by putting an `id:` line before it, without parsing.
 */
import { z } from "zod";
import { StopReason, Timings, Usage } from "./job.ts";
import { TokenLogprob } from "./logprobs.ts";
import { ToolCallPiece } from "./tools.ts";

/** Again each time that position or ETA have changed while the job waits. `position`: jobs ahead of it. */
export const Queued = z.object({
  type: z.literal("queued"),
  job_id: z.string(),
  position: z.int().nonnegative(),
  eta_ms: z.int().nonnegative().optional().describe("Until it probably starts"),
});
/** The job waits for its model, which is being loaded there; told again every now and then. */
export const Loading = z.object({
  type: z.literal("loading"),
  model: z.string(),
  pool: z.string(),
  device: z.string(),
  elapsed_ms: z.int().nonnegative(),
  expected_ms: z.int().nonnegative().optional().describe("What the last load of it there took"),
  share: z.number().min(0).max(1).optional().describe("How much of the model is in memory, where its worker says so"),
});
export const Started = z.object({
  type: z.literal("started"),
  job_id: z.string(),
  attempt: z.int().positive(),
  worker_id: z.string(),
  model: z.string(),
});
/**
 * `t` is the text of one or more whole tokens (several when a character spans tokens, or when text was held back because it
 * could have begun a stop string), `i` the index of the first of them in the answer, `ids` their numbers in the vocabulary. Most tokens
 * say text and nothing else, and then `t` stands first: so the orchestrator tells them apart without parsing.
 */
export const Token = z.object({
  type: z.literal("token"),
  reasoning: z.string().optional().describe("Thinking that is no part of the text"),
  tool_calls: z.array(ToolCallPiece).optional().describe("Calls of functions, as they come"),
  logprobs: z
    .array(TokenLogprob)
    .optional()
    .describe("Of each of its tokens, where the job asked for them; tokens of a stop string, whose text is not sent, have none"),
  t: z.string(),
  i: z.int().nonnegative(),
  ids: z.array(z.int().nonnegative()),
});
export const Metrics = z.object({
  type: z.literal("metrics"),
  job_id: z.string(),
  tokens_out: z.int().nonnegative(),
  decode_time_ms: z.number().nonnegative(),
  memory_bytes: z.int().nonnegative(),
});
export const Migrated = z.object({
  type: z.literal("migrated"),
  attempt: z.int().positive(),
  worker_id: z.string(),
  reason: z.string(),
});
/**
 * The answer goes on at token `from`: whoever has read tokens with `i` ≥ `from` forgets them, since they are made again and may
 * come out otherwise. With 0 the answer begins anew. Where it goes on with all its tokens there is only `migrated`.
 */
export const Restarted = z.object({ type: z.literal("restarted"), reason: z.string(), from: z.int().nonnegative() });
export const End = z.object({
  type: z.literal("end"),
  stop_reason: StopReason,
  stop: z.string().optional().describe("The stop string that was found"),
  ...Usage.shape,
  timings: Timings,
});
export const Failed = z.object({
  type: z.literal("error"),
  code: z.string(),
  message: z.string(),
  retriable: z.boolean(),
});

export const JobEvent = z.discriminatedUnion("type", [Queued, Loading, Started, Token, Metrics, Migrated, Restarted, End, Failed]);
export type JobEvent = z.infer<typeof JobEvent>;
export type LoadingEvent = z.infer<typeof Loading>;
export type QueuedEvent = z.infer<typeof Queued>;
export type TokenEvent = z.infer<typeof Token>;
export type RestartedEvent = z.infer<typeof Restarted>;
export type EndEvent = z.infer<typeof End>;
export type FailedEvent = z.infer<typeof Failed>;

/** The vector of one input: a unit vector of 32-bit numbers, the lowest byte first, as base64. Only from worker to orchestrator. */
export const Embedding = z.object({ type: z.literal("embedding"), i: z.int().nonnegative(), v: z.base64() });
export type EmbeddingEvent = z.infer<typeof Embedding>;

/** What a worker may send on `/execute`: `started`, tokens and metrics (on `/embed` vectors), then exactly one `end` or `error`. */
export const WorkerEvent = z.discriminatedUnion("type", [Started, Token, Embedding, Metrics, End, Failed]);
export type WorkerEvent = z.infer<typeof WorkerEvent>;

/** True for the event after which a stream closes. */
export function isLast(event: { type: string }): boolean {
  return event.type === "end" || event.type === "error";
}
