/**
 * The second door: the OpenAI API, as its official clients speak it. Each field that they know is in one of three tables
 * (`field-table.ts`). The schemas are put together from them, and so is the page docs/openai.md.
 */
import { z } from "zod";
import { type FieldTable, may, refused } from "./field-table.ts";
import { ModelName, Priority, SAYS_EFFORT, Sampling, StopStrings, TokenNumbers, WIRE_LIMITS, WorkerId } from "./job.ts";
import { KEEP_ALIVE, LLAMA_OPTIONS, Think, TopK, TopP } from "./llama-options.ts";
import { ChatLogprobs, TextLogprobs } from "./logprobs.ts";
import { MESSAGE_PARTS, type Message, MessageContent, messageOf, messageProblems } from "./message.ts";
import { DISCONNECT_RULES, REASONING_EFFORTS } from "./sets.ts";
import { Parameters, TOOL_LIMITS, type Tool, ToolCall, type ToolChoice, ToolName, toolProblems } from "./tools.ts";

/** What a client gets from `temperature` that it did not send: OpenAI's own default, not that of `/v2`. */
export const OPENAI_TEMPERATURE = 1;
/** What `max_tokens` is on `/v1/completions` when it was not sent: OpenAI's own default there. */
export const COMPLETIONS_MAX_TOKENS = 16;

const { temperature, min_p, max_tokens, frequency_penalty, presence_penalty, logit_bias } = Sampling.shape;
const Tokens = max_tokens.unwrap();
/** llama.cpp and LM Studio say with a number below 0 that the answer may be as long as it gets. */
const TokensOrAny = z
  .int()
  .min(-2)
  .max(WIRE_LIMITS.max_tokens_max)
  .refine((tokens) => tokens !== 0, "must be 1 or more, or -1: as long as it gets");

/** Why fields of several bodies are refused. */
export const WHY_NOT = {
  functions: "the older form of `tools` and `tool_choice`: use those",
  hosted: "a service of OpenAI's own",
  verbosity: "the models are not told how much to say",
  cache: "workers keep what they have room for",
} as const;

/** What the older API gives out at most. */
const COMPLETION_LOGPROBS_MAX = 5;
/** What the other bodies say of `top_logprobs`. */
export const TOP_LOGPROBS = z.int().min(0).max(WIRE_LIMITS.top_logprobs_max);
export const SAYS_LOGPROBS = "natural logarithms of what the model gave, before temperature, penalties or a schema had a say";

/** What every body has. */
export const OPENAI_COMMON = {
  model: ModelName.describe("A name from `GET /v1/models`"),
  temperature: may(temperature.unwrap(), `0 is greedy; ${OPENAI_TEMPERATURE} when not given, as OpenAI has it (\`/v2/tasks\` has 0.7)`),
  top_p: may(TopP, "Draw from the likeliest tokens that together have this probability"),
  user: may(z.string().max(512), "Kept in the job's metadata as `user`"),
} as const;

/** What the two bodies for conversations have. */
export const OPENAI_TALK = {
  metadata: may(
    z
      .record(z.string().max(64), z.string().max(512))
      .refine(
        (metadata) => Object.keys(metadata).length <= WIRE_LIMITS.metadata_keys_max,
        `must have at most ${WIRE_LIMITS.metadata_keys_max} keys`,
      ),
    "Kept with the job",
  ),
} as const;
const Description = z.string().max(TOOL_LIMITS.description_chars_max);

/** What is said of a function, in each of the two forms. */
export const FUNCTION_FIELDS = {
  supported: {
    name: ToolName.describe("Letters, digits and `_ . -`"),
    description: may(Description, "Shown to the model"),
    parameters: may(Parameters, "A JSON Schema of the arguments, shown to the model"),
  },
  hints: { strict: may(z.boolean(), "Arguments are what the model writes") },
  refused: {},
} as const satisfies FieldTable;

export interface NamedFunction {
  readonly name: string;
  readonly description?: string | null | undefined;
  readonly parameters?: Record<string, unknown> | null | undefined;
}

export function toolOf({ name, description, parameters }: NamedFunction): Tool {
  const described = typeof description === "string" ? { description } : {};
  return { type: "function", function: { name, ...described, ...(parameters ? { parameters } : {}) } };
}

