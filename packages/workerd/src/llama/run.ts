/** One run on llama.cpp: where it stands between two steps, and what a sampled token makes of it. */

import { RbeesError } from "@rbees/contracts/errors";
import { mustCall } from "@rbees/contracts/tools";
import { Answer } from "../answer.ts";
import { marksIn, type Reading } from "../chat/reading.ts";
import { Spoken } from "../chat/spoken.ts";
import type { RunEnd, RunRequest, StepReport, TokenReport } from "../engine.ts";
import { GuessRate } from "./guesses.ts";
import type { Drawn, GrammarState, Sampling, SpokenModel } from "./model.ts";
import type { FoundPrefix } from "./prefix-cache.ts";
import { type PrefixKind, prefixKind } from "./prefix-kind.ts";
import type { Prompt } from "./prompt.ts";
import { RepeatWindow, Weights } from "./weights.ts";

/** What a request leaves open; llama.cpp's own defaults. */
const DEFAULTS = { top_k: 40, top_p: 0.95, min_p: 0 } as const;

export class Run {
  readonly id: number;
  readonly slot: number;
  readonly tokens_in: number;
  /** The LoRA adapter through which it is computed. */
  readonly lora: string | undefined;
  readonly kind: PrefixKind;
  tokens_cached: number;
  readonly answer: Answer;
  /** Where more is told apart in the answer than its text. */
  readonly #spoken: Spoken | undefined;
  /** Marks of that which are special tokens, and have no text otherwise. */
  readonly #marks: ReadonlyMap<number, Uint8Array>;
  /** Prompt and continued tokens, then nothing: what is still to be computed begins at `done`. */
  readonly prompt: readonly number[];
  readonly #request: RunRequest;
  readonly #grammar: GrammarState | undefined;
  readonly #weights: Weights | undefined;
  readonly #repeats: RepeatWindow | undefined;
  readonly #sampling: Sampling;
  readonly #started_ms = performance.now();
  #first_token_ms: number | undefined;
  /** Tokens of `prompt` whose state the slot holds. */
  done: number;
  /** The token to compute next, once the prompt is done. */
  last: number | undefined;
  aborted = false;
  /** The slot was cut back to the kept tokens. */
  prepared = false;
  /** What the cache holds of the prompt, until it is used or not. */
  found: FoundPrefix | undefined;
  /** Of what is guessed of its answer. */
  readonly guesses = new GuessRate();
  /** A part of the prompt was computed, or is about to be. */
  begun = false;

  constructor(id: number, request: RunRequest, model: SpokenModel, prompt: Prompt, choice: { slot: number; cached: number }) {
    const { tokens } = prompt;
    // What a grammar allows is the text, whatever it looks like.
    const reading = request.grammar === undefined || mustCall(request.tool_choice) ? prompt.reading : undefined;
    this.id = id;
    this.slot = choice.slot;
    this.lora = request.lora;
    this.kind = prefixKind(request);
    this.#request = request;
    this.prompt = [...tokens, ...request.continue_tokens];
    this.tokens_in = tokens.length;
    this.tokens_cached = Math.min(choice.cached, tokens.length);
    this.done = choice.cached;
    this.answer = new Answer(request.stop);
    this.#grammar = grammarOf(request, model);
    this.#weights = Weights.of(request);
    this.#repeats = RepeatWindow.of(request, this.prompt);
    this.#sampling = samplingOf(request, this.#weights, this.#repeats, this.#grammar);
    this.#marks = reading === undefined ? NO_MARKS : markTokens(reading, model);
    this.#spoken = reading === undefined ? undefined : new Spoken(reading, request.job_id ?? String(request.seed), request.logprobs);
    for (const token of request.continue_tokens) {
      const text = this.answer.continued(token, this.#bytes(token, model));
      this.#spoken?.continued(text);
    }
    if (request.continue_tokens.length > 0) this.#spoken?.resumed();
  }

  #bytes(token: number, model: SpokenModel): Uint8Array {
    return this.#marks.get(token) ?? model.bytes.of(token);
  }

  get prefilling(): boolean {
    return this.done < this.prompt.length;
  }

  /** The slot took over the state of the first `count` tokens. */
  adopted(count: number): void {
    this.done = count;
    this.tokens_cached = Math.min(count, this.tokens_in);
  }

  /** How many tokens it may say beside the next one. */
  get room(): number {
    return this.#request.max_tokens - this.answer.tokens - 1;
  }

  get decode_ms(): number {
    return this.#first_token_ms === undefined ? 0 : performance.now() - this.#first_token_ms;
  }

  /**
   * How the next token is drawn: the same object each time. The seed depends on the position, not on what was drawn before: so an answer
   * that another worker continues is the one that this worker would have given.
   */
  get sampling(): Sampling {
    this.#sampling.seed = positionSeed(this.#request.seed, this.answer.tokens);
    return this.#sampling;
  }

