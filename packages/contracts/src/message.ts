/** One turn of a conversation: what a client may send, and what it is from then on. */
import { z } from "zod";
import { CallId, TOOL_LIMITS, ToolCall, ToolName } from "./tools.ts";

/** A turn as it goes to a worker. `tool_calls` are the assistant's; `tool_call_id` and `name` say whose result a tool's turn is. */
export const Message = z.object({
  role: z.enum(["system", "user", "assistant", "tool"]),
  content: z.string(),
  reasoning_content: z.string().optional(),
  tool_calls: z.array(ToolCall).optional(),
  tool_call_id: z.string().optional(),
  name: z.string().optional(),
});
export type Message = z.infer<typeof Message>;

/** Text, or OpenAI's content parts, of which those of type `text` are taken. */
export const MessageContent = z
  .union([z.string(), z.array(z.strictObject({ type: z.literal("text"), text: z.string() }))], {
    error: "must be a string, or an array of parts of type text (pictures and other types are not supported)",
  })
  .transform((content) => (typeof content === "string" ? content : content.map(({ text }) => text).join("\n")));

export const ToolCalls = z.array(ToolCall).max(TOOL_LIMITS.tool_calls_max);

/** What a turn has beside its role. */
export const MESSAGE_PARTS = {
  content: MessageContent.nullish().describe(
    "Text, or parts of type `text`, which are joined with line breaks; may be left out beside `tool_calls`",
  ),
  reasoning_content: z
    .string()
    .nullish()
    .describe("What the assistant thought, as in an answer that is sent back; a template that has no place for it leaves it out"),
  tool_calls: ToolCalls.nullish().describe("The functions that the assistant asked to have called"),
  tool_call_id: CallId.nullish().describe("In a turn of role `tool`: the call whose result it is"),
  name: ToolName.nullish().describe("In a turn of role `tool`: the function whose result it is; found by the call when left out"),
} as const;

interface AskedParts {
  content?: string | null | undefined;
  reasoning_content?: string | null | undefined;
  tool_calls?: ToolCall[] | null | undefined;
  tool_call_id?: string | null | undefined;
  name?: string | null | undefined;
}

/** What does not go together in a turn, each with its field. */
export function messageProblems({ role, ...parts }: AskedParts & { role: string }): [field: string, problem: string][] {
  const { content, reasoning_content, tool_calls, tool_call_id, name } = parts;
  const problems: [string, string][] = [];
  const calls = tool_calls?.length ?? 0;
  if ((content ?? undefined) === undefined && calls === 0) problems.push(["content", "is required"]);
  if (role !== "assistant" && calls > 0) problems.push(["tool_calls", "are the assistant's"]);
  if (role !== "assistant" && typeof reasoning_content === "string") problems.push(["reasoning_content", "is the assistant's"]);
  if (role === "tool" && typeof tool_call_id !== "string") problems.push(["tool_call_id", "is required in a message of role tool"]);
  if (role !== "tool" && typeof tool_call_id === "string") problems.push(["tool_call_id", "belongs into a message of role tool"]);
  if (role !== "tool" && typeof name === "string")
    problems.push(["name", "belongs into a message of role tool: chat templates have no place for others"]);
  return problems;
}

/** The turn without what it does not have. */
export function messageOf(role: Message["role"], { content, reasoning_content, tool_calls, tool_call_id, name }: AskedParts): Message {
  return {
    role,
    content: content ?? "",
    ...(typeof reasoning_content === "string" && reasoning_content !== "" ? { reasoning_content } : {}),
    ...((tool_calls ?? []).length > 0 ? { tool_calls: tool_calls as ToolCall[] } : {}),
    ...(typeof tool_call_id === "string" ? { tool_call_id } : {}),
    ...(role === "tool" && typeof name === "string" ? { name } : {}),
  };
}

export const AskedMessage = z
  .strictObject({ role: Message.shape.role, ...MESSAGE_PARTS })
  .superRefine((message, context) => {
    for (const [field, problem] of messageProblems(message)) context.addIssue({ code: "custom", path: [field], message: problem });
  })
  .transform(({ role, ...parts }) => messageOf(role, parts));
