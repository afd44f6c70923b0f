/** One answer of the worker as a client reads it: an event stream over HTTP, its tokens counted as they arrive. */
import { once } from "node:events";
import { Agent, type ClientRequest, type IncomingMessage, request } from "node:http";
import { SseDecoder } from "../../packages/contracts/src/sse.ts";
import { SAMPLING } from "./workload.ts";

const AGENT = new Agent({ keepAlive: true, maxSockets: 256 });

export interface Ask {
  prompt: string;
  max_tokens: number;
  seed: number;
  grammar?: string;
}

export interface Ended {
  /** Tokens that the worker says it generated. */
  tokens_out: number;
  tokens_in: number;
  tokens_cached: number;
}

let asked = 0;

export class AnswerStream {
  readonly job_id: string;
  readonly began_ms = performance.now();
  /** When events with tokens came. */
  readonly arrivals_ms: number[] = [];
  tokens = 0;
  /** Resolves with the `end` event, or undefined when the answer was cancelled; rejects on anything else. */
  readonly ended: Promise<Ended | undefined>;
  /** The worker has given the answer a slot. */
  readonly accepted: Promise<void>;
  readonly #on_token: () => void;
  readonly #request: ClientRequest;
  #settle: { accept: () => void; end: (end: Ended | undefined) => void; fail: (error: Error) => void } | undefined;

  constructor(port: number, { prompt, max_tokens, seed, grammar }: Ask, on_token: () => void = () => {}) {
    asked += 1;
    this.job_id = `job_bench${asked}`;
    this.#on_token = on_token;
    const accepted = Promise.withResolvers<void>();
    const ended = Promise.withResolvers<Ended | undefined>();
    this.accepted = accepted.promise;
    this.ended = ended.promise;
    const fail = (error: Error) => {
      accepted.reject(error);
      ended.reject(error);
    };
    // Whoever waits for one of them hears of it; nobody has to wait for both.
    accepted.promise.catch(() => {});
    ended.promise.catch(() => {});
    this.#settle = { accept: accepted.resolve, end: ended.resolve, fail };
    const body = JSON.stringify({ job_id: this.job_id, prompt, raw: true, max_tokens, seed, grammar, ...SAMPLING });
    const headers = { "content-type": "application/json", "content-length": Buffer.byteLength(body) };
    this.#request = request({ host: "127.0.0.1", port, path: "/execute", method: "POST", agent: AGENT, headers }, (response) => {
      if (response.statusCode !== 200) {
        response.setEncoding("utf8").once("data", (text: string) => fail(new Error(`the worker answered ${response.statusCode}: ${text}`)));
        return;
      }
      const decoder = new SseDecoder();
      response.on("data", (chunk: Buffer) => {
        for (const { event, data } of decoder.feed(chunk)) this.#took(event, data);
      });
      response.on("close", () => fail(new Error("the stream broke")));
    });
    this.#request.on("error", fail);
    this.#request.end(body);
  }

  /** Milliseconds from asking to the first token. */
  get first_token_ms(): number {
    return (this.arrivals_ms[0] ?? Number.NaN) - this.began_ms;
  }

  #took(event: string, data: string): void {
    if (event === "token") {
      this.tokens += (JSON.parse(data) as { ids: number[] }).ids.length;
      this.arrivals_ms.push(performance.now());
      this.#on_token();
    } else if (event === "started") this.#settle?.accept();
    else if (event === "end") this.#settle?.end(JSON.parse(data) as Ended);
    else if (event === "error") {
      if ((JSON.parse(data) as { code: string }).code === "CANCELLED") this.#settle?.end(undefined);
      else this.#settle?.fail(new Error(`the worker says ${data}`));
    }
  }
}

/** Reads a stream of the served bare engine as an answer is read, once it is open. */
export async function read(port: number, stream: number): Promise<{ ended: Promise<unknown> }> {
  const asking = request({ host: "127.0.0.1", port, path: `/${stream}`, agent: AGENT }).end();
  const [response] = (await once(asking, "response")) as [IncomingMessage];
  const decoder = new SseDecoder();
  response.on("data", (chunk: Buffer) => {
    for (const { data } of decoder.feed(chunk)) JSON.parse(data);
  });
  return { ended: once(response, "end") };
}

/** A small request; its answer as JSON. */
export function call<T>(port: number, method: "GET" | "POST", path: string, body?: unknown): Promise<T> {
  const text = body === undefined ? undefined : JSON.stringify(body);
  const headers = text === undefined ? {} : { "content-type": "application/json", "content-length": Buffer.byteLength(text) };
  return new Promise((resolve, reject) => {
    const asking = request({ host: "127.0.0.1", port, path, method, agent: AGENT, headers }, (response) => {
      let answer = "";
      response.setEncoding("utf8").on("data", (part: string) => {
        answer += part;
      });
      response.on("end", () => resolve(JSON.parse(answer) as T));
      response.on("error", reject);
    });
    asking.on("error", reject);
    asking.end(text);
  });
}
