/** Text to tokens and tokens to bytes, as llama.cpp has it. */
import type { PromptModel } from "../llama/prompt.ts";
import type { LlamaFunctions, Pointer } from "./c-api.ts";

/** Longer than nearly every token's text; what is longer is asked for again. */
const PIECE_BYTES = 64;
/** Text before another one, so that the tokenizer puts no space at the beginning of that. */
const MARKS = ["\n", "a", "1"];

export class Tokenizer {
  readonly #llama: LlamaFunctions;
  readonly #vocab: Pointer;
  readonly #bytes = new Map<number, Uint8Array>();

  constructor(llama: LlamaFunctions, vocab: Pointer) {
    this.#llama = llama;
    this.#vocab = vocab;
  }

  /** The bytes a token stands for; none for a special token. */
  of(id: number): Uint8Array {
    const known = this.#bytes.get(id);
    if (known !== undefined) return known;
    const bytes = this.#piece(id, PIECE_BYTES);
    this.#bytes.set(id, bytes);
    return bytes;
  }

  readonly tokenize: PromptModel["tokenize"] = (text, special, continues = false) => {
    if (text === "") return [];
    const plain = this.#tokens(text, special);
    if (!continues) return plain;
    for (const mark of MARKS) {
      const before = this.#tokens(mark, special);
      const both = this.#tokens(mark + text, special);
      // Where mark and text grew together into one token, another mark is tried.
      if (before.every((token, i) => both[i] === token)) return both.slice(before.length);
    }
    return plain;
  };

  /** With what the model wants around a text (`[CLS] … [SEP]`, say), in which nothing is special. */
  around(text: string): number[] {
    return this.#tokens(text, false, true);
  }

  #tokens(text: string, special: boolean, add_special = false): number[] {
    const bytes = Buffer.from(text, "utf8");
    // A token has a byte at least; a space may come before the first, and something before and behind all.
    const tokens = new Int32Array(bytes.length + 4);
    const count = this.#llama.tokenize(this.#vocab, bytes, bytes.length, tokens, tokens.length, add_special, special);
    if (count < 0) throw new Error(`${bytes.length} bytes of text gave ${-count} tokens`);
    return [...tokens.subarray(0, count)];
  }

  #piece(id: number, room: number): Uint8Array {
    const bytes = new Uint8Array(room);
    const length = this.#llama.token_to_piece(this.#vocab, id, bytes, room, 0, false);
    return length < 0 ? this.#piece(id, -length) : bytes.slice(0, length);
  }
}
