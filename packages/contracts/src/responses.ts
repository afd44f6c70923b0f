/** OpenAI's Responses API, as far as it needs no state at the server. Fields are in tables as those of its other bodies are. */
import { z } from "zod";
import { type FieldTable, may, refused } from "./field-table.ts";
import { SAYS_EFFORT, Sampling, WIRE_LIMITS } from "./job.ts";
import { OutputLogprob } from "./logprobs.ts";
import { type Message, messageOf } from "./message.ts";
import {
  FUNCTION_FIELDS,
  OPENAI_COMMON,
  OPENAI_TALK,
  OPENAI_TALK_HINTS,
  PARALLEL,
  refuseTools,
  SAYS_FORMAT,
  SAYS_LOGPROBS,
  someTools,
  TextFormat,
  TOP_LOGPROBS,
  toolOf,
  WHY_NOT,
} from "./openai.ts";
import { REASONING_EFFORTS } from "./sets.ts";
import { CallId, Tool, type ToolChoice, ToolName } from "./tools.ts";

const NO_STATE = "nothing is kept from one request to the next: send the whole conversation as `input`";
const AS_SENT_BACK = "As in an answer that is sent back";

const PART_FIELDS = {
  supported: {
    type: z.enum(["input_text", "output_text"], "must be input_text or output_text: no other type is supported").describe("Only text"),
    text: z.string().describe("Parts of one message are joined with line breaks"),
  },
  hints: {
    annotations: may(z.array(z.unknown()), AS_SENT_BACK),
    logprobs: may(z.array(z.unknown()), AS_SENT_BACK),
    prompt_cache_breakpoint: may(z.looseObject({}), "Beginnings that prompts share are found without it"),
  },
  refused: {},
} as const satisfies FieldTable;

const Content = z
  .union([z.string(), z.array(z.strictObject({ ...PART_FIELDS.supported, ...PART_FIELDS.hints }))], {
    error: "must be a string, or an array of parts of type input_text or output_text (no other type is supported)",
  })
  .transform((content) => (typeof content === "string" ? content : content.map(({ text }) => text).join("\n")));

const SENT_BACK = {
  id: may(z.string(), AS_SENT_BACK),
  status: may(z.string(), AS_SENT_BACK),
} as const;

const ITEM_FIELDS = {
  supported: {
    role: z.enum(["user", "assistant", "system", "developer"]).describe("`developer` is taken as `system`"),
    content: Content.describe("A string, or an array of parts"),
    type: z
      .literal("message", "must be message, function_call, function_call_output or reasoning: no other type of item is supported")
      .optional()
      .describe("`message`, when not given; `function_call`, `function_call_output` and `reasoning` have other fields"),
  },
  hints: { ...SENT_BACK, phase: may(z.string(), AS_SENT_BACK) },
  refused: {},
} as const satisfies FieldTable;

const CALL_FIELDS = {
  supported: {
    type: z.literal("function_call").describe("A call that the model asked for"),
    call_id: CallId.describe("Its result says the same"),
    name: ToolName.describe("The function"),
    arguments: z.string().describe("JSON, as the model wrote it"),
    namespace: may(ToolName, "Where the function was declared in one"),
  },
  hints: { ...SENT_BACK, caller: may(z.looseObject({}), AS_SENT_BACK) },
  refused: {},
} as const satisfies FieldTable;

const OUTPUT_FIELDS = {
  supported: {
    type: z.literal("function_call_output").describe("The result of a call"),
    call_id: CallId.describe("Of the call"),
    output: Content.describe("A string, or an array of parts"),
  },
  hints: { ...SENT_BACK, caller: may(z.looseObject({}), AS_SENT_BACK), name: may(z.string(), "Known by the call") },
  refused: {},
} as const satisfies FieldTable;

const REASONING_FIELDS = {
  supported: {
    type: z.literal("reasoning").describe("What the assistant thought"),
    content: may(
      z.array(z.object({ type: z.literal("reasoning_text"), text: z.string() })),
      "Goes before the assistant's next words or calls; a template that has no place for it leaves it out",
    ),
  },
  hints: { ...SENT_BACK, summary: may(z.array(z.unknown()), AS_SENT_BACK), encrypted_content: may(z.string(), AS_SENT_BACK) },
  refused: {},
} as const satisfies FieldTable;

