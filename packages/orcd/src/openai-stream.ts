/**
 * A job's events on their way to a client of the OpenAI API: what is written here as events of ours goes on as its chunks. The text
 * of a token is passed on as the JSON string that it is, without being decoded.
 */
import { knownCode, RbeesError } from "@rbees/contracts/errors";
import type { EndEvent, FailedEvent, RestartedEvent, TokenEvent } from "@rbees/contracts/events";
import type { FinishReason, OpenaiUsage } from "@rbees/contracts/openai";
import type { EventSink, EventStream } from "@rbees/kit/event-stream";
import { latin1Of, utf8Of } from "./latin1.ts";

export interface OpenaiAnswer {
  readonly object: "chat.completion.chunk" | "text_completion";
  /** A last chunk says the usage. */
  readonly usage: boolean;
  readonly correlation_id: string;
  /** The fields that every chunk begins with, as soon as the job has a worker. */
  readonly head: () => object;
}

const TOKEN = '{"type":"token",';
const TOKEN_TEXT = '{"type":"token","t":"';

export class OpenaiStream implements EventSink {
  readonly #to: EventStream;
  readonly #answer: OpenaiAnswer;
  /** Before and after what a chunk's choice says; made when the first chunk is. */
  #frame: { before: string; after: string } | undefined;
  /** The data of the last token event. */
  #last_token: string | undefined;

  constructor(to: EventStream, answer: OpenaiAnswer) {
    this.#to = to;
    this.#answer = answer;
  }

  get closed(): boolean {
    return this.#to.closed;
  }

  get buffered_bytes(): number {
    return this.#to.buffered_bytes;
  }

  /** Whole events, as latin1. */
  write(events: string): boolean {
    let chunks = "";
    for (let at = 0; at < events.length && !this.closed; ) {
      const end = events.indexOf("\n\n", at);
      // Each event is `id: …` (mostly), `event: …` and `data: …`, in this order.
      const data = events.slice(events.indexOf("\ndata: ", at) + 7, end);
      at = end + 2;
      const said = this.#chunksFor(data);
      chunks += said.chunks;
      if (said.over !== true) continue;
      this.hold();
      this.#to.write(chunks);
      this.end();
      return true;
    }
    return this.#to.write(chunks);
  }

  writeText(events: string): boolean {
    return this.write(latin1Of(events));
  }

  hold(): void {
    this.#to.hold();
  }

  onDrain(listener: () => void): void {
    this.#to.onDrain(listener);
  }

  onClose(listener: () => void): void {
    this.#to.onClose(listener);
  }

  end(): void {
    this.#to.end();
  }

  cut(): void {
    this.#to.cut();
  }

  #chunksFor(data: string): { chunks: string; over?: true } {
    if (data.startsWith(TOKEN)) {
      this.#last_token = data;
      const text = textOf(data);
      return {
        chunks: text === '""' ? "" : this.#begin() + this.#chunk(this.#chat ? `"delta":{"content":${text}}` : `"text":${text}`, null),
      };
    }
    const event = JSON.parse(utf8Of(data)) as { type: string };
    switch (event.type) {
      case "started":
        return { chunks: this.#begin() };
      case "restarted":
        return this.#takenBack(event as RestartedEvent);
      case "end":
        return { chunks: `${this.#begin()}${this.#end(event as EndEvent)}data: [DONE]\n\n` };
      case "error":
        return { chunks: this.#failed(event as FailedEvent) };
      default:
        return { chunks: "" };
    }
  }

  get #chat(): boolean {
    return this.#answer.object === "chat.completion.chunk";
  }

  /** What comes before the first text: once. */
  #begin(): string {
    if (this.#frame !== undefined) return "";
    const { object, usage, head } = this.#answer;
    const begin = latin1Of(JSON.stringify({ object, ...head() })).slice(0, -1);
    this.#frame = { before: `data: ${begin},"choices":[{"index":0,`, after: usage ? `}],"usage":null}\n\n` : "}]}\n\n" };
    return this.#chat ? this.#chunk('"delta":{"role":"assistant","content":""}', null) : "";
  }

  #chunk(says: string, finish_reason: FinishReason | null): string {
    const { before = "", after = "" } = this.#frame ?? {};
    return `${before}${says},"logprobs":null,"finish_reason":${finish_reason === null ? "null" : `"${finish_reason}"`}${after}`;
  }

  #end(event: EndEvent): string {
    const last = this.#chunk(this.#chat ? '"delta":{}' : '"text":""', finishReason(event));
    if (!this.#answer.usage) return last;
    const { object, head } = this.#answer;
    return `${last}data: ${JSON.stringify({ object, ...head(), choices: [], usage: usageOf(event) })}\n\n`;
  }

  /** Chunks that were sent can't be taken back in this protocol. */
  #takenBack({ from, reason }: RestartedEvent): { chunks: string; over?: true } {
    if (this.#last_token === undefined) return { chunks: "" };
    const { i, ids } = JSON.parse(utf8Of(this.#last_token)) as TokenEvent;
    if (from >= i + ids.length) return { chunks: "" };
    const message = `The answer begins anew at token ${from} (${reason}), and what was sent of it can't be taken back in this protocol. Send the request again.`;
    return { chunks: this.#failed({ code: "WORKER_LOST", message }), over: true };
  }

  #failed({ code, message }: Pick<FailedEvent, "code" | "message">): string {
    const error = new RbeesError(knownCode(code), message);
    return `data: ${latin1Of(JSON.stringify(error.body(this.#answer.correlation_id)))}\n\n`;
  }
}

/** The text of a token event as the JSON string in its data. */
function textOf(data: string): string {
  let end = data.startsWith(TOKEN_TEXT) ? data.indexOf('"', TOKEN_TEXT.length) : -1;
  while (isEscaped(data, end)) end = data.indexOf('"', end + 1);
  // Another order of the members, or another way to write them, is JSON too.
  if (end < 0) return latin1Of(JSON.stringify(String((JSON.parse(utf8Of(data)) as TokenEvent).t)));
  return data.slice(TOKEN_TEXT.length - 1, end + 1);
}

/** Whether an odd number of backslashes stands before it. */
function isEscaped(text: string, at: number): boolean {
  let backslashes = 0;
  while (text.charCodeAt(at - 1 - backslashes) === 0x5c) backslashes += 1;
  return backslashes % 2 === 1;
}

export function finishReason({ stop_reason }: EndEvent): FinishReason {
  return stop_reason === "MAX_TOKENS" ? "length" : "stop";
}

export function usageOf({ tokens_in, tokens_out, tokens_cached }: EndEvent): OpenaiUsage {
  return {
    prompt_tokens: tokens_in,
    completion_tokens: tokens_out,
    total_tokens: tokens_in + tokens_out,
    prompt_tokens_details: { cached_tokens: tokens_cached },
  };
}
