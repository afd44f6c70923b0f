/** Server-Sent Events: the one encoder and decoder. The format is that of the WHATWG HTML standard, § 9.2. */

export interface SseEvent {
  id?: string;
  event: string;
  data: string;
}

/** One event as text. `data` must be a single line (JSON without newlines is). */
export function encodeSse({ id, event, data }: SseEvent): string {
  return `${id === undefined ? "" : `id: ${id}\n`}event: ${event}\ndata: ${data}\n\n`;
}

/** A typed event as text: the name is its `type`, the data its JSON. */
export function encodeEvent(event: { type: string }, id?: number): string {
  return encodeSse({ ...(id === undefined ? {} : { id: String(id) }), event: event.type, data: JSON.stringify(event) });
}

/** A comment line: keeps a silent connection open, and tells the sender when the reader is gone. */
export const SSE_PING = ": ping\n\n";

/**
 * Decodes a stream of bytes however it was cut. Feed chunks, get whole events.
 * `event_chars_max` bounds what one unfinished event may hold, UTF-16 units; more throws a RangeError.
 */
export class SseDecoder {
  readonly #utf8 = new TextDecoder("utf-8");
  readonly #event_chars_max: number;
  #rest = "";
  #lastId: string | undefined;
  #event = "";
  #data: string[] = [];
  #afterCarriageReturn = false;

  constructor(event_chars_max = 16_777_216) {
    this.#event_chars_max = event_chars_max;
  }

  feed(chunk: Uint8Array): SseEvent[] {
    let text = this.#utf8.decode(chunk, { stream: true });
    if (text === "") return [];
    // A CRLF cut between its two characters is one line end, not two.
    if (this.#afterCarriageReturn && text.startsWith("\n")) text = text.slice(1);
    this.#afterCarriageReturn = text.endsWith("\r");
    const lines = (this.#rest + text).split(/\r\n|\n|\r/);
    this.#rest = lines.pop() ?? "";
    const events: SseEvent[] = [];
    for (const line of lines) this.#line(line, events);
    if (this.#rest.length + this.#pending() > this.#event_chars_max) {
      throw new RangeError(`an SSE event exceeds ${this.#event_chars_max} characters`);
    }
    return events;
  }

  #pending(): number {
    return this.#data.reduce((sum, line) => sum + line.length, 0);
  }

  #line(line: string, events: SseEvent[]): void {
    if (line === "") {
      if (this.#data.length > 0) {
        const id = this.#lastId;
        events.push({ ...(id === undefined ? {} : { id }), event: this.#event || "message", data: this.#data.join("\n") });
      }
      this.#event = "";
      this.#data = [];
      return;
    }
    const colon = line.indexOf(":");
    if (colon === 0) return;
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(line[colon + 1] === " " ? colon + 2 : colon + 1);
    if (field === "event") this.#event = value;
    else if (field === "data") this.#data.push(value);
    else if (field === "id" && !value.includes("\0")) this.#lastId = value;
  }
}

/** The events of a response body, in order. */
export async function* readEvents(body: AsyncIterable<Uint8Array>): AsyncGenerator<SseEvent> {
  const decoder = new SseDecoder();
  for await (const chunk of body) yield* decoder.feed(chunk);
}
