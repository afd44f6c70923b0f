/**
 * The door for what was written for Ollama: its API, as its official client speaks it. Fields are in tables as those of the OpenAI
 * door are; the page docs/ollama.md is made from them.
 */
import { z } from "zod";
import { type FieldTable, may, refused } from "./field-table.ts";
import { ModelName, SAYS_EFFORT, Sampling, StopStrings, WIRE_LIMITS } from "./job.ts";
import { KEEP_ALIVE, LLAMA_OPTIONS, OF_WORKER, Think, TopK, TopP } from "./llama-options.ts";
import { OllamaLogprob } from "./logprobs.ts";
import { MessageContent } from "./message.ts";
import { FUNCTION_FIELDS, NEEDS_LOGPROBS, SAYS_LOGPROBS, someTools, TOP_LOGPROBS, toolOf } from "./openai.ts";
import { REASONING_EFFORTS } from "./sets.ts";
import { CallId, Parameters, TOOL_LIMITS, type Tool, ToolName } from "./tools.ts";

/** What a client gets from options that it did not send: Ollama's own defaults. */
export const OLLAMA_DEFAULTS = { temperature: 0.8, top_k: 40, top_p: 0.9 } as const;

const { temperature, min_p, frequency_penalty, presence_penalty } = Sampling.shape;

const TEXT_ONLY = "text only";

const OPTION_FIELDS = {
  supported: {
    temperature: may(temperature.unwrap(), `0 is greedy; ${OLLAMA_DEFAULTS.temperature} when not given, as Ollama has it`),
    top_k: may(TopK, `Draw from so many of the likeliest tokens; ${OLLAMA_DEFAULTS.top_k} when not given, 0: all of them`),
    top_p: may(TopP, `Draw from the likeliest tokens that together have this probability; ${OLLAMA_DEFAULTS.top_p} when not given`),
    min_p: may(min_p.unwrap(), "Draw from tokens at least this likely, relative to the likeliest"),
    seed: may(z.int(), "Same seed, same worker: the same text. Of a number beyond 32 bits the lowest 32 count"),
    presence_penalty: may(presence_penalty.unwrap(), "Makes the tokens that the answer has less likely"),
    frequency_penalty: may(frequency_penalty.unwrap(), "Makes a token less likely with each time the answer has it"),
    ...LLAMA_OPTIONS.supported,
    stop: may(StopStrings, `Up to ${WIRE_LIMITS.door_stop_strings_max} strings; they are not part of the answer`),
    num_predict: may(
      z.int().min(-2).max(WIRE_LIMITS.max_tokens_max),
      "Most tokens to generate, fewer where the context has no room. 0, -1, -2 and not given: `v1_max_tokens_default`",
    ),
  },
  hints: {
    ...LLAMA_OPTIONS.hints,
    main_gpu: may(z.int(), OF_WORKER),
    numa: may(z.boolean(), OF_WORKER),
    low_vram: may(z.boolean(), OF_WORKER),
    f16_kv: may(z.boolean(), OF_WORKER),
    logits_all: may(z.boolean(), OF_WORKER),
    vocab_only: may(z.boolean(), OF_WORKER),
    embedding_only: may(z.boolean(), OF_WORKER),
    penalize_newline: may(z.boolean(), "Says nothing without its sampler"),
    reasoning_effort: may(z.enum(["", ...REASONING_EFFORTS]), `${SAYS_EFFORT}. Of no account beside \`think\``),
  },
  refused: {
    ...LLAMA_OPTIONS.refused,
    logit_bias: refused("Ollama's API has none; `/v1/chat/completions` takes it", ""),
  },
} as const satisfies FieldTable;

const MESSAGE_FIELDS = {
  supported: {
    role: z.enum(["system", "user", "assistant", "tool"]).describe("Through the model's own chat template"),
    content: MessageContent.nullish().describe("Text; may be left out beside `tool_calls`"),
    thinking: may(z.string(), "What the assistant thought; a chat template that has no place for it leaves it out"),
    tool_calls: may(
      z
        .array(
          z.strictObject({
            id: CallId.nullish(),
            index: z.int().nullish().describe("Where Open WebUI has it"),
            type: z.literal("function").optional(),
            function: z.strictObject({ index: z.int().optional(), name: ToolName, arguments: Parameters }),
          }),
        )
        .max(TOOL_LIMITS.tool_calls_max),
      "The functions that the assistant asked to have called",
    ),
    tool_name: may(ToolName, "In a message of role `tool`: the function whose result it is"),
    tool_call_id: may(CallId, "In a message of role `tool`: the call whose result it is. Neither given: of the first call without one"),
  },
  hints: {},
  refused: { images: refused(TEXT_ONLY, []) },
} as const satisfies FieldTable;