  /** Whether it is over before it begins: the continued tokens already hold a stop string or all tokens allowed. */
  get over(): RunEnd | undefined {
    if (this.answer.stop !== undefined) return this.#end("STOP_SEQUENCE");
    if (this.#spoken?.over === true) return this.#end("EOS");
    return this.answer.tokens >= this.#request.max_tokens ? this.#end("MAX_TOKENS") : undefined;
  }

  /** A token was drawn. The end-of-answer token has no text and is not counted. */
  took({ token, logprob }: Drawn, model: SpokenModel): StepReport {
    this.#first_token_ms ??= performance.now();
    if (token === undefined) return this.#stuck(model);
    this.#weights?.said(token);
    this.#repeats?.said(token);
    this.last = token;
    if (model.ends(token)) return this.report(1, this.answer.finish(), "EOS");
    const text = this.answer.push(token, this.#bytes(token, model), logprob);
    if (this.answer.stop !== undefined) return this.report(1, text, "STOP_SEQUENCE");
    if (this.answer.tokens < this.#request.max_tokens) return this.report(1, text);
    return this.report(1, joined(text, this.answer.finish()), "MAX_TOKENS");
  }

  /** The answer is over, one way or another. */
  release(): void {
    this.#grammar?.release();
  }

  /** Where the vocabulary has no token that ends an answer, a grammar that allows no more is how one ends. */
  #stuck({ has_end }: SpokenModel): StepReport {
    if (!has_end) return this.report(0, this.answer.finish(), "EOS");
    return {
      ...this.report(0),
      error: { code: "INVALID_REQUEST", message: "grammar: no token of the model's vocabulary goes on as it wants" },
    };
  }

  report(generated: number, more?: TokenReport, end?: RunEnd["stop_reason"]): StepReport {
    const token = this.#spoken === undefined ? more : this.#spoken.push(more, end !== undefined);
    // Text held back to the last may turn out to hold a stop string.
    const found = end !== undefined && this.answer.stop !== undefined ? "STOP_SEQUENCE" : end;
    const reason = found ?? (this.#spoken?.over === true ? "EOS" : undefined);
    const report: StepReport = { run: this.id, tokens_out: this.answer.tokens, generated, decode_ms: this.decode_ms };
    if (token !== undefined) report.token = token;
    if (reason !== undefined) report.end = this.#end(reason);
    return report;
  }

  #end(stop_reason: RunEnd["stop_reason"]): RunEnd {
    const { tokens_in, tokens_cached, decode_ms } = this;
    const prefill_ms = (this.#first_token_ms ?? performance.now()) - this.#started_ms;
    return {
      stop_reason,
      ...(this.answer.stop === undefined ? {} : { stop: this.answer.stop }),
      tokens_in,
      tokens_out: this.answer.tokens,
      tokens_cached,
      timings: { prefill_ms, decode_ms },
    };
  }
}

function samplingOf(
  { temperature, top_k, top_p, min_p, seed, logprobs }: RunRequest,
  weights: Weights | undefined,
  repeats: RepeatWindow | undefined,
  grammar: GrammarState | undefined,
): Sampling {
  return {
    temperature,
    topK: top_k ?? DEFAULTS.top_k,
    topP: top_p ?? DEFAULTS.top_p,
    minP: min_p ?? DEFAULTS.min_p,
    seed,
    ...(weights === undefined ? {} : { bias: weights.bias }),
    ...(repeats === undefined ? {} : { repeats }),
    ...(grammar === undefined ? {} : { grammar }),
    ...(logprobs === undefined ? {} : { logprobs }),
  };
}

const NO_MARKS: ReadonlyMap<number, Uint8Array> = new Map();

/** The special tokens among the marks that the answer is read by, with their text. */
function markTokens(reading: Reading, { prompt, bytes }: SpokenModel): ReadonlyMap<number, Uint8Array> {
  return new Map(
    marksIn(reading).flatMap((mark) => {
      const [token, more] = prompt.tokenize(mark, true);
      const is_special = token !== undefined && more === undefined && bytes.of(token).length === 0;
      return is_special ? [[token, Buffer.from(mark, "utf8")] as const] : [];
    }),
  );
}

function joined(a: TokenReport | undefined, b: TokenReport | undefined): TokenReport | undefined {
  if (a === undefined || b === undefined) return a ?? b;
  const logprobs = [...(a.logprobs ?? []), ...(b.logprobs ?? [])];
  return { ...(logprobs.length === 0 ? {} : { logprobs }), t: a.t + b.t, i: a.i, ids: [...a.ids, ...b.ids] };
}

/** The grammar, as far as the tokens that are continued have come in it. */
function grammarOf({ grammar: text, continue_tokens }: RunRequest, model: SpokenModel): GrammarState | undefined {
  if (text === undefined) return undefined;
  const grammar = model.grammar(text);
  for (const [i, token] of continue_tokens.entries()) {
    if (grammar.allows(token)) grammar.accept(token);
    else {
      grammar.release();
      const message = `continue_from.tokens: the grammar does not allow number ${i} of them`;
      throw new RbeesError("INVALID_REQUEST", message, { param: "continue_from.tokens" });
    }
  }
  return grammar;
}

/** A well mixed 31-bit number of seed and position (the finaliser of MurmurHash3). All ones would mean "random" to llama.cpp. */
export function positionSeed(seed: number, position: number): number {
  let mixed = (seed ^ Math.imul(position + 1, 0x9e3779b9)) >>> 0;
  mixed = Math.imul(mixed ^ (mixed >>> 16), 0x85ebca6b);
  mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35);
  return (mixed ^ (mixed >>> 16)) >>> 1;
}