/** What does not go together, at the places where these bodies have it. */
export function refuseTools(
  { tools, tool_choice }: { tools?: readonly Tool[] | null | undefined; tool_choice?: ToolChoice | null | undefined },
  context: z.RefinementCtx,
): void {
  for (const { path, problem } of toolProblems({ tools: tools ?? undefined, tool_choice: tool_choice ?? undefined }))
    context.addIssue({ code: "custom", path: [path], message: problem });
}

/** Those of them that are tools: beside one that is refused, the others are looked at all the same. */
function namesOf(tools: readonly Partial<Tool>[]): string[] {
  return tools.flatMap((tool) => tool.function?.name ?? []);
}

/** Names of functions that are declared must differ. */
export function someTools<T extends z.ZodType<Tool>>(tool: T) {
  return z
    .array(tool)
    .max(TOOL_LIMITS.tools_max)
    .refine((tools) => new Set(namesOf(tools)).size === namesOf(tools).length, "must have different names");
}

export const PARALLEL = may(z.boolean(), "`false`: the answer ends with its first call");

export const OPENAI_TALK_HINTS = {
  safety_identifier: may(z.string().max(512), "Kept in the job's metadata"),
  store: refused("nothing is kept but the job itself", false),
  service_tier: refused("priority is asked for with `x-rbees-priority`", "auto", "default"),
  prompt_cache_key: may(z.string(), "Beginnings that prompts share are found without it"),
  prompt_cache_retention: refused(WHY_NOT.cache, "in_memory"),
} as const;

const generation = {
  ...OPENAI_COMMON,
  top_k: may(TopK, "Draw from so many of the likeliest tokens; 0: all of them. Not in OpenAI's API"),
  min_p: may(min_p.unwrap(), "Draw from tokens at least this likely, relative to the likeliest; not in OpenAI's API"),
  seed: may(z.int(), "Same seed, same worker: the same text. Of a number beyond 32 bits the lowest 32 count"),
  stop: may(StopStrings, `A string or up to ${WIRE_LIMITS.door_stop_strings_max}; they are not part of the answer`),
  frequency_penalty: may(frequency_penalty.unwrap(), "Makes a token less likely with each time the answer has it"),
  presence_penalty: may(presence_penalty.unwrap(), "Makes the tokens that the answer has less likely"),
  ...LLAMA_OPTIONS.supported,
  logit_bias: may(
    z.union([z.literal(""), logit_bias.unwrap()], "must have numbers of tokens, and with each what is added, from -100 to 100"),
    `Of at most ${WIRE_LIMITS.logit_bias_tokens_max} tokens, by their numbers in the model's vocabulary`,
  ),
  stream: may(z.boolean(), "Answer as server-sent events, ended by `[DONE]`"),
  stream_options: may(
    z.strictObject({ include_usage: z.boolean().nullish(), include_obfuscation: z.literal(false, "must be false").nullish() }),
    "`include_usage`: a last chunk with the usage. Only with `stream`; `include_obfuscation` only false",
  ),
  n: may(
    z.int().min(1).max(WIRE_LIMITS.choices_max),
    "So many answers, each a job of its own, let in together or not at all; `v1_choices_max` (8) at most. With a `seed` each has the next one",
  ),
};

const Name = z.string().regex(/^[\w-]{1,64}$/, "must have 1 to 64 letters, digits, _ or -");
/** A schema that answers are held to, as OpenAI's bodies have it. */
const NAMED_SCHEMA = {
  name: Name,
  description: z.string().nullish(),
  schema: z.record(z.string(), z.unknown(), "must be a JSON schema").optional(),
  strict: z.boolean().nullish(),
};
const FORM = { error: "must be {type: text}, {type: json_object} or {type: json_schema, …}" };
const ResponseFormat = z.discriminatedUnion(
  "type",
  [
    z.strictObject({ type: z.literal("text") }),
    z.strictObject({ type: z.literal("json_object") }),
    z.strictObject({ type: z.literal("json_schema"), json_schema: z.strictObject(NAMED_SCHEMA) }),
  ],
  FORM,
);
export const TextFormat = z.discriminatedUnion(
  "type",
  [
    z.strictObject({ type: z.literal("text") }),
    z.strictObject({ type: z.literal("json_object") }),
    z.strictObject({ type: z.literal("json_schema"), ...NAMED_SCHEMA }),
  ],
  FORM,
);
export const SAYS_FORMAT =
  "`json_object`: any object. `json_schema`: JSON that validates, `strict` or not; what of a schema can't be kept to is refused with its place";

