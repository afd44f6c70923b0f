/**
 * How fast a worker is, learned from what its attempts took on the orchestrator's own clock. Sums that fade, so that long prompts
 * count for more than short ones, and the worker of an hour ago for less than that of the last minutes.
 */

/** What a sum keeps of itself with each new sample. */
const KEEP = 0.9;

export class Speed {
  #prefill_ms = 0;
  #prefill_tokens = 0;
  #decode_ms = 0;
  #decode_tokens = 0;

  /** `ms` from the dispatch to the first token, in which the worker computed `tokens` prompt tokens: those before it, and its own. */
  learnPrefill(tokens: number, ms: number): void {
    this.#prefill_ms = this.#prefill_ms * KEEP + Math.max(0, ms);
    this.#prefill_tokens = this.#prefill_tokens * KEEP + Math.max(1, tokens);
  }

  /** `ms` from the first token to the last. */
  learnDecode(tokens: number, ms: number): void {
    this.#decode_ms = this.#decode_ms * KEEP + Math.max(0, ms);
    this.#decode_tokens = this.#decode_tokens * KEEP + Math.max(1, tokens);
  }

  /** Milliseconds a prompt token; undefined while nothing was learned. */
  get prefill_ms_per_token(): number | undefined {
    return this.#prefill_tokens > 0 ? this.#prefill_ms / this.#prefill_tokens : undefined;
  }

  /** Milliseconds an output token; undefined while nothing was learned. */
  get decode_ms_per_token(): number | undefined {
    return this.#decode_tokens > 0 ? this.#decode_ms / this.#decode_tokens : undefined;
  }
}
