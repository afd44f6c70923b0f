/**
 * The bytes each token stands for. Taken from the vocabulary itself, because a detokeniser that is asked token by token drops
 * leading spaces and breaks characters. Mirrors llama.cpp's `llama_vocab::token_to_piece` without special tokens.
 */

/** llama.cpp's `llama_token_type`. */
const KIND = { unknown: 2, control: 3, user_defined: 4, byte: 6 } as const;
const NOTHING = new Uint8Array(0);

export interface Vocabulary {
  /** llama.cpp's name of the tokenizer: `llama` (SentencePiece), `gpt2` (byte-level BPE), `t5`, … */
  model: string;
  tokens: readonly string[];
  kinds: readonly number[];
}

export class TokenBytes {
  readonly #vocabulary: Vocabulary;
  readonly #fallback: (id: number) => string;
  readonly #cache = new Map<number, Uint8Array>();

  /** `fallback` detokenises a single token, for tokenizers whose spelling is not known here. */
  constructor(vocabulary: Vocabulary, fallback: (id: number) => string) {
    this.#vocabulary = vocabulary;
    this.#fallback = fallback;
  }

  of(id: number): Uint8Array {
    const known = this.#cache.get(id);
    if (known !== undefined) return known;
    const bytes = this.#bytes(id);
    this.#cache.set(id, bytes);
    return bytes;
  }

  #bytes(id: number): Uint8Array {
    const { model, tokens, kinds } = this.#vocabulary;
    const text = tokens[id] ?? "";
    const kind = kinds[id];
    if (kind === KIND.unknown || kind === KIND.control) return NOTHING;
    if (kind === KIND.user_defined) return Buffer.from(text, "utf8");
    switch (model) {
      case "gpt2":
        return byteLevel(text);
      case "llama":
      case "t5": {
        const byte = /^<0x([0-9A-Fa-f]{2})>$/.exec(text);
        if (kind === KIND.byte && byte !== null) return Uint8Array.of(Number.parseInt(byte[1] ?? "", 16));
        return Buffer.from(text.replaceAll("▁", " "), "utf8");
      }
      default:
        return Buffer.from(this.#fallback(id), "utf8");
    }
  }
}

/** GPT-2 writes each byte as a printable character; what has no such spelling is text as it is. */
function byteLevel(text: string): Uint8Array {
  const bytes: number[] = [];
  for (const character of text) {
    const byte = BYTE_OF_CHARACTER.get(character);
    if (byte === undefined) return Buffer.from(text, "utf8");
    bytes.push(byte);
  }
  return Uint8Array.from(bytes);
}

const BYTE_OF_CHARACTER: ReadonlyMap<string, number> = (() => {
  const printable = (byte: number) => (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
  const map = new Map<string, number>();
  let next = 256;
  for (let byte = 0; byte < 256; byte++) map.set(String.fromCodePoint(printable(byte) ? byte : next++), byte);
  return map;
})();
