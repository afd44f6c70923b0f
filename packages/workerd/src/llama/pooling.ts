/** How the states of a text's tokens become one vector: what a model's header says of it, and what is done where it says nothing. */
import type { Gguf } from "@rbees/kit/gguf";

/** `enum llama_pooling_type`. */
export const POOLING = { none: 0, mean: 1, cls: 2, last: 3, rank: 4 } as const;

/** So many bytes may the logits of one step take where llama.cpp computes them for each token though nobody asks for them. */
const LOGITS_BYTES_MAX = 268_435_456;
/** The smallest context for vectors: making one larger takes time too. */
const CONTEXT_MIN = 512;

/** Why the model makes no vectors; undefined when it does. */
export function whyNoVectors(gguf: Gguf): string | undefined {
  return gguf.parameter("pooling_type") === POOLING.rank ? "it is a reranker, which makes scores and no vectors" : undefined;
}

/** What the header says of pooling, `none` where it says nothing. */
export function saidPooling(gguf: Gguf): number {
  return gguf.parameter("pooling_type") ?? POOLING.none;
}

/** Each token sees those behind it too, as in BERT and its like. */
export function readsFromBothSides(gguf: Gguf): boolean {
  return gguf.metadata.get(`${gguf.architecture}.attention.causal`) === false;
}

/** All of an input has to go through the model at once. */
export function isWhole(gguf: Gguf, from_both_sides: boolean): boolean {
  const said = saidPooling(gguf);
  return from_both_sides || said === POOLING.mean || said === POOLING.cls;
}

/** How many tokens an input may have that goes through at once, with logits for each of them. */
export function wholeTokensMax(vocab_size: number): number {
  return Math.max(CONTEXT_MIN, Math.floor(LOGITS_BYTES_MAX / 4 / vocab_size));
}

/** How large a context is made for so many tokens. */
export function contextFor(tokens: number, context_size: number): number {
  return Math.max(CONTEXT_MIN, Math.min(2 ** Math.ceil(Math.log2(tokens)), context_size));
}

/** One long; what is all zeros stays so. */
export function unit(vector: Float32Array): Float32Array {
  const length = Math.hypot(...vector);
  return length === 0 ? vector : vector.map((value) => value / length);
}
