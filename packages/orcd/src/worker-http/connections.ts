/**
 * Connections to one worker: HTTP/1.1 with keep-alive, one request at a time on each, as many as there are requests. Every
 * read goes into one buffer that all of them share and is taken apart at once, so a relayed token costs no buffer of its own.
 */

import { connect, type Socket } from "node:net";
import { connect as connectTls } from "node:tls";
import { tlsSentence } from "@rbees/contracts/tls-errors";
import { authority } from "@rbees/kit/network";
import { ProtocolError, type ResponseListener, ResponseReader } from "./response.ts";

export interface ConnectionLimits {
  /** Longest wait for the connection, ms. */
  connect_ms_max: number;
  /** Longest silence of a worker that has a request, ms. */
  attempt_silence_ms_max: number;
}

export interface RequestListener extends ResponseListener {
  /** Instead of `onEnd`: exactly one of the two, last. Never within `post` or the function it returned. */
  onFailure(reason: string): void;
}

/** An idle connection is given up this long before its server would: a request must not cross its goodbye. */
const IDLE_MARGIN_MS = 1000;
const IDLE_MS_MAX = 30_000;
const SWEEP_MS = 500;
/**
 * A machine that is gone says no goodbye, and a worker may be silent for long while it computes a prompt. So after this long the machine
 * is asked whether it is there: its kernel answers, whatever the worker does. Ten questions a second apart without an answer end it.
 */
const ASK_AFTER_MS = 5000;
const READ_BYTES = 65_536;
const BROKEN = "the connection broke";

/** What is read is taken apart before the next read begins, so all connections can share it. */
const shared = Buffer.allocUnsafeSlow(READ_BYTES);

export class Connections {
  readonly #at: Address;
  readonly #host_header: string;
  readonly #limits: ConnectionLimits;
  readonly #open = new Set<Connection>();
  /** The one used last is used next, so that the others may grow old. */
  readonly #idle: Connection[] = [];
  #sweep: NodeJS.Timeout | undefined;

  constructor(at: Address & { readonly host: string }, limits: ConnectionLimits) {
    const { host, port } = at;
    this.#at = at;
    this.#host_header = `host: ${authority(host, port)}\r\n`;
    this.#limits = limits;
  }

  /** Sends a request as JSON; the returned function ends it by breaking the connection. */
  post(path: string, headers: Readonly<Record<string, string>>, json: string, listener: RequestListener): () => void {
    let connection = this.#idle.pop();
    // One that has ended stands there until its socket is closed, a moment later.
    while (connection?.ended) connection = this.#idle.pop();
    connection ??= this.#connect();
    connection.post(`POST ${path} HTTP/1.1\r\n${this.#host_header}${lines(headers)}`, json, listener);
    return () => connection.breakOff(listener);
  }

