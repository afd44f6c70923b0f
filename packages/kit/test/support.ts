/** What the tests of serving share: a server of given routes on a free port, raw connections, and waiting on facts. */
import { connect, type Socket } from "node:net";
import type { TestContext } from "node:test";
import type { RouteTable } from "@rbees/contracts/route";
import { type Handlers, type Served, type ServeOptions, serve } from "../src/http.ts";
import { silentLog } from "../src/log.ts";

export async function serving<T extends RouteTable>(
  t: TestContext,
  routes: T,
  handlers: Handlers<T>,
  options: Partial<ServeOptions> = {},
): Promise<Served> {
  const served = await serve(routes, handlers, {
    host: "127.0.0.1",
    port: 0,
    log: silentLog(),
    body_bytes_max: 65_536,
    ping_ms: 60_000,
    ...options,
  });
  t.after(() => served.close(0));
  return served;
}

/** Looks until it is so; the bound is for failures, not for waiting. */
export async function until(met: () => boolean, what: string): Promise<void> {
  const deadline = performance.now() + 20_000;
  while (!met()) {
    if (performance.now() > deadline) throw new Error(`never came: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

/** A connection that sends and shows bytes as they are. */
export class Raw {
  readonly socket: Socket;
  #got = Buffer.alloc(0);
  closed = false;

  constructor(t: TestContext, port: number) {
    this.socket = connect(port, "127.0.0.1");
    this.socket.on("data", (chunk) => {
      this.#got = Buffer.concat([this.#got, chunk]);
    });
    this.socket.on("error", () => {});
    this.socket.on("close", () => {
      this.closed = true;
    });
    t.after(() => this.socket.destroy());
  }

  send(text: string): void {
    this.socket.write(text);
  }

  get text(): string {
    return this.#got.toString("utf8");
  }

  get bytes(): Buffer {
    return this.#got;
  }

  async sees(part: string): Promise<string> {
    await until(() => this.text.includes(part), JSON.stringify(part));
    return this.text;
  }

  /** What came since the last call. */
  take(): Buffer {
    const got = this.#got;
    this.#got = Buffer.alloc(0);
    return got;
  }
}

/** The payload of a chunked body, and whether its last chunk has come. Throws where the framing is wrong. */
export function dechunk(body: Buffer): { payload: Buffer; chunks: number; ended: boolean } {
  const parts: Buffer[] = [];
  let at = 0;
  while (at < body.length) {
    const lineEnd = body.indexOf("\r\n", at);
    const size = body.toString("latin1", at, lineEnd);
    if (!/^[0-9a-f]+$/.test(size)) throw new Error(`no chunk size: ${JSON.stringify(size)}`);
    const from = lineEnd + 2;
    const to = from + Number.parseInt(size, 16);
    if (body.toString("latin1", to, to + 2) !== "\r\n") throw new Error(`chunk of ${size} does not end in CRLF`);
    at = to + 2;
    if (from + 2 === at) return { payload: Buffer.concat(parts), chunks: parts.length, ended: true };
    parts.push(body.subarray(from, to));
  }
  return { payload: Buffer.concat(parts), chunks: parts.length, ended: false };
}

/** Head and body of one answer. */
export function split(answer: Buffer): { head: string; body: Buffer } {
  const end = answer.indexOf("\r\n\r\n");
  return { head: answer.toString("latin1", 0, end).toLowerCase(), body: answer.subarray(end + 4) };
}
