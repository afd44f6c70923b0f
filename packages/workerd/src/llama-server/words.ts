/**
 * The words of a model's file, for what the server does not say: the bytes of a token, which texts are special tokens, and which tokens a
 * character was made of whose tokens came without a text.
 */
import { RbeesError } from "@rbees/contracts/errors";
import { type Gguf, readGguf } from "@rbees/kit/gguf";
import type { PromptModel } from "../llama/prompt.ts";
import { TokenBytes } from "../llama/vocabulary.ts";

/** llama.cpp's `llama_token_type`. */
const KIND = { unknown: 2, control: 3, user_defined: 4 } as const;
/** Stands for tokens whose number nobody asks for. */
const SOME = [-1, -1];

export class Words {
  readonly gguf: Gguf;
  readonly count: number;
  readonly bytes: TokenBytes;
  readonly #kinds: readonly number[];
  readonly #special: ReadonlyMap<string, number>;
  readonly #marks: RegExp | undefined;
  #parts: Map<string, number> | undefined;

  private constructor(gguf: Gguf, tokens: readonly string[], kinds: readonly number[]) {
    this.gguf = gguf;
    this.count = tokens.length;
    this.#kinds = kinds;
    const model = gguf.text("tokenizer.ggml.model") ?? "";
    this.bytes = new TokenBytes({ model, tokens, kinds }, (id) => (tokens[id] ?? "").replaceAll("▁", " "));
    const special = tokens.flatMap((text, id) => (kinds[id] === KIND.control || kinds[id] === KIND.unknown ? [[text, id] as const] : []));
    this.#special = new Map(special.filter(([text]) => text !== ""));
    const texts = [...this.#special.keys()]
      .sort((a, b) => b.length - a.length)
      .map((text) => text.replace(/[.*+?^${}()|[\]\\]/g, String.raw`\$&`));
    this.#marks = texts.length === 0 ? undefined : new RegExp(`(${texts.join("|")})`);
  }

  static async of(path: string): Promise<Words> {
    const gguf = await readGguf(path, { arrays: true });
    const tokens = gguf.array("tokenizer.ggml.tokens")?.values as readonly string[] | undefined;
    if (tokens === undefined) throw new RbeesError("INVALID_REQUEST", `${path} has no vocabulary`);
    return new Words(gguf, tokens, (gguf.array("tokenizer.ggml.token_type")?.values ?? []) as readonly number[]);
  }

  /** A token that may end the answer, and then is no text of it. */
  isMark(id: number): boolean {
    const kind = this.#kinds[id];
    return kind === KIND.control || kind === KIND.unknown || kind === KIND.user_defined;
  }

  /** Special tokens but for those that the file says end an answer. */
  get noText(): number[] {
    const ends = new Set(["eos", "eot", "eom"].map((name) => this.gguf.number(`tokenizer.ggml.${name}_token_id`)));
    return [...this.#special.values()].filter((id) => !ends.has(id));
  }

  /** As far as anybody asks without the server: which special tokens are in a text. */
  readonly marksIn: PromptModel["tokenize"] = (text, special) => {
    if (text === "") return [];
    if (!special || this.#marks === undefined) return SOME;
    return text.split(this.#marks).flatMap((part) => (part === "" ? [] : (this.#special.get(part) ?? SOME)));
  };

  /** Tokens that have these bytes together: as many as that, if there are so many, else one for each byte. */
  spelling(bytes: Uint8Array, count: number): number[] {
    return this.#spelling(bytes, count) ?? this.#spelling(bytes, bytes.length) ?? [];
  }

  #spelling(bytes: Uint8Array, count: number): number[] | undefined {
    this.#parts ??= this.#partsOfCharacters();
    if (count <= 1) {
      const whole = count === 1 ? this.#parts.get(key(bytes)) : undefined;
      return whole === undefined ? (bytes.length === 0 && count === 0 ? [] : undefined) : [whole];
    }
    for (let length = bytes.length - count + 1; length > 0; length -= 1) {
      const first = this.#parts.get(key(bytes.subarray(0, length)));
      const rest = first === undefined ? undefined : this.#spelling(bytes.subarray(length), count - 1);
      if (first !== undefined && rest !== undefined) return [first, ...rest];
    }
    return undefined;
  }

  /** Every token that is not whole characters, by its bytes. */
  #partsOfCharacters(): Map<string, number> {
    const parts = new Map<string, number>();
    for (let id = 0; id < this.count; id += 1) {
      const bytes = this.bytes.of(id);
      if (bytes.some((byte) => byte >= 0x80) && !isWhole(bytes)) parts.set(key(bytes), id);
    }
    return parts;
  }
}

const key = (bytes: Uint8Array) => Buffer.from(bytes).toString("latin1");
const strict = new TextDecoder("utf-8", { fatal: true });

function isWhole(bytes: Uint8Array): boolean {
  try {
    strict.decode(bytes);
    return true;
  } catch {
    return false;
  }
}
