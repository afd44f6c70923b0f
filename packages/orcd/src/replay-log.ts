/**
 * The bytes of one job's events, for readers who come late, fall behind or resume. Off-heap slabs that are reused, plus one
 * offset an event: no JavaScript object per token survives a collection (that costs four times the GC time).
 */

const SLAB_BYTES = 4096;
/** Objects and offsets of a small log: so many ended jobs count too, not only their text. */
const LOG_BYTES = 2048;

/** Slabs that no log holds at the moment, ready for the next one. */
export class SlabPool {
  readonly #free: Buffer[] = [];
  readonly #kept_max: number;
  #lent = 0;
  #sealed_bytes = 0;
  #logs = 0;

  /** `kept_bytes_max`: how much of what comes back is kept for reuse. */
  constructor(kept_bytes_max: number) {
    this.#kept_max = Math.floor(kept_bytes_max / SLAB_BYTES);
  }

  /** What all logs hold, and about what each costs beside its bytes. */
  get lent_bytes(): number {
    return this.#lent * SLAB_BYTES + this.#sealed_bytes + this.#logs * LOG_BYTES;
  }

  opened(): void {
    this.#logs += 1;
  }

  closed(): void {
    this.#logs -= 1;
  }

  /** A log that will not grow keeps exactly its bytes, and the slab goes to the next one. */
  seal(slab: Buffer, bytes: number): Buffer {
    const exact = Buffer.allocUnsafeSlow(bytes);
    slab.copy(exact, 0, 0, bytes);
    this.giveBack([slab]);
    this.#sealed_bytes += bytes;
    return exact;
  }

  unseal(bytes: number): void {
    this.#sealed_bytes -= bytes;
  }

  take(): Buffer {
    this.#lent += 1;
    return this.#free.pop() ?? Buffer.allocUnsafeSlow(SLAB_BYTES);
  }

  giveBack(slabs: Buffer[]): void {
    this.#lent -= slabs.length;
    for (const slab of slabs) if (this.#free.length < this.#kept_max) this.#free.push(slab);
  }
}

export class ReplayLog {
  readonly #pool: SlabPool;
  readonly #bytes_max: number;
  readonly #base: number;
  #slabs: Buffer[] = [];
  /** Slabs that were dropped from the front. */
  #dropped = 0;
  /** Where each event begins, counted from the first byte ever appended. */
  #offsets = new Float64Array(64);
  #events = 0;
  #bytes = 0;
  #released = false;
  /** Bytes in the last slab once it is sealed. */
  #sealed_bytes = 0;

  /** `base`: the id before the first event's. `bytes_max`: beyond it the oldest events are dropped. */
  constructor(pool: SlabPool, bytes_max: number, base: number) {
    this.#pool = pool;
    this.#bytes_max = bytes_max;
    this.#base = base;
    pool.opened();
  }

  get last_id(): number {
    return this.#base + this.#events;
  }

  /** Id of the oldest event that is still here; one more than `last_id` when none is. */
  get first_id(): number {
    const from = this.#dropped * SLAB_BYTES;
    let low = 0;
    let high = this.#events;
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((this.#offsets[middle] ?? 0) < from) low = middle + 1;
      else high = middle;
    }
    return this.#base + low + 1;
  }

  /** Appends one event, given as a latin1 string of its bytes. */
  append(latin1: string): void {
    if (this.#events === this.#offsets.length) {
      const grown = new Float64Array(this.#offsets.length * 2);
      grown.set(this.#offsets);
      this.#offsets = grown;
    }
    this.#offsets[this.#events] = this.#bytes;
    this.#events += 1;
    let written = 0;
    while (written < latin1.length) {
      const at = this.#bytes % SLAB_BYTES;
      if (at === 0) this.#slabs.push(this.#pool.take());
      const slab = this.#slabs[this.#slabs.length - 1] as Buffer;
      const part = written === 0 && latin1.length <= SLAB_BYTES - at ? latin1 : latin1.slice(written, written + SLAB_BYTES - at);
      slab.write(part, at, "latin1");
      written += part.length;
      this.#bytes += part.length;
    }
    while (this.#slabs.length * SLAB_BYTES > this.#bytes_max) {
      this.#pool.giveBack(this.#slabs.splice(0, 1));
      this.#dropped += 1;
    }
  }

  /** Whole events after `id`, at most about `bytes_max` bytes of them (at least one): their bytes, and the last one's id. */
  read(id: number, bytes_max: number): { latin1: string; last_id: number } {
    const first = id - this.#base;
    if (first >= this.#events) return { latin1: "", last_id: this.last_id };
    const from = this.#offsets[first] as number;
    let last = first + 1;
    while (last < this.#events && (this.#offsets[last + 1] ?? this.#bytes) - from <= bytes_max) last += 1;
    const to = last < this.#events ? (this.#offsets[last] as number) : this.#bytes;
    return { latin1: this.#slice(from, to), last_id: this.#base + last };
  }

  #slice(from: number, to: number): string {
    const parts: string[] = [];
    for (let at = from; at < to; ) {
      const slab = this.#slabs[Math.floor(at / SLAB_BYTES) - this.#dropped] as Buffer;
      const start = at % SLAB_BYTES;
      const end = Math.min(SLAB_BYTES, start + (to - at));
      parts.push(slab.toString("latin1", start, end));
      at += end - start;
    }
    return parts.join("");
  }

  /** Nothing will be appended any more: what the last slab has left is given back. */
  seal(): void {
    const last = this.#slabs.length - 1;
    const slab = this.#slabs[last];
    if (slab === undefined || this.#sealed_bytes > 0) return;
    this.#sealed_bytes = this.#bytes - (this.#dropped + last) * SLAB_BYTES;
    this.#slabs[last] = this.#pool.seal(slab, this.#sealed_bytes);
    this.#offsets = this.#offsets.slice(0, this.#events);
  }

  /** Gives the slabs back; nothing can be read any more. */
  release(): void {
    if (this.#released) return;
    this.#released = true;
    this.#pool.closed();
    if (this.#sealed_bytes > 0) {
      this.#slabs.pop();
      this.#dropped += 1;
      this.#pool.unseal(this.#sealed_bytes);
    }
    this.#pool.giveBack(this.#slabs);
    this.#dropped += this.#slabs.length;
    this.#slabs = [];
    this.#bytes = this.#dropped * SLAB_BYTES;
  }
}
