/**
 * HTTP for downloads: proxies, the token, redirects, how long to wait and how often to try again, and what a refusal means.
 * undici's own client, not the one inside Node: only that takes proxies on every Node that rbees runs on.
 */
import type { Readable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { RbeesError } from "@rbees/contracts/errors";
import type { Environment } from "@rbees/kit/config";
import { VERSION } from "@rbees/kit/version";
import { duration } from "../look.ts";
import { shrinkHeap } from "./small-heap.ts";

export interface WebLimits {
  /** No byte for this long: the connection is given up and another one is made. */
  stall_ms_max: number;
  /** How often in a row something may fail without a single byte of progress. */
  attempts_max: number;
}

const CONNECT_MS_MAX = 15_000;
const REDIRECTS_MAX = 5;
const BACKOFF_MS = 250;
const BACKOFF_MS_MAX = 10_000;
/** A server that wants us to wait longer is told to the user instead. */
const RETRY_AFTER_MS_MAX = 120_000;
const ERROR_TEXT_BYTES_MAX = 4_096;
const HUB = "https://huggingface.co";

/** Something that may go better when it is tried again. */
export class Passing extends RbeesError {
  override name = "Passing";
}

export interface Answer {
  status: number;
  header(name: string): string | undefined;
  body: Readable;
  /** Where it came from in the end. */
  url: string;
}

export class Web {
  readonly limits: WebLimits;
  /** The hub or its mirror, without a slash at the end. */
  readonly endpoint: string;
  readonly signal: AbortSignal;
  readonly #token: string | undefined;
  readonly #undici: typeof import("undici");
  readonly #dispatcher: import("undici").Dispatcher;
  #not_before_ms = 0;

  private constructor(undici: typeof import("undici"), env: Environment, limits: WebLimits, signal: AbortSignal) {
    this.limits = limits;
    this.signal = signal;
    this.endpoint = (env["HF_ENDPOINT"] || HUB).replace(/\/+$/, "");
    if (!/^https?:$/.test(URL.parse(this.endpoint)?.protocol ?? ""))
      throw new RbeesError("INVALID_REQUEST", `HF_ENDPOINT is "${this.endpoint}"; it must be an http or https address.`);
    this.#token = env["HF_TOKEN"] || undefined;
    this.#undici = undici;
    const proxy = (name: string) => env[name.toLowerCase()] ?? env[name] ?? "";
    this.#dispatcher = new undici.EnvHttpProxyAgent({
      httpProxy: proxy("HTTP_PROXY"),
      httpsProxy: proxy("HTTPS_PROXY") || proxy("ALL_PROXY"),
      noProxy: proxy("NO_PROXY"),
      connect: { timeout: CONNECT_MS_MAX },
      headersTimeout: limits.stall_ms_max,
      bodyTimeout: limits.stall_ms_max,
    });
  }

  static async open(env: Environment, limits: WebLimits, signal: AbortSignal): Promise<Web> {
    shrinkHeap("start");
    // It is CommonJS: from a bundle, its parts are found in `default` alone.
    const { default: undici } = (await import("undici")) as unknown as { default: typeof import("undici") };
    return new Web(undici, env, limits, signal);
  }

  get has_token(): boolean {
    return this.#token !== undefined;
  }

  async close(): Promise<void> {
    await this.#dispatcher.destroy();
  }

  /** The client that the hub's library is given; refusals come as errors that say what to do. */
  readonly fetch = (async (url: string | URL, init: RequestInit = {}) => {
    const headers = { ...(init.headers as Record<string, string>), ...this.#headers(new URL(url)) };
    return this.retrying(async () => {
      const answer = await this.#undici
        .fetch(url, { method: init.method ?? "GET", headers, dispatcher: this.#dispatcher, signal: this.signal })
        .catch((error: unknown) => this.#broken(error, String(url)));
      if (answer.ok) return answer;
      const text = (await answer.text().catch(() => "")).slice(0, ERROR_TEXT_BYTES_MAX);
      throw this.#refusal(answer.status, (name) => answer.headers.get(name) ?? undefined, String(url), text);
    });
  }) as unknown as typeof fetch;

  /** One GET, redirects followed; any status but success is thrown. Not tried again: the caller knows what is still missing. */
  async get(url: string, headers: Record<string, string>, signal = this.signal): Promise<Answer> {
    let at = new URL(url);
    for (let redirects = 0; ; redirects++) {
      await this.#pause(signal);
      const answer = await this.#undici
        .request(at, { headers: { ...headers, ...this.#headers(at) }, dispatcher: this.#dispatcher, signal })
        .catch((error: unknown) => this.#broken(error, at.href));
      const header = (name: string) => {
        const value = answer.headers[name];
        return Array.isArray(value) ? value[0] : value;
      };
      const { statusCode: status, body } = answer;
      if (status === 200 || status === 206) return { status, header, body, url: at.href };
      const text = await this.#shortText(body);
      const location = header("location");
      if (status < 300 || status >= 400 || location === undefined) throw this.#refusal(status, header, at.href, text);
      if (redirects === REDIRECTS_MAX || !URL.canParse(location, at.href))
        throw new RbeesError("UNREACHABLE", `${hostOf(at.href)} sends us from one address to the next.`);
      at = new URL(location, at);
    }
  }

  /** Tries until it works, fails for good, or has failed too often. */
  async retrying<T>(act: () => Promise<T>): Promise<T> {
    for (let failed = 0; ; failed++) {
      try {
        await this.#pause(this.signal);
        return await act();
      } catch (error) {
        await this.backOff(error, failed + 1);
      }
    }
  }

  /** Waits before the next try, or throws when there is none. `failed`: how often in a row without progress. */
  async backOff(error: unknown, failed: number, signal = this.signal): Promise<void> {
    signal.throwIfAborted();
    if (!(error instanceof Passing)) throw error;
    const wait_ms = error.retry_after_ms ?? Math.min(BACKOFF_MS_MAX, BACKOFF_MS * 2 ** (failed - 1)) * (0.5 + Math.random() / 2);
    if (failed >= this.limits.attempts_max || wait_ms > RETRY_AFTER_MS_MAX) throw final(error, failed);
    // Who is told to wait waits with every connection.
    if (error.retry_after_ms !== undefined) this.#not_before_ms = Math.max(this.#not_before_ms, performance.now() + wait_ms);
    await sleep(wait_ms, undefined, { signal });
  }

  async #pause(signal: AbortSignal): Promise<void> {
    const wait_ms = this.#not_before_ms - performance.now();
    if (wait_ms > 0) await sleep(wait_ms, undefined, { signal });
  }

  /** The token is for the hub alone: neither a mirror's storage nor any other site gets it. */
  #headers(url: URL): Record<string, string> {
    const own = url.origin === new URL(this.endpoint).origin;
    return { "user-agent": `rbees/${VERSION}`, ...(own && this.#token !== undefined ? { authorization: `Bearer ${this.#token}` } : {}) };
  }

  #broken(error: unknown, url: string): never {
    this.signal.throwIfAborted();
    if (error instanceof RbeesError || (error instanceof Error && error.name === "AbortError")) throw error;
    throw brokenConnection(error, url, this.limits.stall_ms_max);
  }

  async #shortText(body: Readable): Promise<string> {
    let text = "";
    try {
      for await (const chunk of body) {
        text += chunk;
        if (text.length > ERROR_TEXT_BYTES_MAX) break;
      }
    } catch {
      // The status says enough.
    }
    return text;
  }

  #refusal(status: number, header: (name: string) => string | undefined, url: string, text: string): RbeesError {
    const host = hostOf(url);
    const said = saidBy(text, header("x-error-message"));
    const on_hub = new URL(url).origin === new URL(this.endpoint).origin;
    const page = on_hub ? pageOf(url, this.endpoint) : undefined;
    if (status === 429) {
      const after = retryAfter(header("retry-after"));
      return new Passing(
        "RATE_LIMITED",
        `${host} answers too many requests (429)${said}.`,
        after === undefined ? {} : { retry_after_ms: after },
      );
    }
    if (status >= 500 || status === 408) {
      const after = retryAfter(header("retry-after"));
      return new Passing("UNREACHABLE", `${host} has trouble (${status})${said}.`, after === undefined ? {} : { retry_after_ms: after });
    }
    if (status === 401 && !this.has_token)
      return new RbeesError(
        "UNAUTHORIZED",
        `${host} wants to know who asks (401)${said}. Check the reference; if it is right, the model is private or gated: set HF_TOKEN to a token from ${this.endpoint}/settings/tokens${page === undefined ? "" : `, and accept the licence on ${page}`}.`,
      );
    if (status === 401)
      return new RbeesError(
        "UNAUTHORIZED",
        `${host} does not accept HF_TOKEN (401)${said}. Make a new one at ${this.endpoint}/settings/tokens.`,
      );
    if (status === 403) {
      const gated = header("x-error-code") === "GatedRepo" || /gated|restricted/i.test(text);
      const advice =
        gated && page !== undefined
          ? `Accept the licence on ${page}, then try again${this.has_token ? "" : " with HF_TOKEN set"}.`
          : this.has_token
            ? "HF_TOKEN gives no access to it."
            : "Set HF_TOKEN.";
      return new RbeesError("FORBIDDEN", `${host} does not give this to us (403)${said}. ${advice}`);
    }
    if (status === 404 || status === 410)
      return new RbeesError("NOT_FOUND", `${host} has no such thing (${status})${said}: ${new URL(url).pathname}. Check the reference.`);
    if (status === 416) return new RbeesError("CONFLICT", `${host} says the file is shorter than it was said to be (416).`);
    return new RbeesError("UNREACHABLE", `${host} answers ${status}${said}.`);
  }
}

/** What went wrong with a connection, in words. */
export function brokenConnection(error: unknown, url: string, stall_ms_max: number): Passing {
  const { code = "", message = String(error) } = causeOf(error);
  const why =
    /TIMEOUT/.test(code) && !/CONNECT/.test(code)
      ? `no byte came for ${duration(stall_ms_max)} (--stall-ms-max)`
      : `${message}${code === "" || message.includes(code) ? "" : ` (${code})`}`;
  return new Passing("UNREACHABLE", `The connection to ${hostOf(url)} failed: ${why}.`, { cause: error });
}

function causeOf(error: unknown): { code?: string; message?: string } {
  let at = error as { code?: string; message?: string; cause?: unknown };
  while (at.cause instanceof Error) at = at.cause;
  return at;
}

function final(error: Passing, failed: number): RbeesError {
  const again = error.retry_after_ms === undefined ? "" : ` It asks to wait ${duration(error.retry_after_ms)}.`;
  const tried = failed > 1 ? ` Tried ${failed} times.` : "";
  return new RbeesError(error.code, `${error.message}${tried}${again} What is here already is kept: the same command goes on from there.`, {
    cause: error,
    ...(error.retry_after_ms === undefined ? {} : { retry_after_ms: error.retry_after_ms }),
  });
}

function hostOf(url: string): string {
  return new URL(url).host;
}

/** The model's page on the hub, from any address below it. */
function pageOf(url: string, endpoint: string): string | undefined {
  const [, repo] = /^\/(?:api\/models\/)?([^/]+\/[^/]+)\/(?:resolve|revision|tree)\//.exec(new URL(url).pathname) ?? [];
  return repo === undefined ? undefined : `${endpoint}/${repo}`;
}

/** The server's own words, on one line and without controls. */
function saidBy(text: string, header: string | undefined): string {
  let said = header;
  try {
    const { error } = JSON.parse(text) as { error?: unknown };
    if (typeof error === "string") said = error;
  } catch {
    // Pages and empty answers say nothing.
  }
  if (said === undefined || said === "") return "";
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what must not reach a terminal
  return `: "${said.replace(/[\u0000-\u001f\u007f-\u009f]+/g, " ").slice(0, 200)}"`;
}

/** Seconds or a date, in milliseconds from now. */
export function retryAfter(text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  if (/^\d+$/.test(text.trim())) return Number(text) * 1000;
  const at = Date.parse(text);
  return Number.isNaN(at) ? undefined : Math.max(0, at - Date.now());
}
