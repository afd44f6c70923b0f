/** What a client asks for and sees of a job. The noun is `job`; `task` lives only in the URL. */
import { z } from "zod";
import { TokenLogprob } from "./logprobs.ts";
import { AskedMessage, Message } from "./message.ts";
import {
  CONTENT_STATES,
  canonicalModel,
  DISCONNECT_RULES,
  JOB_KINDS,
  JOB_STATUSES,
  PRIORITIES,
  REASONING_EFFORTS,
  REPEAT_LAST_N,
  STOP_REASONS,
  WORKER_LOST_RULES,
} from "./sets.ts";
import { ToolCall, ToolChoice, Tools, toolProblems } from "./tools.ts";

export const Priority = z.enum(PRIORITIES);
export type Priority = z.infer<typeof Priority>;

export const JobStatus = z.enum(JOB_STATUSES);
export type JobStatus = z.infer<typeof JobStatus>;

export const StopReason = z.enum(STOP_REASONS);
export type StopReason = z.infer<typeof StopReason>;

/** Upper bounds of the wire itself; the configuration of a program may set lower ones. */
export const WIRE_LIMITS = {
  max_tokens_max: 131_072,
  /** At `/v2`. */
  stop_strings_max: 4,
  /** At the doors of other APIs, whose clients send more than those APIs promise to take: those for code name every special token. */
  door_stop_strings_max: 32,
  stop_string_chars_max: 256,
  metadata_keys_max: 16,
  messages_max: 4096,
  embed_inputs_max: 2048,
  placement_workers_max: 64,
  placement_labels_max: 16,
  worker_labels_max: 64,
  deadline_ms_max: 86_400_000,
  grammar_chars_max: 65_536,
  logit_bias_tokens_max: 1024,
  top_logprobs_max: 20,
  choices_max: 128,
} as const;

export const MODEL_NAME = /^[A-Za-z0-9][A-Za-z0-9._:@/+-]{0,255}$/;
/** What is parsed is the model's own name, also where it was asked for by another. */
export const ModelName = z
  .string()
  .regex(MODEL_NAME, "must be a model name: letters, digits and . _ : @ / + -, at most 256 characters")
  .overwrite(canonicalModel);

export const LORA_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,58}$/;
export const LoraName = z
  .string()
  .regex(LORA_NAME, "must be the name of a LoRA adapter: letters, digits and . _ -, at most 59 characters")
  .optional()
  .describe("A LoRA adapter that workers of the model have, by its name");

export const WORKER_ID = /^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$/;
export const WorkerId = z.string().regex(WORKER_ID, "must be a worker id: letters, digits and . _ : -, at most 128 characters");

const StopString = z.string().min(1).max(WIRE_LIMITS.stop_string_chars_max);

/** As other APIs have it: one string, or some. */
export const StopStrings = z.union([StopString, z.array(StopString).max(WIRE_LIMITS.door_stop_strings_max)], {
  error: `must be a string or at most ${WIRE_LIMITS.door_stop_strings_max} strings, each of 1 to ${WIRE_LIMITS.stop_string_chars_max} characters`,
});

const STOP_SAYS = "Strings that end the answer; they are not part of it";
const REPEAT_PENALTY_MAX = 10;
export const TOP_K_MAX = 1000;

