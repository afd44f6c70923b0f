/**
 * The engine port on a server that speaks OpenAI's API: vLLM, SGLang, TGI, Ollama, LM Studio, another rbees. It owns the answers under
 * way and nothing else; the server computes, with its own batching, templates and tokenizer.
 *
 * Such a server does not say which tokens an answer has: each piece of text counts as one until the end, and an answer can't be gone on
 * with elsewhere, which the digest of its model says (`EXTERNAL_DIGEST`).
 */
import { RbeesError } from "@rbees/contracts/errors";
import type { ToolCallPiece } from "@rbees/contracts/tools";
import { Answer } from "../answer.ts";
import type {
  EmbedRequest,
  Engine,
  EngineEvents,
  EngineOptions,
  ModelFacts,
  RunAccepted,
  RunEnd,
  RunRequest,
  StepReport,
  TokenReport,
} from "../engine.ts";
import { unit } from "../llama/pooling.ts";
import { failed, type Piece, reasonOf, Upstream, type Usage } from "./upstream.ts";

/** What each piece's token is called: its number is not known. */
const UNKNOWN_TOKEN = 0;
/** Bytes of text that make about a token, where the server has not counted. */
const BYTES_A_TOKEN = 4;
/** What a chat template puts around a message is taken to be no more than this. */
const TOKENS_AROUND = 32;
/** So many inputs are asked for at once: some servers take no more. */
const INPUTS_MAX = 32;

export class OpenaiEngine implements Engine {
  #upstream: Upstream | undefined;
  #events: EngineEvents | undefined;
  #context_size = 0;
  #slots = 0;
  readonly #running = new Map<number, AbortController>();

  async load({ upstream, context_size, slots }: EngineOptions, events: EngineEvents): Promise<ModelFacts> {
    if (upstream === undefined) throw new RbeesError("INVALID_REQUEST", "engine-url: is required with --engine openai");
    const server = new Upstream(upstream);
    const { context_size: said, features } = await server.look();
    if (said === undefined && context_size === 0)
      throw failed(`${server.name} does not say how long the context of "${upstream.model}" is: say so with --ctx`);
    this.#context_size = context_size === 0 ? (said ?? 0) : Math.min(context_size, said ?? context_size);
    this.#upstream = server;
    this.#events = events;
    this.#slots = slots;
    events.progress(1);
    return {
      vocab_size: 0,
      context_size: this.#context_size,
      has_chat_template: true,
      device: server.name,
      vram_bytes: 0,
      engine: { name: "openai", version: "" },
      features,
    };
  }

