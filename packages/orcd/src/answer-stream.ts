/**
 * A job's events on their way to a client of another API: what is written here as events of ours goes on in that API's form. The
 * text of a token is passed on as the JSON string that it is, without being decoded.
 */
import { knownCode, RbeesError } from "@rbees/contracts/errors";
import type { EndEvent, FailedEvent, RestartedEvent, TokenEvent } from "@rbees/contracts/events";
import type { TokenLogprob } from "@rbees/contracts/logprobs";
import type { ToolCallPiece } from "@rbees/contracts/tools";
import type { EventSink } from "@rbees/kit/event-stream";
import { latin1Of, utf8Of } from "./latin1.ts";

const TOKEN = '{"type":"token",';
const TOKEN_TEXT = '{"type":"token","t":"';

interface Said {
  /** In the form of the API, as latin1. */
  text: string;
  over?: true;
}

const NO_LOGPROBS: readonly TokenLogprob[] = [];

export abstract class AnswerStream implements EventSink {
  readonly #to: EventSink;
  /** The data of the last token event. */
  #last_token: string | undefined;
  /** The answer has asked for a call. */
  protected called = false;
  /** How likely the tokens were that are being told, until somebody says it. */
  #logprobs = NO_LOGPROBS;

  constructor(to: EventSink) {
    this.#to = to;
  }

  /** The job has a worker; may come several times. As latin1, like all of these. */
  protected abstract started(): string;
  /** Some of the answer, as a JSON string that is not empty. */
  protected abstract token(text: string): string;
  /** What the model thought, as a JSON string that is not empty. */
  protected abstract reasoning(text: string): string;
  /** Some of a call: its beginning if it has a name. */
  protected abstract call(piece: ToolCallPiece): string;
  /** Tokens of which nothing but how likely they were is left to say; of an API that never does, none come. */
  protected likely(): string {
    return "";
  }
  protected abstract ended(event: EndEvent): string;
  protected abstract failed(error: RbeesError): string;

  get closed(): boolean {
    return this.#to.closed;
  }

  get buffered_bytes(): number {
    return this.#to.buffered_bytes;
  }

  /** Whole events, as latin1. */
  write(events: string): boolean {
    let text = "";
    for (let at = 0; at < events.length && !this.closed; ) {
      const end = events.indexOf("\n\n", at);
      // Each event is `id: …` (mostly), `event: …` and `data: …`, in this order.
      const data = events.slice(events.indexOf("\ndata: ", at) + 7, end);
      at = end + 2;
      const said = this.#said(data);
      text += said.text;
      if (said.over !== true) continue;
      this.hold();
      this.#to.write(text);
      this.broken();
      return true;
    }
    return this.#to.write(text);
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

  /** It failed, and nothing follows. */
  protected broken(): void {
    this.end();
  }

  breakOff(): void {
    this.#to.breakOff();
  }

  cut(): void {
    this.#to.cut();
  }

  #said(data: string): Said {
    if (data.startsWith(TOKEN)) {
      this.#last_token = data;
      if (!data.startsWith(TOKEN_TEXT)) return { text: this.#more(JSON.parse(utf8Of(data)) as TokenEvent) };
      const text = textOf(data);
      return { text: text === '""' ? "" : this.token(text) };
    }
    const event = JSON.parse(utf8Of(data)) as { type: string };
    switch (event.type) {
      case "started":
        return { text: this.started() };
      case "restarted":
        return this.#takenBack(event as RestartedEvent);
      case "end":
        return { text: this.ended(event as EndEvent) };
      case "error": {
        const { code, message } = event as FailedEvent;
        return { text: this.failed(new RbeesError(knownCode(code), message)), over: true };
      }
      default:
        return { text: "" };
    }
  }

  /** How likely the tokens were that are being told: to whoever asks first. */
  protected takeLogprobs(): readonly TokenLogprob[] {
    const taken = this.#logprobs;
    this.#logprobs = NO_LOGPROBS;
    return taken;
  }

  /** A token that says more than text: what goes on with a call stands before all else, what begins one behind it. */
  #more({ reasoning, t, tool_calls = [], logprobs }: TokenEvent): string {
    let said = "";
    if (logprobs !== undefined) this.#logprobs = [...this.#logprobs, ...logprobs];
    for (const piece of tool_calls) if (piece.name === undefined) said += this.call(piece);
    if (reasoning !== undefined) said += this.reasoning(latin1Of(JSON.stringify(reasoning)));
    if (t !== "") said += this.token(latin1Of(JSON.stringify(t)));
    for (const piece of tool_calls) {
      if (piece.name === undefined) continue;
      this.called = true;
      said += this.call(piece);
    }
    return this.#logprobs.length === 0 ? said : said + this.likely();
  }

  /** What was sent can't be taken back in these protocols. */
  #takenBack({ from, reason }: RestartedEvent): Said {
    if (this.#last_token === undefined) return { text: "" };
    const { i, ids } = JSON.parse(utf8Of(this.#last_token)) as TokenEvent;
    if (from >= i + ids.length) return { text: "" };
    const message = `The answer begins anew at token ${from} (${reason}), and what was sent of it can't be taken back in this protocol. Send the request again.`;
    return { text: this.failed(new RbeesError("WORKER_LOST", message)), over: true };
  }
}

/** The text of a token event as the JSON string in its data. */
function textOf(data: string): string {
  let end = data.indexOf('"', TOKEN_TEXT.length);
  while (isEscaped(data, end)) end = data.indexOf('"', end + 1);
  // What has no end is no JSON: that is said where it is parsed.
  if (end < 0) return latin1Of(JSON.stringify(String((JSON.parse(utf8Of(data)) as TokenEvent).t)));
  return data.slice(TOKEN_TEXT.length - 1, end + 1);
}

/** Whether an odd number of backslashes stands before it. */
function isEscaped(text: string, at: number): boolean {
  let backslashes = 0;
  while (text.charCodeAt(at - 1 - backslashes) === 0x5c) backslashes += 1;
  return backslashes % 2 === 1;
}
