/**
 * From a request to prompt tokens: the model's own chat template around messages, or the bare text.
 *
 * - `messages`, and `prompt` on a model with a chat template (as one user turn), go through the template.
 * - `raw: true` feeds the prompt as it is; names of special tokens in it are special tokens, as whoever formats a prompt wants.
 * - `prompt` on a model without a template is plain text, in which nothing is special.
 * - Text that people wrote never becomes a special token: when a message holds the name of one, template and messages are
 *   tokenised apart. The usual case is tokenised in one piece, exactly as llama.cpp does it.
 * - The beginning-of-sequence token comes once, whether template or tokenizer adds it.
 */
import { Template } from "@huggingface/jinja";
import { RbeesError } from "@rbees/contracts/errors";
import type { Message } from "@rbees/contracts/job";
import type { RunRequest } from "../engine.ts";

export interface PromptModel {
  /** `continues`: the text goes on after other text, so that no space is put before it. */
  tokenize(text: string, special: boolean, continues?: boolean): number[];
  /** The token that must come first, if any. */
  bos: number | undefined;
  bos_text: string;
  eos_text: string;
  chat_template: string | undefined;
  /** llama.cpp's own renderer, the most faithful; absent where the binding does not reach it. */
  render_native?: (template: string, values: Record<string, unknown>) => string;
}

export function promptTokens(model: PromptModel, request: Pick<RunRequest, "prompt" | "messages" | "raw">): number[] {
  const { prompt, messages, raw } = request;
  if (raw) {
    if (prompt === undefined) throw new RbeesError("INVALID_REQUEST", "raw: needs prompt, not messages", { param: "raw" });
    return withBos(model, model.tokenize(prompt, true));
  }
  if (model.chat_template !== undefined) {
    return withBos(model, chatTokens(model, model.chat_template, messages ?? [{ role: "user", content: prompt ?? "" }]));
  }
  if (messages !== undefined) {
    throw new RbeesError("INVALID_REQUEST", "messages: this model has no chat template; send prompt instead", { param: "messages" });
  }
  return withBos(model, model.tokenize(prompt ?? "", false));
}

function withBos(model: PromptModel, tokens: number[]): number[] {
  return model.bos === undefined || tokens[0] === model.bos ? tokens : [model.bos, ...tokens];
}

function chatTokens(model: PromptModel, template: string, messages: readonly Message[]): number[] {
  const rendered = render(model, template, messages);
  if (!messages.some(({ content }) => holdsSpecial(model, content))) return model.tokenize(rendered, true);
  return pieces(model, template, messages, rendered).flatMap(({ text, special }, i) =>
    text === "" ? [] : model.tokenize(text, special, i > 0),
  );
}

/** Whether the tokenizer would make a special token of something in the text. */
function holdsSpecial(model: PromptModel, text: string): boolean {
  const plain = model.tokenize(text, false);
  const special = model.tokenize(text, true);
  return plain.length !== special.length || plain.some((token, i) => token !== special[i]);
}

/** The rendered text cut into what the template wrote and what people wrote. */
function pieces(
  model: PromptModel,
  template: string,
  messages: readonly Message[],
  rendered: string,
): { text: string; special: boolean }[] {
  const marks = messages.map((_, i) => `rbees-content-${i}-${messages.length}-mark`);
  const marked = render(
    model,
    template,
    messages.map(({ role }, i) => ({ role, content: marks[i] ?? "" })),
  );
  const parts = marked.split(/(rbees-content-\d+-\d+-mark)/);
  for (const form of [(text: string) => text, (text: string) => text.trim()]) {
    const cut = parts.map((part) => {
      const at = marks.indexOf(part);
      return at < 0 ? { text: part, special: true } : { text: form(messages[at]?.content ?? ""), special: false };
    });
    if (cut.map(({ text }) => text).join("") === rendered) return cut;
  }
  throw new RbeesError(
    "INVALID_REQUEST",
    "A message holds the name of a special token, and the model's chat template rewrites messages, so the two can't be told apart. Remove it.",
    { param: "messages" },
  );
}

function render(model: PromptModel, template: string, messages: readonly Message[]): string {
  const values = { messages, add_generation_prompt: true, bos_token: model.bos_text, eos_token: model.eos_text };
  let native: unknown;
  if (model.render_native !== undefined) {
    try {
      return model.render_native(template, values);
    } catch (error) {
      native = error;
    }
  }
  try {
    return new Template(template).render(values);
  } catch (error) {
    const why = [native, error].map(refusal).find((text) => text !== undefined) ?? (error instanceof Error ? error.message : String(error));
    throw new RbeesError("INVALID_REQUEST", `The model's chat template does not take these messages: ${why.slice(0, 300)}`, {
      param: "messages",
    });
  }
}

/** What a template says with `raise_exception`. */
function refusal(error: unknown): string | undefined {
  return error instanceof Error ? /Jinja Exception: (.*)/.exec(error.message)?.[1] : undefined;
}
