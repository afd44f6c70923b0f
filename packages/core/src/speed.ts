/**
 * How fast a worker computes prompts, learned from what its attempts took on the orchestrator's own clock. Sums that fade, so that long
 * prompts count for more than short ones, and the worker of an hour ago for less than that of the last minutes.
 */

/** What a sum keeps of itself with each new sample. */
const KEEP = 0.9;
/** After so long without a sample what is known of a worker counts for half, and that it is like the others for the other half. */
const HALF_LIFE_MS = 600_000;

export class Speed {
  #ms = 0;
  #tokens = 0;
  #learned_at_ms = 0;

  /** `ms` from the dispatch to the first token, in which the worker computed `tokens` prompt tokens: those before it, and its own. */
  learnPrefill(tokens: number, ms: number, now_ms: number): void {
    this.#ms = this.#ms * KEEP + Math.max(0, ms);
    this.#tokens = this.#tokens * KEEP + Math.max(1, tokens);
    this.#learned_at_ms = now_ms;
  }

  /** Undefined while nothing was learned. */
  get prefill_ms_per_token(): number | undefined {
    return this.#tokens > 0 ? this.#ms / this.#tokens : undefined;
  }

  /**
   * What one prompt token probably takes now, when it is `others` elsewhere: a worker that was slow once and got nothing since would
   * never be measured again, and never be found to be faster now.
   */
  prefillMs(others: number, now_ms: number): number {
    const own = this.prefill_ms_per_token;
    if (own === undefined) return others;
    const known = 2 ** (-Math.max(0, now_ms - this.#learned_at_ms) / HALF_LIFE_MS);
    return own * known + others * (1 - known);
  }
}