/** The sampling fields, the same from the client's request down to the engine. */
export const Sampling = z.object({
  max_tokens: z.int().min(1).max(WIRE_LIMITS.max_tokens_max).default(100).describe("Most tokens to generate"),
  temperature: z.number().min(0).max(2).default(0.7).describe("0 is greedy: the likeliest token each time"),
  top_p: z.number().gt(0).max(1).optional(),
  top_k: z.int().min(1).max(TOP_K_MAX).optional(),
  min_p: z.number().min(0).max(1).optional(),
  frequency_penalty: z.number().min(-2).max(2).optional().describe("Makes a token less likely with each time the answer has it"),
  presence_penalty: z.number().min(-2).max(2).optional().describe("Makes the tokens that the answer has less likely"),
  repeat_penalty: z
    .number()
    .gt(0)
    .max(REPEAT_PENALTY_MAX)
    .optional()
    .describe("Divides the logits above 0 of the tokens that came last, in the prompt too, and multiplies those below; 1: none"),
  repeat_last_n: z
    .int()
    .min(-1)
    .max(WIRE_LIMITS.max_tokens_max)
    .optional()
    .describe(`How many tokens repeat_penalty looks back over; ${REPEAT_LAST_N} when not given, 0: none, -1: all of them`),
  logit_bias: z
    .record(z.string().regex(/^\d{1,9}$/, "must be the number of a token"), z.number().min(-100).max(100))
    .refine(
      (bias) => Object.keys(bias).length <= WIRE_LIMITS.logit_bias_tokens_max,
      `must have at most ${WIRE_LIMITS.logit_bias_tokens_max} tokens`,
    )
    .optional()
    .describe("Added to the logits of tokens, by their numbers in the model's vocabulary, before one is drawn"),
  seed: z.int().min(0).max(4_294_967_295).optional().describe("Same seed, same worker: the same text"),
  stop: z.array(StopString).max(WIRE_LIMITS.door_stop_strings_max).default([]).describe(STOP_SAYS),
  logprobs: z
    .int()
    .min(0)
    .max(WIRE_LIMITS.top_logprobs_max)
    .optional()
    .describe("Each token comes with how likely it was, and with so many of the likeliest at its place"),
});
export type Sampling = z.infer<typeof Sampling>;

/** For a request's field. */
export const SAYS_EFFORT = "How long the model is to think; `none`: not at all. It is told so where its chat template has a place for that";

/** What a conversation may ask for beside its messages, the same from the client's request down to the engine. */
export const Talk = {
  tools: Tools.optional().describe("Functions that the model may ask to have called, as it is shown them by its chat template"),
  tool_choice: ToolChoice.optional().describe("auto when not given"),
  parallel_tool_calls: z.boolean().optional().describe("false: the answer ends with its first call"),
  separate_reasoning: z
    .boolean()
    .optional()
    .describe("true: what the model's chat template marks as thinking comes as `reasoning`, not as text"),
  reasoning_effort: z.enum(REASONING_EFFORTS).optional().describe(SAYS_EFFORT),
} as const;

/** What the text of an answer is held to, token by token; one of the two. */
export const Structure = z.object({
  json_schema: z
    .union([z.boolean(), z.record(z.string(), z.unknown())], "must be a JSON schema: an object, true or false")
    .optional()
    .describe("The answer is JSON that validates against it"),
  grammar: z.string().min(1).max(WIRE_LIMITS.grammar_chars_max).optional().describe("The answer is what this grammar in GBNF allows"),
});
/** That an answer is held to one thing at most. */
export const heldOnce = ({ grammar, json_schema }: z.infer<typeof Structure>): boolean =>
  grammar === undefined || json_schema === undefined;
export const HELD_TWICE = { path: ["grammar"], message: "give either grammar or json_schema" };

export const Placement = z.strictObject({
  pin: WorkerId.optional().describe("Only this worker"),
  prefer: z.array(WorkerId).max(WIRE_LIMITS.placement_workers_max).default([]),
  avoid: z.array(WorkerId).max(WIRE_LIMITS.placement_workers_max).default([]),
  labels: z
    .record(z.string().min(1).max(63), z.string().max(255))
    .refine((labels) => Object.keys(labels).length <= WIRE_LIMITS.placement_labels_max, {
      message: `must have at most ${WIRE_LIMITS.placement_labels_max} labels`,
    })
    .default({})
    .describe("Labels that the worker must have"),
});
export type Placement = z.infer<typeof Placement>;

