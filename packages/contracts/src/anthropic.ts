/**
 * The door for what was written for Anthropic's Messages API, as its official client speaks it. Fields are in tables as those of the
 * OpenAI door are; the page docs/anthropic.md is made from them.
 */
import { z } from "zod";
import { type FieldTable, may, refused } from "./field-table.ts";
import { ModelName, Sampling, StopStrings, WIRE_LIMITS } from "./job.ts";
import { type Message, messageOf } from "./message.ts";
import { refuseTools, someTools, toolOf } from "./openai.ts";
import { CallId, Parameters, TOOL_LIMITS, type Tool, type ToolCall, type ToolChoice, ToolName } from "./tools.ts";

/** What a client gets from `temperature` that it did not send: Anthropic's own default. */
export const ANTHROPIC_TEMPERATURE = 1;

const { temperature, top_p, top_k, max_tokens } = Sampling.shape;

const NO_HOSTED = "a service of Anthropic's own";
const FOUND_WITHOUT = "Beginnings that prompts share are found without it";

/** The one edit of a conversation that leaves it as it is; Claude Code asks for it in every request. */
const KEEP_THINKING = { type: "clear_thinking_20251015", keep: "all" } as const;

const cache_control = may(z.looseObject({ type: z.string() }), FOUND_WITHOUT);

const BLOCK_FIELDS = {
  supported: {
    type: z.literal("text").describe("`text`; blocks of other types have other fields"),
    text: z.string().describe("Blocks of text that follow one another are joined with line breaks"),
  },
  hints: { cache_control },
  refused: { citations: refused("sources are not given", [], { enabled: false }) },
} as const satisfies FieldTable;

const TextBlock = z.strictObject({ ...BLOCK_FIELDS.supported, ...BLOCK_FIELDS.hints, ...BLOCK_FIELDS.refused });

/** Text, or blocks of it. */
const Text = z
  .union([z.string(), z.array(TextBlock)], {
    error: "must be a string, or an array of blocks of type text (no other type is supported)",
  })
  .transform((content) => (typeof content === "string" ? content : content.map(({ text }) => text).join("\n")));

const AS_SENT_BACK = "As in an answer that is sent back";
const origin = { caller: may(z.looseObject({}), AS_SENT_BACK), toolset_name: may(z.string(), AS_SENT_BACK) };

const TOOL_USE_FIELDS = {
  supported: {
    type: z.literal("tool_use").describe("A call, in a turn of the assistant"),
    id: CallId.describe("Its result says the same"),
    name: ToolName.describe("The tool"),
    input: Parameters.describe("The arguments"),
  },
  hints: { cache_control, ...origin },
  refused: {},
} as const satisfies FieldTable;

const TOOL_RESULT_FIELDS = {
  supported: {
    type: z.literal("tool_result").describe("The result of a call, in a turn of the user"),
    tool_use_id: CallId.describe("Of the call"),
    content: may(Text, "A string, or blocks of text"),
  },
  hints: { cache_control, is_error: may(z.boolean(), "The content says it"), toolset_name: origin.toolset_name },
  refused: {},
} as const satisfies FieldTable;

const THINKING_FIELDS = {
  supported: {
    type: z.literal("thinking").describe("What the assistant thought"),
    thinking: z.string().describe("A chat template that has no place for it leaves it out"),
  },
  hints: { signature: may(z.string(), "Nothing is signed here") },
  refused: {},
} as const satisfies FieldTable;

const Block = z.discriminatedUnion("type", [
  TextBlock,
  z.strictObject({ ...TOOL_USE_FIELDS.supported, ...TOOL_USE_FIELDS.hints }),
  z.strictObject({ ...TOOL_RESULT_FIELDS.supported, ...TOOL_RESULT_FIELDS.hints }),
  z.strictObject({ ...THINKING_FIELDS.supported, ...THINKING_FIELDS.hints }),
  z.strictObject({ type: z.literal("redacted_thinking"), data: z.string() }),
]);
type Block = z.infer<typeof Block>;