/** Whoever puts a call together from a stream may send it back with what its pieces had. */
const SentBackCall = z
  .strictObject({ ...ToolCall.shape, index: z.int().nonnegative().nullish() })
  .transform(({ index: _, ...call }): ToolCall => call);

const MESSAGE_FIELDS = {
  supported: {
    role: z.enum(["system", "developer", "user", "assistant", "tool"]).describe("`developer` is taken as `system`"),
    ...MESSAGE_PARTS,
    tool_calls: may(
      z.array(SentBackCall).max(TOOL_LIMITS.tool_calls_max),
      "The functions that the assistant asked to have called; an `index` in them makes no difference",
    ),
    name: MESSAGE_PARTS.name.describe(
      "In a turn of role `tool`: the function whose result it is; found by the call when left out. In others it makes no difference: chat templates have no place for it",
    ),
  },
  hints: {
    refusal: may(z.string(), "As in an answer that is sent back"),
    annotations: may(z.array(z.unknown()), "As in an answer that is sent back"),
  },
  refused: {
    function_call: refused(WHY_NOT.functions),
    audio: refused("text only"),
  },
} as const satisfies FieldTable;

const OpenaiTool = z
  .strictObject({
    type: z.literal("function", "must be function: no other type is supported"),
    function: z.strictObject({ ...FUNCTION_FIELDS.supported, ...FUNCTION_FIELDS.hints }),
  })
  .transform((tool): Tool => toolOf(tool.function));

const OpenaiToolChoice = z
  .union(
    [z.enum(["auto", "none", "required"]), z.strictObject({ type: z.literal("function"), function: z.strictObject({ name: ToolName }) })],
    { error: "must be auto, none, required or {type: function, function: {name}}" },
  )
  .transform((choice): ToolChoice => (typeof choice === "string" ? choice : { name: choice.function.name }));

const CHAT_FIELDS = {
  supported: {
    messages: z
      .array(
        z
          .strictObject({ ...MESSAGE_FIELDS.supported, ...MESSAGE_FIELDS.hints, ...MESSAGE_FIELDS.refused })
          .superRefine((message, context) => {
            const { name, ...others } = message;
            for (const [field, problem] of messageProblems(message.role === "tool" ? message : others))
              context.addIssue({ code: "custom", path: [field], message: problem });
          })
          .transform(({ role, ...parts }): Message => messageOf(role === "developer" ? "system" : role, parts)),
      )
      .min(1)
      .max(WIRE_LIMITS.messages_max)
      .describe("Through the model's own chat template; what ends with the assistant's words is gone on with in that turn"),
    ...generation,
    max_completion_tokens: may(
      TokensOrAny,
      "Most tokens to generate. -1, -2 and not given: `v1_max_tokens_default`, or fewer where the context has no room",
    ),
    max_tokens: may(TokensOrAny, "The older name of `max_completion_tokens`"),
    tools: may(someTools(OpenaiTool), "Functions that the model may ask to have called ([tools](tools.md))"),
    tool_choice: may(
      OpenaiToolChoice,
      "`auto`; `none`: the model is not shown them; `required` or a function: the answer is one call, held to its schema",
    ),
    parallel_tool_calls: PARALLEL,
    response_format: may(ResponseFormat, SAYS_FORMAT),
    logprobs: may(z.boolean(), `How likely each token was: ${SAYS_LOGPROBS}`),
    top_logprobs: may(
      TOP_LOGPROBS,
      `So many of the likeliest tokens at each place, up to ${WIRE_LIMITS.top_logprobs_max}; needs \`logprobs\``,
    ),
    ...OPENAI_TALK,
  },
  hints: {
    ...OPENAI_TALK_HINTS,
    reasoning_effort: may(z.enum(["", ...REASONING_EFFORTS]), SAYS_EFFORT),
    think: may(Think, "Ollama's way to say `reasoning_effort`"),
    chat_template_kwargs: may(
      z.strictObject({
        enable_thinking: may(z.boolean(), "Whether to think"),
        thinking: may(z.boolean(), "The same by its other name"),
        reasoning_effort: may(z.enum(REASONING_EFFORTS), SAYS_EFFORT),
      }),
      "vLLM's way to say `reasoning_effort`: `enable_thinking`, `thinking` and `reasoning_effort`, and no other values",
    ),
    prediction: may(
      z.strictObject({ type: z.literal("content"), content: MessageContent }),
      "What the answer may look like: it would only come sooner",
    ),
    ...LLAMA_OPTIONS.hints,
    keep_alive: KEEP_ALIVE,
  },
  refused: {
    ...LLAMA_OPTIONS.refused,
    format: refused("a field of Ollama's API: say it with `response_format`", ""),
    functions: refused(WHY_NOT.functions, []),
    function_call: refused(WHY_NOT.functions, "none", "auto"),
    modalities: refused("text only", ["text"]),
    audio: refused("text only"),
    verbosity: refused(WHY_NOT.verbosity, "medium"),
    web_search_options: refused(WHY_NOT.hosted),
    moderation: refused(WHY_NOT.hosted),
    prompt_cache_options: refused(WHY_NOT.cache),
  },
} as const satisfies FieldTable;