/** What a model is asked: a prompt or a conversation. */
export const Prompted = {
  prompt: z.string().min(1, "must not be empty").optional().describe("Either this or messages"),
  messages: z
    .array(AskedMessage)
    .min(1)
    .max(WIRE_LIMITS.messages_max)
    .optional()
    .describe(
      "A conversation, through the model's own chat template; one that ends with the assistant's words is gone on with in that turn",
    ),
  raw: z.boolean().default(false).describe("Feed the prompt as it is, without the model's chat template"),
};

/** The same as it goes to a worker. */
export const PromptedAttempt = {
  prompt: z.string().min(1).optional(),
  messages: z.array(Message).min(1).optional(),
  raw: z.boolean().default(false),
};

/** A text by the numbers that its tokens have in the model's vocabulary, taken as they are. */
export const TokenNumbers = z.array(z.int().nonnegative()).min(1).max(WIRE_LIMITS.max_tokens_max);

export const ONE_OF_TWO = { path: ["prompt"], message: "give either prompt or messages" };

export function oneOfTwo({ prompt, messages }: { prompt?: unknown; messages?: unknown }): boolean {
  return (prompt === undefined) !== (messages === undefined);
}

export const SubmitJob = z
  .strictObject({
    model: ModelName,
    ...Prompted,
    lora: LoraName,
    ...Talk,
    ...Sampling.shape,
    stop: Sampling.shape.stop.unwrap().max(WIRE_LIMITS.stop_strings_max).default([]).describe(STOP_SAYS),
    ...Structure.shape,
    fit_context: z
      .boolean()
      .optional()
      .describe("Where the context has no room for max_tokens: fewer, instead of a refusal with CONTEXT_TOO_LARGE"),
    priority: Priority.default("interactive"),
    deadline_ms: z.int().min(1).max(WIRE_LIMITS.deadline_ms_max).optional().describe("Ends the job this long after submission"),
    placement: Placement.optional(),
    on_disconnect: z
      .enum(DISCONNECT_RULES)
      .default("continue")
      .describe("What becomes of the job when the connection that submitted it with stream:true breaks"),
    on_worker_lost: z
      .enum(WORKER_LOST_RULES)
      .default("continue")
      .describe(
        "When the worker is lost after the first token: continue after the tokens that were sent, restart the answer from its beginning, or fail with WORKER_LOST",
      ),
    stream: z.boolean().default(false).describe("Answer with the event stream on the same connection"),
    metadata: z
      .record(z.string().max(64), z.string().max(512))
      .default({})
      .describe("Kept with the job; `subject` says of whom its prompt and answer are, and with whose key they are kept"),
  })
  .refine(oneOfTwo, {
    ...ONE_OF_TWO,
    // Beside whatever else is wrong.
    when: ({ value }) => typeof value === "object" && value !== null,
  })
  .refine(heldOnce, HELD_TWICE)
  .refine((job) => !job.raw || job.messages === undefined, { path: ["raw"], message: "needs prompt, not messages" })
  .superRefine((job, context) => {
    for (const { path, problem } of toolProblems(job)) context.addIssue({ code: "custom", path: [path], message: problem });
  })
  .refine((job) => Object.keys(job.metadata).length <= WIRE_LIMITS.metadata_keys_max, {
    path: ["metadata"],
    message: `must have at most ${WIRE_LIMITS.metadata_keys_max} keys`,
  })
  .meta({ id: "SubmitJob" });
export type SubmitJob = z.infer<typeof SubmitJob>;

export const Accepted = z
  .object({
    job_id: z.string(),
    status: z.literal("queued"),
    queue_position: z.int().nonnegative().describe("Jobs ahead of this one; 0 when it starts at once"),
    events_url: z.string(),
    eta_ms: z.int().nonnegative().optional(),
  })
  .meta({ id: "Accepted" });
export type Accepted = z.infer<typeof Accepted>;

export const Usage = z.object({
  tokens_in: z.int().nonnegative().describe("Prompt tokens"),
  tokens_out: z.int().nonnegative().describe("Generated tokens"),
  tokens_cached: z.int().nonnegative().describe("Prompt tokens that were not computed again"),
});
export type Usage = z.infer<typeof Usage>;

