/**
 * How fast a worker computes prompts, learned from what its attempts took on the orchestrator's own clock. Sums that fade, so that long
 * prompts count for more than short ones, and the worker of an hour ago for less than that of the last minutes.
 */

/** What a sum keeps of itself with each new sample. */
const KEEP = 0.9;

export class Speed {
  #ms = 0;
  #tokens = 0;

  /** `ms` from the dispatch to the first token, in which the worker computed `tokens` prompt tokens: those before it, and its own. */
  learnPrefill(tokens: number, ms: number): void {
    this.#ms = this.#ms * KEEP + Math.max(0, ms);
    this.#tokens = this.#tokens * KEEP + Math.max(1, tokens);
  }

  /** Undefined while nothing was learned. */
  get prefill_ms_per_token(): number | undefined {
    return this.#tokens > 0 ? this.#ms / this.#tokens : undefined;
  }
}
