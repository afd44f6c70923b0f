/**
 * The bytes of one job's events, for readers who come late, fall behind or resume. They lie in off-heap slabs that are reused,
 * and an event is found again by its end, an empty line: no JavaScript object per token survives a collection (that costs four
 * times the GC time), and a log that is sealed while it is small keeps one small object.
 */

const SLAB_BYTES = 4096;
/** Sealed logs of one slab are packed together into chunks of this size. */
const CHUNK_BYTES = 262_144;
/** About what the objects of a sealed log take: so many ended jobs count too, not only their text. */
const LOG_BYTES = 512;
/** Between events, and nowhere inside one. */
const EVENT_END = "\n\n";

/** A run of bytes that a log holds. */
interface Slab {
  readonly bytes: Buffer;
  readonly begin: number;
  end: number;
  /** The first event that begins in it and where; no event does while `first_id` is 0. */
  first_id: number;
  first_at: number;
}

/** Slabs that no log holds at the moment, ready for the next one; and the chunks of packed logs. */
export class SlabPool {
  readonly #free: Buffer[] = [];
  readonly #kept_max: number;
  #lent = 0;
  #packed_bytes = 0;
  #logs = 0;
  #chunk = Buffer.alloc(0);
  #chunk_used = 0;

  /** `kept_bytes_max`: how much of what comes back is kept for reuse. */
  constructor(kept_bytes_max: number) {
    this.#kept_max = Math.floor(kept_bytes_max / SLAB_BYTES);
  }

  /** What all logs hold, and about what each costs beside its bytes. */
  get lent_bytes(): number {
    return this.#lent * SLAB_BYTES + this.#packed_bytes + this.#logs * LOG_BYTES;
  }

  opened(): void {
    this.#logs += 1;
  }

  closed(): void {
    this.#logs -= 1;
  }

  take(): Slab {
    this.#lent += 1;
    return { bytes: this.#free.pop() ?? Buffer.allocUnsafeSlow(SLAB_BYTES), begin: 0, end: 0, first_id: 0, first_at: 0 };
  }

  giveBack({ bytes, begin, end }: Slab): void {
    if (bytes.length !== SLAB_BYTES) {
      // Logs end and are released in about the same order: a chunk is collected when its last log has gone.
      this.#packed_bytes -= end - begin;
      return;
    }
    this.#lent -= 1;
    if (this.#free.length < this.#kept_max) this.#free.push(bytes);
  }

  /** The same bytes beside those of other logs; the slab goes to the next one. */
  pack(slab: Slab): Slab {
    if (this.#chunk_used + slab.end > this.#chunk.length) {
      this.#chunk = Buffer.allocUnsafeSlow(CHUNK_BYTES);
      this.#chunk_used = 0;
    }
    const begin = this.#chunk_used;
    slab.bytes.copy(this.#chunk, begin, 0, slab.end);
    this.#chunk_used += slab.end;
    this.#packed_bytes += slab.end;
    this.giveBack(slab);
    return { bytes: this.#chunk, begin, end: this.#chunk_used, first_id: slab.first_id, first_at: begin + slab.first_at };
  }
}

const NONE: readonly number[] = [];

export class ReplayLog {
  readonly #pool: SlabPool;
  readonly #bytes_max: number;
  /** How many of its events each earlier life of the job had on disk when it ended. */
  readonly kept: readonly number[];
  #slabs: Slab[] = [];
  #last_id: number;
  #sealed_at_ms: number | undefined;
  #released = false;

  /** `base`: the id before the first event's. `bytes_max`: beyond it the oldest events are dropped. */
  constructor(pool: SlabPool, bytes_max: number, base: number, kept: readonly number[] = NONE) {
    this.#pool = pool;
    this.kept = kept;
    this.#bytes_max = bytes_max;
    this.#last_id = base;
    pool.opened();
  }

  get last_id(): number {
    return this.#last_id;
  }

  /** Id of the oldest event that is still here; one more than `last_id` when none is. */
  get first_id(): number {
    return this.#slabs.find(({ first_id }) => first_id !== 0)?.first_id ?? this.#last_id + 1;
  }

  get released(): boolean {
    return this.#released;
  }

  /** When nothing could be appended any more, milliseconds as `seal` was given them. */
  get sealed_at_ms(): number | undefined {
    return this.#sealed_at_ms;
  }

  /** Appends one event, given as a latin1 string of its bytes: an empty line ends it, and there is none in it. */
  append(latin1: string): void {
    this.#last_id += 1;
    let slab = this.#slabs.at(-1);
    let begins = true;
    for (let written = 0; written < latin1.length; ) {
      if (slab === undefined || slab.end === SLAB_BYTES) {
        slab = this.#pool.take();
        this.#slabs.push(slab);
      }
      if (begins && slab.first_id === 0) {
        slab.first_id = this.#last_id;
        slab.first_at = slab.end;
      }
      begins = false;
      const part = Math.min(latin1.length - written, SLAB_BYTES - slab.end);
      slab.bytes.write(part === latin1.length ? latin1 : latin1.slice(written, written + part), slab.end, "latin1");
      slab.end += part;
      written += part;
    }
    while (this.#slabs.length * SLAB_BYTES > this.#bytes_max) this.#pool.giveBack(this.#slabs.shift() as Slab);
  }

  /** Whole events after `id`, at most `bytes_max` bytes of them (but at least one): their bytes, and the last one's id. */
  read(id: number, bytes_max: number): { latin1: string; last_id: number } {
    if (id >= this.#last_id || this.#released) return { latin1: "", last_id: this.#last_id };
    let next = this.#slabs.findLastIndex(({ first_id }) => first_id !== 0 && first_id <= id + 1);
    const from = this.#slabs[next] as Slab;
    let text = from.bytes.toString("latin1", from.first_at, from.end);
    const endOf = (at: number): number => {
      let end = text.indexOf(EVENT_END, at);
      while (end < 0) {
        next += 1;
        const more = this.#slabs[next] as Slab;
        const searched = Math.max(at, text.length - 1);
        text += more.bytes.toString("latin1", more.begin, more.end);
        end = text.indexOf(EVENT_END, searched);
      }
      return end + EVENT_END.length;
    };
    let begin = 0;
    for (let skipped = from.first_id; skipped <= id; skipped += 1) begin = endOf(begin);
    let last_id = id + 1;
    let end = endOf(begin);
    while (last_id < this.#last_id && end - begin < bytes_max) {
      const further = endOf(end);
      if (further - begin > bytes_max) break;
      end = further;
      last_id += 1;
    }
    return { latin1: text.slice(begin, end), last_id };
  }

  /** Nothing will be appended any more. */
  seal(now_ms: number): void {
    if (this.#sealed_at_ms !== undefined) return;
    this.#sealed_at_ms = now_ms;
    const [only, second] = this.#slabs;
    if (only !== undefined && second === undefined) this.#slabs = [this.#pool.pack(only)];
  }

  /** Gives the slabs back; nothing can be read any more. */
  release(): void {
    if (this.#released) return;
    this.#released = true;
    this.#pool.closed();
    for (const slab of this.#slabs) this.#pool.giveBack(slab);
    this.#slabs = [];
  }
}
