/**
 * One response that is an event stream. Owns how bytes reach the socket: text is written as one latin1 string with its
 * chunk framing, one system call an event; a full socket is reported, never buffered without bound by us.
 */
import type { IncomingMessage, ServerResponse } from "node:http";
import { SSE_PING } from "@rbees/contracts/sse";

/** How a stream is told to the reader, and what fills its silence. */
export interface StreamForm {
  readonly content_type: string;
  readonly ping: string | undefined;
}
export const EVENTS: StreamForm = { content_type: "text/event-stream; charset=utf-8", ping: SSE_PING };
/** Lines of JSON: there is nothing that a reader of them would skip. */
export const LINES: StreamForm = { content_type: "application/x-ndjson", ping: undefined };

/** What is written to as to an event stream: one, or what puts events into another form on their way there. */
export type EventSink = Pick<
  EventStream,
  "closed" | "buffered_bytes" | "write" | "writeText" | "hold" | "onDrain" | "onClose" | "end" | "breakOff" | "cut"
>;

export class EventStream {
  readonly #response: ServerResponse;
  readonly #ping: string | undefined;
  #closed = false;
  #ended = false;
  readonly #last_words: (() => void)[] = [];
  /** When the last byte was written, milliseconds of `performance.now()`; pings fill the silence. */
  written_at_ms = performance.now();

  constructor(request: IncomingMessage, response: ServerResponse, headers: Record<string, string>, form = EVENTS) {
    this.#response = response;
    this.#ping = form.ping;
    request.on("error", () => {});
    response.on("error", () => {});
    // Who left before the stream began will not be said to have left again.
    this.#closed = response.destroyed;
    if (this.#closed) return;
    response.on("close", () => {
      this.#closed = true;
    });
    this.hold();
    response.writeHead(200, {
      "content-type": form.content_type,
      "cache-control": "no-cache, no-transform",
      "x-accel-buffering": "no",
      ...headers,
    });
    response.flushHeaders();
    response.socket?.setNoDelay(true);
  }

  get closed(): boolean {
    return this.#closed || this.#ended;
  }

  /** Bytes that wait in this process because the reader has not taken them. */
  get buffered_bytes(): number {
    return this.#response.writableLength;
  }

  /**
   * Writes bytes given as a latin1 string (each character one byte). False: the reader is behind, wait for `onDrain`.
   */
  write(latin1: string): boolean {
    if (this.closed) return false;
    // An empty chunk would be the last one.
    if (latin1 === "") return true;
    this.written_at_ms = performance.now();
    const { socket } = this.#response;
    // A pipelined request has no socket yet, HTTP/1.0 no chunks: leave those to Node.
    if (socket === null || !this.#response.chunkedEncoding) return this.#response.write(latin1, "latin1");
    return socket.write(`${latin1.length.toString(16)}\r\n${latin1}\r\n`, "latin1");
  }

  /** The same for text beyond latin1. */
  writeText(text: string): boolean {
    return this.write(Buffer.from(text, "utf8").toString("latin1"));
  }

  /** What is written in this turn of the event loop leaves as one system call. */
  hold(): void {
    const { socket } = this.#response;
    socket?.cork();
    process.nextTick(() => socket?.uncork());
  }

  /** The form's ping, when nothing was written for `idle_ms`; a reader that is behind gets none. */
  ping(idle_ms: number): void {
    if (this.#ping !== undefined && performance.now() - this.written_at_ms >= idle_ms && this.buffered_bytes === 0) this.write(this.#ping);
  }

  onDrain(listener: () => void): void {
    const { socket } = this.#response;
    socket?.on("drain", listener);
    // The connection outlives the stream: what listens to it must not.
    this.#response.on("close", () => socket?.off("drain", listener));
  }

  onClose(listener: () => void): void {
    if (this.#closed) listener();
    else this.#response.on("close", listener);
  }

  /** The server closes and the stream is open: what is written then is the last that its reader gets. */
  onServerClose(listener: () => void): void {
    this.#last_words.push(listener);
  }

  serverCloses(): void {
    for (const listener of this.#last_words) listener();
  }

  /** Everything was written: ends the response and leaves the connection for the next request. */
  end(): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#response.end();
  }

  /** Everything was written, and it is not whole: the response ends without its last chunk, so that nobody takes it for complete. */
  breakOff(): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#response.socket?.destroySoon();
  }

  /** Cuts the connection: what waits for a reader who is too slow is thrown away. */
  cut(): void {
    this.#ended = true;
    this.#response.destroy();
  }
}