const MESSAGE_FIELDS = {
  supported: {
    role: z.enum(["user", "assistant", "system"]).describe("Through the model's own chat template"),
    content: z
      .union([z.string(), z.array(Block)], {
        error: "must be a string, or an array of blocks: text, tool_use, tool_result and thinking, with their own fields and no others",
      })
      .describe("A string, or an array of blocks"),
  },
  hints: {},
  refused: {},
} as const satisfies FieldTable;

/** Whose turn a block may stand in. */
const ROLE_OF_BLOCK = { tool_use: "assistant", thinking: "assistant", redacted_thinking: "assistant", tool_result: "user" } as const;

/** One message as turns: results of calls are turns of their own. */
function turnsOf(role: "user" | "assistant" | "system", content: string | readonly Block[]): Message[] {
  if (typeof content === "string") return [{ role, content }];
  const turns: Message[] = [];
  let texts: string[] = [];
  const say = () => {
    if (texts.length > 0) turns.push({ role, content: texts.join("\n") });
    texts = [];
  };
  const thoughts: string[] = [];
  const tool_calls: ToolCall[] = [];
  for (const block of content) {
    if (block.type === "text") texts.push(block.text);
    else if (block.type === "thinking") thoughts.push(block.thinking);
    else if (block.type === "tool_use") {
      tool_calls.push({ id: block.id, type: "function", function: { name: block.name, arguments: JSON.stringify(block.input) } });
    } else if (block.type === "tool_result") {
      say();
      turns.push(messageOf("tool", { content: block.content, tool_call_id: block.tool_use_id }));
    }
  }
  if (role === "assistant") return [messageOf(role, { content: texts.join("\n"), reasoning_content: thoughts.join("\n"), tool_calls })];
  say();
  return turns;
}

const MessageTurns = z
  .strictObject(MESSAGE_FIELDS.supported)
  .superRefine(({ role, content }, context) => {
    if (typeof content === "string") return;
    for (const [at, { type }] of content.entries()) {
      if (type === "text" || ROLE_OF_BLOCK[type] === role) continue;
      context.addIssue({ code: "custom", path: ["content", at, "type"], message: `belongs into a message of role ${ROLE_OF_BLOCK[type]}` });
    }
  })
  .transform(({ role, content }) => ({ role, turns: turnsOf(role, content) }));

const TOOL_FIELDS = {
  supported: {
    name: ToolName.describe("Letters, digits and `_ . -`"),
    description: may(z.string().max(TOOL_LIMITS.description_chars_max), "Shown to the model"),
    input_schema: Parameters.describe("A JSON Schema of the arguments, shown to the model"),
  },
  hints: {
    cache_control,
    strict: may(z.boolean(), "Arguments are what the model writes"),
    input_examples: may(z.array(z.unknown()), "Not shown to the model"),
    eager_input_streaming: may(z.boolean(), "Arguments stream as they come"),
  },
  refused: {
    type: refused("a service of Anthropic's own", "custom"),
    defer_loading: refused("all tools are shown to the model", false),
    allowed_callers: refused("a service of Anthropic's own", ["direct"]),
  },
} as const satisfies FieldTable;

const AnthropicTool = z
  .strictObject({ ...TOOL_FIELDS.supported, ...TOOL_FIELDS.hints, ...TOOL_FIELDS.refused })
  .transform(({ name, description, input_schema }): Tool => toolOf({ name, description, parameters: input_schema }));

const NO_PARALLEL = { disable_parallel_tool_use: z.boolean().nullish() };

const AnthropicToolChoice = z
  .discriminatedUnion("type", [
    z.strictObject({ type: z.literal("auto"), ...NO_PARALLEL }),
    z.strictObject({ type: z.literal("any"), ...NO_PARALLEL }),
    z.strictObject({ type: z.literal("tool"), name: ToolName, ...NO_PARALLEL }),
    z.strictObject({ type: z.literal("none") }),
  ])
  .transform((choice) => ({
    choice: (choice.type === "tool"
      ? { name: choice.name }
      : choice.type === "any"
        ? "required"
        : choice.type) satisfies ToolChoice as ToolChoice,
    parallel: choice.type === "none" || choice.disable_parallel_tool_use !== true,
  }));

