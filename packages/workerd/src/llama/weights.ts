/**
 * What is added to the logits of tokens: what the request says of them, less what is taken off for what the answer has said. Only the
 * answer counts, not its prompt; of an answer that is continued the tokens that were sent count too.
 */
import { REPEAT_LAST_N } from "@rbees/contracts/sets";
import type { RunRequest } from "../engine.ts";
import type { Repeats } from "./model.ts";

export class Weights {
  readonly #frequency: number;
  readonly #presence: number;
  readonly #seen = new Set<number>();
  readonly #bias: Map<number, number>;

  private constructor({ frequency_penalty = 0, presence_penalty = 0, logit_bias = {}, continue_tokens }: RunRequest) {
    this.#frequency = frequency_penalty;
    this.#presence = presence_penalty;
    this.#bias = new Map(Object.entries(logit_bias).map(([token, bias]) => [Number(token), bias]));
    for (const token of continue_tokens) this.said(token);
  }

  /** Undefined when the request weighs nothing. */
  static of(request: RunRequest): Weights | undefined {
    const { frequency_penalty = 0, presence_penalty = 0, logit_bias = {} } = request;
    return frequency_penalty === 0 && presence_penalty === 0 && Object.keys(logit_bias).length === 0 ? undefined : new Weights(request);
  }

  get bias(): ReadonlyMap<number, number> {
    return this.#bias;
  }

  /** The answer goes on with it. */
  said(token: number): void {
    if (this.#frequency === 0 && this.#presence === 0) return;
    const once = this.#seen.has(token) ? 0 : this.#presence;
    this.#seen.add(token);
    this.#bias.set(token, (this.#bias.get(token) ?? 0) - this.#frequency - once);
  }
}

/** The tokens that came last, of prompt and answer, which are made less likely by a factor: llama.cpp's `repeat_penalty`. */
export class RepeatWindow implements Repeats {
  readonly penalty: number;
  readonly #last: number[];
  readonly #length: number;
  readonly #counts = new Map<number, number>();

  private constructor(penalty: number, length: number, last: readonly number[]) {
    this.penalty = penalty;
    this.#length = length;
    this.#last = [...last];
    for (const token of last) this.#count(token, 1);
  }

  /** `before`: the prompt, and the tokens of the answer that is continued. Undefined when nothing is to be made less likely. */
  static of({ repeat_penalty = 1, repeat_last_n = REPEAT_LAST_N }: RunRequest, before: readonly number[]): RepeatWindow | undefined {
    if (repeat_penalty === 1 || repeat_last_n === 0) return undefined;
    const length = repeat_last_n < 0 ? Number.POSITIVE_INFINITY : repeat_last_n;
    return new RepeatWindow(repeat_penalty, length, before.slice(-length));
  }

  get tokens(): ReadonlyMap<number, number> {
    return this.#counts;
  }

  /** The answer goes on with it. */
  said(token: number): void {
    this.#last.push(token);
    this.#count(token, 1);
    if (this.#last.length > this.#length) this.#count(this.#last.shift() as number, -1);
  }

  #count(token: number, more: number): void {
    const count = (this.#counts.get(token) ?? 0) + more;
    if (count === 0) this.#counts.delete(token);
    else this.#counts.set(token, count);
  }
}
