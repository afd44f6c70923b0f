/**
 * A Map for what comes and goes all the time. V8 links the table that a Map has outgrown to the next one; once a full collection
 * has made one of them old, every later one is held until the next full collection, with all that was ever in it: each job
 * that ended meanwhile would be copied twice. Here only the keys are held so: what is deleted is let go of at once.
 */
export class LiveMap<V> {
  readonly #boxes = new Map<string, { value: V | undefined }>();

  get size(): number {
    return this.#boxes.size;
  }

  has(key: string): boolean {
    return this.#boxes.has(key);
  }

  get(key: string): V | undefined {
    return this.#boxes.get(key)?.value;
  }

  set(key: string, value: V): void {
    const box = this.#boxes.get(key);
    if (box === undefined) this.#boxes.set(key, { value });
    else box.value = value;
  }

  /** True when it was there. */
  delete(key: string): boolean {
    const box = this.#boxes.get(key);
    if (box === undefined) return false;
    box.value = undefined;
    return this.#boxes.delete(key);
  }

  /** In the order in which the keys were first set; entries may be deleted meanwhile. */
  *values(): Generator<V> {
    for (const { value } of this.#boxes.values()) if (value !== undefined) yield value;
  }
}
