/**
 * Looks at a model file before native code does. The engine aborts the whole process on some damaged files and says nothing
 * useful about others; here each fault is one sentence. What passes may still fail in the engine, which has its own process.
 */
import { RbeesError } from "@rbees/contracts/errors";
import type { CacheType } from "@rbees/contracts/sets";
import type { Backend } from "@rbees/contracts/worker";
import type { Gguf, GgufValue } from "@rbees/kit/gguf";
import { readModel } from "@rbees/kit/gguf-split";
import { CONTEXT_AUTO_MAX, neededBytes, prefixCacheWithin } from "@rbees/kit/model-memory";

export interface ModelCheckOptions {
  path: string;
  backend: Backend;
  slots: number;
  /** Tokens a slot shall hold; 0: as many as the model allows, `CONTEXT_AUTO_MAX` at most, and memory holds. */
  context_size: number;
  prefill_chunk_tokens: number;
  cache_type?: CacheType;
  /** Memory for prefixes that slots lose. Counted as needed; `auto` takes some of what is left (`prefixCacheWithin`). */
  prefix_cache_bytes?: number | "auto";
  /** Memory that this process and its children may still take. */
  available_bytes: number;
  /** What the model took with these slots and the context it will get, when that was measured; 0: it was not. */
  measured_bytes?: number;
}

export interface CheckedModel {
  gguf: Gguf;
  context_size: number;
  needed_bytes: number;
  prefix_cache_bytes: number;
}

export const CONTEXT_MIN = 64;
const CONTEXT_STEP = 256;
const GIB = 1_073_741_824;

export async function checkModel(options: ModelCheckOptions): Promise<CheckedModel> {
  const { path } = options;
  const gguf = await readModel(path);
  const fault = gguf.truncated ?? headFault(gguf) ?? shapeFault(gguf) ?? vocabularyFault(gguf);
  if (fault !== undefined) throw new RbeesError("INVALID_REQUEST", `${path}: ${fault}`);
  const context_size = fitContext(gguf, options);
  const { prefix_cache_bytes: asked = 0, available_bytes } = options;
  const needed_bytes = neededBytes(gguf, options, context_size).total;
  const prefix_cache_bytes = asked === "auto" ? prefixCacheWithin(available_bytes - needed_bytes) : asked;
  return { gguf, context_size, needed_bytes, prefix_cache_bytes };
}

function headFault(gguf: Gguf): string | undefined {
  if (gguf.architecture === undefined) return "the file does not say its architecture (general.architecture)";
  if (gguf.text("general.type") === "adapter") return "this is a LoRA adapter, not a model";
  if (gguf.tensors.length === 0) return "the file has no tensors: it is a vocabulary, not a model";
  return undefined;
}

/** Bounds far beyond any model that exists: a number outside is damage. */
const BOUNDS: Readonly<Record<string, readonly [min: number, max: number]>> = {
  context_length: [1, 2 ** 31 - 1],
  embedding_length: [1, 1_048_576],
  block_count: [1, 4_096],
  feed_forward_length: [1, 16_777_216],
  "attention.head_count": [1, 65_536],
  "attention.head_count_kv": [1, 65_536],
  "attention.key_length": [1, 65_536],
  "attention.value_length": [1, 65_536],
  "rope.dimension_count": [1, 65_536],
  vocab_size: [1, 16_777_216],
};
const REQUIRED = ["context_length", "embedding_length", "block_count"];

function shapeFault(gguf: Gguf): string | undefined {
  for (const name of REQUIRED)
    if (gguf.parameter(name) === undefined)
      return `the architecture is "${gguf.architecture}", but ${gguf.architecture}.${name} is missing or no number`;
  // Models without attention in some or all blocks state zeros and lists there.
  const recurrent = [...gguf.metadata.keys()].some((key) => /\.(ssm|wkv)\./.test(key));
  for (const [name, [min, max]] of Object.entries(BOUNDS)) {
    const value = gguf.metadata.get(`${gguf.architecture}.${name}`);
    if (value === undefined || typeof value === "object") continue;
    if (recurrent && value === 0) continue;
    if (!wholeWithin(value, min, max))
      return `${gguf.architecture}.${name} is ${String(value)}; it must be a whole number from ${min} to ${max}`;
  }
  return recurrent ? undefined : (headsFault(gguf) ?? numbersFault(gguf) ?? embeddingFault(gguf));
}

function headsFault(gguf: Gguf): string | undefined {
  const heads = gguf.parameter("attention.head_count");
  const heads_kv = gguf.parameter("attention.head_count_kv") ?? heads;
  const width = gguf.parameter("embedding_length") ?? 0;
  if (heads === undefined || heads_kv === undefined) return undefined;
  if (heads % heads_kv !== 0) return `${heads} attention heads can't share ${heads_kv} key-value heads evenly`;
  const own_length = gguf.parameter("attention.key_length");
  if (own_length === undefined && width % heads !== 0) return `an embedding of ${width} can't be divided among ${heads} attention heads`;
  const rope = gguf.parameter("rope.dimension_count");
  const head_length = own_length ?? width / heads;
  if (rope !== undefined && (rope > head_length || rope % 2 !== 0))
    return `rope.dimension_count ${rope} does not fit attention heads of ${head_length}`;
  return undefined;
}

