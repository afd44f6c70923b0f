/**
 * One keep-alive connection of the load client: sends a request, takes the chunked event stream apart, checks that no token
 * is missing, and reports each token's send time. Plain `net` with one shared read buffer, since the client must cost little.
 */
import { connect, type Socket } from "node:net";
import { connect as connectTls } from "node:tls";
import { nowUs } from "./clock.ts";
import { type Pace, promptFor, type Target } from "./messages.ts";

const READ = Buffer.allocUnsafeSlow(65_536);
const SENT_AT_DIGITS = 16;

export interface Listener {
  /** `sent_us` is the time that the worker wrote into the token. */
  onToken(sent_us: number, now_us: number): void;
}

export class StreamConnection {
  readonly #socket: Socket;
  readonly #target: Target;
  #listener: Listener = { onToken() {} };
  #settle: ((problem: string | undefined) => void) | undefined;
  #head = "";
  #in_head = true;
  /** Text of the body that is not a whole event yet. */
  #rest = "";
  /** What is left of the current chunk with its line end; 0 while its size is awaited. */
  #chunk_left = 0;
  #size_line = "";
  #tokens = 0;
  #ended_with: number | undefined;

  constructor(target: Target) {
    this.#target = target;
    this.#socket = target.trust?.tls === undefined ? this.#inClear(target.port) : this.#inTls(target.port, target.trust.tls.ca);
    this.#socket.on("error", (error) => this.#done(error.message));
    this.#socket.on("close", () => this.#done("the connection was closed in mid-stream"));
  }

  #inClear(port: number): Socket {
    const callback = (bytes: number) => {
      this.#read(READ.toString("latin1", 0, bytes));
      return true;
    };
    return connect({ host: "127.0.0.1", port, noDelay: true, onread: { buffer: READ, callback } });
  }

  #inTls(port: number, ca: string): Socket {
    const socket = connectTls({ host: "127.0.0.1", port, ca });
    socket.setNoDelay(true);
    return socket.setEncoding("latin1").on("data", (text) => this.#read(String(text)));
  }

  /** Resolves when the stream has ended, with what was wrong with it. */
  run(pace: Pace, listener: Listener): Promise<string | undefined> {
    this.#listener = listener;
    this.#in_head = true;
    this.#head = "";
    this.#rest = "";
    this.#tokens = 0;
    this.#ended_with = undefined;
    const text = requestBody(this.#target, pace);
    const { path, trust } = this.#target;
    const shown = trust === undefined ? "" : `authorization: Bearer ${trust.key}\r\n`;
    const request = `POST ${path} HTTP/1.1\r\nhost: bench\r\n${shown}content-type: application/json\r\ncontent-length: ${text.length}\r\n\r\n${text}`;
    return new Promise((resolve) => {
      this.#settle = resolve;
      this.#socket.write(request, "latin1");
    });
  }

  /** Stops reading: what is sent piles up on the way. */
  stall(): void {
    this.#socket.pause();
  }

  resume(): void {
    this.#socket.resume();
  }

  close(): void {
    this.#settle = undefined;
    this.#socket.destroy();
  }

  #done(problem: string | undefined): void {
    const settle = this.#settle;
    this.#settle = undefined;
    settle?.(problem);
  }

  #read(text: string): void {
    let at = 0;
    if (this.#in_head) {
      this.#head += text;
      const end = this.#head.indexOf("\r\n\r\n");
      if (end < 0) return;
      if (!this.#head.startsWith("HTTP/1.1 200 "))
        return this.#done(`answered ${this.#head.slice(9, 13)}${this.#head.slice(end + 4, end + 300)}`);
      text = this.#head.slice(end + 4);
      this.#in_head = false;
    }
    while (at < text.length) {
      if (this.#chunk_left === 0) {
        const end = text.indexOf("\n", at);
        this.#size_line += end < 0 ? text.slice(at) : text.slice(at, end);
        if (end < 0) return;
        at = end + 1;
        const size = Number.parseInt(this.#size_line, 16);
        this.#size_line = "";
        // An empty line is the end of the last chunk's trailer.
        if (Number.isNaN(size)) return this.#done(this.#verdict());
        if (size > 0) this.#chunk_left = size + 2;
        continue;
      }
      const part = Math.min(this.#chunk_left, text.length - at);
      this.#chunk_left -= part;
      // The last two bytes of a chunk are its line end.
      const payload = part - Math.max(0, Math.min(part, 2 - this.#chunk_left));
      if (payload > 0) this.#events(text.slice(at, at + payload));
      at += part;
    }
  }

  #events(payload: string): void {
    const text = this.#rest === "" ? payload : this.#rest + payload;
    let from = 0;
    for (;;) {
      const end = text.indexOf("\n\n", from);
      if (end < 0) break;
      this.#event(text, from, end);
      from = end + 2;
    }
    this.#rest = from === text.length ? "" : text.slice(from);
  }

  #event(text: string, from: number, to: number): void {
    const name = text.indexOf("event: ", from) + 7;
    if (name < 7 || name > to) return;
    if (text.startsWith("token", name)) {
      const sent = text.indexOf('"t":"', name) + 5;
      const index = text.indexOf('"i":', sent) + 4;
      if (Number.parseInt(text.slice(index, index + 10), 10) !== this.#tokens) return this.#done(`token ${this.#tokens} is missing`);
      this.#tokens += 1;
      this.#listener.onToken(Number(text.slice(sent, sent + SENT_AT_DIGITS)), nowUs());
    } else if (text.startsWith("end", name)) {
      this.#ended_with = Number(/"tokens_out":(\d+)/.exec(text.slice(name, to))?.[1]);
    } else if (text.startsWith("error", name)) {
      this.#done(text.slice(name, to));
    }
  }

  #verdict(): string | undefined {
    if (this.#ended_with === undefined) return "the stream ended without an end event";
    return this.#ended_with === this.#tokens ? undefined : `${this.#tokens} tokens came of ${this.#ended_with}`;
  }
}

let attempts = 0;

function requestBody({ body }: Target, pace: Pace): string {
  const prompt = promptFor(pace);
  if (body === "task") return JSON.stringify({ model: "bench", prompt, max_tokens: pace.tokens, stream: true, on_disconnect: "cancel" });
  attempts += 1;
  return JSON.stringify({
    job_id: `job_bench${attempts}`,
    attempt: 1,
    prompt,
    raw: false,
    max_tokens: pace.tokens,
    temperature: 0.7,
    seed: attempts,
    stop: [],
  });
}
