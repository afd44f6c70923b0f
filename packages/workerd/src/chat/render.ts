/**
 * Rendering a chat template: by llama.cpp's own renderer where it is there, else by the one that is JavaScript. Also of a template that
 * refuses, in whose words the refusal is told.
 */
import { Template } from "@huggingface/jinja";
import { RbeesError } from "@rbees/contracts/errors";

export interface Renderer {
  bos_text: string;
  eos_text: string;
  chat_template: string;
  /** llama.cpp's own renderer, the most faithful; absent where the binding does not reach it. */
  render_native?: (template: string, values: Record<string, unknown>) => string;
}

/** A turn as templates know it; which members it has is the conversation's business. */
export type TemplateMessage = { readonly role: string; readonly content: string | null } & Readonly<Record<string, unknown>>;

export interface Conversation {
  readonly messages: readonly TemplateMessage[];
  /** In OpenAI's form; absent when there are none, which templates ask about. */
  readonly tools?: readonly unknown[];
  /** How long to think, as templates ask for it (`thinking.ts`); absent where nothing is said of it. */
  readonly enable_thinking?: boolean;
  readonly thinking?: boolean;
  readonly reasoning_effort?: string;
}

/** Parsing takes longer than rendering, and a worker has one template. */
const parsed = new Map<string, Template>();

export function render(model: Renderer, conversation: Conversation): string {
  const { chat_template, render_native } = model;
  const values = { ...conversation, add_generation_prompt: true, bos_token: model.bos_text, eos_token: model.eos_text };
  let native: unknown;
  if (render_native !== undefined) {
    try {
      return render_native(chat_template, values);
    } catch (error) {
      native = error;
    }
  }
  try {
    const template = parsed.get(chat_template) ?? new Template(chat_template);
    parsed.set(chat_template, template);
    return template.render(values);
  } catch (error) {
    const why = [native, error].map(refusal).find((text) => text !== undefined) ?? (error instanceof Error ? error.message : String(error));
    throw new RbeesError("INVALID_REQUEST", `The model's chat template does not take these messages: ${why.slice(0, 300)}`, {
      param: "messages",
    });
  }
}

/** The same, of a conversation that is only tried. */
export function rendered(model: Renderer, conversation: Conversation): string | undefined {
  try {
    return render(model, conversation);
  } catch {
    return undefined;
  }
}

/** What a template says with `raise_exception`. */
function refusal(error: unknown): string | undefined {
  return error instanceof Error ? /Jinja Exception: (.*)/.exec(error.message)?.[1] : undefined;
}
