/** From the turns of a request to those that the model's template knows, with tools shown in the template's own way or, where it has none, in words. */
import { hash } from "node:crypto";
import type { Message } from "@rbees/contracts/message";
import { deeper, TOOL_LIMITS, type Tool, type ToolCall } from "@rbees/contracts/tools";
import type { Conversation, TemplateMessage } from "./render.ts";
import type { CallForm, TemplateFacts } from "./template-facts.ts";

export function conversationOf(messages: readonly Message[], tools: readonly Tool[], facts: TemplateFacts): Conversation {
  const named = withNames(facts.system && !facts.systems ? oneSystem(messages) : messages);
  const talks_of_calls = named.some(({ role, tool_calls }) => role === "tool" || tool_calls !== undefined);
  if (facts.syntax === undefined && (tools.length > 0 || talks_of_calls)) return { messages: inWords(named, tools, facts) };
  const turns = facts.one_call_a_turn ? named.flatMap(oneCallEach(named)) : named;
  return { messages: turns.map((turn) => templateMessage(turn, facts.form)), ...(tools.length === 0 ? {} : { tools }) };
}

/**
 * For a template that takes one system message, and drops or refuses others: those at the beginning as one, later ones in the user's turn
 * that they follow, or one of their own; what the user says next is of the same turn, for many templates want user and assistant by turns.
 */
function oneSystem(messages: readonly Message[]): Message[] {
  const turns: Message[] = [];
  let open = false;
  for (const message of messages) {
    const before = turns.at(-1);
    const late = message.role === "system" && before !== undefined && before.role !== "system";
    const role = late ? "user" : message.role;
    if (before !== undefined && role === before.role && (late || role === "system" || (open && role === "user")))
      turns[turns.length - 1] = { ...before, content: `${before.content}\n\n${message.content}` };
    else turns.push({ ...message, role });
    open = late;
  }
  return turns;
}

/** A result says the name of its function: some templates ask for it. */
function withNames(messages: readonly Message[]): Message[] {
  const names = new Map<string, string>();
  return messages.map((message) => {
    for (const { id, function: called } of message.tool_calls ?? []) names.set(id, called.name);
    if (message.role !== "tool" || message.name !== undefined) return message;
    const name = names.get(message.tool_call_id ?? "");
    return name === undefined ? message : { ...message, name };
  });
}

function templateMessage({ role, content, tool_calls, tool_call_id, ...more }: Message, form: CallForm): TemplateMessage {
  return {
    ...more,
    role,
    content: content === "" && tool_calls !== undefined ? form.no_content : content,
    ...(tool_calls === undefined ? {} : { tool_calls: tool_calls.map((call) => templateCall(call, form)) }),
    ...(tool_call_id === undefined ? {} : { tool_call_id: shortId(tool_call_id) }),
  };
}

function templateCall({ id, type, function: { name, arguments: text } }: ToolCall, form: CallForm) {
  return { id: shortId(id), type, function: { name, arguments: form.arguments === "text" ? text : (argumentsOf(text) ?? text) } };
}

/** Undefined for what is no JSON object, or so deep that a renderer might not come back. */
function argumentsOf(text: string): object | undefined {
  try {
    const value: unknown = JSON.parse(text === "" ? "{}" : text);
    const is_object = typeof value === "object" && value !== null && !Array.isArray(value);
    return is_object && !deeper(value, TOOL_LIMITS.json_depth_max) ? value : undefined;
  } catch {
    return undefined;
  }
}

const ID_CHARS = 9;

/** Nine letters and digits, since Mistral's templates take no other id. Those that a worker gives are such, and stay as they are. */
export function shortId(id: string): string {
  if (/^[A-Za-z0-9]{9}$/.test(id)) return id;
  return BigInt(`0x${hash("sha256", id, "hex")}`)
    .toString(36)
    .slice(0, ID_CHARS);
}

/** A turn with several calls as one turn for each, every one followed by its result where that is known. */
function oneCallEach(messages: readonly Message[]): (message: Message) => Message[] {
  const results = new Map(messages.flatMap((message) => (message.role === "tool" ? [[message.tool_call_id, message] as const] : [])));
  const told = new Set<Message>();
  return (message) => {
    if (told.has(message)) return [];
    const { tool_calls = [] } = message;
    if (tool_calls.length < 2) return [message];
    return tool_calls.flatMap((call, at) => {
      const result = results.get(call.id);
      const turn = { ...message, content: at === 0 ? message.content : "", tool_calls: [call] };
      if (result === undefined || told.has(result)) return [turn];
      told.add(result);
      return [turn, result];
    });
  };
}

const HOW_TO_CALL = `To call a function, answer with nothing but JSON of this form:
{"name": "the function's name", "arguments": {"an argument's name": "its value"}}
To call several, write several such objects, each on a line of its own. The results are told to you in the next message. When no function is needed, answer in plain text.`;

interface Turn {
  readonly role: string;
  content: string;
  /** It begins with the result of a call. */
  readonly result: boolean;
}

/** Tools, calls and results as text, for a template that has no place for them. */
function inWords(messages: readonly Message[], tools: readonly Tool[], { system }: TemplateFacts): TemplateMessage[] {
  const turns: Turn[] = [];
  for (const message of messages) {
    const result = message.role === "tool";
    const turn = { role: result ? "user" : message.role, content: words(message), result };
    const before = turns.at(-1);
    // Results and what is asked after them are one turn: many templates want user and assistant by turns.
    if (before?.result && turn.role === "user") before.content += `\n\n${turn.content}`;
    else turns.push(turn);
  }
  if (tools.length > 0) instruct(turns, tools, system);
  return turns.map(({ role, content }) => ({ role, content }));
}

function words({ role, content, tool_calls = [], tool_call_id, name }: Message): string {
  if (role === "tool") return `The result of ${name ?? `call ${tool_call_id}`}:\n${content}`;
  const calls = tool_calls.map(({ function: called }) => {
    const given = argumentsOf(called.arguments) ?? called.arguments;
    return JSON.stringify({ name: called.name, arguments: given });
  });
  return [...(content === "" ? [] : [content]), ...calls].join("\n");
}

/** Into the system message; before the first user's words where the template shows none. */
function instruct(turns: Turn[], tools: readonly Tool[], system: boolean): void {
  const shown = tools.map((tool) => JSON.stringify(tool.function)).join("\n");
  const text = `You may call these functions:\n${shown}\n\n${HOW_TO_CALL}`;
  const [first] = turns;
  if (first?.role === "system") first.content += `\n\n${text}`;
  else if (system) turns.unshift({ role: "system", content: text, result: false });
  else {
    const user = turns.find(({ role }) => role === "user");
    if (user === undefined) turns.unshift({ role: "user", content: text, result: false });
    else user.content = `${text}\n\n${user.content}`;
  }
}
