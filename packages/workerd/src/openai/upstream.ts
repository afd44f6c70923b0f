/**
 * The server that an engine of OpenAI's API stands on: what it is asked, what its answers mean. Only what every such server has is used,
 * except for `top_k` and `min_p`, which go along when a job asks for them, and for what it was said to be able to do (`features.ts`).
 */
import { RbeesError } from "@rbees/contracts/errors";
import { readEvents } from "@rbees/contracts/sse";
import type { ToolCallPiece } from "@rbees/contracts/tools";
import { z } from "zod";
import type { EmbedRequest, RunRequest, UpstreamOptions } from "../engine.ts";
import { patientFetch } from "../patient-fetch.ts";
import { bodyOf } from "./asking.ts";
import { featuresOf, SALTED_OWNER, type UpstreamFeature } from "./features.ts";

/** What the server says of its model. */
export interface Looked {
  /** Tokens. */
  context_size: number | undefined;
  features: readonly UpstreamFeature[];
}

const MODELS_MS_MAX = 10_000;
const REASON_CHARS_MAX = 300;

/** vLLM and SGLang say how long a context is, llama-server in its own place; others don't. */
const Models = z.object({
  data: z.array(
    z.object({
      id: z.string(),
      owned_by: z.string().nullish(),
      max_model_len: z.int().positive().nullish(),
      meta: z.object({ n_ctx: z.int().positive().nullish() }).nullish(),
    }),
  ),
});

const CallDelta = z.object({
  index: z.int().nonnegative().default(0),
  id: z.string().nullish(),
  function: z.object({ name: z.string().nullish(), arguments: z.string().nullish() }).nullish(),
});

/** A chunk of either API: of a chat in `delta`, of a completion in `text`. */
const Chunk = z.object({
  choices: z
    .array(
      z.object({
        delta: z
          .object({
            content: z.string().nullish(),
            reasoning_content: z.string().nullish(),
            // As some have it.
            reasoning: z.string().nullish(),
            tool_calls: z.array(CallDelta).nullish(),
          })
          .nullish(),
        text: z.string().nullish(),
        finish_reason: z.string().nullish(),
      }),
    )
    .default([]),
  usage: z
    .object({
      prompt_tokens: z.int().nonnegative(),
      completion_tokens: z.int().nonnegative(),
      prompt_tokens_details: z.object({ cached_tokens: z.int().nonnegative().nullish() }).nullish(),
    })
    .nullish(),
  error: z.object({ message: z.string().nullish() }).nullish(),
});
export type Usage = NonNullable<z.infer<typeof Chunk>["usage"]>;

const Vectors = z.object({
  data: z.array(z.object({ index: z.int().nonnegative(), embedding: z.array(z.number()) })),
  usage: z.object({ prompt_tokens: z.int().nonnegative() }).nullish(),
});

/** What a chunk brought. */
export interface Piece {
  text: string;
  reasoning: string;
  calls: ToolCallPiece[];
  /** `length`, or another word for complete. */
  finish_reason?: string;
  usage?: Usage;
}

export class Upstream {
  readonly #options: UpstreamOptions;
  #salted = false;

  constructor(options: UpstreamOptions) {
    this.#options = { ...options, url: options.url.replace(/\/+$/, "") };
  }

