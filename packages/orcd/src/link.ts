/**
 * The link to one worker: starts attempts over HTTP and cuts their event streams into blocks. A token's bytes are passed on
 * untouched; everything else is parsed and checked. The connection is the attempt: when it breaks, the attempt is lost.
 */

import type { Embed } from "@rbees/contracts/embed";
import { ErrorBody, FieldProblem, UNKNOWN_FIELD } from "@rbees/contracts/error-body";
import { knownCode, RbeesError } from "@rbees/contracts/errors";
import type { WorkerEvent } from "@rbees/contracts/events";
import { WorkerEvent as WorkerEventSchema } from "@rbees/contracts/events";
import { type Counted, Counted as CountedSchema, type Tokenize } from "@rbees/contracts/tokenize";
import type { Execute } from "@rbees/contracts/worker";
import { z } from "zod";
import { type ConnectionLimits, Connections, type RequestListener } from "./worker-http/connections.ts";
import type { Place } from "./worker-place.ts";

const TOKEN_HEAD = 'event: token\ndata: {"type":"token",';
/** One that says text and nothing else, as bytes: what passes is JSON, and a tenth of what parsing it would cost. */
const TEXT_TOKEN =
  // biome-ignore lint/suspicious/noControlCharactersInRegex: JSON has none of them in a string
  /^event: token\ndata: \{"type":"token","t":"[^"\\\x00-\x1f]*(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*)*","i":(?:0|[1-9]\d{0,14}),"ids":\[(?:(?:0|[1-9]\d{0,14})(?:,(?:0|[1-9]\d{0,14}))*)?\]\}\n\n$/;
const STARTED_HEAD = "event: started\n";
/** The most bytes one event may have; a worker that sends more is not speaking our protocol. */
const BLOCK_BYTES_MAX = 1_048_576;
/** As much of an answer that is no stream is looked at. */
const REFUSAL_BYTES_MAX = 65_536;

export type LinkOutcome =
  | { kind: "done" }
  | { kind: "failed"; code: string; message: string; retriable: boolean }
  | { kind: "refused"; reason: string }
  | { kind: "lost"; reason: string; reached: boolean }
  | { kind: "aborted" };

export interface AttemptListener {
  /** Several events have come at once: the calls that follow, in this turn of the event loop, belong together. */
  onBurst(): void;
  /** One token event, as the latin1 string of its bytes. */
  onToken(block: string): void;
  onStarted(): void;
  /** `embedding`, `metrics`, and the `end` or `error` just before `onEnded`. */
  onEvent(event: Exclude<WorkerEvent, { type: "token" | "started" }>): void;
  /** Exactly once, last. */
  onEnded(outcome: LinkOutcome): void;
}

/** Members that may be undefined: in JSON they are left out. */
type Loose<T> = { [K in keyof T]: T[K] | undefined };

export class Link {
  readonly #connections: Connections;
  readonly #headers: Readonly<Record<string, string>>;

  /** `door`: what the worker asks for; undefined when it asks for nothing. */
  constructor(place: Place, door: string | undefined, limits: ConnectionLimits) {
    this.#connections = new Connections(place, limits);
    this.#headers = {
      "content-type": "application/json",
      accept: "text/event-stream",
      ...(door === undefined ? {} : { authorization: `Bearer ${door}` }),
    };
  }

  /** Starts an attempt; the returned function ends it by breaking the connection. */
  execute(body: Loose<z.input<typeof Execute>>, correlation_id: string, listener: AttemptListener): () => void {
    return this.#begin("/execute", body, correlation_id, listener);
  }

  /** The same for vectors. */
  embed(body: Loose<z.input<typeof Embed>>, correlation_id: string, listener: AttemptListener): () => void {
    return this.#begin("/embed", body, correlation_id, listener);
  }

  /** Has a prompt's tokens counted. Nothing is thrown: what became of it is the outcome. */
  tokenize(body: Loose<z.input<typeof Tokenize>>, correlation_id: string): Promise<CountOutcome> {
    return new Promise((resolve) => {
      const headers = { ...this.#headers, accept: "application/json", "x-correlation-id": correlation_id };
      this.#connections.post("/tokenize", headers, JSON.stringify(body), new Count(resolve));
    });
  }

  #begin(path: string, body: object, correlation_id: string, listener: AttemptListener): () => void {
    const attempt = new Attempt(listener);
    const headers = { ...this.#headers, "x-correlation-id": correlation_id };
    attempt.breakOff = this.#connections.post(path, headers, JSON.stringify(body), attempt);
    return () => attempt.abort();
  }

  close(): void {
    this.#connections.close();
  }
}

export type CountOutcome =
  | { readonly counted: Counted }
  /** `error`: what it said, if it spoke our protocol. */
  | { readonly reason: string; readonly error?: RbeesError };

/** An answer that is JSON. */
class Count implements RequestListener {
  readonly #settle: (outcome: CountOutcome) => void;
  #status = 0;
  #text = "";

  constructor(settle: (outcome: CountOutcome) => void) {
    this.#settle = settle;
  }

  onHead(status: number): void {
    this.#status = status;
  }

  onText(text: string): void {
    this.#text += text;
  }

