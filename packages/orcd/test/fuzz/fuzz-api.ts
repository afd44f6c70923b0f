/**
 * An orchestrator of this process with a worker that answers everything, and many requests that are nearly good. Each has to be
 * answered with 2xx, or be refused with a status and a body of the error table; afterwards nothing may wait, and memory must be free again.
 */
import { Agent, request as httpRequest, type IncomingMessage } from "node:http";
import { connect } from "node:net";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { ERRORS, type ErrorCode } from "@rbees/contracts/errors";
import { FEATURES } from "@rbees/contracts/sets";
import type { Lifetime } from "../../../../test/support/cluster.ts";
import { Random } from "../../../../test/support/random.ts";
import { eventually, type Harness, type Json, startHarness } from "../harness.ts";
import { type FuzzRequest, nextRequest } from "./requests.ts";

/** 5xx that are outcomes of what was asked: no such worker, a deadline that passed. */
const OUTCOMES: readonly ErrorCode[] = ["NO_WORKER", "DEADLINE_EXCEEDED"];
/** A stream that has said nothing for so long belongs to a job that waits: its client leaves. */
const SILENCE_MS = 100;
/** Nobody waits longer: it is said as a violation. */
const ANSWER_MS_AT_MOST = 5000;
const BODY_BYTES_MAX = 65_536;
/** So many requests are answered before memory is looked at, so that what is made once has been made. */
const WARM_UP = 0.2;
/** Requests at once. */
const LANES = 8;

export interface FuzzReport {
  readonly violations: string[];
  readonly statuses: Map<number, number>;
  readonly slowest_ms: number;
  /** What the heap and buffers hold more at the end than after the first fifth. */
  readonly grown_bytes: number;
}

export async function fuzzApi(
  lifetime: Lifetime,
  { count, seed, answer_ms_max, say }: { count: number; seed: number; answer_ms_max: number; say?: (progress: string) => void },
): Promise<FuzzReport> {
  const orcd = await startHarness(lifetime, {
    body_bytes_max: BODY_BYTES_MAX,
    replay_after_end_ms: 0,
    queue_jobs_max: 20,
    worker_silence_ms_max: 3_600_000,
  });
  const worker = await orcd.worker("w1", { slots: 8, context_size: 4096, features: FEATURES });
  const answering = async () => {
    for (;;) {
      const attempt = await worker.next();
      attempt.started();
      const { inputs } = attempt.body;
      if (inputs === undefined) attempt.tokens("x");
      else attempt.vectors(inputs.map(() => [0.6, 0.8]));
      attempt.end();
    }
  };
  void answering();
  const agent = new Agent({ keepAlive: true });
  const random = new Random(seed);
  const violations: string[] = [];
  const violated = (what: string) => {
    violations.push(what);
    say?.(what);
  };
  const statuses = new Map<number, number>();
  let slowest_ms = 0;
  const { job_id } = (await (await orcd.submit({})).json()) as Json;
  let sent = 0;
  const sendUntil = async (end: number) => {
    while (sent < end) {
      const n = sent;
      sent += 1;
      if (n > 0 && n % 1000 === 0) say?.(`${n} of ${count}, ${violations.length} violations`);
      const asked = nextRequest(random, job_id);
      const began = performance.now();
      const answer = await (asked.raw === undefined ? ask(orcd, agent, asked) : askRaw(orcd, asked.raw)).catch(
        (error: unknown) => `${error}`,
      );
      if (typeof answer === "string") {
        violated(`#${n}: ${answer}\n${described(asked)}`);
        continue;
      }
      const took_ms = answer.head_at_ms - began;
      slowest_ms = Math.max(slowest_ms, took_ms);
      statuses.set(answer.status, (statuses.get(answer.status) ?? 0) + 1);
      const wrong = took_ms > answer_ms_max ? `answered after ${Math.round(took_ms)} ms` : wrongWith(answer, asked);
      if (wrong !== undefined) violated(`#${n}: ${wrong}\n${described(asked)}\n→ ${answer.status} ${answer.text.slice(0, 500)}`);
      // It may wait for a worker that will never come.
      const accepted = answer.status === 202 ? (JSON.parse(answer.text) as Json).job_id : answer.left ? answer.job_id : undefined;
      if (accepted !== undefined) await cancel(orcd, accepted);
    }
  };
  const send = (end: number) => Promise.all(Array.from({ length: LANES }, () => sendUntil(end)));
  await send(Math.floor(count * WARM_UP));
  const warm_bytes = await heldBytes(orcd);
  await send(count);
  const end_bytes = await heldBytes(orcd);
  const good = await orcd.submit({ stream: true });
  if (good.status !== 200 || !(await good.text()).includes('"t":"x"')) violated(`a good request afterwards: ${good.status}`);
  agent.destroy();
  return { violations, statuses, slowest_ms, grown_bytes: end_bytes - warm_bytes };
}

async function cancel(orcd: Harness, job_id: string): Promise<void> {
  const answer = await fetch(`${orcd.url}/v2/tasks/${job_id}`, { method: "DELETE" });
  await answer.arrayBuffer();
}