  async start(id: number, request: RunRequest): Promise<RunAccepted> {
    const upstream = this.#upstream;
    if (upstream === undefined) throw new Error("no server is known");
    if (request.continue_tokens.length > 0)
      throw new RbeesError("INVALID_REQUEST", "continue_from: this worker's engine can't go on in the middle of an answer", {
        param: "continue_from",
      });
    if (this.#running.size >= this.#slots) throw new RbeesError("ALL_SLOTS_BUSY", "Every slot of the engine is busy.");
    const tokens_in = estimated(request);
    const max_tokens = tokensAsked(request, this.#context_size);
    const cut_at = max_tokens === undefined ? request.max_tokens : Number.POSITIVE_INFINITY;
    const abort = new AbortController();
    this.#running.set(id, abort);
    try {
      const pieces = await upstream.begin(request, max_tokens, abort.signal);
      void this.#follow(id, abort, pieces, new Progress(id, request, { tokens_in, cut_at }));
    } catch (error) {
      this.#running.delete(id);
      // It was aborted before the server had answered: that it is over is told as ever.
      if (!abort.signal.aborted) throw error;
      queueMicrotask(() => this.#report({ ...new Progress(id, request, { tokens_in, cut_at }).report(0), aborted: true }));
    }
    return { slot: 0, tokens_in, tokens_cached: 0 };
  }

  /** The server is asked for some at a time. That it takes none of them is heard at once. */
  async embed(id: number, { inputs, truncate }: EmbedRequest): Promise<{ tokens_in: number }> {
    const upstream = this.#upstream;
    if (upstream === undefined) throw new Error("no server is known");
    if (truncate)
      throw new RbeesError("INVALID_REQUEST", "truncate: the API of the server that this worker stands on has no word for it", {
        param: "truncate",
      });
    const abort = new AbortController();
    this.#running.set(id, abort);
    const began_ms = performance.now();
    const report = { run: id, tokens_out: 0, generated: 0, decode_ms: 0 };
    const ask = (from: number) => upstream.vectors(inputs.slice(from, from + INPUTS_MAX), abort.signal);
    const first = await ask(0).catch((error: unknown) => {
      if (abort.signal.aborted) return undefined;
      this.#running.delete(id);
      throw error;
    });
    const follow = async () => {
      let tokens_in = 0;
      for (let from = 0; from < inputs.length; from += INPUTS_MAX) {
        const told = from === 0 ? first : await ask(from);
        if (told === undefined) throw new Error("it was aborted");
        tokens_in += told.tokens_in ?? bytesOf(inputs.slice(from, from + INPUTS_MAX));
        const embeddings = told.vectors.map((vector, i) => ({ i: from + i, v: base64(unit(vector)) }));
        const timings = { prefill_ms: performance.now() - began_ms, decode_ms: 0 };
        const end = { stop_reason: "EMBEDDED", tokens_in, tokens_out: 0, tokens_cached: 0, timings } as const;
        if (from + INPUTS_MAX < inputs.length) this.#report({ ...report, embeddings });
        else this.#over(id, abort, { ...report, embeddings, end });
      }
    };
    queueMicrotask(() => {
      follow().catch((error: unknown) => {
        this.#over(id, abort, abort.signal.aborted ? { ...report, aborted: true } : { ...report, error: broken(reasonOf(error)) });
      });
    });
    return { tokens_in: first?.tokens_in ?? bytesOf(inputs) };
  }

  async tokenize(): Promise<never> {
    throw new RbeesError(
      "INVALID_REQUEST",
      "This worker counts no tokens: the server that its engine stands on does not tell which they are.",
    );
  }

  abort(id: number): void {
    this.#running.get(id)?.abort();
  }

  async #follow(id: number, abort: AbortController, pieces: AsyncGenerator<Piece>, progress: Progress): Promise<void> {
    try {
      for await (const piece of pieces) {
        const report = progress.took(piece);
        if (report?.end !== undefined) return this.#over(id, abort, report);
        if (report !== undefined) this.#report(report);
        if (progress.full) break;
      }
      this.#over(id, abort, progress.complete() ?? { ...progress.report(0), error: broken("it ended without saying why") });
    } catch (error) {
      const report = progress.report(0);
      this.#over(id, abort, abort.signal.aborted ? { ...report, aborted: true } : { ...report, error: broken(reasonOf(error)) });
    }
  }

  /** The slot is free before anybody hears that the answer is over; the server need not go on with it. */
  #over(id: number, abort: AbortController, report: StepReport): void {
    this.#running.delete(id);
    abort.abort();
    this.#report(report);
  }

  #report(report: StepReport): void {
    this.#events?.step([report]);
  }
}

function broken(reason: string) {
  return { code: "ENGINE_FAILED" as const, message: `The stream of the server that computes broke: ${reason.slice(0, 300)}.` };
}

/** An answer under way. */
class Progress {
  readonly #id: number;
  readonly #answer: Answer;
  /** Thinking is told, apart from the text. */
  readonly #apart: boolean;
  /** Said beside text that may turn out to be a stop string: it waits with that. */
  #thought = "";
  readonly #calls: ToolCallPiece[] = [];
  readonly #tokens_in: number;
  readonly #cut_at: number;
  readonly #began_ms = performance.now();
  #first_ms: number | undefined;
  #usage: Usage | undefined;
  /** The answer is complete; what is still to come is what it cost. */
  #reason: "EOS" | "MAX_TOKENS" | undefined;

  /** `cut_at`: the answer is over after so many tokens, whatever the server would say more. */
  constructor(id: number, { stop, separate_reasoning = false }: RunRequest, { tokens_in, cut_at }: { tokens_in: number; cut_at: number }) {
    this.#id = id;
    this.#cut_at = cut_at;
    this.#apart = separate_reasoning;
    this.#answer = new Answer(stop);
    this.#tokens_in = tokens_in;
  }

