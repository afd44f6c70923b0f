/**
 * What a simulated worker has really kept, block by block, the one unused for longest given up first. The orchestrator has an index
 * of its own that only guesses at this; the two share no code, so that a mistake in one is no truth in the other.
 */
export class BlockCache {
  readonly #capacity: number;
  /** A Set keeps the order of insertion: the oldest is first. */
  readonly #blocks = new Set<number>();

  constructor(capacity: number) {
    this.#capacity = capacity;
  }

  /** How many blocks from the beginning are kept. */
  match(prefix: readonly number[]): number {
    let kept = 0;
    for (const block of prefix) {
      if (!this.#blocks.has(block)) break;
      kept += 1;
    }
    return kept;
  }

  /** The prompt was computed or used. Its end is the older part: without its beginning it would be of no use. */
  keep(prefix: readonly number[]): void {
    for (let at = Math.min(prefix.length, this.#capacity) - 1; at >= 0; at -= 1) {
      const block = prefix[at] as number;
      this.#blocks.delete(block);
      this.#blocks.add(block);
    }
    for (const oldest of this.#blocks) {
      if (this.#blocks.size <= this.#capacity) break;
      this.#blocks.delete(oldest);
    }
  }
}
