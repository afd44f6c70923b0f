/**
 * The worker of the bench, a process of its own: answers `POST /execute` with `started`, tokens at the pace that the prompt
 * names, and `end`. Each token's text begins with the time it was sent. One HTTP chunk and one write a token.
 */
import { hash, randomBytes } from "node:crypto";
import { createServer, type RequestListener, type ServerResponse } from "node:http";
import { createServer as createTlsServer } from "node:https";
import type { AddressInfo, Server } from "node:net";
import { getCACertificates, setDefaultCACertificates } from "node:tls";
import { encodeEvent } from "@rbees/contracts/sse";
import type { Execute } from "@rbees/contracts/worker";
import { nowUs } from "./clock.ts";
import { type Pace, paceOf, type Registration, type Trust, type WorkerOrder, type WorkerReport } from "./messages.ts";

const MODEL = "bench";
const BEHIND_US_MAX = 250_000;

interface Paced {
  readonly response: ServerResponse;
  readonly pace: Pace;
  readonly padding: string;
  sent: number;
  due_us: number;
}

const running = new Set<Paced>();
/** The one of this process's workers that the orchestrator is calling back. */
let registering = "";
/** What that orchestrator has to show, if anything. */
let door: string | undefined;
const hear: RequestListener = (request, response) => {
  if (request.url === "/health") {
    response
      .writeHead(200, { "content-type": "application/json" })
      .end(JSON.stringify({ worker_id: registering, closed: door !== undefined }));
    return;
  }
  if (door !== undefined && request.headers.authorization !== `Bearer ${door}`) {
    response.writeHead(401).end();
    return;
  }
  const parts: Buffer[] = [];
  request.on("data", (part: Buffer) => parts.push(part));
  request.on("end", () => answer(JSON.parse(Buffer.concat(parts).toString("utf8")) as Execute, response));
};
const in_clear = createServer(hear);
in_clear.keepAliveTimeout = 60_000;
const port = await listening(in_clear);

function listening(server: Server): Promise<number> {
  return new Promise((resolve) => {
    server.listen({ host: "127.0.0.1", port: 0, backlog: 4096 }, () => resolve((server.address() as AddressInfo).port));
  });
}

/** A second door, for an orchestrator that speaks TLS; gone with the next one. */
let in_tls: Server | undefined;

async function tlsPort({ ca, worker_cert, worker_key }: NonNullable<Trust["tls"]>): Promise<number> {
  in_tls?.close();
  setDefaultCACertificates([...getCACertificates("bundled"), ca]);
  const server = createTlsServer({ cert: worker_cert, key: worker_key, keepAliveTimeout: 60_000 }, hear);
  in_tls = server;
  return listening(server);
}

function answer({ job_id, attempt, prompt, max_tokens }: Execute, response: ServerResponse): void {
  const pace = paceOf(prompt ?? "", max_tokens);
  const stream: Paced = { response, pace, padding: ".".repeat(pace.pad), sent: 0, due_us: nowUs() };
  response.writeHead(200, { "content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache" });
  const started = encodeEvent({ type: "started", job_id, attempt, worker_id: "bench-1", model: MODEL } as never);
  if (pace.rate === 0) {
    let body = started;
    while (stream.sent < pace.tokens) body += token(stream);
    response.end(body + end(stream));
    return;
  }
  response.flushHeaders();
  response.socket?.setNoDelay(true);
  write(response, started);
  response.on("close", () => running.delete(stream));
  running.add(stream);
  // The first token at once, the others at a phase of their own.
  if (send(stream)) stream.due_us += (Math.random() * 1_000_000) / pace.rate;
}

/** A token event exactly as the orchestrator's link expects it. */
function token(stream: Paced): string {
  const i = stream.sent;
  stream.sent += 1;
  const at = Math.round(nowUs()).toString().padStart(16, "0");
  return `event: token\ndata: {"type":"token","t":"${at}${stream.padding}","i":${i},"ids":[${1000 + (i % 30_000)}]}\n\n`;
}

function end({ sent }: Paced): string {
  const timings = { prefill_ms: 0, decode_ms: 0 };
  return encodeEvent({ type: "end", stop_reason: "MAX_TOKENS", tokens_in: 1, tokens_out: sent, tokens_cached: 0, timings } as never);
}

/** The next token of a stream; false when it was the last. */
function send(stream: Paced): boolean {
  if (stream.sent >= stream.pace.tokens) {
    finish(stream);
    return false;
  }
  // Who does not read is not sent to: the token waits for its next turn.
  if (!stream.response.socket?.writableNeedDrain) write(stream.response, token(stream));
  stream.due_us += 1_000_000 / stream.pace.rate;
  return true;
}

function finish(stream: Paced): void {
  running.delete(stream);
  stream.response.end(end(stream));
}

function write(response: ServerResponse, text: string): void {
  response.socket?.write(`${text.length.toString(16)}\r\n${text}\r\n`, "latin1");
}

function turn(): void {
  const now_us = nowUs();
  for (const stream of running) {
    // A harness that is starved lets tokens go (`delivered` shows it) instead of piling them up for ever.
    if (now_us - stream.due_us > BEHIND_US_MAX) stream.due_us = now_us;
    while (stream.due_us <= now_us && send(stream));
  }
}

setInterval(turn, 1);

let beats: NodeJS.Timeout | undefined;

async function register({ url, workers, slots, trust }: Registration): Promise<void> {
  const ids = Array.from({ length: workers }, (_, i) => `bench-${i + 1}`);
  const at = trust?.tls === undefined ? port : await tlsPort(trust.tls);
  const post = async (path: string, body: object, shown?: string) => {
    const headers = {
      "content-type": "application/json",
      accept: "application/json",
      ...(shown === undefined ? {} : { authorization: `Bearer ${shown}` }),
    };
    const reply = await fetch(`${url}${path}`, { method: "POST", headers, body: JSON.stringify(body) });
    if (!reply.ok) throw new Error(`${path}: ${reply.status} ${await reply.text()}`);
    return (await reply.json()) as { heartbeat_ms: number; token: string };
  };
  let heartbeat_ms = 5000;
  const secret = () => randomBytes(32).toString("base64url");
  door = trust === undefined ? undefined : secret();
  const credentials = new Map<string, string>();
  for (const id of ids) {
    registering = id;
    const worker = { id, host: "127.0.0.1", port: at, model: MODEL, slots };
    if (trust === undefined) ({ heartbeat_ms } = await post("/workers/register", worker));
    else {
      const { token } = await post("/v2/join-tokens", { worker_id: id }, trust.key);
      const own = secret();
      credentials.set(id, `rbw_${own}`);
      const joining = { ...worker, tls: trust.tls !== undefined, epoch: 1, door, credential_sha256: hash("sha256", own, "hex") };
      ({ heartbeat_ms } = await post("/workers/register", joining, token));
    }
  }
  const beat = { slots_busy: 0, memory_bytes: 0, tokens_per_second: 0, ...(trust === undefined ? {} : { epoch: 1 }) };
  beats = setInterval(() => {
    for (const id of ids) post(`/workers/${id}/heartbeat`, beat, credentials.get(id)).catch(() => {});
  }, heartbeat_ms);
}

function report(message: WorkerReport): void {
  process.send?.(message);
}

process.on("message", (order: WorkerOrder) => {
  if ("finish" in order) for (const stream of running) finish(stream);
  if ("forget" in order) clearInterval(beats);
  if ("register" in order) {
    register(order.register).then(
      () => report({ registered: true }),
      (error) => report({ failed: String(error) }),
    );
  }
});
process.on("disconnect", () => process.exit(0));
report({ listening: port });