const OUTPUT_FIELDS = {
  supported: {
    format: may(
      z.strictObject({
        type: z.literal("json_schema", "must be json_schema: no other type is supported"),
        schema: z.record(z.string(), z.unknown(), "must be a JSON schema"),
      }),
      "`json_schema`: JSON that validates; what of a schema can't be kept to is refused with its place ([structured output](structured-output.md))",
    ),
  },
  hints: { effort: may(z.enum(["low", "medium", "high", "xhigh", "max"]), "A model that thinks does so unasked") },
  refused: {},
} as const satisfies FieldTable;

const REQUEST_FIELDS = {
  supported: {
    model: ModelName.describe("A name from `GET /v1/models`"),
    max_tokens: max_tokens
      .unwrap()
      .describe("Required. Most tokens to generate; fewer where the context has no room, and `stop_reason` says so"),
    messages: z
      .array(MessageTurns)
      .min(1)
      .max(WIRE_LIMITS.messages_max)
      .refine(
        (messages) => messages.at(-1)?.role !== "assistant",
        "must not end with the assistant's turn: answers are not begun for the model",
      )
      .transform((messages) => messages.flatMap(({ turns }) => turns))
      .describe("A conversation that does not end with the assistant's turn"),
    system: may(Text, "A string or an array of blocks: a system message before the others"),
    temperature: may(temperature.unwrap(), `0 is greedy; ${ANTHROPIC_TEMPERATURE} when not given, as Anthropic has it`),
    top_p: may(top_p.unwrap(), "Draw from the likeliest tokens that together have this probability"),
    top_k: may(top_k.unwrap(), "Draw from so many of the likeliest tokens"),
    stop_sequences: may(StopStrings, `Up to ${WIRE_LIMITS.door_stop_strings_max} strings; they are not part of the answer`),
    tools: may(someTools(AnthropicTool), "Functions that the model may ask to have called ([tools](tools.md))"),
    tool_choice: may(
      AnthropicToolChoice,
      "`auto`; `none`: the model is not shown them; `any` and `tool`: the answer is one call, held to its schema. `disable_parallel_tool_use`: the answer ends with its first call",
    ),
    output_config: may(z.strictObject({ ...OUTPUT_FIELDS.supported, ...OUTPUT_FIELDS.hints }), "What the answer is held to"),
    stream: may(z.boolean(), "Answer as server-sent events, from `message_start` to `message_stop`"),
    metadata: may(z.strictObject({ user_id: may(z.string().max(512), "Who asks") }), "`user_id` is kept in the job's metadata"),
  },
  hints: {
    cache_control,
    thinking: may(
      z.looseObject({ type: z.enum(["enabled", "disabled", "adaptive", "between_tools"]) }),
      "`disabled`: a model is told not to think, `enabled`: to think, where its chat template has a place for that. It comes in blocks of type `thinking`",
    ),
    context_management: refused("a conversation is never shortened", {}, { edits: [] }, { edits: [KEEP_THINKING] }),
    service_tier: refused("priority is asked for with `x-rbees-priority`", "auto", "standard_only"),
    speed: refused("all go as fast as their worker", "standard"),
  },
  refused: {
    output_format: refused("the older form of `output_config.format`: use that"),
    container: refused(NO_HOSTED),
    mcp_servers: refused(NO_HOSTED, []),
    thread: refused("nothing is kept from one request to the next: send the whole conversation as `messages`"),
    diagnostics: refused(NO_HOSTED),
    inference_geo: refused("say with `x-rbees-pin` and `x-rbees-prefer` where a job runs"),
    user_profile_id: refused(NO_HOSTED),
    workspace_id: refused(NO_HOSTED),
  },
} as const satisfies FieldTable;

const { model, messages, system, tools, tool_choice } = REQUEST_FIELDS.supported;
const { thinking, context_management, speed } = REQUEST_FIELDS.hints;
const { user_profile_id, workspace_id } = REQUEST_FIELDS.refused;

