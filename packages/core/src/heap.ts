interface Item<T> {
  readonly value: T;
  key: number;
  tie: number;
}

/**
 * A binary heap: the smallest key is taken first, of equal ones the one with the smallest `tie`, which is the order of pushing unless
 * told otherwise. Push and take in logarithmic time.
 */
export class Heap<T> {
  #items: Item<T>[] = [];
  #pushed = 0;

  get size(): number {
    return this.#items.length;
  }

  /** What `take` would return. */
  get first(): { readonly value: T; readonly key: number; readonly tie: number } | undefined {
    return this.#items[0];
  }

  /** The first one gets another key, and goes where that belongs: less work than to take and push it. */
  renewFirst(key: number, tie = this.#pushed): void {
    const first = this.#items[0];
    if (first === undefined) return;
    this.#pushed += 1;
    first.key = key;
    first.tie = tie;
    this.#sink(first);
  }

  push(value: T, key: number, tie = this.#pushed): void {
    const items = this.#items;
    this.#pushed += 1;
    const item = { value, key, tie };
    let at = items.length;
    items.push(item);
    while (at > 0) {
      const above = (at - 1) >> 1;
      const parent = items[above] as Item<T>;
      if (before(parent, item)) break;
      items[at] = parent;
      at = above;
    }
    items[at] = item;
  }

  /** Lets go of the others; sorts what is left. */
  keep(wanted: (value: T) => boolean): void {
    // A sorted array is a heap.
    this.#items = this.#items.filter(({ value }) => wanted(value)).sort((one, other) => (before(one, other) ? -1 : 1));
  }

  take(): { readonly value: T; readonly key: number } | undefined {
    const items = this.#items;
    const first = items[0];
    const last = items.pop();
    if (first === undefined || last === undefined || items.length === 0) return first;
    this.#sink(last);
    return first;
  }

  /** Puts it where it belongs, from the top down; the top is free, or its own. */
  #sink(item: Item<T>): void {
    const items = this.#items;
    let at = 0;
    for (;;) {
      let below = 2 * at + 1;
      let child = items[below];
      if (child === undefined) break;
      const right = items[below + 1];
      if (right !== undefined && before(right, child)) {
        child = right;
        below += 1;
      }
      if (before(item, child)) break;
      items[at] = child;
      at = below;
    }
    items[at] = item;
  }
}

function before(one: Item<unknown>, other: Item<unknown>): boolean {
  return one.key < other.key || (one.key === other.key && one.tie < other.tie);
}