  #connect(): Connection {
    const connection = new Connection(this.#at, {
      onIdle: () => this.#idle.push(connection),
      onGone: () => {
        this.#open.delete(connection);
        const at = this.#idle.indexOf(connection);
        if (at >= 0) this.#idle.splice(at, 1);
        if (this.#open.size > 0) return;
        clearInterval(this.#sweep);
        this.#sweep = undefined;
      },
    });
    this.#open.add(connection);
    this.#sweep ??= setInterval(
      () => {
        const now_ms = performance.now();
        for (const one of this.#open) one.grow(now_ms, this.#limits);
      },
      Math.min(SWEEP_MS, this.#limits.connect_ms_max / 2, this.#limits.attempt_silence_ms_max / 2),
    );
    return connection;
  }

  /** Breaks all of them. */
  close(): void {
    for (const connection of this.#open) connection.breakOff();
  }
}

export interface Address {
  /** Where it is. */
  readonly address: string;
  readonly port: number;
  /** Undefined: in clear. */
  readonly tls?: { readonly servername: string | undefined; readonly ca: string[] | undefined } | undefined;
}

interface ConnectionOwner {
  onIdle(): void;
  onGone(): void;
}

class Connection implements ResponseListener {
  readonly #socket: Socket;
  readonly #owner: ConnectionOwner;
  readonly #reader = new ResponseReader(this);
  #listener: RequestListener | undefined;
  /** When it was last heard of, began to connect, or became idle; on the clock of `performance.now`. */
  #since_ms = performance.now();
  #connected = false;

  constructor({ address, port, tls }: Address, owner: ConnectionOwner) {
    this.#owner = owner;
    const onread = {
      buffer: shared,
      callback: (length: number) => {
        this.#read(length);
        return true;
      },
    };
    const to = { host: address, port, noDelay: true, onread };
    this.#socket = tls === undefined ? connect(to) : connectTls({ ...to, ...tls });
    // What is written before is sent once the other side has shown who it is.
    this.#socket.on(tls === undefined ? "connect" : "secureConnect", () => {
      this.#connected = true;
      this.#since_ms = performance.now();
      // Not before: the time would be forgotten.
      this.#socket.setKeepAlive(true, ASK_AFTER_MS);
    });
    this.#socket.on("end", () => this.#closed());
    this.#socket.on("error", (error) => this.#fail(reasonOf(error as NodeJS.ErrnoException, this.#connected)));
    this.#socket.on("close", () => {
      this.#fail(BROKEN);
      this.#owner.onGone();
    });
  }

  get ended(): boolean {
    return this.#socket.destroyed;
  }

  post(head: string, json: string, listener: RequestListener): void {
    this.#listener = listener;
    this.#since_ms = performance.now();
    this.#reader.expect();
    this.#socket.write(`${head}content-length: ${Buffer.byteLength(json)}\r\n\r\n${json}`);
  }

  #read(length: number): void {
    this.#since_ms = performance.now();
    try {
      this.#reader.read(shared, length);
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      this.#fail(`it sent ${error.message}`);
    }
  }

  #closed(): void {
    if (!this.#reader.close()) this.#fail(BROKEN);
    this.#socket.destroy();
  }

  onHead(status: number): void {
    this.#listener?.onHead(status);
  }

  onText(latin1: string): void {
    this.#listener?.onText(latin1);
  }

  onEnd(): void {
    const listener = this.#listener;
    this.#listener = undefined;
    if (this.#reader.keep_alive) this.#owner.onIdle();
    else this.#socket.destroy();
    listener?.onEnd();
  }

  #fail(reason: string): void {
    const listener = this.#listener;
    this.#listener = undefined;
    this.#socket.destroy();
    listener?.onFailure(reason);
  }

  /** Ends what it does for that listener, or whatever it does. */
  breakOff(listener = this.#listener): void {
    if (listener === this.#listener) this.#socket.destroy();
  }

  /** Ends what has waited too long: for a connection, for the worker's next byte, or for a request. */
  grow(now_ms: number, { connect_ms_max, attempt_silence_ms_max }: ConnectionLimits): void {
    const age_ms = now_ms - this.#since_ms;
    if (this.#listener === undefined) {
      const idle_ms = Math.min(IDLE_MS_MAX, (this.#reader.idle_ms ?? Number.POSITIVE_INFINITY) - IDLE_MARGIN_MS);
      if (age_ms > idle_ms - SWEEP_MS) this.#socket.destroy();
    } else if (!this.#connected) {
      if (age_ms > connect_ms_max) this.#fail("its address did not answer in time");
    } else if (age_ms > attempt_silence_ms_max) this.#fail("it fell silent");
  }
}

function lines(headers: Readonly<Record<string, string>>): string {
  let text = "";
  for (const name in headers) text += `${name}: ${headers[name]}\r\n`;
  return text;
}

function reasonOf(error: NodeJS.ErrnoException, connected: boolean): string {
  if (connected) return BROKEN;
  const tls = tlsSentence(error.code ?? "");
  if (tls !== undefined) return `it is not trusted (${error.code}): ${tls}`;
  return error.code === "ECONNREFUSED" ? "nothing listens at its address" : `its address can't be reached (${error.message})`;
}
