/** A job's events as the chunks of the OpenAI API. */
import type { RbeesError } from "@rbees/contracts/errors";
import type { EndEvent } from "@rbees/contracts/events";
import type { FinishReason, OpenaiUsage } from "@rbees/contracts/openai";
import type { ToolCallPiece } from "@rbees/contracts/tools";
import type { EventStream } from "@rbees/kit/event-stream";
import { AnswerStream } from "./answer-stream.ts";
import { latin1Of } from "./latin1.ts";
import { chatLogprobs, TextOffsets } from "./logprob-forms.ts";

export interface OpenaiAnswer {
  readonly object: "chat.completion.chunk" | "text_completion";
  /** A last chunk says the usage. */
  readonly usage: boolean;
  readonly correlation_id: string;
  /** The fields that every chunk begins with, as soon as the job has a worker. */
  readonly head: () => object;
}

export class OpenaiStream extends AnswerStream {
  readonly #answer: OpenaiAnswer;
  /** Before and after what a chunk's choice says; made when the first chunk is. */
  #frame: { before: string; after: string } | undefined;
  readonly #offsets = new TextOffsets();

  constructor(to: EventStream, answer: OpenaiAnswer) {
    super(to);
    this.#answer = answer;
  }

  protected token(text: string): string {
    return this.started() + this.#chunk(this.#chat ? `"delta":{"content":${text}}` : `"text":${text}`, null, this.#logprobs());
  }

  protected reasoning(text: string): string {
    return this.started() + (this.#chat ? this.#chunk(`"delta":{"reasoning_content":${text}}`, null, this.#logprobs()) : "");
  }

  protected call({ index, id, name, arguments: more }: ToolCallPiece): string {
    const begins = name === undefined ? {} : { id, type: "function" };
    const piece = { index, ...begins, function: { ...(name === undefined ? {} : { name }), arguments: more } };
    return this.started() + this.#chunk(`"delta":{"tool_calls":[${latin1Of(JSON.stringify(piece))}]}`, null, this.#logprobs());
  }

  protected override likely(): string {
    return this.started() + this.#chunk(this.#chat ? '"delta":{}' : '"text":""', null, this.#logprobs());
  }

  #logprobs(): string {
    const entries = this.takeLogprobs();
    if (entries.length === 0) return "null";
    return latin1Of(JSON.stringify(this.#chat ? chatLogprobs(entries) : this.#offsets.form(entries)));
  }

  get #chat(): boolean {
    return this.#answer.object === "chat.completion.chunk";
  }

  /** What comes before the first text: once. */
  protected started(): string {
    if (this.#frame !== undefined) return "";
    const { object, usage, head } = this.#answer;
    const begin = latin1Of(JSON.stringify({ object, ...head() })).slice(0, -1);
    this.#frame = { before: `data: ${begin},"choices":[{"index":0,`, after: usage ? `}],"usage":null}\n\n` : "}]}\n\n" };
    return this.#chat ? this.#chunk('"delta":{"role":"assistant","content":""}', null) : "";
  }

  #chunk(says: string, finish_reason: FinishReason | null, logprobs = "null"): string {
    const { before = "", after = "" } = this.#frame ?? {};
    return `${before}${says},"logprobs":${logprobs},"finish_reason":${finish_reason === null ? "null" : `"${finish_reason}"`}${after}`;
  }

  protected ended(event: EndEvent): string {
    const last = this.started() + this.#chunk(this.#chat ? '"delta":{}' : '"text":""', finishReason(event, this.called));
    const { object, usage, head } = this.#answer;
    const used = usage ? `data: ${JSON.stringify({ object, ...head(), choices: [], usage: usageOf(event) })}\n\n` : "";
    return `${last}${used}data: [DONE]\n\n`;
  }

  protected failed(error: RbeesError): string {
    return `data: ${latin1Of(JSON.stringify(error.body(this.#answer.correlation_id)))}\n\n`;
  }
}

export function finishReason({ stop_reason }: EndEvent, called = false): FinishReason {
  if (stop_reason === "MAX_TOKENS") return "length";
  return called ? "tool_calls" : "stop";
}

export function usageOf({ tokens_in, tokens_out, tokens_cached }: EndEvent): OpenaiUsage {
  return {
    prompt_tokens: tokens_in,
    completion_tokens: tokens_out,
    total_tokens: tokens_in + tokens_out,
    prompt_tokens_details: { cached_tokens: tokens_cached },
  };
}