const SomeText = z.string().min(1, "must not be empty");
/** Each form in which OpenAI's API takes what is to be continued, made a list. */
const CompletionPrompt = z
  .union(
    [
      SomeText,
      TokenNumbers,
      z.array(SomeText).min(1).max(WIRE_LIMITS.choices_max),
      z.array(TokenNumbers).min(1).max(WIRE_LIMITS.choices_max),
    ],
    { error: `must be a text that is not empty, numbers of tokens, or an array of either, at most ${WIRE_LIMITS.choices_max}` },
  )
  .transform((prompt): (string | number[])[] => {
    if (typeof prompt === "string") return [prompt];
    return typeof prompt[0] === "number" ? [prompt as number[]] : (prompt as string[] | number[][]);
  });

const COMPLETION_FIELDS = {
  supported: {
    prompt: CompletionPrompt.describe(
      "A text, the numbers of its tokens, or several of either, of which each has its own answers; `v1_choices_max` (8) answers at most, `n` to each. Continued as it is, without the chat template",
    ),
    ...generation,
    max_tokens: may(Tokens, `Most tokens to generate; ${COMPLETIONS_MAX_TOKENS} when not given, as OpenAI has it`),
    logprobs: may(
      z.int().min(0).max(COMPLETION_LOGPROBS_MAX),
      `How likely each token was, and so many of the likeliest at each place, up to ${COMPLETION_LOGPROBS_MAX}: ${SAYS_LOGPROBS}`,
    ),
  },
  hints: {},
  refused: {
    best_of: refused("answers are not chosen among; `n` gives all of them", 1),
    echo: refused("the answer is what was generated", false),
    suffix: refused("nothing is filled in before a given end", ""),
  },
} as const satisfies FieldTable;

/** For the page: where a field is sent → what becomes of it. */
export const OPENAI_FIELDS = {
  "POST /v1/chat/completions": CHAT_FIELDS,
  "`messages[]` of a chat": MESSAGE_FIELDS,
  "`tools[].function` of a chat, `tools[]` of a response": FUNCTION_FIELDS,
  "POST /v1/completions": COMPLETION_FIELDS,
} as const satisfies Record<string, FieldTable>;

export const NEEDS_LOGPROBS = { path: ["top_logprobs"], message: "needs logprobs: true" };

const needsStream = {
  path: ["stream_options"],
  message: "is only allowed with stream: true",
};

export const ChatRequest = z
  .strictObject({ ...CHAT_FIELDS.supported, ...CHAT_FIELDS.hints, ...CHAT_FIELDS.refused })
  .refine(({ stream, stream_options }) => stream === true || (stream_options ?? undefined) === undefined, needsStream)
  .refine(({ max_tokens, max_completion_tokens }) => (max_tokens ?? max_completion_tokens) === (max_completion_tokens ?? max_tokens), {
    path: ["max_tokens"],
    message: "differs from max_completion_tokens; give one of them",
  })
  .refine(({ logprobs, top_logprobs }) => logprobs === true || (top_logprobs ?? 0) === 0, NEEDS_LOGPROBS)
  .superRefine(refuseTools)
  .meta({ id: "ChatCompletionRequest" });
