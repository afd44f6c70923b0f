/**
 * Which beginnings of prompts a worker has probably kept: blocks in the order of their last use, the oldest given up first. It is
 * written when a job is sent there, not when the worker says so, and may be wrong: it guides a choice, and nothing depends on it.
 */

/** A block of a prompt, named so that the name covers everything before it too; a small integer. */
export type Block = number;

/** The end of the list, in both directions. */
const END = 0;

export class PrefixIndex {
  /** At most so many blocks. */
  readonly capacity: number;
  readonly #slot_of = new Map<Block, number>();
  /** A ring of slots from the oldest block to the youngest, through `END`. */
  readonly #older: Int32Array;
  readonly #younger: Int32Array;
  readonly #block: Float64Array;

  constructor(capacity: number) {
    this.capacity = Math.max(1, capacity);
    this.#older = new Int32Array(this.capacity + 1);
    this.#younger = new Int32Array(this.capacity + 1);
    this.#block = new Float64Array(this.capacity + 1);
  }

  get size(): number {
    return this.#slot_of.size;
  }

  /** How many blocks from the beginning are kept. Whoever is kept has all before it kept too, so halving finds the last. */
  match(prefix: readonly Block[]): number {
    let kept = 0;
    let beyond = prefix.length;
    while (kept < beyond) {
      const middle = (kept + beyond) >> 1;
      if (this.#slot_of.has(prefix[middle] as Block)) kept = middle + 1;
      else beyond = middle;
    }
    return kept;
  }

  /** The prompt has been sent there. The beginning is touched last, so that ends are given up before beginnings. */
  touch(prefix: readonly Block[]): void {
    for (let at = Math.min(prefix.length, this.capacity) - 1; at >= 0; at -= 1) {
      const block = prefix[at] as Block;
      let slot = this.#slot_of.get(block);
      if (slot === undefined) {
        slot = this.#vacant();
        this.#slot_of.set(block, slot);
        this.#block[slot] = block;
      } else this.#unlink(slot);
      const youngest = this.#older[END] as number;
      this.#younger[youngest] = slot;
      this.#older[slot] = youngest;
      this.#younger[slot] = END;
      this.#older[END] = slot;
    }
  }

  /** A slot of its own while there is room, else that of the oldest block. */
  #vacant(): number {
    if (this.#slot_of.size < this.capacity) return this.#slot_of.size + 1;
    const oldest = this.#younger[END] as number;
    this.#slot_of.delete(this.#block[oldest] as Block);
    this.#unlink(oldest);
    return oldest;
  }

  #unlink(slot: number): void {
    const older = this.#older[slot] as number;
    const younger = this.#younger[slot] as number;
    this.#younger[older] = younger;
    this.#older[younger] = older;
  }
}