const Item = z.union(
  [
    z.strictObject({ ...ITEM_FIELDS.supported, ...ITEM_FIELDS.hints }),
    z.strictObject({ ...CALL_FIELDS.supported, ...CALL_FIELDS.hints }),
    z.strictObject({ ...OUTPUT_FIELDS.supported, ...OUTPUT_FIELDS.hints }),
    z.strictObject({ ...REASONING_FIELDS.supported, ...REASONING_FIELDS.hints }),
  ],
  {
    error:
      "must be a message with role and content, a function_call, a function_call_output or a reasoning item, with text only and no other fields",
  },
);
type Item = z.infer<typeof Item>;

/** Items as turns: what an assistant thought, said and called without anything between is one turn. */
function turnsOf(items: readonly Item[]): Message[] {
  const turns: Message[] = [];
  const assistant = (more: Partial<Message>) => {
    const last = turns.at(-1);
    if (last?.role !== "assistant" || (more.content !== undefined && (last.content !== "" || last.tool_calls !== undefined)))
      return void turns.push({ role: "assistant", content: "", ...more });
    if (more.content !== undefined) last.content = more.content;
    if (more.reasoning_content !== undefined) last.reasoning_content = (last.reasoning_content ?? "") + more.reasoning_content;
    if (more.tool_calls !== undefined) last.tool_calls = [...(last.tool_calls ?? []), ...more.tool_calls];
  };
  for (const item of items) {
    if (item.type === "function_call") {
      const { call_id: id, arguments: given } = item;
      const name = fullName(item);
      assistant({ tool_calls: [{ id, type: "function", function: { name, arguments: given } }] });
    } else if (item.type === "function_call_output") {
      turns.push(messageOf("tool", { content: item.output, tool_call_id: item.call_id }));
    } else if (item.type === "reasoning") {
      const text = (item.content ?? []).map((part) => part.text).join("\n");
      if (text !== "") turns.push({ role: "assistant", content: "", reasoning_content: text });
    } else if (item.role === "assistant") assistant({ content: item.content });
    else turns.push({ role: item.role === "developer" ? "system" : item.role, content: item.content });
  }
  return turns;
}

const ResponsesFunction = z
  .strictObject({
    type: z.literal("function", "must be function: no other type is supported"),
    ...FUNCTION_FIELDS.supported,
    ...FUNCTION_FIELDS.hints,
  })
  .transform(({ strict: _, ...named }): Tool => toolOf(named));

const NAMESPACE_FIELDS = {
  supported: {
    type: z.literal("namespace").describe("Functions that belong together"),
    name: ToolName.describe("The model is shown it before their names, with a dot between: at most 64 characters together"),
    description: may(FUNCTION_FIELDS.supported.description, "Shown to the model, before that of the first of them"),
    tools: someTools(ResponsesFunction).min(1).describe("Functions, as in `tools[]`"),
  },
  hints: {},
  refused: {},
} as const satisfies FieldTable;

const Namespace = z.strictObject(NAMESPACE_FIELDS.supported);

const ResponsesTools = z
  .array(
    z.discriminatedUnion(
      "type",
      [ResponsesFunction, Namespace],
      "must be function or namespace: services of OpenAI's own, such as web_search, are not here",
    ),
  )
  .superRefine((tools, context) => {
    const named = someTools(Tool).safeParse(flatTools(tools));
    for (const { message } of named.error?.issues ?? []) context.addIssue({ code: "custom", message });
  });
type ResponsesTools = z.infer<typeof ResponsesTools>;

/** How a model is shown the name of a function. */
function fullName({ namespace, name }: { readonly namespace?: string | null | undefined; readonly name: string }): string {
  return typeof namespace === "string" ? `${namespace}.${name}` : name;
}

/** The functions as the model is shown them. */
export function flatTools(tools: ResponsesTools): Tool[] {
  return tools.flatMap((tool) => {
    if (tool.type === "function") return tool;
    const { name: namespace, description, tools: inner } = tool;
    return inner.map(({ type, function: one }, at) => {
      const described = [at === 0 ? description : undefined, one.description].filter((text) => (text ?? "") !== "").join("\n");
      return {
        type,
        function: { ...one, name: fullName({ namespace, name: one.name }), ...(described === "" ? {} : { description: described }) },
      };
    });
  });
}

/** A function that the model called, as whoever declared it names it. */
export function declaredAs(tools: ResponsesTools, called: string): { name: string; namespace?: string } {
  for (const tool of tools) {
    if (tool.type !== "namespace") continue;
    const one = tool.tools.find(({ function: { name } }) => fullName({ namespace: tool.name, name }) === called);
    if (one !== undefined) return { name: one.function.name, namespace: tool.name };
  }
  return { name: called };
}