/** Factors that must be positive: zero or NaN there makes every result NaN. */
function numbersFault(gguf: Gguf): string | undefined {
  for (const name of ["attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon", "rope.freq_base"]) {
    const value = gguf.parameter(name);
    if (value !== undefined && !(value > 0 && Number.isFinite(value)))
      return `${gguf.architecture}.${name} is ${value}; it must be above 0`;
  }
  return undefined;
}

function embeddingFault(gguf: Gguf): string | undefined {
  const embedding = gguf.tensors.find(({ name }) => name === "token_embd.weight");
  if (embedding === undefined) return "the tensor token_embd.weight is missing";
  const [width, rows] = embedding.shape;
  if (width !== gguf.parameter("embedding_length")) return `token_embd.weight is ${width} wide, embedding_length says otherwise`;
  const tokens = gguf.array("tokenizer.ggml.tokens")?.length;
  return tokens !== undefined && rows !== tokens ? `token_embd.weight has ${rows} rows, the vocabulary ${tokens} tokens` : undefined;
}

function vocabularyFault(gguf: Gguf): string | undefined {
  const tokens = gguf.array("tokenizer.ggml.tokens");
  if (gguf.text("tokenizer.ggml.model") === undefined || tokens === undefined)
    return "the file has no tokenizer (tokenizer.ggml.model, …tokens)";
  if (tokens.of !== "string" || tokens.length === 0) return "the vocabulary holds no tokens";
  const lists: readonly [string, readonly string[]][] = [
    ["scores", ["f32"]],
    ["token_type", ["i32", "u32"]],
  ];
  for (const [name, types] of lists) {
    const value: GgufValue | undefined = gguf.metadata.get(`tokenizer.ggml.${name}`);
    if (value === undefined) continue;
    if (typeof value !== "object" || !types.includes(value.of)) return `tokenizer.ggml.${name} is no list of ${types[0]}`;
    if (value.length !== tokens.length) return `tokenizer.ggml.${name} has ${value.length} entries for ${tokens.length} tokens`;
  }
  for (const [key, value] of gguf.metadata) {
    if (!/^tokenizer\.ggml\.\w+_token_id$/.test(key)) continue;
    // All ones is how some converters write "none".
    if (value === 0xffffffff || value === -1) continue;
    if (!wholeWithin(value, 0, tokens.length - 1)) return `${key} is ${String(value)}, outside the vocabulary of ${tokens.length} tokens`;
  }
  const template = gguf.metadata.get("tokenizer.chat_template");
  return template === undefined || typeof template === "string" ? undefined : "tokenizer.chat_template is no text";
}

function wholeWithin(value: GgufValue, min: number, max: number): boolean {
  return typeof value === "number" && Number.isInteger(value) && value >= min && value <= max;
}

/** The context that was asked for, or the most that model and memory allow. Throws INSUFFICIENT_MEMORY with what is missing. */
function fitContext(gguf: Gguf, options: ModelCheckOptions): number {
  const { context_size, available_bytes, slots, path, measured_bytes = 0 } = options;
  const most = gguf.context_size ?? CONTEXT_AUTO_MAX;
  if (context_size > most) {
    throw new RbeesError("INVALID_REQUEST", `--ctx ${context_size} is more than ${path} was made for: ${most} tokens`);
  }
  const wanted = context_size > 0 ? context_size : Math.min(most, CONTEXT_AUTO_MAX);
  const prefixes = options.prefix_cache_bytes === "auto" ? 0 : (options.prefix_cache_bytes ?? 0);
  const takes = (size: number) =>
    prefixes + (size === wanted && measured_bytes > 0 ? measured_bytes : neededBytes(gguf, options, size).total);
  const fits = (size: number) => options.backend !== "cpu" || takes(size) <= available_bytes;
  if (fits(wanted)) return wanted;
  let size = Math.floor(wanted / CONTEXT_STEP) * CONTEXT_STEP;
  while (size > 0 && !fits(size)) size -= CONTEXT_STEP;
  if (context_size === 0 && size > 0) return size;
  const { weights, context } = neededBytes(gguf, options, wanted);
  const total = takes(wanted);
  const how = measured_bytes > 0 ? "as it was measured: " : "";
  const smaller =
    size > 0
      ? `--ctx ${size} would fit; so may fewer --slots, or --cache-type q8_0.`
      : "Use fewer --slots, a smaller model, or free memory.";
  const advice = prefixes === 0 ? smaller : `${smaller} Or a smaller --prefix-cache-bytes-max.`;
  const beside = prefixes === 0 ? "" : `, prefixes ${gib(prefixes)}`;
  throw new RbeesError(
    "INSUFFICIENT_MEMORY",
    `${path} needs about ${gib(total)} (${how}weights ${gib(weights)}, context of ${slots} × ${wanted} tokens ${gib(context)}${beside}), but ${gib(available_bytes)} are free: ${gib(total - available_bytes)} are missing. ${advice}`,
    { details: { needed_bytes: total, available_bytes, missing_bytes: total - available_bytes } },
  );
}

function gib(bytes: number): string {
  return `${(bytes / GIB).toFixed(bytes < GIB ? 2 : 1)} GiB`;
}
