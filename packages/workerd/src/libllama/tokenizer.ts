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
  #aside: Promise<unknown> = Promise.resolve();

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

  /** After those that were asked for before: answers shall not wait for more than one core. */
  readonly tokenizeAside = (text: string, special: boolean, continues: boolean): Promise<number[]> =>
    this.#inTurn(() => this.#tokenizeAside(text, special, continues));

  #inTurn(make: () => Promise<number[]>): Promise<number[]> {
    const tokens = this.#aside.then(make);
    this.#aside = tokens.catch(() => {});
    return tokens;
  }

  async #tokenizeAside(text: string, special: boolean, continues: boolean): Promise<number[]> {
    if (!continues) return await this.#tokensAside(text, special);
    for (const mark of MARKS) {
      const before = this.#tokens(mark, special);
      const both = await this.#tokensAside(mark + text, special);
      if (before.every((token, i) => both[i] === token)) return both.slice(before.length);
    }
    return await this.#tokensAside(text, special);
  }

  /** With what the model wants around a text (`[CLS] … [SEP]`, say), in which nothing is special. */
  around(text: string): number[] {
    return this.#tokens(text, false, true);
  }

  aroundAside(text: string): Promise<number[]> {
    return this.#inTurn(() => this.#tokensAside(text, false, true));
  }

  #tokens(text: string, special: boolean, add_special = false): number[] {
    const { bytes, tokens } = roomFor(text);
    return taken(tokens, this.#llama.tokenize(this.#vocab, bytes, bytes.length, tokens, tokens.length, add_special, special));
  }

  async #tokensAside(text: string, special: boolean, add_special = false): Promise<number[]> {
    const { bytes, tokens } = roomFor(text);
    const count = await new Promise<number>((resolve, reject) => {
      const made = (error: Error | null, found: number) => (error === null ? resolve(found) : reject(error));
      this.#llama.tokenize.async(this.#vocab, bytes, bytes.length, tokens, tokens.length, add_special, special, made);
    });
    return taken(tokens, count);
  }

  #piece(id: number, room: number): Uint8Array {
    const bytes = new Uint8Array(room);
    const length = this.#llama.token_to_piece(this.#vocab, id, bytes, room, 0, false);
    return length < 0 ? this.#piece(id, -length) : bytes.slice(0, length);
  }
}

/** A token has a byte at least; a space may come before the first, and something before and behind all. */
function roomFor(text: string): { bytes: Buffer; tokens: Int32Array } {
  const bytes = Buffer.from(text, "utf8");
  return { bytes, tokens: new Int32Array(bytes.length + 4) };
}

function taken(tokens: Int32Array, count: number): number[] {
  if (count < 0) throw new Error(`a text gave ${-count} tokens, and there was room for ${tokens.length}`);
  return Array.from(tokens.subarray(0, count));
}