/** What the worker measured, milliseconds. */
export const Timings = z.object({
  prefill_ms: z.number().nonnegative(),
  decode_ms: z.number().nonnegative(),
});
export type Timings = z.infer<typeof Timings>;

export const AttemptView = z.object({
  attempt: z.int().positive(),
  worker_id: z.string(),
  started_at: z.string(),
  ended_at: z.string().nullable(),
  outcome: z.string().nullable().describe("done, refused, lost, failed, cancelled; null while it runs"),
});
export type AttemptView = z.infer<typeof AttemptView>;

export const JobSummary = z
  .object({
    job_id: z.string(),
    tenant: z.string(),
    kind: z.enum(JOB_KINDS).default("generate").describe("Text that goes on, or vectors of texts"),
    status: JobStatus,
    model: z.string(),
    priority: Priority,
    worker_id: z.string().nullable(),
    submitted_at: z.string(),
    started_at: z.string().nullable().describe("When the last attempt was sent to its worker"),
    first_token_at: z.string().nullable(),
    ended_at: z.string().nullable(),
    queue_position: z.int().nonnegative().nullable(),
    stop_reason: StopReason.nullable(),
    usage: Usage.nullable(),
    error: z.object({ code: z.string(), message: z.string(), retriable: z.boolean() }).nullable(),
  })
  .meta({ id: "JobSummary" });
export type JobSummary = z.infer<typeof JobSummary>;

export const JobView = JobSummary.extend({
  text: z.string().describe("The answer: whole when the job has ended, so far while it runs"),
  reasoning: z.string().optional().describe("What the model thought, where the job asked to have that separated"),
  tool_calls: z.array(ToolCall).optional().describe("The functions that the answer asks to have called"),
  logprobs: z.array(TokenLogprob).optional().describe("Of each token, where the job asked for them"),
  timings: Timings.nullable(),
  attempts: z.array(AttemptView),
  seed: z.int(),
  metadata: z.record(z.string(), z.string()),
  correlation_id: z.string(),
  content: z.enum(CONTENT_STATES).describe("Whether prompt and answer are still kept; text and metadata are empty when they are not"),
}).meta({ id: "JobView" });
export type JobView = z.infer<typeof JobView>;

/** A job that is run again, as it was. */
export const Replay = z
  .object({
    job_id: z.string().describe("Of the new job; its text is to be compared with that of the old one"),
    replay_of: z.string(),
    worker_id: z.string(),
    model_digest: z.string(),
    engine: z.string(),
    deterministic: z.boolean().describe("Whether what runs beside it can't change its text"),
    events_url: z.string(),
  })
  .meta({ id: "Replay" });

export const ListJobs = z.strictObject({
  status: JobStatus.optional(),
  model: z.string().optional(),
  tenant: z.string().optional().describe("Only this tenant's, of those that the key may see"),
  limit: z.coerce.number().int().min(1).max(200).default(50),
  cursor: z.string().optional(),
});
export type ListJobs = z.infer<typeof ListJobs>;

export const JobList = z.object({ tasks: z.array(JobSummary), next_cursor: z.string().optional() }).meta({ id: "JobList" });
export type JobList = z.infer<typeof JobList>;

/** Why a job runs where it does, or what it waits for: one line a worker. */
export const Explanation = z
  .object({
    job_id: z.string(),
    status: JobStatus,
    answer: z.string(),
    policy: z.string().nullable().describe("The rule that chose, or would choose, among the workers that can take the job"),
    rules: z.array(z.string()).default([]).describe("Rules that held when it came; log_only: before those that have no effect"),
    workers: z.array(
      z.object({
        worker_id: z.string(),
        verdict: z.enum(["chosen", "possible", "excluded"]),
        reason: z.string(),
        score: z.number().nullable().describe("By the policy; the lowest wins"),
        cached_tokens: z.int().nullable().describe("Prompt tokens that the worker has probably kept"),
      }),
    ),
  })
  .meta({ id: "Explanation" });
export type Explanation = z.infer<typeof Explanation>;
