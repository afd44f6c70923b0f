/**
 * From a request to prompt tokens: the model's own chat template around messages, or the bare text.
 *
 * - `messages`, and `prompt` on a model with a chat template (as one user turn), go through the template.
 * - `messages` that end with the assistant's words are gone on with (`chat/begun.ts`), unless the answer is held to something from its
 *   beginning.
 * - `raw: true` feeds the prompt as it is; names of special tokens in it are special tokens, as whoever formats a prompt wants.
 * - `token_prompt` is the prompt's tokens, taken as they are.
 * - `prompt` on a model without a template is plain text, in which nothing is special.
 * - Text that people or tools wrote never becomes a special token (`chat/plain-text.ts`).
 * - Of text, the beginning-of-sequence token comes once, whether template or tokenizer adds it.
 */
import { RbeesError } from "@rbees/contracts/errors";
import { mustCall } from "@rbees/contracts/tools";
import { begunParts, begunTurn } from "../chat/begun.ts";
import { BARE_JSON } from "../chat/call-syntax.ts";
import { conversationOf } from "../chat/conversation.ts";
import { pieces, type Tokenizer } from "../chat/plain-text.ts";
import { endsOpened, type Reading, textArguments } from "../chat/reading.ts";
import { type Renderer, render } from "../chat/render.ts";
import { type TemplateFacts, templateFacts } from "../chat/template-facts.ts";
import { told } from "../chat/thinking.ts";
import type { RunRequest } from "../engine.ts";

export interface PromptModel extends Omit<Renderer, "chat_template"> {
  /** `continues`: the text goes on after other text, so that no space is put before it. */
  tokenize(text: string, special: boolean, continues?: boolean): number[];
  /** The same on another thread; absent where that can't be. */
  tokenizeAside?: (text: string, special: boolean, continues: boolean) => Promise<number[]>;
  /** The token that must come first, if any. */
  bos: number | undefined;
  chat_template: string | undefined;
}

export interface Prompt {
  readonly tokens: number[];
  /** How the answer is read; undefined: it is text, all of it. */
  readonly reading: Reading | undefined;
}

type Asked = Pick<
  RunRequest,
  | "prompt"
  | "token_prompt"
  | "messages"
  | "raw"
  | "tools"
  | "tool_choice"
  | "parallel_tool_calls"
  | "separate_reasoning"
  | "reasoning_effort"
  | "grammar"
>;

/** Text that is made tokens by itself. */
export interface PromptPart {
  readonly text: string;
  /** Names of special tokens in it are special tokens. */
  readonly special: boolean;
  /** It goes on after other text. */
  readonly continues: boolean;
}

/** Making tokens takes about a microsecond a byte: texts of more characters are made tokens on another thread, so that no answer stands still meanwhile. */
export const LONG_CHARS = 16_384;

/** A text whose tokens have to be made first. */
class Missing {
  readonly text: string;
  readonly special: boolean;
  readonly continues: boolean;

  constructor(text: string, special: boolean, continues: boolean) {
    this.text = text;
    this.special = special;
    this.continues = continues;
  }

  get key(): string {
    return `${this.special} ${this.continues} ${this.text}`;
  }
}

export function promptOf(model: PromptModel, request: Asked, tokenizer: Tokenizer = model): Prompt {
  const given = givenTokens(request);
  if (given !== undefined) return given;
  const { parts, reading } = partsOf(model, request, tokenizer);
  const tokens = parts.flatMap(({ text, special, continues }) => tokenizer.tokenize(text, special, continues));
  return { tokens: withBos(model, tokens), reading };
}

/**
 * The same, with long texts made tokens on another thread. What is asked is looked at anew after each of them: there are few, and looking
 * costs little beside that.
 */
export async function promptBeside(model: PromptModel, request: Asked): Promise<Prompt> {
  const { tokenizeAside } = model;
  if (tokenizeAside === undefined) return promptOf(model, request);
  const made = new Map<string, number[]>();
  const tokenizer: Tokenizer = {
    tokenize(text, special, continues = false) {
      if (text.length <= LONG_CHARS) return model.tokenize(text, special, continues);
      const missing = new Missing(text, special, continues);
      const tokens = made.get(missing.key);
      if (tokens === undefined) throw missing;
      return tokens;
    },
  };
  for (;;) {
    try {
      return promptOf(model, request, tokenizer);
    } catch (missing) {
      if (!(missing instanceof Missing)) throw missing;
      made.set(missing.key, await tokenizeAside(missing.text, missing.special, missing.continues));
    }
  }
}

export function givenTokens({ token_prompt }: Asked): Prompt | undefined {
  return token_prompt === undefined ? undefined : { tokens: [...token_prompt], reading: undefined };
}

/** The prompt before it is tokens. */
export function partsOf(
  model: PromptModel,
  request: Asked,
  tokenizer: Tokenizer = model,
): { parts: readonly PromptPart[]; reading: Reading | undefined } {
  const { prompt, messages, raw } = request;
  const whole = (text: string, special: boolean) => ({ parts: [{ text, special, continues: false }], reading: undefined });
  if (raw) {
    if (prompt === undefined) throw new RbeesError("INVALID_REQUEST", "raw: needs prompt, not messages", { param: "raw" });
    return whole(prompt, true);
  }
  if (hasTemplate(model)) return chatParts(model, request, tokenizer);
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

function chatParts(
  model: PromptModel & Renderer,
  request: Asked,
  tokenizer: Tokenizer,
): { parts: readonly PromptPart[]; reading: Reading | undefined } {
  const asked = request.messages ?? [{ role: "user", content: request.prompt ?? "" }];
  const held = request.grammar !== undefined || mustCall(request.tool_choice);
  const begun = held ? undefined : begunTurn(asked);
  const messages = begun?.before ?? asked;
  const tools = shownTools(request);
  const facts = templateFacts(model);
  const { reasoning_effort: effort } = request;
  const conversation = { ...conversationOf(messages, tools, facts), ...(effort === undefined ? {} : told(effort, model.chat_template)) };
  const text = render(model, conversation);
  const opened = begun === undefined && facts.thinking !== undefined && endsOpened(text, facts.thinking);
  const reading = readingOf(request, facts, opened);
  const apart = pieces(tokenizer, conversation, text, (marked) => render(model, marked)) ?? [{ text, special: true }];
  const all = begun === undefined ? apart : [...apart, ...begunParts(begun, text, facts.thinking)];
  return { parts: all.map((piece, i) => ({ ...piece, continues: i > 0 })).filter((piece) => piece.text !== ""), reading };
}

function readingOf(request: Asked, { syntax, thinking }: TemplateFacts, opened: boolean): Reading | undefined {
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
    opened: !has_to_call && opened,
    apart,
  };
}
