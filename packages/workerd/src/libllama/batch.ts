/** A batch of llama.cpp whose arrays can be written from here. */
import type { Batch } from "./c-api.ts";
import type { LlamaLibrary } from "./library.ts";

export class WritableBatch {
  readonly raw: Batch;
  readonly #token: Int32Array;
  readonly #position: Int32Array;
  readonly #sequence: readonly Int32Array[];
  readonly #output: Int8Array;

  constructor(llama: LlamaLibrary, tokens_max: number) {
    this.raw = llama.batch_init(tokens_max, 0, 1);
    this.#token = llama.ints(this.raw.token, tokens_max);
    this.#position = llama.ints(this.raw.pos, tokens_max);
    this.#sequence = llama.pointers(this.raw.seq_id, tokens_max).map((list) => llama.ints(list, 1));
    this.#output = llama.bytes(this.raw.logits, tokens_max);
    // Every token belongs to one sequence.
    llama.ints(this.raw.n_seq_id, tokens_max).fill(1);
  }

  get length(): number {
    return this.raw.n_tokens;
  }

  clear(): void {
    this.raw.n_tokens = 0;
  }

  add(token: number, position: number, sequence: number, output: boolean): void {
    const at = this.raw.n_tokens++;
    const list = this.#sequence[at];
    if (list === undefined) throw new Error("a step has more tokens than the batch has room for");
    list[0] = sequence;
    this.#token[at] = token;
    this.#position[at] = position;
    this.#output[at] = output ? 1 : 0;
  }

  free(llama: LlamaLibrary): void {
    llama.batch_free(this.raw);
  }
}
