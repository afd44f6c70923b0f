/**
 * From a request to prompt tokens: the model's own chat template around messages, or the bare text.
 *
 * - `messages`, and `prompt` on a model with a chat template (as one user turn), go through the template.
 * - `raw: true` feeds the prompt as it is; names of special tokens in it are special tokens, as whoever formats a prompt wants.
 * - `prompt` on a model without a template is plain text, in which nothing is special.
 * - Text that people or tools wrote never becomes a special token (`chat/plain-text.ts`).
 * - The beginning-of-sequence token comes once, whether template or tokenizer adds it.
 */
import { RbeesError } from "@rbees/contracts/errors";
import { mustCall } from "@rbees/contracts/tools";
import { BARE_JSON } from "../chat/call-syntax.ts";
import { conversationOf } from "../chat/conversation.ts";
import { pieces } from "../chat/plain-text.ts";
import { endsOpened, type Reading, textArguments } from "../chat/reading.ts";
import { type Renderer, render } from "../chat/render.ts";
import { type TemplateFacts, templateFacts } from "../chat/template-facts.ts";
import type { RunRequest } from "../engine.ts";

export interface PromptModel extends Omit<Renderer, "chat_template"> {
  /** `continues`: the text goes on after other text, so that no space is put before it. */
  tokenize(text: string, special: boolean, continues?: boolean): number[];
  /** The token that must come first, if any. */
  bos: number | undefined;
  chat_template: string | undefined;
}

export interface Prompt {
  readonly tokens: number[];
  /** How the answer is read; undefined: it is text, all of it. */
  readonly reading: Reading | undefined;
}

type Asked = Pick<RunRequest, "prompt" | "messages" | "raw" | "tools" | "tool_choice" | "parallel_tool_calls" | "separate_reasoning">;

/** Text that is made tokens by itself. */
export interface PromptPart {
  readonly text: string;
  /** Names of special tokens in it are special tokens. */
  readonly special: boolean;
  /** It goes on after other text. */
  readonly continues: boolean;
}

export function promptOf(model: PromptModel, request: Asked): Prompt {
  const { parts, reading } = partsOf(model, request);
  return {
    tokens: withBos(
      model,
      parts.flatMap(({ text, special, continues }) => model.tokenize(text, special, continues)),
    ),
    reading,
  };
}

/** The prompt before it is tokens. */
export function partsOf(model: PromptModel, request: Asked): { parts: readonly PromptPart[]; reading: Reading | undefined } {
  const { prompt, messages, raw } = request;
  const whole = (text: string, special: boolean) => ({ parts: [{ text, special, continues: false }], reading: undefined });
  if (raw) {
    if (prompt === undefined) throw new RbeesError("INVALID_REQUEST", "raw: needs prompt, not messages", { param: "raw" });
    return whole(prompt, true);
  }
  if (hasTemplate(model)) return chatParts(model, request);
  if (messages !== undefined) {
    throw new RbeesError("INVALID_REQUEST", "messages: this model has no chat template; send prompt instead", { param: "messages" });
  }
  if (shownTools(request).length > 0) {
    throw new RbeesError("INVALID_REQUEST", "tools: this model has no chat template to show them with", { param: "tools" });
  }
  return whole(prompt ?? "", false);
}

export function hasTemplate(model: PromptModel): model is PromptModel & Renderer {
  return model.chat_template !== undefined;
}

export function withBos({ bos }: Pick<PromptModel, "bos">, tokens: number[]): number[] {
  return bos === undefined || tokens[0] === bos ? tokens : [bos, ...tokens];
}

/** `tool_choice` none: the model is not shown them, so it calls none. */
function shownTools({ tools = [], tool_choice }: Asked) {
  return tool_choice === "none" ? [] : tools;
}

function chatParts(model: PromptModel & Renderer, request: Asked): { parts: readonly PromptPart[]; reading: Reading | undefined } {
  const messages = request.messages ?? [{ role: "user", content: request.prompt ?? "" }];
  const tools = shownTools(request);
  const facts = templateFacts(model);
  const conversation = conversationOf(messages, tools, facts);
  const text = render(model, conversation);
  const reading = readingOf(request, facts, text);
  const apart = pieces(model, conversation, text, (marked) => render(model, marked));
  if (apart === undefined) return { parts: [{ text, special: true, continues: false }], reading };
  return { parts: apart.map((piece, i) => ({ ...piece, continues: i > 0 })).filter((piece) => piece.text !== ""), reading };
}

function readingOf(request: Asked, { syntax, thinking }: TemplateFacts, text: string): Reading | undefined {
  const tools = shownTools(request);
  const { parallel_tool_calls = true, separate_reasoning: apart = false } = request;
  const has_to_call = mustCall(request.tool_choice);
  // Where the prompt ends with the mark of a call, every answer begins with a name.
  const calls = has_to_call ? BARE_JSON : tools.length > 0 ? (syntax ?? BARE_JSON) : syntax?.opened === true ? syntax : undefined;
  if (calls === undefined && (thinking === undefined || !apart)) return undefined;
  return {
    syntax: calls,
    names: new Set(tools.map((tool) => tool.function.name)),
    texts: new Map(tools.map((tool) => [tool.function.name, textArguments(tool)])),
    parallel: parallel_tool_calls,
    thinking,
    // An answer that is held to a call has no thinking in it.
    opened: !has_to_call && thinking !== undefined && endsOpened(text, thinking),
    apart,
  };
}