  /** For people. */
  get name(): string {
    return URL.parse(this.#options.url)?.host ?? this.#options.url;
  }

  /** That the server is there and has the model. */
  async look(): Promise<Looked> {
    const { url, model, features } = this.#options;
    const answer = await this.#ask("/models", { signal: AbortSignal.timeout(MODELS_MS_MAX) });
    if (!answer.ok) throw await this.#refusal(answer);
    const listed = Models.safeParse(await answer.json().catch(() => undefined));
    if (!listed.success) throw failed(`${url}/models does not answer as OpenAI's API does. Is --engine-url right? It usually ends in /v1`);
    const found = listed.data.data.find(({ id }) => id === model);
    const others = listed.data.data.map(({ id }) => id).join(", ");
    if (found === undefined) throw failed(`${url} has no model "${model}"; it has: ${others === "" ? "none" : others}`);
    this.#salted = found.owned_by === SALTED_OWNER;
    const context_size = found.max_model_len ?? found.meta?.n_ctx ?? undefined;
    return { context_size, features: featuresOf(features, found.owned_by ?? undefined) };
  }

  /** Begins an answer; what refuses it is thrown before there is a stream. */
  async begin(request: RunRequest, max_tokens: number | undefined, signal: AbortSignal): Promise<AsyncGenerator<Piece>> {
    const { cache_salt } = request;
    const body = { ...bodyOf(request, this.#options.model, max_tokens), ...(this.#salted ? { cache_salt } : {}) };
    const answer = await this.#ask(request.raw ? "/completions" : "/chat/completions", {
      method: "POST",
      headers: { "content-type": "application/json", accept: "text/event-stream" },
      body: JSON.stringify(body),
      signal,
    });
    if (!answer.ok || answer.body === null) throw await this.#refusal(answer);
    return pieces(answer.body as unknown as AsyncIterable<Uint8Array>);
  }

  /** The vectors of these inputs, in their order, and the tokens that they had, where the server counts. */
  async vectors(inputs: EmbedRequest["inputs"], signal: AbortSignal): Promise<{ vectors: Float32Array[]; tokens_in: number | undefined }> {
    const body = { model: this.#options.model, input: inputs, encoding_format: "float" };
    const headers = { "content-type": "application/json" };
    const answer = await this.#ask("/embeddings", { method: "POST", headers, body: JSON.stringify(body), signal });
    if (!answer.ok) throw await this.#refusal(answer);
    const { data, usage } = Vectors.parse(await answer.json());
    const vectors = inputs.map((_, i) => data.find(({ index }) => index === i)?.embedding);
    if (vectors.some((vector) => vector === undefined)) throw failed(`${this.name} left out the vectors of some inputs`);
    return { vectors: vectors.map((vector) => Float32Array.from(vector ?? [])), tokens_in: usage?.prompt_tokens };
  }

  async #ask(path: string, { headers, ...init }: RequestInit): Promise<Response> {
    const { url, key } = this.#options;
    const authorization: Record<string, string> = key === undefined ? {} : { authorization: `Bearer ${key}` };
    const asking = () => patientFetch(url + path, { ...init, headers: { ...(headers as Record<string, string>), ...authorization } });
    try {
      // A server closes connections that nothing was asked on for a while, and may just do so when something is.
      return await asking().catch((error: unknown) => (wasClosed(error) && !init.signal?.aborted ? asking() : Promise.reject(error)));
    } catch (error) {
      if (init.signal?.aborted && (init.signal.reason as Error | undefined)?.name !== "TimeoutError") throw error;
      throw failed(`${url} does not answer (${reasonOf(error)})`);
    }
  }

  async #refusal(answer: Response): Promise<RbeesError> {
    const { url, key } = this.#options;
    const text = await answer.text().catch(() => "");
    const said = messageIn(text);
    switch (answer.status) {
      case 401:
      case 403:
        return failed(
          `${url} ${key === undefined ? "asks for a key: name a file with it, --engine-key-file" : `does not accept the key (${answer.status})`}`,
        );
      case 404:
        return failed(`${url} does not know the model or the address (404)${said}`);
      case 429:
      case 503:
        return new RbeesError("ALL_SLOTS_BUSY", `The server at ${url} takes no more requests now (${answer.status})${said}`);
      case 400:
      case 413:
      case 422:
        return new RbeesError(
          tooLong(text) ? "CONTEXT_TOO_LARGE" : "INVALID_REQUEST",
          `The server at ${this.name} does not take the request${said}`,
        );
      default:
        return failed(`${url} failed (${answer.status})${said}`);
    }
  }
}

async function* pieces(body: AsyncIterable<Uint8Array>): AsyncGenerator<Piece> {
  for await (const { data } of readEvents(body)) {
    if (data === "[DONE]") return;
    const { choices, usage, error } = Chunk.parse(JSON.parse(data));
    if (error) throw new Error(error.message ?? "no reason given");
    const [choice] = choices;
    const { content, reasoning_content, reasoning, tool_calls } = choice?.delta ?? {};
    yield {
      text: content ?? choice?.text ?? "",
      reasoning: reasoning_content ?? reasoning ?? "",
      calls: (tool_calls ?? []).map(pieceOf),
      ...(choice?.finish_reason ? { finish_reason: choice.finish_reason } : {}),
      ...(usage ? { usage } : {}),
    };
  }
}

function pieceOf({ index, id, function: called }: z.infer<typeof CallDelta>): ToolCallPiece {
  const { name, arguments: more } = called ?? {};
  return { index, ...(id ? { id } : {}), ...(name ? { name } : {}), arguments: more ?? "" };
}

const CLOSED: ReadonlySet<unknown> = new Set(["ECONNRESET", "EPIPE", "UND_ERR_SOCKET"]);

function wasClosed(error: unknown): boolean {
  return CLOSED.has((error as { cause?: { code?: unknown } }).cause?.code);
}

export function failed(message: string): RbeesError {
  return new RbeesError("ENGINE_FAILED", `${message}.`);
}

export function reasonOf(error: unknown): string {
  const { message = String(error), cause } = error as Error;
  return cause instanceof Error && cause.message !== "" ? cause.message : message;
}

/** As vLLM and SGLang say it, OpenAI (`context_length_exceeded`), llama-server (`exceed_context_size_error`). */
function tooLong(text: string): boolean {
  return /context.?length|exceed_context_size/i.test(text);
}

/** The body's own words. It may quote the prompt nowhere but there, and is cut. */
function messageIn(text: string): string {
  let message: unknown;
  try {
    const body = JSON.parse(text) as { error?: { message?: unknown } | string; message?: unknown };
    message = typeof body.error === "object" ? body.error.message : (body.error ?? body.message);
  } catch {
    message = undefined;
  }
  return typeof message === "string" && message !== "" ? `: ${message.slice(0, REASON_CHARS_MAX)}` : "";
}
