/**
 * Makes vectors on a context of its own beside the one that generates: of the same weights, made when the first input comes, and made
 * larger when a longer one does.
 *
 * - A model that reads a text from both sides (BERT and its like) computes it at once; llama.cpp pools as the model's header says, the
 *   mean where it says nothing.
 * - A model that reads from left to right computes it in pieces, as a prompt. Where the header says nothing of pooling, or says "last",
 *   the state after the last token is the vector, since no other has seen the whole text. (So does Ollama; llama-server asks to be told.)
 */
import { RbeesError } from "@rbees/contracts/errors";
import type { Gguf } from "@rbees/kit/gguf";
import type { EngineOptions } from "../engine.ts";
import type { Embedder } from "../llama/embeddings.ts";
import { Complaints } from "../llama/model.ts";
import { contextFor, isWhole, POOLING, readsFromBothSides, saidPooling, unit, wholeTokensMax } from "../llama/pooling.ts";
import { WritableBatch } from "./batch.ts";
import { FLASH_ATTENTION, type Pointer } from "./c-api.ts";
import type { LlamaLibrary } from "./library.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** So many inputs go through the model together, if they are this short together. */
const INPUTS_MAX = 32;
const STEP_TOKENS = 512;

export interface EmbedderParts {
  readonly llama: LlamaLibrary;
  readonly model: Pointer;
  readonly tokenizer: Tokenizer;
  readonly gguf: Gguf;
  readonly options: EngineOptions;
  readonly vocab_size: number;
  /** The model reads a text from both sides and keeps no state. */
  readonly stateless: boolean;
}

/** A context, its batch, and how long an input may be on it. */
interface Made {
  readonly context: Pointer;
  readonly memory: Pointer | null;
  readonly batch: WritableBatch;
  readonly tokens: number;
}

export class LibllamaEmbedder implements Embedder {
  readonly #parts: EmbedderParts;
  /** All of an input goes through the model at once. */
  readonly #whole: boolean;
  readonly #pooling: number;
  readonly #dimensions: number;
  readonly context_size: number;
  readonly last: number | undefined;
  #made: Made | undefined;

  constructor(parts: EmbedderParts) {
    const { llama, model, gguf, options, vocab_size, stateless, tokenizer } = parts;
    this.#parts = parts;
    const said = saidPooling(gguf);
    const from_both_sides = stateless || readsFromBothSides(gguf);
    this.#whole = isWhole(gguf, from_both_sides);
    this.#pooling = said !== POOLING.none ? said : from_both_sides ? POOLING.mean : POOLING.last;
    this.#dimensions = llama.model_n_embd_out(model);
    const room = this.#whole && !stateless ? wholeTokensMax(vocab_size) : options.context_size;
    this.context_size = Math.min(options.context_size, room);
    const [empty, some] = [tokenizer.around(""), tokenizer.around("a")];
    this.last = empty.length > 0 && some.at(-1) === empty.at(-1) ? empty.at(-1) : undefined;
  }

  get vocab_size(): number {
    return this.#parts.vocab_size;
  }

  tokenize(text: string): number[] {
    return this.#parts.tokenizer.around(text);
  }

  tokenizeAside(text: string): Promise<number[]> {
    return this.#parts.tokenizer.aroundAside(text);
  }

  together(inputs: readonly (readonly number[])[]): number {
    let tokens = inputs[0]?.length ?? 0;
    let count = 1;
    while (count < Math.min(inputs.length, INPUTS_MAX) && tokens + (inputs[count]?.length ?? 0) <= STEP_TOKENS) {
      tokens += inputs[count]?.length ?? 0;
      count += 1;
    }
    return count;
  }

  embed(inputs: readonly (readonly number[])[]): Iterator<void, Float32Array[]> {
    const made = this.#contextFor(inputs.reduce((sum, { length }) => sum + length, 0));
    if (made.memory !== null) this.#parts.llama.memory_clear(made.memory, false);
    return this.#whole ? this.#atOnce(made, inputs) : this.#inPieces(made, inputs);
  }

  /** Makes the vector of one token: whether numbers came out. */
  computesNumbers(token: number): boolean {
    const pieces = this.embed([[token]]);
    for (;;) {
      const { done, value } = pieces.next();
      if (done === true) return value.every((vector) => vector.every(Number.isFinite));
    }
  }

  *#atOnce({ context, memory, batch }: Made, inputs: readonly (readonly number[])[]): Iterator<void, Float32Array[]> {
    const { llama } = this.#parts;
    batch.clear();
    for (const [sequence, tokens] of inputs.entries())
      for (const [position, token] of tokens.entries()) batch.add(token, position, sequence, true);
    this.#check(memory === null ? llama.encode(context, batch.raw) : llama.decode(context, batch.raw), batch);
    return inputs.map((_, sequence) => this.#vector(llama.get_embeddings_seq(context, sequence)));
  }

