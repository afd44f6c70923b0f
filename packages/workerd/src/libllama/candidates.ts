/** Tokens among which one is drawn, in memory that llama.cpp's samplers read and write (`llama_token_data_array`). */
import type { Pointer } from "./c-api.ts";
import type { LlamaLibrary } from "./library.ts";

/** `sizeof(llama_token_data)`: its number, its logit, its probability. */
const TOKEN_WORDS = 3;
const ARRAY_BYTES = 32;

export class Candidates {
  readonly #library: LlamaLibrary;
  readonly #data: Pointer;
  /** The same memory twice: numbers of tokens, and logits. */
  readonly #ids: Int32Array;
  readonly #logits: Float32Array;
  /** `data`, `size`, `selected`, `sorted`. */
  readonly #array: BigInt64Array;
  /** What samplers are called with. */
  readonly pointer: Pointer;

  constructor(library: LlamaLibrary, vocabulary: number) {
    const { koffi } = library;
    this.#library = library;
    this.#data = koffi.alloc("uint8_t", 4 * TOKEN_WORDS * vocabulary) as Pointer;
    this.#ids = library.ints(this.#data, TOKEN_WORDS * vocabulary);
    this.#logits = library.floats(this.#data, TOKEN_WORDS * vocabulary);
    this.pointer = koffi.alloc("uint8_t", ARRAY_BYTES) as Pointer;
    this.#array = new BigInt64Array(koffi.view(this.pointer, ARRAY_BYTES));
  }

  /** One token, which is likely. */
  only(token: number): void {
    this.#put(0, token, 0);
    this.#size(1);
  }

  /** All tokens but some. */
  all(logits: Float32Array, but: ReadonlySet<number>): void {
    let count = 0;
    for (let token = 0; token < logits.length; token += 1) {
      if (!but.has(token)) this.#put(count++, token, logits[token] ?? Number.NEGATIVE_INFINITY);
    }
    this.#size(count);
  }

  /** Forgets those that a sampler has ruled out; how many are left. */
  keepPossible(): number {
    const before = Number(this.#array[1]);
    let count = 0;
    for (let at = 0; at < before; at += 1) {
      const logit = this.#logits[TOKEN_WORDS * at + 1] ?? Number.NEGATIVE_INFINITY;
      if (logit !== Number.NEGATIVE_INFINITY) this.#put(count++, this.#ids[TOKEN_WORDS * at] ?? 0, logit);
    }
    this.#size(count);
    return count;
  }

  /** The token that the last sampler of a chain chose. */
  get selected(): number {
    const [data = 0n, size = 0n, selected = -1n] = this.#array;
    if (selected < 0n || selected >= size) throw new Error("the samplers chose no token");
    // Samplers may have put the tokens into memory of their own.
    const at = (data + selected * BigInt(4 * TOKEN_WORDS)) as unknown as Pointer;
    return this.#library.ints(at, 1)[0] ?? -1;
  }

  #put(at: number, token: number, logit: number): void {
    this.#ids[TOKEN_WORDS * at] = token;
    this.#logits[TOKEN_WORDS * at + 1] = logit;
    this.#logits[TOKEN_WORDS * at + 2] = 0;
  }

  #size(count: number): void {
    this.#array[0] = this.#library.koffi.address(this.#data);
    this.#array[1] = BigInt(count);
    this.#array[2] = -1n;
    this.#array[3] = 0n;
  }
}
