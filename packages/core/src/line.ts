/** Those that wait in one line, first come first served; any of them may leave it. Constant time for each act. */

/** It remembers its place; kept by the line. */
export interface Waiting {
  number_in_line: number;
}

/** So many gone from the front are worth closing up. */
const CLOSE_UP = 1024;

export class Line<T extends Waiting> {
  /** Those that have left are undefined. */
  #waiting: (T | undefined)[] = [];
  /** The number of the first element; numbers count up for as long as the line lives, and each remembers its own. */
  #base = 0;
  #head = 0;
  #size = 0;

  get size(): number {
    return this.#size;
  }

  /** Whose turn it is. */
  get first(): T | undefined {
    return this.#waiting[this.#head];
  }

  push(one: T): void {
    one.number_in_line = this.#base + this.#waiting.length;
    this.#waiting.push(one);
    this.#size += 1;
  }

  /** True when it stood here. */
  remove(one: T): boolean {
    const at = one.number_in_line - this.#base;
    if (this.#waiting[at] !== one) return false;
    this.#waiting[at] = undefined;
    this.#size -= 1;
    while (this.#head < this.#waiting.length && this.#waiting[this.#head] === undefined) this.#head += 1;
    if (this.#head === this.#waiting.length || (this.#head >= CLOSE_UP && this.#head * 2 > this.#waiting.length)) {
      this.#base += this.#head;
      this.#waiting = this.#waiting.slice(this.#head);
      this.#head = 0;
    }
    return true;
  }

  /** In order; they may leave meanwhile. */
  *[Symbol.iterator](): Generator<T> {
    for (let number = this.#base + this.#head; number < this.#base + this.#waiting.length; number += 1) {
      const one = this.#waiting[number - this.#base];
      if (one !== undefined) yield one;
    }
  }
}
