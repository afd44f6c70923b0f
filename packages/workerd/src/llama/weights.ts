/**
 * What is added to the logits of tokens: what the request says of them, less what is taken off for what the answer has said. Only the
 * answer counts, not its prompt; of an answer that is continued the tokens that were sent count too.
 */
import type { RunRequest } from "../engine.ts";

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