const COUNT_FIELDS = {
  supported: { model, messages, system, tools, tool_choice },
  hints: {
    ...{ cache_control, thinking, context_management, speed },
    output_config: may(REQUEST_FIELDS.supported.output_config, "It is not shown to the model"),
  },
  refused: { user_profile_id, workspace_id },
} as const satisfies FieldTable;

/** For the page: where a field is sent → what becomes of it. */
export const ANTHROPIC_FIELDS = {
  "POST /v1/messages": REQUEST_FIELDS,
  "POST /v1/messages/count_tokens": COUNT_FIELDS,
  "`output_config`": OUTPUT_FIELDS,
  "`messages[]`": MESSAGE_FIELDS,
  "Blocks of a `content` or of `system`": BLOCK_FIELDS,
  "Blocks of type `tool_use`": TOOL_USE_FIELDS,
  "Blocks of type `tool_result`": TOOL_RESULT_FIELDS,
  "Blocks of type `thinking`": THINKING_FIELDS,
  "`tools[]`": TOOL_FIELDS,
} as const satisfies Record<string, FieldTable>;

export const MessagesRequest = z
  .strictObject({ ...REQUEST_FIELDS.supported, ...REQUEST_FIELDS.hints, ...REQUEST_FIELDS.refused })
  .superRefine(({ tools, tool_choice }, context) => refuseTools({ tools, tool_choice: tool_choice?.choice }, context))
  .meta({ id: "AnthropicMessagesRequest" });
export type MessagesRequest = z.infer<typeof MessagesRequest>;

export const CountTokensRequest = z
  .strictObject({ ...COUNT_FIELDS.supported, ...COUNT_FIELDS.hints, ...COUNT_FIELDS.refused })
  .superRefine((asked, context) => refuseTools({ tools: asked.tools, tool_choice: asked.tool_choice?.choice }, context))
  .meta({ id: "AnthropicCountTokensRequest" });

export const AnthropicTokens = z.object({ input_tokens: z.int().nonnegative() }).meta({ id: "AnthropicTokens" });

const AnthropicStop = z
  .enum(["end_turn", "tool_use", "max_tokens", "stop_sequence", "model_context_window_exceeded"])
  .describe("`model_context_window_exceeded`: the context had no room for `max_tokens`");
export type AnthropicStop = z.infer<typeof AnthropicStop>;

const Count = z.int().nonnegative();

const AnthropicUsage = z.object({
  input_tokens: Count.describe("Prompt tokens that were computed"),
  cache_read_input_tokens: Count.describe("Prompt tokens that were not computed again; the prompt is both together"),
  cache_creation_input_tokens: z.literal(0),
  cache_creation: z.null(),
  output_tokens: Count,
  output_tokens_details: z.null(),
  server_tool_use: z.null(),
  service_tier: z.null(),
  inference_geo: z.null(),
  speed: z.null(),
});
export type AnthropicUsage = z.infer<typeof AnthropicUsage>;

export const AnthropicMessage = z
  .object({
    id: z.string().describe("`msg_`, and the job's id"),
    type: z.literal("message"),
    role: z.literal("assistant"),
    model: z.string(),
    content: z.array(
      z.discriminatedUnion("type", [
        z.object({ type: z.literal("text"), text: z.string(), citations: z.null() }),
        z.object({ type: z.literal("thinking"), thinking: z.string(), signature: z.literal("") }),
        z.object({
          type: z.literal("tool_use"),
          id: z.string(),
          name: z.string(),
          input: z.record(z.string(), z.unknown()),
          caller: z.object({ type: z.literal("direct") }),
        }),
      ]),
    ),
    stop_reason: AnthropicStop.nullable().describe("Null in `message_start`"),
    stop_sequence: z.string().nullable().describe("The one of `stop_sequences` that ended the answer"),
    stop_details: z.null(),
    container: z.null(),
    diagnostics: z.null(),
    usage: AnthropicUsage,
  })
  .meta({ id: "AnthropicMessage" });
export type AnthropicMessage = z.infer<typeof AnthropicMessage>;
