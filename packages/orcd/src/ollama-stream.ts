/** A job's events as the lines of Ollama's API. */
import { ERROR_FORMS } from "@rbees/contracts/error-body";
import type { RbeesError } from "@rbees/contracts/errors";
import type { EndEvent } from "@rbees/contracts/events";
import type { OllamaLogprob } from "@rbees/contracts/logprobs";
import type { OllamaCall } from "@rbees/contracts/ollama";
import type { ToolCall, ToolCallPiece } from "@rbees/contracts/tools";
import type { EventStream } from "@rbees/kit/event-stream";
import { AnswerStream } from "./answer-stream.ts";
import { argumentsObject } from "./call-arguments.ts";
import { latin1Of, utf8Of } from "./latin1.ts";
import { ollamaLogprobs } from "./logprob-forms.ts";

export type OllamaShape = keyof typeof ollamaText;

export class OllamaStream extends AnswerStream {
  readonly #shape: OllamaShape;
  readonly #model: string;
  readonly #submitted_at_ms: number;
  /** What a line says before its time, between that and the text, and after it. */
  readonly #frame: readonly [string, string, string];

  readonly #thinks: boolean;
  /** The call that is being said. */
  #call: ToolCall | undefined;

  /** `thinks`: what the model thinks is wanted. */
  constructor(to: EventStream, shape: OllamaShape, model: string, submitted_at_ms: number, thinks: boolean) {
    super(to);
    this.#thinks = thinks;
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
    const called = this.#called();
    const logprobs = this.#logprobs();
    if (logprobs !== undefined) return called + this.#line({}, JSON.parse(utf8Of(text)) as string, logprobs);
    const [before, between, after] = this.#frame;
    return called + before + new Date().toISOString() + between + text + after;
  }

  protected reasoning(text: string): string {
    if (!this.#thinks) return "";
    return this.#line({ thinking: JSON.parse(utf8Of(text)) as string }, "", this.#logprobs());
  }

  /** Those of a call go before it. */
  protected override likely(): string {
    return this.#line({}, "", this.#logprobs());
  }

  #logprobs(): OllamaLogprob[] | undefined {
    const entries = this.takeLogprobs();
    return entries.length === 0 ? undefined : ollamaLogprobs(entries);
  }

  /** A call is said once it is whole: that API has no pieces of one. */
  protected call({ id = "", name, arguments: more }: ToolCallPiece): string {
    if (name === undefined) {
      if (this.#call !== undefined) this.#call.function.arguments += more;
      return "";
    }
    const before = this.#called();
    this.#call = { id, type: "function", function: { name, arguments: more } };
    return before;
  }

  #called(): string {
    if (this.#call === undefined) return "";
    const tool_calls = ollamaCalls([this.#call]);
    this.#call = undefined;
    return this.#line({ tool_calls });
  }

  #line(more: OllamaMore, text = "", logprobs?: OllamaLogprob[]): string {
    const said = { ...ollamaText[this.#shape](text, more), ...(logprobs === undefined ? {} : { logprobs }) };
    const line = { model: this.#model, created_at: new Date().toISOString(), ...said, done: false };
    return `${latin1Of(JSON.stringify(line))}\n`;
  }

  protected ended(event: EndEvent): string {
    const before = this.#called();
    const last = {
      model: this.#model,
      created_at: new Date().toISOString(),
      ...ollamaText[this.#shape](""),
      ...ollamaEnd(event, this.#submitted_at_ms),
    };
    return `${before}${latin1Of(JSON.stringify(last))}\n`;
  }

  protected failed(error: RbeesError): string {
    return `${latin1Of(JSON.stringify(ERROR_FORMS.ollama.body(error)))}\n`;
  }

  /** Open WebUI, for one, looks for no error in a line: what is not whole must not look so to it. */
  protected override broken(): void {
    this.breakOff();
  }
}

/** What an answer says beside its text. */
export interface OllamaMore {
  readonly thinking?: string;
  readonly tool_calls?: OllamaCall[];
}

/** A piece of the answer, as each of the two requests has it. */
export const ollamaText = {
  chat: (text: string, more: OllamaMore = {}) => ({ message: { role: "assistant" as const, content: text, ...more } }),
  generate: (text: string, { thinking }: OllamaMore = {}) => ({ response: text, ...(thinking === undefined ? {} : { thinking }) }),
} as const;

/** Calls as that API has them. */
export function ollamaCalls(calls: readonly ToolCall[]): OllamaCall[] {
  return calls.map(({ id, function: { name, arguments: text } }, index) => ({
    id,
    function: { index, name, arguments: argumentsObject(text) },
  }));
}

const NS_PER_MS = 1_000_000;

/** What the last line says more than the others. */
export function ollamaEnd(event: EndEvent, submitted_at_ms: number) {
  const { tokens_in, tokens_out, timings } = event;
  return {
    done: true,
    done_reason: event.stop_reason === "MAX_TOKENS" ? ("length" as const) : ("stop" as const),
    total_duration: (Date.now() - submitted_at_ms) * NS_PER_MS,
    load_duration: 0,
    prompt_eval_count: tokens_in,
    prompt_eval_duration: Math.round(timings.prefill_ms * NS_PER_MS),
    eval_count: tokens_out,
    eval_duration: Math.round(timings.decode_ms * NS_PER_MS),
  };
}