const ResponsesToolChoice = z
  .union([z.enum(["auto", "none", "required"]), z.strictObject({ type: z.literal("function"), name: ToolName })], {
    error: "must be auto, none, required or {type: function, name}",
  })
  .transform((choice): ToolChoice => (typeof choice === "string" ? choice : { name: choice.name }));

const TEXT_FIELDS = {
  supported: { format: may(TextFormat, SAYS_FORMAT) },
  hints: {},
  refused: {
    verbosity: refused(WHY_NOT.verbosity, "medium"),
  },
} as const satisfies FieldTable;

const SAYS_THINKING = "what a model thought comes whole, in items of type `reasoning`";

const LOGPROBS = "message.output_text.logprobs";

const REQUEST_FIELDS = {
  supported: {
    input: z
      .union([z.string().min(1), z.array(Item).min(1).max(WIRE_LIMITS.messages_max).transform(turnsOf)], {
        error: "must be a string that is not empty, or an array of items",
      })
      .describe("A user's turn, or a conversation; through the model's own chat template"),
    instructions: may(z.string(), "A system message before the others"),
    ...OPENAI_COMMON,
    ...OPENAI_TALK,
    max_output_tokens: may(
      Sampling.shape.max_tokens.unwrap(),
      "Most tokens to generate. Not given: `v1_max_tokens_default`, or fewer where the context has no room",
    ),
    stream: may(z.boolean(), "Answer as server-sent events, from `response.created` to `response.completed` or `response.incomplete`"),
    stream_options: may(
      z.strictObject({ include_obfuscation: z.literal(false, "must be false").nullish() }),
      "`include_obfuscation` only false; only with `stream`",
    ),
    text: may(z.strictObject({ ...TEXT_FIELDS.supported, ...TEXT_FIELDS.refused }), "What the answer has to look like"),
    tools: may(ResponsesTools, "Functions that the model may ask to have called ([tools](tools.md))"),
    tool_choice: may(
      ResponsesToolChoice,
      "`auto`; `none`: the model is not shown them; `required` or a function: the answer is one call, held to its schema",
    ),
    parallel_tool_calls: PARALLEL,
    include: may(
      z.array(
        z.enum(
          [LOGPROBS, "reasoning.encrypted_content"],
          `is not supported: answers have no such part (only ${LOGPROBS} and, as a hint, reasoning.encrypted_content)`,
        ),
      ),
      `\`${LOGPROBS}\`: how likely each token of the text was: ${SAYS_LOGPROBS}. \`reasoning.encrypted_content\` makes no difference`,
    ),
    top_logprobs: may(
      TOP_LOGPROBS,
      `So many of the likeliest tokens at each place, up to ${WIRE_LIMITS.top_logprobs_max}; needs \`${LOGPROBS}\` in \`include\``,
    ),
  },
  hints: {
    ...OPENAI_TALK_HINTS,
    client_metadata: may(z.looseObject({}), "What a client says of itself"),
    reasoning: may(
      z.strictObject({
        summary: may(z.enum(["auto", "concise", "detailed"]), SAYS_THINKING),
        effort: may(z.enum(REASONING_EFFORTS), SAYS_EFFORT),
      }),
      `\`summary\`: ${SAYS_THINKING}. \`effort\`: how long the model is to think, told where its chat template has a place for that`,
    ),
    truncation: refused("an input is never shortened", "disabled"),
  },
  refused: {
    previous_response_id: refused(NO_STATE),
    conversation: refused(NO_STATE),
    background: refused("`POST /v2/tasks` takes jobs whose answer is fetched later", false),
    prompt: refused("no prompts are kept here"),
    max_tool_calls: refused("it counts calls of services of OpenAI's own"),
    context_management: refused("an input is never shortened", []),
    prompt_cache_options: refused(WHY_NOT.cache),
    access_programs: refused(WHY_NOT.hosted),
    image: refused("text only"),
    moderation: refused(WHY_NOT.hosted),
  },
} as const satisfies FieldTable;

/** For the page: where a field is sent → what becomes of it. */
export const RESPONSES_FIELDS = {
  "POST /v1/responses": REQUEST_FIELDS,
  "`input[]`": ITEM_FIELDS,
  "`input[]` of type `function_call`": CALL_FIELDS,
  "`input[]` of type `function_call_output`": OUTPUT_FIELDS,
  "`input[]` of type `reasoning`": REASONING_FIELDS,
  "`input[].content[]`": PART_FIELDS,
  "`tools[]` of type `namespace`": NAMESPACE_FIELDS,
  "`text`": TEXT_FIELDS,
} as const satisfies Record<string, FieldTable>;

