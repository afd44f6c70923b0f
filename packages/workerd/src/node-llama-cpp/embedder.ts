/**
 * Makes vectors on a context of its own beside the one that generates, made when the first input comes and made larger when a longer one
 * does. The binding gives out the vector of one input at a time, so they go through the model one after the other; llama.cpp pools as the
 * model's header says.
 */
import { RbeesError } from "@rbees/contracts/errors";
import type { Gguf } from "@rbees/kit/gguf";
import type { LlamaContext, LlamaContextOptions, LlamaModel, Token } from "node-llama-cpp";
import type { EngineOptions } from "../engine.ts";
import type { Embedder } from "../llama/embeddings.ts";
import { contextFor, isWhole, POOLING, readsFromBothSides, saidPooling, unit, wholeTokensMax, whyNoVectors } from "../llama/pooling.ts";
import { Binding } from "./binding.ts";

/** The only sequence of its context. */
const SEQUENCE = 0;

/** Why it makes no vectors of this model; undefined when it does. */
export function whyNone(gguf: Gguf): string | undefined {
  if (readsFromBothSides(gguf) && saidPooling(gguf) === POOLING.none)
    return "its header does not say how the states of its tokens become one vector, and node-llama-cpp can't be told; --engine libllama takes their mean";
  return whyNoVectors(gguf);
}

export class BindingEmbedder implements Embedder {
  readonly #model: LlamaModel;
  readonly #options: EngineOptions;
  /** All of an input goes through the model at once. */
  readonly #whole: boolean;
  readonly context_size: number;
  readonly vocab_size: number;
  readonly last: number | undefined;
  #context: { context: LlamaContext; tokens: number } | undefined;

  constructor(model: LlamaModel, gguf: Gguf, options: EngineOptions, vocab_size: number) {
    this.#model = model;
    this.#options = options;
    const from_both_sides = readsFromBothSides(gguf);
    this.#whole = isWhole(gguf, from_both_sides);
    const room = this.#whole && !from_both_sides ? wholeTokensMax(vocab_size) : options.context_size;
    this.context_size = Math.min(options.context_size, room);
    this.vocab_size = vocab_size;
    this.last = this.#around.last;
  }

  /** What the model wants around a text, as llama.cpp's tokenizer puts it there. */
  get #around(): { first: Token | undefined; last: Token | undefined } {
    const { tokens, vocabularyType } = this.#model;
    switch (String(vocabularyType)) {
      case "rwkv":
        return { first: undefined, last: undefined };
      case "wpm":
        return { first: tokens.bos ?? undefined, last: tokens.sep ?? undefined };
      default:
        return {
          first: tokens.shouldPrependBosToken ? (tokens.bos ?? undefined) : undefined,
          last: tokens.shouldAppendEosToken ? (tokens.eos ?? undefined) : undefined,
        };
    }
  }

  tokenize(text: string): number[] {
    const { first, last } = this.#around;
    const tokens = this.#model.tokenize(text, false);
    return [...(first === undefined ? [] : [first]), ...tokens, ...(last === undefined ? [] : [last])];
  }

  together(): number {
    return 1;
  }

  async *embed([tokens = []]: readonly (readonly number[])[]): AsyncIterator<void, Float32Array[]> {
    const context = Binding.context(await this.#contextFor(tokens.length));
    context.disposeSequence(SEQUENCE);
    const step = this.#whole ? tokens.length : this.#options.prefill_chunk_tokens;
    for (let at = 0; at < tokens.length; at += step) {
      if (at > 0) yield;
      const part = Uint32Array.from(tokens.slice(at, at + step));
      context.initBatch(part.length);
      // Where vectors are asked for, llama.cpp wants every token to be an output.
      context.addToBatch(
        SEQUENCE,
        at,
        part,
        part.map((_, i) => i),
      );
      await context.decodeBatch();
    }
    return [unit(Float32Array.from(context.getEmbedding(tokens.length)))];
  }

  /** Makes the vector of one token: whether numbers came out. */
  async computesNumbers(token: number): Promise<boolean> {
    const { value } = await this.embed([[token]]).next();
    return Array.isArray(value) && value.every((vector) => vector.every(Number.isFinite));
  }

  async #contextFor(tokens: number): Promise<LlamaContext> {
    if (this.#context !== undefined && this.#context.tokens >= tokens) return this.#context.context;
    const size = contextFor(tokens, this.context_size);
    await this.#context?.context.dispose();
    this.#context = undefined;
    const { threads, deterministic, prefill_chunk_tokens } = this.#options;
    const options: LlamaContextOptions & { _embeddings: true } = {
      sequences: 1,
      contextSize: size,
      batchSize: this.#whole ? size : prefill_chunk_tokens,
      threads,
      flashAttention: deterministic ? false : "auto",
      failedCreationRemedy: false,
      // As the binding's own context for embeddings has it.
      _embeddings: true,
    };
    try {
      this.#context = { context: await this.#model.createContext(options), tokens: size };
    } catch (cause) {
      const why = cause instanceof Error ? (cause.message.split("\n", 1)[0] ?? "") : String(cause);
      const message = `There is no memory for a context of ${size} tokens for embeddings: ${why}.`;
      throw new RbeesError("INSUFFICIENT_MEMORY", message, { cause });
    }
    return this.#context.context;
  }
}