const asked = {
  model: ModelName.describe("A name from `GET /api/tags`; `:latest` behind it may be left out or added"),
  stream: may(z.boolean(), "True when not given: a line of JSON for each piece of the answer"),
  options: may(
    z.strictObject({ ...OPTION_FIELDS.supported, ...OPTION_FIELDS.hints, ...OPTION_FIELDS.refused }),
    "How tokens are drawn, and how many",
  ),
  format: may(
    z.union([z.enum(["", "json"]), z.record(z.string(), z.unknown())], 'must be "json" or a JSON schema'),
    '`"json"`: any object. A schema: JSON that validates; what of it can\'t be kept to is refused with its place',
  ),
  logprobs: may(z.boolean(), `How likely each token was: ${SAYS_LOGPROBS}`),
  top_logprobs: may(
    TOP_LOGPROBS,
    `So many of the likeliest tokens at each place, up to ${WIRE_LIMITS.top_logprobs_max}; needs \`logprobs\``,
  ),
};
const likely = ({ logprobs, top_logprobs }: { logprobs?: boolean | null | undefined; top_logprobs?: number | null | undefined }) =>
  logprobs === true || (top_logprobs ?? 0) === 0;
const think = may(
  Think,
  "Whether, and how long, the model is to think; it is told where its chat template has a place for that, and others think unasked. What is marked as thinking comes as `thinking`; with `false` it is left out",
);
const hinted = { keep_alive: KEEP_ALIVE };

const OllamaTool = z
  .object({
    type: z.literal("function", "must be function: no other type is supported"),
    function: z.object({ ...FUNCTION_FIELDS.supported, ...FUNCTION_FIELDS.hints }),
  })
  .transform((tool): Tool => toolOf(tool.function));

const CHAT_FIELDS = {
  supported: {
    messages: z
      .array(z.strictObject({ ...MESSAGE_FIELDS.supported, ...MESSAGE_FIELDS.hints, ...MESSAGE_FIELDS.refused }))
      .max(WIRE_LIMITS.messages_max)
      .default([])
      .describe("What ends with the assistant's words is gone on with in that turn. None: only whether the model is there"),
    tools: may(someTools(OllamaTool), "Functions that the model may ask to have called ([tools](tools.md))"),
    think,
    ...asked,
  },
  hints: hinted,
  refused: {},
} as const satisfies FieldTable;

const GENERATE_FIELDS = {
  supported: {
    prompt: z.string().default("").describe("A user's turn when the model has a chat template. Empty: only whether the model is there"),
    system: may(z.string(), "A system message before it"),
    raw: may(z.boolean(), "The prompt is continued as it is, without the chat template"),
    think,
    ...asked,
  },
  hints: hinted,
  refused: {
    suffix: refused("nothing is filled in before a given end", ""),
    template: refused("the chat template is the model's own", ""),
    context: refused("send the conversation to /api/chat", []),
    images: refused(TEXT_ONLY, []),
    width: refused(TEXT_ONLY),
    height: refused(TEXT_ONLY),
    steps: refused(TEXT_ONLY),
  },
} as const satisfies FieldTable;

/** For the page: where a field is sent → what becomes of it. */
export const OLLAMA_FIELDS = {
  "POST /api/chat": CHAT_FIELDS,
  "`messages[]` of a chat": MESSAGE_FIELDS,
  "POST /api/generate": GENERATE_FIELDS,
  "`options` of both": OPTION_FIELDS,
} as const satisfies Record<string, FieldTable>;

export const OllamaChatRequest = z
  .strictObject({ ...CHAT_FIELDS.supported, ...CHAT_FIELDS.hints, ...CHAT_FIELDS.refused })
  .refine(likely, NEEDS_LOGPROBS)
  .meta({ id: "OllamaChatRequest" });
export type OllamaChatRequest = z.infer<typeof OllamaChatRequest>;

