/** A job's events as the lines of Ollama's API. */
import { ERROR_FORMS } from "@rbees/contracts/error-body";
import type { RbeesError } from "@rbees/contracts/errors";
import type { EndEvent } from "@rbees/contracts/events";
import type { EventStream } from "@rbees/kit/event-stream";
import { AnswerStream } from "./answer-stream.ts";
import { latin1Of } from "./latin1.ts";
import { finishReason } from "./openai-stream.ts";

export type OllamaShape = keyof typeof ollamaText;

export class OllamaStream extends AnswerStream {
  readonly #shape: OllamaShape;
  readonly #model: string;
  readonly #submitted_at_ms: number;
  /** What a line says before its time, between that and the text, and after it. */
  readonly #frame: readonly [string, string, string];

  constructor(to: EventStream, shape: OllamaShape, model: string, submitted_at_ms: number) {
    super(to);
    this.#shape = shape;
    this.#model = model;
    this.#submitted_at_ms = submitted_at_ms;
    const [before, after] = shape === "chat" ? ['"message":{"role":"assistant","content":', "}"] : ['"response":', ""];
    this.#frame = [`{"model":${JSON.stringify(model)},"created_at":"`, `",${before}`, `${after},"done":false}\n`];
  }

  protected started(): string {
    return "";
  }

  protected token(text: string): string {
    const [before, between, after] = this.#frame;
    return before + new Date().toISOString() + between + text + after;
  }

  protected ended(event: EndEvent): string {
    const last = {
      model: this.#model,
      created_at: new Date().toISOString(),
      ...ollamaText[this.#shape](""),
      ...ollamaEnd(event, this.#submitted_at_ms),
    };
    return `${latin1Of(JSON.stringify(last))}\n`;
  }

  protected failed(error: RbeesError): string {
    return `${latin1Of(JSON.stringify(ERROR_FORMS.ollama.body(error)))}\n`;
  }
}

/** A piece of the answer, as each of the two requests has it. */
export const ollamaText = {
  chat: (text: string) => ({ message: { role: "assistant" as const, content: text } }),
  generate: (text: string) => ({ response: text }),
} as const;

const NS_PER_MS = 1_000_000;

/** What the last line says more than the others. */
export function ollamaEnd(event: EndEvent, submitted_at_ms: number) {
  const { tokens_in, tokens_out, timings } = event;
  return {
    done: true,
    done_reason: finishReason(event),
    total_duration: (Date.now() - submitted_at_ms) * NS_PER_MS,
    load_duration: 0,
    prompt_eval_count: tokens_in,
    prompt_eval_duration: Math.round(timings.prefill_ms * NS_PER_MS),
    eval_count: tokens_out,
    eval_duration: Math.round(timings.decode_ms * NS_PER_MS),
  };
}