  /** Undefined: nothing that anybody has to hear. */
  took({ text, reasoning: thought, calls, finish_reason, usage }: Piece): StepReport | undefined {
    this.#usage = usage ?? this.#usage;
    if (finish_reason !== undefined) this.#reason = finish_reason === "length" ? "MAX_TOKENS" : "EOS";
    const thinking = this.#apart ? thought : "";
    if (text === "" && thinking === "" && calls.length === 0) return undefined;
    this.#first_ms ??= performance.now();
    this.#thought += thinking;
    this.#calls.push(...calls);
    const token = this.#told(this.#answer.push(UNKNOWN_TOKEN, Buffer.from(text)));
    return this.report(1, token, this.#answer.stop === undefined ? undefined : "STOP_SEQUENCE");
  }

  /** It has all tokens that it may have. */
  get full(): boolean {
    return this.#answer.tokens >= this.#cut_at;
  }

  /** With what else was said until then. */
  #told(token: TokenReport | undefined): TokenReport | undefined {
    if (token === undefined) return undefined;
    const reasoning = this.#thought;
    const tool_calls = this.#calls.splice(0);
    this.#thought = "";
    return { ...(reasoning === "" ? {} : { reasoning }), ...(tool_calls.length === 0 ? {} : { tool_calls }), ...token };
  }

  /** The stream is over; undefined when the answer was not. */
  complete(): StepReport | undefined {
    const reason = this.#reason ?? (this.full ? "MAX_TOKENS" : undefined);
    if (reason === undefined) return undefined;
    const rest = this.#told(this.#answer.finish());
    return this.report(0, rest, this.#answer.stop === undefined ? reason : "STOP_SEQUENCE");
  }

  report(generated: number, token?: TokenReport, end?: RunEnd["stop_reason"] | undefined): StepReport {
    const { tokens } = this.#answer;
    const now = performance.now();
    const decode_ms = this.#first_ms === undefined ? 0 : now - this.#first_ms;
    return {
      run: this.#id,
      tokens_out: tokens,
      generated,
      decode_ms,
      ...(token === undefined ? {} : { token }),
      ...(end === undefined ? {} : { end: this.#end(end, decode_ms, now) }),
    };
  }

  #end(stop_reason: RunEnd["stop_reason"], decode_ms: number, now: number): RunEnd {
    const { stop, tokens } = this.#answer;
    return {
      stop_reason,
      ...(stop === undefined ? {} : { stop }),
      // A server that was stopped early has not said what it counted.
      tokens_in: this.#usage?.prompt_tokens ?? this.#tokens_in,
      tokens_out: this.#usage?.completion_tokens ?? tokens,
      tokens_cached: this.#usage?.prompt_tokens_details?.cached_tokens ?? 0,
      timings: { prefill_ms: (this.#first_ms ?? now) - this.#began_ms, decode_ms },
    };
  }
}

/** Tokens of inputs that the server has not counted. */
function bytesOf(inputs: EmbedRequest["inputs"]): number {
  return inputs.reduce(
    (sum, input) => sum + (typeof input === "string" ? Math.ceil(Buffer.byteLength(input) / BYTES_A_TOKEN) : input.length),
    0,
  );
}

function base64({ buffer, byteOffset, byteLength }: Float32Array): string {
  return Buffer.from(buffer, byteOffset, byteLength).toString("base64");
}

/**
 * `max_tokens` for the server. Undefined: as many as its context has room for, where a chat may have fewer than it names. How many those
 * are only the server knows, since it counts the prompt, and one more than there is room for would be refused.
 */
function tokensAsked(request: RunRequest, context_size: number): number | undefined {
  const { max_tokens, fit_context, raw, messages = [] } = request;
  // No token is of less than a byte, and each message has some of its own around it.
  const at_most = bytesAsked(request) + (messages.length + 1) * TOKENS_AROUND;
  if (!fit_context || at_most + max_tokens <= context_size) return max_tokens;
  if (!raw) return undefined;
  // A text that is continued gets few tokens where nobody says how many.
  const room = context_size - (at_most < context_size ? at_most : estimated(request));
  return Math.max(1, Math.min(max_tokens, room));
}

/** Prompt tokens by the length of the text. */
function estimated(request: RunRequest): number {
  return Math.ceil(bytesAsked(request) / BYTES_A_TOKEN);
}

function bytesAsked({ prompt = "", messages = [] }: RunRequest): number {
  return messages.reduce((sum, { content }) => sum + Buffer.byteLength(content), Buffer.byteLength(prompt));
}