  onEnd(): void {
    const answer = parseJson(Buffer.from(this.#text, "latin1").toString("utf8"));
    const counted = CountedSchema.safeParse(answer);
    if (this.#status === 200 && counted.success) return this.#settle({ counted: counted.data });
    const refused = ErrorBody.safeParse(answer);
    if (!refused.success) return this.#settle({ reason: `it answered ${this.#status}, not as a worker would` });
    const { code, message, param } = refused.data.error;
    const mismatch = mismatchIn(refused.data);
    const error = mismatch ?? new RbeesError(knownCode(code), message, param === null ? {} : { param });
    this.#settle({ reason: error.message, error });
  }

  onFailure(reason: string): void {
    this.#settle({ reason });
  }
}

class Attempt implements RequestListener {
  readonly #listener: AttemptListener;
  /** Breaks the connection; `onFailure` follows. */
  breakOff = () => {};
  #status = 0;
  #rest = "";
  #outcome: LinkOutcome | undefined;
  #ended = false;
  #aborted = false;

  constructor(listener: AttemptListener) {
    this.#listener = listener;
  }

  abort(): void {
    this.#aborted = true;
    this.breakOff();
  }

  onHead(status: number): void {
    this.#status = status;
  }

  onText(text: string): void {
    if (this.#status !== 200) {
      if (this.#rest.length < REFUSAL_BYTES_MAX) this.#rest += text;
      return;
    }
    try {
      this.#cut(this.#rest === "" ? text : this.#rest + text);
    } catch (error) {
      this.#outcome = { kind: "lost", reason: `it sent what is no event (${(error as Error).message})`, reached: true };
      this.breakOff();
    }
  }

  /** Cuts whole blocks off; what is left over waits for the next chunk. */
  #cut(text: string): void {
    let from = 0;
    for (;;) {
      const end = text.indexOf("\n\n", from);
      if (end < 0) break;
      if (from === 0 && end + 2 < text.length) this.#listener.onBurst();
      this.#block(from === 0 && end + 2 === text.length ? text : text.slice(from, end + 2));
      from = end + 2;
    }
    this.#rest = from === text.length ? "" : text.slice(from);
    if (this.#rest.length > BLOCK_BYTES_MAX) throw new RangeError(`an event exceeds ${BLOCK_BYTES_MAX} bytes`);
  }

  #block(block: string): void {
    if (this.#outcome !== undefined || this.#aborted) return;
    if (TEXT_TOKEN.test(block)) return this.#listener.onToken(block);
    // The one line break inside is the one after the name: no further field can be smuggled in.
    if (block.startsWith(TOKEN_HEAD) && block.indexOf("\n", TOKEN_HEAD.length) === block.length - 2) {
      this.#parse(block);
      return this.#listener.onToken(block);
    }
    if (block.startsWith(":")) return;
    // What it says of itself is not used: the registry knows the worker.
    if (block.startsWith(STARTED_HEAD)) return this.#listener.onStarted();
    const event = this.#parse(block);
    if (event.type === "token" || event.type === "started") throw new SyntaxError(`a ${event.type} event in another shape`);
    this.#listener.onEvent(event);
    if (event.type === "end") this.#outcome = { kind: "done" };
    if (event.type === "error") this.#outcome = { kind: "failed", code: event.code, message: event.message, retriable: event.retriable };
  }

  #parse(block: string): WorkerEvent {
    const data = /^data: ?(.*)$/m.exec(block)?.[1];
    if (data === undefined) throw new SyntaxError("an event without data");
    return WorkerEventSchema.parse(JSON.parse(Buffer.from(data, "latin1").toString("utf8")));
  }

  onEnd(): void {
    if (this.#status === 200) this.#end(this.#outcome ?? { kind: "lost", reason: "its stream ended without an end", reached: true });
    else this.#end(refusal(this.#status, this.#rest));
  }

  onFailure(reason: string): void {
    if (this.#aborted) return this.#end({ kind: "aborted" });
    this.#end(this.#outcome ?? { kind: "lost", reason, reached: this.#status !== 0 });
  }

  #end(outcome: LinkOutcome): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#listener.onEnded(outcome);
  }
}

/** What a worker's answer other than 200 means for the attempt. */
function refusal(status: number, latin1: string): LinkOutcome {
  const body = ErrorBody.safeParse(parseJson(Buffer.from(latin1, "latin1").toString("utf8")));
  if (!body.success) return { kind: "lost", reason: `it answered ${status}, not as a worker would`, reached: false };
  const { code, message, retriable } = body.data.error;
  // Another life of the worker may be at its address by now, with another secret: it will register.
  if (["ALL_SLOTS_BUSY", "SHUTTING_DOWN", "UNAUTHORIZED"].includes(code)) return { kind: "refused", reason: message };
  const mismatch = mismatchIn(body.data);
  if (mismatch !== undefined) return { kind: "failed", code: mismatch.code, message: mismatch.message, retriable: true };
  return { kind: "failed", code, message, retriable };
}

/** That the worker does not know a field of what it was asked: it is of another version, and the next one need not be. */
function mismatchIn({ error: { code, details } }: ErrorBody): RbeesError | undefined {
  if (code !== "INVALID_REQUEST") return undefined;
  const problems = z.array(FieldProblem).safeParse(details).data ?? [];
  const unknown = problems.filter(({ problem }) => problem === UNKNOWN_FIELD).map(({ field }) => field);
  if (unknown.length === 0) return undefined;
  return new RbeesError("PROTOCOL_MISMATCH", `The worker is of an older version and does not know ${unknown.join(", ")}: upgrade it.`);
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
