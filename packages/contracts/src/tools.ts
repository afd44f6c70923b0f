/** Functions that a model may ask to have called, in the shape that OpenAI's API gave them, and what its answers say of them. */
import { z } from "zod";

export const TOOL_LIMITS = {
  tools_max: 256,
  tool_calls_max: 256,
  /** Claude Code has one of 19,000. */
  description_chars_max: 65_536,
  call_id_chars_max: 128,
  /** Renderers of chat templates go as deep as the value does: what is deeper is refused. */
  json_depth_max: 64,
} as const;

export const TOOL_NAME = /^[A-Za-z0-9_.-]{1,64}$/;
export const ToolName = z.string().regex(TOOL_NAME, "must be a name: letters, digits and _ . -, at most 64 characters");

export const CallId = z.string().min(1).max(TOOL_LIMITS.call_id_chars_max);

/** A JSON Schema is not looked into: it is shown to the model. */
export const Parameters = z
  .record(z.string(), z.unknown())
  .refine((schema) => !deeper(schema, TOOL_LIMITS.json_depth_max), `must be at most ${TOOL_LIMITS.json_depth_max} levels deep`);

const Description = z.string().max(TOOL_LIMITS.description_chars_max);

const ToolFunction = z.strictObject({
  name: ToolName,
  description: Description.optional(),
  parameters: Parameters.optional().describe("A JSON Schema of the arguments; none: it takes no arguments"),
});
export const Tool = z.strictObject({ type: z.literal("function"), function: ToolFunction }).meta({ id: "Tool" });
export type Tool = z.infer<typeof Tool>;

export const Tools = z
  .array(Tool)
  .max(TOOL_LIMITS.tools_max)
  .refine((tools) => new Set(tools.map((tool) => tool.function.name)).size === tools.length, "must have different names");

/** `auto`: as the model likes; `none`: it is not shown them; `required` and a name: it has to call one, or that one. */
export const ToolChoice = z.union([z.enum(["auto", "none", "required"]), z.strictObject({ name: ToolName })], {
  error: "must be auto, none, required or {name}",
});
export type ToolChoice = z.infer<typeof ToolChoice>;

export const ToolCall = z
  .strictObject({
    id: CallId,
    type: z.literal("function").default("function"),
    function: z.strictObject({ name: ToolName, arguments: z.string().describe("JSON, as the model wrote it") }),
  })
  .meta({ id: "ToolCall" });
export type ToolCall = z.infer<typeof ToolCall>;

/** More calls than any answer has: a place far behind the others would be an answer that fits no memory. */
const CALLS_MAX = 1024;

/** What a token says of a call: the first has its id and name, the arguments are the pieces put together. */
export const ToolCallPiece = z.object({
  index: z
    .int()
    .min(0)
    .max(CALLS_MAX - 1)
    .describe("Which of the answer's calls, from 0"),
  id: z.string().optional(),
  name: z.string().optional(),
  arguments: z.string().describe("More of the arguments, a JSON object; may be empty"),
});
export type ToolCallPiece = z.infer<typeof ToolCallPiece>;

/** Whether the answer has to call one. */
export function mustCall(choice: ToolChoice | undefined): boolean {
  return choice === "required" || typeof choice === "object";
}

/**
 * What an answer is that has to call a function: nothing but one call, as JSON, whatever way its model calls in otherwise. Undefined when it
 * need not.
 */
export function callSchema({
  tools = [],
  tool_choice,
}: {
  readonly tools?: readonly Tool[] | undefined;
  readonly tool_choice?: ToolChoice | undefined;
}): Record<string, unknown> | undefined {
  if (!mustCall(tool_choice)) return undefined;
  const some = typeof tool_choice === "object" ? tools.filter((tool) => tool.function.name === tool_choice.name) : tools;
  const calls = some.map(({ function: { name, parameters = { properties: {}, additionalProperties: false } } }) => ({
    type: "object",
    properties: { name: { const: name }, arguments: { type: "object", ...parameters } },
    required: ["name", "arguments"],
    additionalProperties: false,
  }));
  return calls.length === 1 ? calls[0] : { anyOf: calls };
}

/** Whether objects and arrays lie in one another more than `levels` deep. */
export function deeper(value: unknown, levels: number): boolean {
  if (typeof value !== "object" || value === null) return false;
  return levels === 0 || Object.values(value).some((inner) => deeper(inner, levels - 1));
}

/** The fields of a conversation with tools that do not go together, each with what is wrong. */
export function toolProblems(asked: {
  /** One that is refused for itself may not be one. */
  readonly tools?: readonly Partial<Tool>[] | undefined;
  readonly tool_choice?: ToolChoice | undefined;
  readonly raw?: boolean | undefined;
}): { path: string; problem: string }[] {
  const { tools = [], tool_choice = "auto", raw } = asked;
  const problems: { path: string; problem: string }[] = [];
  if (raw && tools.length > 0)
    problems.push({ path: "tools", problem: "are shown to the model by its chat template, which raw leaves out" });
  if (tool_choice === "required" && tools.length === 0) problems.push({ path: "tool_choice", problem: "needs tools" });
  if (typeof tool_choice === "object" && !tools.some((tool) => tool.function?.name === tool_choice.name))
    problems.push({ path: "tool_choice", problem: "names none of the tools" });
  return problems;
}
