/** How much memory a model takes: what a worker checks before it loads, and what a host is told before it downloads. */
import type { CacheType } from "@rbees/contracts/sets";
import type { Gguf } from "./gguf.ts";

/** The context of a slot when nobody asks for another, where the model allows as much. */
export const CONTEXT_AUTO_MAX = 8_192;

/** What a worker does unless told otherwise. */
export const SLOTS_DEFAULT = 4;
export const PREFILL_CHUNK_TOKENS_DEFAULT = 64;

/** Bytes. */
export interface Needed {
  readonly total: number;
  readonly weights: number;
  readonly context: number;
  readonly overhead: number;
  /** What of the overhead is for computing. */
  readonly computing: number;
}

/**
 * Resident memory of the worker's two processes (HTTP and engine: Node.js, the programs, the binding) with next to no model in it.
 * Measured with the demo model at 1 and 4 slots: 282 to 285 MB from source, 203 to 207 MB as released (with node-llama-cpp 321 and 255);
 * pages that the two share count twice, as in what is measured.
 */
const PROCESSES_BYTES = 285_000_000;
/** Bytes a value of the KV cache takes; ggml's blocks of 32 values have 34 bytes at 8 bits and 18 at 4. */
const CACHE_BYTES: Readonly<Record<CacheType, number>> = { f16: 2, q8_0: 34 / 32, q4_0: 18 / 32 };
/** The vocabulary as objects: some 90 MB for 152,000 tokens. */
const TOKEN_BYTES = 600;

/**
 * An estimate of a worker's memory, as `memory_bytes` of its health counts it.
 * - weights: the file, which is mapped into memory;
 * - context: llama.cpp's KV cache: blocks × tokens × KV heads × (key length + value length) × bytes of a value;
 * - computing: for each token of a batch the logits and the widest activations at 32 bits, and without flash attention one
 *   attention score for each head and token of a slot's context;
 * - the rest: two processes and the vocabulary. Measured beside the whole: 110 M parameters at Q4_0 with 32,000 tokens took 6 to 9 %
 *   more than this from source, 7 to 10 % less as released (with node-llama-cpp 15 to 19 % more, and up to 8 % more).
 */
export function neededBytes(
  gguf: Gguf,
  { slots, prefill_chunk_tokens, cache_type = "f16" }: { slots: number; prefill_chunk_tokens: number; cache_type?: CacheType | undefined },
  context_size: number,
): Needed {
  const parameter = (name: string) => gguf.parameter(name) ?? 0;
  const width = parameter("embedding_length");
  const heads = Math.max(1, parameter("attention.head_count"));
  const heads_kv = gguf.parameter("attention.head_count_kv") ?? heads;
  const key_length = gguf.parameter("attention.key_length") ?? width / heads;
  const value_length = gguf.parameter("attention.value_length") ?? width / heads;
  const context = parameter("block_count") * slots * context_size * heads_kv * (key_length + value_length) * CACHE_BYTES[cache_type];
  const batch = slots + prefill_chunk_tokens;
  const vocabulary = gguf.array("tokenizer.ggml.tokens")?.length ?? 0;
  const activations = 8 * width + 3 * parameter("feed_forward_length");
  const computing = batch * 4 * (vocabulary + activations + heads * context_size);
  const overhead = Math.ceil(computing + PROCESSES_BYTES + vocabulary * TOKEN_BYTES);
  return {
    total: Math.ceil(gguf.file_bytes + context + overhead),
    weights: gguf.file_bytes,
    context: Math.ceil(context),
    overhead,
    computing: Math.ceil(computing),
  };
}

/** Least and most of what a worker takes by itself for prefixes that its slots lose. */
const PREFIX_CACHE_BYTES = { min: 16 * 1_048_576, max: 1_073_741_824 } as const;
const PREFIX_CACHE_SHARE = 1 / 4;

/**
 * What a worker that nobody tells otherwise takes for them, of the memory that its model leaves free. It is no part of what a model
 * needs: where there is little, there are few of them or none.
 */
export function prefixCacheWithin(free_bytes: number): number {
  const share = Math.floor(free_bytes * PREFIX_CACHE_SHARE);
  return share < PREFIX_CACHE_BYTES.min ? 0 : Math.min(share, PREFIX_CACHE_BYTES.max);
}

/**
 * How many layers of a model memory of a GPU has room for, of `layersOf`: its buffers for computing, and for each layer an even share of
 * weights and context. An estimate that nobody has held against a GPU yet; the worker's own `--gpu-layers auto` decides when it loads.
 */
export function layersWithin(gguf: Gguf, { weights, context, computing }: Needed, free_bytes: number): number {
  const all = layersOf(gguf);
  return Math.max(0, Math.min(all, Math.floor(((free_bytes - computing) * all) / (weights + context))));
}

/** As llama.cpp counts: the output is one more. */
export function layersOf(gguf: Gguf): number {
  return (gguf.parameter("block_count") ?? 0) + 1;
}