  *#inPieces({ context, batch }: Made, inputs: readonly (readonly number[])[]): Iterator<void, Float32Array[]> {
    const { llama, options } = this.#parts;
    const decode = () => this.#check(llama.decode(context, batch.raw), batch);
    batch.clear();
    for (const [sequence, tokens] of inputs.entries()) {
      for (const [position, token] of tokens.slice(0, -1).entries()) {
        batch.add(token, position, sequence, false);
        if (batch.length < options.prefill_chunk_tokens) continue;
        decode();
        batch.clear();
        yield;
      }
    }
    if (batch.length > 0) {
      decode();
      yield;
    }
    // Only here: where vectors are asked for, llama.cpp computes the logits of every token too.
    this.#vectorsAreAsked(context, true);
    batch.clear();
    for (const [sequence, tokens] of inputs.entries()) batch.add(tokens.at(-1) as number, tokens.length - 1, sequence, true);
    decode();
    this.#vectorsAreAsked(context, false);
    return inputs.map((_, at) => this.#vector(llama.get_embeddings_ith(context, at)));
  }

  /** llama.cpp would say each time in its log that it was told. */
  #vectorsAreAsked(context: Pointer, asked: boolean): void {
    const { llama } = this.#parts;
    llama.hearErrors(() => {});
    llama.set_embeddings(context, asked);
    llama.hearErrors(undefined);
  }

  #check(failed: number, { length }: WritableBatch): void {
    if (failed !== 0) throw new Error(`llama.cpp could not compute the vectors of ${length} tokens (it gave ${failed})`);
  }

  /** A copy, one long. */
  #vector(at: Pointer | null): Float32Array {
    if (at === null) throw new Error("llama.cpp has no vector of an input that it has computed");
    return unit(Float32Array.from(this.#parts.llama.floats(at, this.#dimensions)));
  }

  #contextFor(tokens: number): Made {
    if (this.#made !== undefined && this.#made.tokens >= tokens) return this.#made;
    const { llama, options } = this.#parts;
    const size = contextFor(tokens, this.context_size);
    this.#checkMemory(size);
    if (this.#made !== undefined) {
      this.#made.batch.free(llama);
      llama.free(this.#made.context);
      this.#made = undefined;
    }
    const rows = this.#whole ? size : Math.max(options.prefill_chunk_tokens, INPUTS_MAX);
    const complaints = new Complaints();
    llama.hearErrors((line) => complaints.add(line));
    const context = llama.init_from_model(this.#parts.model, {
      ...llama.context_default_params(),
      n_ctx: size,
      n_batch: rows,
      n_ubatch: rows,
      n_seq_max: INPUTS_MAX,
      n_outputs_max: this.#whole ? rows : INPUTS_MAX,
      n_threads: options.threads,
      n_threads_batch: options.threads,
      pooling_type: this.#whole ? this.#pooling : POOLING.none,
      flash_attn_type: options.deterministic ? FLASH_ATTENTION.off : FLASH_ATTENTION.auto,
      embeddings: this.#whole,
      no_perf: true,
      // The inputs share the cells: how many there are differs from step to step.
      kv_unified: true,
    });
    llama.hearErrors(undefined);
    if (context === null) throw tooLarge(size, complaints.lines.join("; ") || "none could be made");
    this.#made = { context, memory: llama.get_memory(context), batch: new WritableBatch(llama, rows), tokens: size };
    return this.#made;
  }

  /** Memory is promised to whoever asks and missing only when it is used: then a process dies of it. */
  #checkMemory(size: number): void {
    const { gguf, stateless, options, vocab_size } = this.#parts;
    const parameter = (name: string) => gguf.parameter(name) ?? 0;
    const width = parameter("embedding_length");
    const heads = Math.max(1, parameter("attention.head_count"));
    const heads_kv = gguf.parameter("attention.head_count_kv") ?? heads;
    const lengths = (gguf.parameter("attention.key_length") ?? width / heads) + (gguf.parameter("attention.value_length") ?? width / heads);
    const kept = stateless ? 0 : parameter("block_count") * size * heads_kv * lengths * 2;
    const rows = this.#whole ? size : options.prefill_chunk_tokens;
    const logits = stateless ? 0 : (this.#whole ? rows : INPUTS_MAX) * vocab_size;
    const scores = options.deterministic ? rows * heads * size : 0;
    const needed = kept + 4 * (rows * (8 * width + 3 * parameter("feed_forward_length")) + logits + scores);
    const free = process.availableMemory();
    if (needed > free) throw tooLarge(size, `it needs about ${needed} bytes, and ${free} are free`);
  }
}

function tooLarge(tokens: number, why: string): RbeesError {
  return new RbeesError("INSUFFICIENT_MEMORY", `There is no memory for a context of ${tokens} tokens for embeddings: ${why}.`);
}
