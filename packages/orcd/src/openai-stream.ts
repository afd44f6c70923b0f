/** A job's events as the chunks of the OpenAI API. */
import type { RbeesError } from "@rbees/contracts/errors";
import type { EndEvent } from "@rbees/contracts/events";
import type { FinishReason, OpenaiUsage } from "@rbees/contracts/openai";
import type { ToolCallPiece } from "@rbees/contracts/tools";
import type { EventSink } from "@rbees/kit/event-stream";
import { AnswerStream } from "./answer-stream.ts";
import { latin1Of } from "./latin1.ts";
import { chatLogprobs, TextOffsets } from "./logprob-forms.ts";

export interface OpenaiAnswer {
  readonly object: "chat.completion.chunk" | "text_completion";
  /** A last chunk says the usage. */
  readonly usage: boolean;
  /** Which of the answers to the request it is. */
  readonly index: number;
  /** Of all of them. */
  readonly ends: Ends;
  /** Ends all of them: one has failed. */
  readonly endAll: () => void;
  readonly correlation_id: string;
  /** The fields that every chunk begins with, as soon as the job has a worker. */
  readonly head: () => object;
}

export class OpenaiStream extends AnswerStream {
  readonly #answer: OpenaiAnswer;
  /** Before and after what a chunk's choice says; made when the first chunk is. */
  #frame: { before: string; after: string } | undefined;
  readonly #offsets = new TextOffsets();

  constructor(to: EventSink, answer: OpenaiAnswer) {
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
    const { object, usage, index, head } = this.#answer;
    const begin = latin1Of(JSON.stringify({ object, ...head() })).slice(0, -1);
    this.#frame = { before: `data: ${begin},"choices":[{"index":${index},`, after: usage ? `}],"usage":null}\n\n` : "}]}\n\n" };
    return this.#chat ? this.#chunk('"delta":{"role":"assistant","content":""}', null) : "";
  }

  #chunk(says: string, finish_reason: FinishReason | null, logprobs = "null"): string {
    const { before = "", after = "" } = this.#frame ?? {};
    return `${before}${says},"logprobs":${logprobs},"finish_reason":${finish_reason === null ? "null" : `"${finish_reason}"`}${after}`;
  }

  protected ended(event: EndEvent): string {
    const last = this.started() + this.#chunk(this.#chat ? '"delta":{}' : '"text":""', finishReason(event, this.called));
    const { object, usage, index, ends, head } = this.#answer;
    if (!ends.add(index, event)) return last;
    const used = usage ? `data: ${JSON.stringify({ object, ...head(), choices: [], usage: ends.usage })}\n\n` : "";
    return `${last}${used}data: [DONE]\n\n`;
  }

  protected failed(error: RbeesError): string {
    return `data: ${latin1Of(JSON.stringify(error.body(this.#answer.correlation_id)))}\n\n`;
  }

  protected override broken(): void {
    super.broken();
    this.#answer.endAll();
  }
}

/** How the answers to one request have ended. */
export class Ends {
  readonly #n: number;
  /** By index. */
  readonly #events: EndEvent[];
  #open: number;

  /** `n`: so many of them to each prompt. */
  constructor(answers: number, n: number) {
    this.#n = n;
    this.#events = new Array<EndEvent>(answers);
    this.#open = answers;
  }

  /** Whether it was the last. */
  add(index: number, event: EndEvent): boolean {
    this.#events[index] = event;
    this.#open -= 1;
    return this.#open === 0;
  }

  /** Once all have ended. */
  get usage(): OpenaiUsage {
    return usageOf(this.#events, this.#n);
  }
}

export function finishReason({ stop_reason }: EndEvent, called = false): FinishReason {
  if (stop_reason === "MAX_TOKENS") return "length";
  return called ? "tool_calls" : "stop";
}

/** Of answers in their order, `n` to each prompt, which counts once, and was computed as far as that of its answers shows that needed most of it. */
export function usageOf(ends: readonly EndEvent[], n: number): OpenaiUsage {
  let [prompt_tokens, completion_tokens, cached_tokens] = [0, 0, 0];
  for (let first = 0; first < ends.length; first += n) {
    const answers = ends.slice(first, first + n);
    prompt_tokens += answers[0]?.tokens_in ?? 0;
    completion_tokens += answers.reduce((sum, { tokens_out }) => sum + tokens_out, 0);
    cached_tokens += Math.min(...answers.map(({ tokens_cached }) => tokens_cached));
  }
  return {
    prompt_tokens,
    completion_tokens,
    total_tokens: prompt_tokens + completion_tokens,
    prompt_tokens_details: { cached_tokens },
  };
}