interface Answer {
  readonly status: number;
  readonly content_type: string;
  readonly text: string;
  readonly job_id: string | undefined;
  /** Before its end. */
  readonly left: boolean;
  readonly head_at_ms: number;
}

function ask({ orcd }: Harness, agent: Agent, { method, path, headers, body }: FuzzRequest): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const length = body === undefined ? {} : { "content-length": body.length };
    const sent = httpRequest({ port: orcd.port, host: "127.0.0.1", agent, method, path, headers: { ...headers, ...length } });
    sent.setTimeout(ANSWER_MS_AT_MOST, () => sent.destroy(new Error(`no answer after ${ANSWER_MS_AT_MOST} ms`)));
    sent.on("error", reject);
    sent.on("response", (response) => void read(response).then(resolve, reject));
    sent.end(body);
  });
}

async function read(response: IncomingMessage): Promise<Answer> {
  const head_at_ms = performance.now();
  const parts: Buffer[] = [];
  let left = false;
  await new Promise<void>((resolve, reject) => {
    const leave = setTimeout(() => {
      left = true;
      response.destroy();
      resolve();
    }, SILENCE_MS);
    response.on("data", (part: Buffer) => {
      parts.push(part);
      leave.refresh();
    });
    response.on("end", () => {
      clearTimeout(leave);
      resolve();
    });
    response.on("error", (error) => (response.destroyed ? resolve() : reject(error)));
  });
  const job_id = response.headers["x-rbees-job-id"] as string | undefined;
  return {
    status: response.statusCode ?? 0,
    content_type: response.headers["content-type"] ?? "",
    text: Buffer.concat(parts).toString("utf8"),
    job_id,
    left,
    head_at_ms,
  };
}

/** Bytes, and what comes back until the other side hangs up or is silent. */
async function askRaw({ orcd }: Harness, raw: Buffer): Promise<Answer> {
  const socket = connect({ port: orcd.port, host: "127.0.0.1" });
  socket.setTimeout(300, () => socket.end());
  socket.end(raw);
  const parts: Buffer[] = [];
  try {
    for await (const part of socket) parts.push(part as Buffer);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ECONNRESET") throw error;
  }
  const text = Buffer.concat(parts).toString("latin1");
  const [head = "", ...rest] = text.split("\r\n\r\n");
  const status = Number(/^HTTP\/1\.1 (\d+)/.exec(head)?.[1] ?? 0);
  const content_type = /content-type: ([^\r]*)/i.exec(head)?.[1] ?? "";
  return { status, content_type, text: rest.join("\r\n\r\n"), job_id: undefined, left: false, head_at_ms: performance.now() };
}

function wrongWith({ status, content_type, text }: Answer, { method, path, raw }: FuzzRequest): string | undefined {
  if (status >= 200 && status < 300) {
    if (content_type.startsWith("application/json") && raw === undefined && method !== "HEAD") JSON.parse(text);
    return undefined;
  }
  // An answer to HEAD, and to bytes that end in the middle of a request, has no body, or may be none.
  if (method === "HEAD" || (raw !== undefined && status === 0)) return undefined;
  let said: Json;
  try {
    said = JSON.parse(text);
  } catch {
    return "the refusal is no JSON";
  }
  const outcome = OUTCOMES.some((code) => ERRORS[code].status === status);
  // Ollama's form has no code.
  if (path.startsWith("/api/") && typeof said.error === "string") return status >= 500 && !outcome ? "5xx" : undefined;
  const code: unknown = said.type === "error" ? said.error?.details?.error_code : said.error?.code;
  if (typeof code !== "string" || !Object.hasOwn(ERRORS, code)) return "the refusal has no code of the table";
  if (ERRORS[code as ErrorCode].status !== status) return `the status of ${code} is ${ERRORS[code as ErrorCode].status}`;
  if (status >= 500 && !OUTCOMES.includes(code as ErrorCode)) return "5xx";
  return undefined;
}

function described({ method, path, headers, body, raw }: FuzzRequest): string {
  if (raw !== undefined) return JSON.stringify(raw.toString("latin1").slice(0, 200));
  const said = body === undefined ? "" : ` ${body.length} bytes: ${JSON.stringify(body.toString("latin1").slice(0, 600))}`;
  return `${method} ${path.slice(0, 300)} ${JSON.stringify(headers).slice(0, 600)}${said}`;
}

/** What this process holds once no job is left and nothing is to be collected. */
async function heldBytes(orcd: Harness): Promise<number> {
  for (const status of ["queued", "running"])
    await eventually(async () => {
      const { tasks } = await orcd.json(`/v2/tasks?status=${status}`);
      for (const { job_id } of tasks) await cancel(orcd, job_id);
      return tasks.length === 0;
    });
  setFlagsFromString("--expose-gc");
  const gc = runInNewContext("gc") as () => void;
  for (let round = 0; round < 3; round += 1) {
    await new Promise((resolve) => setTimeout(resolve, 50));
    gc();
  }
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
}
