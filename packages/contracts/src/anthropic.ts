/**
 * The door for what was written for Anthropic's Messages API, as its official client speaks it. Fields are in tables as those of the
 * OpenAI door are; the page docs/anthropic.md is made from them.
 */
import { z } from "zod";
import { type FieldTable, may, refused } from "./field-table.ts";
import { ModelName, Sampling, StopStrings, WIRE_LIMITS } from "./job.ts";

/** What a client gets from `temperature` that it did not send: Anthropic's own default. */
export const ANTHROPIC_TEMPERATURE = 1;

const { temperature, top_p, top_k, max_tokens } = Sampling.shape;

const NO_TOOLS = "the models are not given tools";
const NO_HOSTED = "a service of Anthropic's own";
const NO_THINKING = "the models are not told how long to think";
const FOUND_WITHOUT = "Beginnings that prompts share are found without it";

const cache_control = may(z.looseObject({ type: z.string() }), FOUND_WITHOUT);

const BLOCK_FIELDS = {
  supported: {
    type: z.literal("text", "must be text: no other type of block is supported").describe("Only `text`"),
    text: z.string().describe("Blocks of one message are joined with line breaks"),
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

const MESSAGE_FIELDS = {
  supported: {
    role: z.enum(["user", "assistant", "system"]).describe("Through the model's own chat template"),
    content: Text.describe("A string, or an array of blocks"),
  },
  hints: {},
  refused: {},
} as const satisfies FieldTable;

const REQUEST_FIELDS = {
  supported: {
    model: ModelName.describe("A name from `GET /v1/models`"),
    max_tokens: max_tokens
      .unwrap()
      .describe("Required. Most tokens to generate; fewer where the context has no room, and `stop_reason` says so"),
    messages: z
      .array(z.strictObject(MESSAGE_FIELDS.supported))
      .min(1)
      .max(WIRE_LIMITS.messages_max)
      .refine(
        (messages) => messages.at(-1)?.role !== "assistant",
        "must not end with the assistant's turn: answers are not begun for the model",
      )
      .describe("A conversation that does not end with the assistant's turn"),
    system: may(Text, "A string or an array of blocks: a system message before the others"),
    temperature: may(temperature.unwrap(), `0 is greedy; ${ANTHROPIC_TEMPERATURE} when not given, as Anthropic has it`),
    top_p: may(top_p.unwrap(), "Draw from the likeliest tokens that together have this probability"),
    top_k: may(top_k.unwrap(), "Draw from so many of the likeliest tokens"),
    stop_sequences: may(StopStrings, `Up to ${WIRE_LIMITS.stop_strings_max} strings; they are not part of the answer`),
    stream: may(z.boolean(), "Answer as server-sent events, from `message_start` to `message_stop`"),
    metadata: may(z.strictObject({ user_id: may(z.string().max(512), "Who asks") }), "`user_id` is kept in the job's metadata"),
  },
  hints: {
    cache_control,
    service_tier: refused("priority is asked for with `x-rbees-priority`", "auto", "standard_only"),
    speed: refused("all go as fast as their worker", "standard"),
  },
  refused: {
    tools: refused(NO_TOOLS, []),
    tool_choice: refused(NO_TOOLS, { type: "none" }, { type: "auto" }),
    thinking: refused(NO_THINKING, { type: "disabled" }),
    output_config: refused("answers are not held to a schema", {}),
    output_format: refused("answers are not held to a schema"),
    container: refused(NO_HOSTED),
    mcp_servers: refused(NO_HOSTED, []),
    context_management: refused(NO_HOSTED),
    diagnostics: refused(NO_HOSTED),
    inference_geo: refused("say with `x-rbees-pin` and `x-rbees-prefer` where a job runs"),
    user_profile_id: refused(NO_HOSTED),
    workspace_id: refused(NO_HOSTED),
  },
} as const satisfies FieldTable;

/** For the page: where a field is sent → what becomes of it. */
export const ANTHROPIC_FIELDS = {
  "POST /v1/messages": REQUEST_FIELDS,
  "`messages[]`": MESSAGE_FIELDS,
  "Blocks of a `content` or of `system`": BLOCK_FIELDS,
} as const satisfies Record<string, FieldTable>;

export const MessagesRequest = z
  .strictObject({ ...REQUEST_FIELDS.supported, ...REQUEST_FIELDS.hints, ...REQUEST_FIELDS.refused })
  .meta({ id: "AnthropicMessagesRequest" });
export type MessagesRequest = z.infer<typeof MessagesRequest>;

const AnthropicStop = z
  .enum(["end_turn", "max_tokens", "stop_sequence", "model_context_window_exceeded"])
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
    content: z.array(z.object({ type: z.literal("text"), text: z.string(), citations: z.null() })),
    stop_reason: AnthropicStop.nullable().describe("Null in `message_start`"),
    stop_sequence: z.string().nullable().describe("The one of `stop_sequences` that ended the answer"),
    stop_details: z.null(),
    container: z.null(),
    diagnostics: z.null(),
    usage: AnthropicUsage,
  })
  .meta({ id: "AnthropicMessage" });
export type AnthropicMessage = z.infer<typeof AnthropicMessage>;