export type ChatRequest = z.infer<typeof ChatRequest>;

export const CompletionRequest = z
  .strictObject({ ...COMPLETION_FIELDS.supported, ...COMPLETION_FIELDS.hints, ...COMPLETION_FIELDS.refused })
  .refine(({ stream, stream_options }) => stream === true || (stream_options ?? undefined) === undefined, needsStream)
  .meta({ id: "CompletionRequest" });
export type CompletionRequest = z.infer<typeof CompletionRequest>;

const WorkerIds = z
  .string()
  .transform((list) => list.split(",").flatMap((id) => id.trim() || []))
  .pipe(z.array(WorkerId).max(WIRE_LIMITS.placement_workers_max));

/** What OpenAI's bodies have no field for. */
export const JobHeaders = z.object({
  "x-rbees-priority": Priority.default("interactive").describe("Which of the two queues"),
  "x-rbees-deadline-ms": z.coerce
    .number()
    .int()
    .min(1)
    .max(WIRE_LIMITS.deadline_ms_max)
    .optional()
    .describe("Ends the job this long after it came"),
  "x-rbees-pin": WorkerId.optional().describe("Only this worker"),
  "x-rbees-prefer": WorkerIds.optional().describe("These workers first; ids with commas between"),
  "x-rbees-avoid": WorkerIds.optional().describe("None of these workers"),
  "x-rbees-on-disconnect": z
    .enum(DISCONNECT_RULES)
    .default("cancel")
    .describe("`cancel`: a client that leaves ends its job; `continue`: `GET /v2/tasks/{id}` has the answer"),
});
export type JobHeaders = z.infer<typeof JobHeaders>;

const OpenaiUsage = z.object({
  prompt_tokens: z.int().nonnegative(),
  completion_tokens: z.int().nonnegative(),
  total_tokens: z.int().nonnegative(),
  prompt_tokens_details: z.object({ cached_tokens: z.int().nonnegative().describe("Prompt tokens that were not computed again") }),
});
export type OpenaiUsage = z.infer<typeof OpenaiUsage>;

const FinishReason = z
  .enum(["stop", "length", "tool_calls"])
  .describe("`stop`: it was complete, or a stop string came; `length`: max_tokens; `tool_calls`: it asks to have functions called");
export type FinishReason = z.infer<typeof FinishReason>;

const answer = {
  id: z.string().describe("`chatcmpl-` or `cmpl-`, and the id of the (first) job"),
  created: z.int().describe("Seconds since 1970"),
  model: z.string(),
  system_fingerprint: z.string().optional().describe("Tells whether two answers came from the same build of the model"),
  usage: OpenaiUsage,
};

export const ChatCompletion = z
  .object({
    ...answer,
    object: z.literal("chat.completion"),
    choices: z.array(
      z.object({
        index: z.int().nonnegative(),
        message: z.object({
          role: z.literal("assistant"),
          content: z.string().nullable().describe("Null in an answer that has only calls"),
          refusal: z.null(),
          reasoning_content: z.string().optional().describe("What the model's chat template marks as thinking"),
          tool_calls: z.array(ToolCall).optional(),
        }),
        logprobs: ChatLogprobs.nullable(),
        finish_reason: FinishReason,
      }),
    ),
  })
  .meta({ id: "ChatCompletion" });

export const TextCompletion = z
  .object({
    ...answer,
    object: z.literal("text_completion"),
    choices: z.array(
      z.object({ index: z.int().nonnegative(), text: z.string(), logprobs: TextLogprobs.nullable(), finish_reason: FinishReason }),
    ),
  })
  .meta({ id: "Completion" });

export const OpenaiModel = z
  .object({
    id: z.string(),
    object: z.literal("model"),
    created: z.int().describe("When the first of its present workers joined, seconds since 1970; 0 when none is there"),
    owned_by: z.literal("rbees"),
  })
  .meta({ id: "OpenaiModel" });
export type OpenaiModel = z.infer<typeof OpenaiModel>;

export const OpenaiModelList = z.object({ object: z.literal("list"), data: z.array(OpenaiModel) }).meta({ id: "OpenaiModelList" });