export const OllamaGenerateRequest = z
  .strictObject({ ...GENERATE_FIELDS.supported, ...GENERATE_FIELDS.hints, ...GENERATE_FIELDS.refused })
  .refine(({ raw, system }) => raw !== true || (system ?? "") === "", { path: ["system"], message: "has no place in a raw prompt" })
  .refine(likely, NEEDS_LOGPROBS)
  .meta({ id: "OllamaGenerateRequest" });
export type OllamaGenerateRequest = z.infer<typeof OllamaGenerateRequest>;

/** Ollama's own client, which is its command line's too, always sends both names, one of them empty. */
const NameOrNone = z.union([z.literal(""), ModelName]).optional();

export const OllamaShowRequest = z
  .object({ model: NameOrNone, name: NameOrNone.describe("The older name of `model`") })
  .refine(({ model, name }) => (model || name) !== undefined && (model || name) !== "", { path: ["model"], message: "is required" })
  .meta({ id: "OllamaShowRequest" });

/** `load`: nothing was asked of the model. */
const DoneReason = z.enum(["stop", "length", "load"]);

const answer = {
  model: z.string(),
  created_at: z.iso.datetime(),
  done: z.boolean(),
  done_reason: DoneReason.optional(),
  total_duration: z.number().optional().describe("Nanoseconds, like all durations here"),
  load_duration: z.number().optional(),
  prompt_eval_count: z.int().optional().describe("Tokens of the prompt"),
  prompt_eval_duration: z.number().optional(),
  eval_count: z.int().optional().describe("Tokens of the answer"),
  eval_duration: z.number().optional(),
  logprobs: z.array(OllamaLogprob).optional().describe("One for each token of this piece"),
};
const OllamaCall = z.object({
  id: z.string(),
  function: z.object({ index: z.int(), name: z.string(), arguments: z.record(z.string(), z.unknown()) }),
});
export type OllamaCall = z.infer<typeof OllamaCall>;
const thinking = z.string().optional().describe("What the model's chat template marks as thinking");

export const OllamaChatAnswer = z
  .object({
    ...answer,
    message: z.object({
      role: z.literal("assistant"),
      content: z.string(),
      thinking,
      tool_calls: z.array(OllamaCall).optional().describe("Each whole"),
    }),
  })
  .meta({ id: "OllamaChatAnswer" });
export const OllamaGenerateAnswer = z.object({ ...answer, response: z.string(), thinking }).meta({ id: "OllamaGenerateAnswer" });

/** What the orchestrator does not know of a model is empty. */
const Details = z.object({
  parent_model: z.string(),
  format: z.literal("gguf"),
  family: z.string(),
  families: z.array(z.string()),
  parameter_size: z.string(),
  quantization_level: z.string(),
});
export const OllamaTags = z
  .object({
    models: z.array(
      z.object({
        name: z.string(),
        model: z.string(),
        modified_at: z.iso.datetime().describe("When the first of its present workers joined"),
        size: z.int().describe("Bytes of the model's file; 0 when no worker says it"),
        digest: z.string(),
        details: Details,
      }),
    ),
  })
  .meta({ id: "OllamaTags" });

export const OllamaRunning = z
  .object({
    models: z.array(
      z.object({
        name: z.string(),
        model: z.string(),
        size: z.int().describe("Bytes of the model's file; 0 when no worker says it"),
        digest: z.string(),
        details: Details,
        expires_at: z.iso.datetime().describe("Far away: models stay until their workers end"),
        size_vram: z.int().describe("As `size` where a GPU computes, else 0"),
        context_length: z.int().describe("Tokens that a slot holds; 0 when no worker says it"),
      }),
    ),
  })
  .meta({ id: "OllamaRunning" });

export const OllamaShow = z
  .object({
    modelfile: z.string(),
    parameters: z.string(),
    template: z.string(),
    details: Details,
    model_info: z.record(z.string(), z.union([z.string(), z.number()])),
    capabilities: z.array(z.string()),
    modified_at: z.iso.datetime(),
  })
  .meta({ id: "OllamaShow" });

/** The Ollama whose API these routes have: programs turn older ones away, and take rbees' own version for one. */
export const OLLAMA_API_VERSION = "0.14.0";

export const OllamaVersion = z.object({ version: z.literal(OLLAMA_API_VERSION) }).meta({ id: "OllamaVersion" });