export const ResponsesRequest = z
  .strictObject({ ...REQUEST_FIELDS.supported, ...REQUEST_FIELDS.hints, ...REQUEST_FIELDS.refused })
  .refine(({ stream, stream_options }) => stream === true || (stream_options ?? undefined) === undefined, {
    path: ["stream_options"],
    message: "is only allowed with stream: true",
  })
  .refine((request) => (request.top_logprobs ?? 0) === 0 || logprobsAsked(request) !== undefined, {
    path: ["top_logprobs"],
    message: `needs ${LOGPROBS} in include`,
  })
  .superRefine(({ tools, tool_choice }, context) => refuseTools({ tools: flatTools(tools ?? []), tool_choice }, context))
  .meta({ id: "ResponsesRequest" });
export type ResponsesRequest = z.infer<typeof ResponsesRequest>;

/** Of how many tokens at each place the likelihood is asked for, beside that of the answer's; undefined: of none. */
export function logprobsAsked({
  include,
  top_logprobs,
}: {
  readonly include?: readonly string[] | null | undefined;
  readonly top_logprobs?: number | null | undefined;
}): number | undefined {
  return include?.includes(LOGPROBS) ? (top_logprobs ?? 0) : undefined;
}

const Count = z.int().nonnegative();
const ResponsesUsage = z.object({
  input_tokens: Count,
  input_tokens_details: z.object({
    cached_tokens: Count.describe("Prompt tokens that were not computed again"),
    cache_write_tokens: z.literal(0),
  }),
  output_tokens: Count,
  output_tokens_details: z.object({ reasoning_tokens: z.literal(0) }),
  total_tokens: Count,
});

const ItemStatus = z.enum(["in_progress", "completed", "incomplete"]);
const OutputText = z.object({
  type: z.literal("output_text"),
  text: z.string(),
  annotations: z.array(z.never()),
  logprobs: z.array(OutputLogprob).describe("Of each token of the text, where that was asked for"),
});
const OutputItem = z.discriminatedUnion("type", [
  z.object({
    id: z.string().describe("`msg_`, and the job's id"),
    type: z.literal("message"),
    role: z.literal("assistant"),
    status: ItemStatus,
    content: z.array(OutputText),
  }),
  z.object({
    id: z.string(),
    type: z.literal("reasoning"),
    status: ItemStatus,
    summary: z.array(z.never()),
    content: z.array(z.object({ type: z.literal("reasoning_text"), text: z.string() })),
  }),
  z.object({
    id: z.string(),
    type: z.literal("function_call"),
    status: ItemStatus,
    call_id: z.string(),
    name: z.string(),
    namespace: z.string().optional().describe("Where the function was declared in one"),
    arguments: z.string(),
  }),
]);
export type OutputItem = z.infer<typeof OutputItem>;

const AnsweredFunction = z.object({
  type: z.literal("function"),
  name: z.string(),
  description: z.string().nullable(),
  parameters: z.record(z.string(), z.unknown()).nullable(),
  strict: z.literal(false),
});
const AnsweredNamespace = z.object({
  type: z.literal("namespace"),
  name: z.string(),
  description: z.string(),
  tools: z.array(AnsweredFunction),
});

/** What was asked for comes back beside the answer, as OpenAI has it. */
export const OpenaiResponse = z
  .object({
    id: z.string().describe("`resp_`, and the job's id"),
    object: z.literal("response"),
    created_at: z.int().describe("Seconds since 1970"),
    completed_at: z.int().nullable(),
    status: ItemStatus.describe("`incomplete`: max_output_tokens"),
    error: z.null(),
    incomplete_details: z.object({ reason: z.literal("max_output_tokens") }).nullable(),
    output: z.array(OutputItem),
    usage: ResponsesUsage.nullable().describe("Null until the answer is complete"),
    model: z.string(),
    instructions: z.string().nullable(),
    max_output_tokens: z.int().nullable(),
    metadata: z.record(z.string(), z.string()),
    temperature: z.number(),
    top_p: z.number(),
    text: z.object({ format: TextFormat }),
    background: z.literal(false),
    store: z.literal(false),
    previous_response_id: z.null(),
    parallel_tool_calls: z.boolean(),
    tool_choice: z.union([z.string(), z.object({ type: z.literal("function"), name: z.string() })]),
    tools: z.array(z.union([AnsweredFunction, AnsweredNamespace])),
    reasoning: z.null(),
    truncation: z.literal("disabled"),
    top_logprobs: z.int().optional(),
    service_tier: z.literal("default"),
    user: z.string().optional(),
    safety_identifier: z.string().optional(),
  })
  .meta({ id: "Response" });
export type OpenaiResponse = z.infer<typeof OpenaiResponse>;
