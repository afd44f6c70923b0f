/**
 * A worker that speaks the protocol and does what a test tells it to: for injecting faults into the orchestrator's link.
 * Real inference is proven elsewhere, with the real worker.
 */

import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import type { Embed } from "@rbees/contracts/embed";
import type { StopReason } from "@rbees/contracts/job";
import { encodeEvent } from "@rbees/contracts/sse";
import type { Tokenize } from "@rbees/contracts/tokenize";
import type { Execute } from "@rbees/contracts/worker";

export interface FakeAttempt {
  /** Of `/execute`, or of `/embed`. */
  readonly body: Execute & Partial<Pick<Embed, "inputs" | "truncate">>;
  readonly response: ServerResponse;
  /** True once the orchestrator has broken the connection. */
  readonly closed: Promise<void>;
  started(): void;
  /** Sends tokens with the given texts; ids count up from the index. */
  tokens(...texts: string[]): void;
  /** Sends a token that says more than text, or several that come at once, as many as `count`. */
  token(t: string, more: Record<string, unknown>, count?: number): void;
  /** Sends the vectors of an embedding job's inputs, from input `from` on. */
  vectors(vectors: readonly (readonly number[])[], from?: number): void;
  end(stop_reason?: StopReason, more?: Record<string, unknown>): void;
  fail(code: string, retriable: boolean, message?: string): void;
  /** Breaks the connection in mid-stream. */
  drop(): void;
}

export interface FakeWorker {
  readonly id: string;
  readonly port: number;
  readonly origin: string;
  /** Attempts as they come; waits for the next one. */
  next(): Promise<FakeAttempt>;
  /** What `/tokenize` was asked so far; it counts seven tokens. */
  readonly counted: readonly Tokenize[];
  /** Answers the next `/execute` or `/tokenize` with this status and body instead of a stream. */
  refuseNext(status: number, body: unknown): void;
  register(orchestrator_url: string, more?: Record<string, unknown>): Promise<Response>;
  close(): Promise<void>;
}

/** `door`: what callers must show, if anything. `at`: its port. */
export async function startFakeWorker(id: string, model = "fake", door?: string, at = 0): Promise<FakeWorker> {
  const arrived: FakeAttempt[] = [];
  const waiting: ((attempt: FakeAttempt) => void)[] = [];
  const counted: Tokenize[] = [];
  const refusals: { status: number; body: unknown }[] = [];
  const server: Server = createServer(async (request, response) => {
    const { authorization } = request.headers;
    const shows_nothing = request.url === "/health" && authorization === undefined;
    if (door !== undefined && !shows_nothing && authorization !== `Bearer ${door}`) {
      const error = {
        code: "UNAUTHORIZED",
        message: "who are you?",
        retriable: false,
        correlation_id: "",
        type: "authentication_error",
        param: null,
      };
      response.writeHead(401, { "content-type": "application/json" }).end(JSON.stringify({ error }));
      return;
    }
    if (request.url === "/health") {
      response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify({ worker_id: id, closed: door !== undefined }));
      return;
    }
    const body = JSON.parse(await text(request)) as Execute;
    const refusal = refusals.shift();
    if (refusal !== undefined) {
      response.writeHead(refusal.status, { "content-type": "application/json" }).end(JSON.stringify(refusal.body));
      return;
    }
    if (request.url === "/tokenize") {
      counted.push(body as unknown as Tokenize);
      const tokens = (body as unknown as Tokenize).with_tokens ? { tokens: [1, 2, 3, 4, 5, 6, 7] } : {};
      response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify({ tokens_in: 7, ...tokens }));
      return;
    }
    const attempt = fakeAttempt(id, model, body, response);
    const waiter = waiting.shift();
    if (waiter === undefined) arrived.push(attempt);
    else waiter(attempt);
  });
  await new Promise<void>((resolve) => server.listen(at, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  return {
    id,
    port,
    origin: `http://127.0.0.1:${port}`,
    next: () => {
      const attempt = arrived.shift();
      return attempt === undefined ? new Promise((resolve) => waiting.push(resolve)) : Promise.resolve(attempt);
    },
    counted,
    refuseNext: (status, body) => refusals.push({ status, body }),
    register: (orchestrator_url, more = {}) =>
      fetch(`${orchestrator_url}/workers/register`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ id, host: "127.0.0.1", port, model, ...more }),
      }),
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

function fakeAttempt(worker_id: string, model: string, body: Execute, response: ServerResponse): FakeAttempt {
  const { job_id, attempt } = body;
  let index = body.continue_from?.tokens.length ?? 0;
  const closed = new Promise<void>((resolve) => response.on("close", () => resolve()));
  response.writeHead(200, { "content-type": "text/event-stream" });
  response.flushHeaders();
  return {
    body,
    response,
    closed,
    started: () => response.write(encodeEvent({ type: "started", job_id, attempt, worker_id, model } as never)),
    tokens(...texts) {
      for (const t of texts) {
        response.write(encodeEvent({ type: "token", t, i: index, ids: [1000 + index] } as never));
        index += 1;
      }
    },
    token(t, more, count = 1) {
      const ids = Array.from({ length: count }, (_, n) => 1000 + index + n);
      response.write(encodeEvent({ type: "token", ...more, t, i: index, ids } as never));
      index += count;
    },
    vectors(vectors, from = 0) {
      for (const [at, vector] of vectors.entries()) {
        const v = Buffer.from(Float32Array.from(vector).buffer).toString("base64");
        response.write(encodeEvent({ type: "embedding", i: from + at, v } as never));
      }
    },
    end(stop_reason = "EOS", more = {}) {
      const timings = { prefill_ms: 1, decode_ms: 2 };
      const usage = { tokens_in: 3, tokens_out: index, tokens_cached: 0 };
      response.end(encodeEvent({ type: "end", stop_reason, ...usage, timings, ...more } as never));
    },
    fail: (code, retriable, message = `the fake worker says ${code}`) =>
      response.end(encodeEvent({ type: "error", code, message, retriable } as never)),
    drop: () => response.destroy(),
  };
}

async function text(request: IncomingMessage): Promise<string> {
  const parts: Buffer[] = [];
  for await (const part of request) parts.push(part as Buffer);
  return Buffer.concat(parts).toString("utf8");
}
