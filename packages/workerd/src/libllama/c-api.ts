/**
 * The C functions of llama.cpp that are called: their signatures and the layouts of their structs, which are those of
 * `include/llama.h` in the release `HEADER_RELEASE` (node-llama-cpp carries its sources as `llama/gitRelease.bundle`), and what the
 * library must say for them to be right. A wrong signature crashes: `library.ts` opens no library of another release.
 */

import type { CacheType } from "@rbees/contracts/sets";

/** The release whose header everything here was written from. */
export const HEADER_RELEASE = "v0.4.0";
/** What `llama_version()` says in it. */
export const LIBRARY_VERSION = "0.4.0-dev";

declare const pointer: unique symbol;
/** What koffi gives for a pointer. */
export type Pointer = { readonly [pointer]: true };

export interface ModelParams {
  devices: Pointer | null;
  n_gpu_layers: number;
  load_mode: number;
  lazy_mode: number;
  progress_callback: unknown;
  check_tensors: boolean;
}

export interface ContextParams {
  n_ctx: number;
  n_batch: number;
  n_ubatch: number;
  n_seq_max: number;
  n_outputs_max: number;
  n_threads: number;
  n_threads_batch: number;
  flash_attn_type: number;
  pooling_type: number;
  embeddings: boolean;
  no_perf: boolean;
  type_k: number;
  type_v: number;
  swa_full: boolean;
  kv_unified: boolean;
}

/** The arrays of a batch lie in the library's memory. */
export interface Batch {
  n_tokens: number;
  readonly token: Pointer;
  readonly pos: Pointer;
  readonly n_seq_id: Pointer;
  readonly seq_id: Pointer;
  readonly logits: Pointer;
}

/** `enum llama_flash_attn_type`. */
export const FLASH_ATTENTION = { auto: -1, off: 0 } as const;
/** `enum ggml_type`, of those that a cache can have. */
export const CACHE_TYPE: Readonly<Record<CacheType, number>> = { f16: 1, q4_0: 2, q8_0: 8 };
/** `enum llama_vocab_type`. */
export const VOCABULARY_NONE = 0;
export const STRUCTS = {
  llama_model_params: {
    devices: "void *",
    tensor_buft_overrides: "void *",
    n_gpu_layers: "int32_t",
    split_mode: "int32_t",
    load_mode: "int32_t",
    lazy_mode: "int32_t",
    main_gpu: "int32_t",
    tensor_split: "void *",
    progress_callback: "progress_callback *",
    progress_callback_user_data: "void *",
    kv_overrides: "void *",
    vocab_only: "bool",
    check_tensors: "bool",
    use_extra_bufts: "bool",
    no_host: "bool",
    no_alloc: "bool",
    load_mtp: "bool",
  },
  llama_context_params: {
    n_ctx: "uint32_t",
    n_batch: "uint32_t",
    n_ubatch: "uint32_t",
    n_seq_max: "uint32_t",
    n_rs_seq: "uint32_t",
    n_outputs_max: "uint32_t",
    n_outputs_max_per_seq: "uint32_t",
    n_threads: "int32_t",
    n_threads_batch: "int32_t",
    ctx_type: "int32_t",
    rope_scaling_type: "int32_t",
    pooling_type: "int32_t",
    attention_type: "int32_t",
    flash_attn_type: "int32_t",
    rope_freq_base: "float",
    rope_freq_scale: "float",
    yarn_ext_factor: "float",
    yarn_attn_factor: "float",
    yarn_beta_fast: "float",
    yarn_beta_slow: "float",
    yarn_orig_ctx: "uint32_t",
    defrag_thold: "float",
    cb_eval: "void *",
    cb_eval_user_data: "void *",
    type_k: "int32_t",
    type_v: "int32_t",
    abort_callback: "void *",
    abort_callback_data: "void *",
    embeddings: "bool",
    offload_kqv: "bool",
    no_perf: "bool",
    op_offload: "bool",
    swa_full: "bool",
    kv_unified: "bool",
    samplers: "void *",
    n_samplers: "size_t",
    ctx_other: "void *",
  },
  llama_batch: {
    n_tokens: "int32_t",
    token: "void *",
    embd: "void *",
    pos: "void *",
    n_seq_id: "void *",
    seq_id: "void *",
    logits: "void *",
  },
  llama_sampler_chain_params: { no_perf: "bool" },
} as const;

/** `sizeof` of each struct where pointers have 8 bytes, as gcc gives it for that header. */
export const STRUCT_BYTES: Readonly<Record<keyof typeof STRUCTS, number>> = {
  llama_model_params: 80,
  llama_context_params: 160,
  llama_batch: 56,
  llama_sampler_chain_params: 1,
};

/** What the `…_default_params` functions say in that release: a layout that is off reads something else. */
export const DEFAULTS = {
  model_default_params: {
    devices: null,
    n_gpu_layers: -1,
    split_mode: 1,
    load_mode: -1,
    lazy_mode: 1,
    main_gpu: 0,
    kv_overrides: null,
    vocab_only: false,
    check_tensors: false,
    use_extra_bufts: true,
    no_host: false,
    no_alloc: false,
    load_mtp: false,
  },
  context_default_params: {
    n_ctx: 512,
    n_batch: 2048,
    n_ubatch: 512,
    n_seq_max: 1,
    n_outputs_max: 0,
    n_outputs_max_per_seq: 1,
    pooling_type: -1,
    flash_attn_type: -1,
    yarn_ext_factor: -1,
    yarn_beta_slow: -1,
    type_k: 1,
    type_v: 1,
    embeddings: false,
    offload_kqv: true,
    no_perf: true,
    op_offload: true,
    swa_full: true,
    kv_unified: false,
    samplers: null,
    n_samplers: 0,
    ctx_other: null,
  },
} as const;

/** Everything that is called, by its C name without `llama_`. */
export const FUNCTIONS = {
  version: "const char *llama_version()",
  backend_init: "void llama_backend_init()",
  log_set: "void llama_log_set(log_callback *callback, void *data)",
  model_default_params: "llama_model_params llama_model_default_params()",
  context_default_params: "llama_context_params llama_context_default_params()",
  model_load_from_file: "void *llama_model_load_from_file(const char *path, llama_model_params params)",
  init_from_model: "void *llama_init_from_model(void *model, llama_context_params params)",
  free: "void llama_free(void *ctx)",
  model_n_embd_out: "int32_t llama_model_n_embd_out(void *model)",
  model_get_vocab: "void *llama_model_get_vocab(void *model)",
  model_chat_template: "const char *llama_model_chat_template(void *model, const char *name)",
  model_is_recurrent: "bool llama_model_is_recurrent(void *model)",
  model_is_hybrid: "bool llama_model_is_hybrid(void *model)",
  model_n_swa: "int32_t llama_model_n_swa(void *model)",
  model_has_encoder: "bool llama_model_has_encoder(void *model)",
  vocab_type: "int32_t llama_vocab_type(void *vocab)",
  vocab_n_tokens: "int32_t llama_vocab_n_tokens(void *vocab)",
  vocab_bos: "int32_t llama_vocab_bos(void *vocab)",
  vocab_eos: "int32_t llama_vocab_eos(void *vocab)",
  vocab_get_add_bos: "bool llama_vocab_get_add_bos(void *vocab)",
  vocab_get_text: "const char *llama_vocab_get_text(void *vocab, int32_t token)",
  vocab_is_eog: "bool llama_vocab_is_eog(void *vocab, int32_t token)",
  tokenize:
    "int32_t llama_tokenize(void *vocab, const void *text, int32_t text_len, void *tokens, int32_t n_tokens_max, bool add_special, bool parse_special)",
  token_to_piece: "int32_t llama_token_to_piece(void *vocab, int32_t token, void *buf, int32_t length, int32_t lstrip, bool special)",
  n_ctx_seq: "uint32_t llama_n_ctx_seq(void *ctx)",
  n_batch: "uint32_t llama_n_batch(void *ctx)",
  n_seq_max: "uint32_t llama_n_seq_max(void *ctx)",
  n_threads: "int32_t llama_n_threads(void *ctx)",
  get_memory: "void *llama_get_memory(void *ctx)",
  memory_clear: "void llama_memory_clear(void *mem, bool data)",
  memory_seq_rm: "bool llama_memory_seq_rm(void *mem, int32_t seq_id, int32_t p0, int32_t p1)",
  memory_seq_cp: "void llama_memory_seq_cp(void *mem, int32_t from, int32_t to, int32_t p0, int32_t p1)",
  adapter_lora_init: "void *llama_adapter_lora_init(void *model, const char *path)",
  set_adapters_lora: "int32_t llama_set_adapters_lora(void *ctx, void *adapters, size_t n_adapters, void *scales)",
  state_seq_get_size: "size_t llama_state_seq_get_size(void *ctx, int32_t seq_id)",
  state_seq_get_data: "size_t llama_state_seq_get_data(void *ctx, void *dst, size_t size, int32_t seq_id)",
  state_seq_set_data: "size_t llama_state_seq_set_data(void *ctx, const void *src, size_t size, int32_t dest_seq_id)",
  batch_init: "llama_batch llama_batch_init(int32_t n_tokens, int32_t embd, int32_t n_seq_max)",
  decode: "int32_t llama_decode(void *ctx, llama_batch batch)",
  encode: "int32_t llama_encode(void *ctx, llama_batch batch)",
  batch_free: "void llama_batch_free(llama_batch batch)",
  get_logits_ith: "void *llama_get_logits_ith(void *ctx, int32_t i)",
  set_embeddings: "void llama_set_embeddings(void *ctx, bool embeddings)",
  get_embeddings_ith: "void *llama_get_embeddings_ith(void *ctx, int32_t i)",
  get_embeddings_seq: "void *llama_get_embeddings_seq(void *ctx, int32_t seq_id)",
  sampler_chain_init: "void *llama_sampler_chain_init(llama_sampler_chain_params params)",
  sampler_chain_add: "void llama_sampler_chain_add(void *chain, void *smpl)",
  sampler_chain_n: "int llama_sampler_chain_n(void *chain)",
  sampler_chain_remove: "void *llama_sampler_chain_remove(void *chain, int32_t i)",
  sampler_free: "void llama_sampler_free(void *smpl)",
  sampler_init_greedy: "void *llama_sampler_init_greedy()",
  sampler_init_top_k: "void *llama_sampler_init_top_k(int32_t k)",
  sampler_init_top_p: "void *llama_sampler_init_top_p(float p, size_t min_keep)",
  sampler_init_min_p: "void *llama_sampler_init_min_p(float p, size_t min_keep)",
  sampler_init_temp: "void *llama_sampler_init_temp(float t)",
  sampler_init_dist: "void *llama_sampler_init_dist(uint32_t seed)",
  sampler_init_grammar: "void *llama_sampler_init_grammar(void *vocab, const char *grammar, const char *root)",
  sampler_accept: "void llama_sampler_accept(void *smpl, int32_t token)",
  sampler_apply: "void llama_sampler_apply(void *smpl, void *candidates)",
  sampler_sample: "int32_t llama_sampler_sample(void *smpl, void *ctx, int32_t idx)",
} as const;

type TokenizeArguments = [
  vocab: Pointer,
  text: Uint8Array,
  text_len: number,
  tokens: Int32Array,
  n_tokens_max: number,
  add_special: boolean,
  parse_special: boolean,
];

/** The functions as TypeScript sees them. Models, contexts, vocabularies, memories and samplers are pointers. */
export interface LlamaFunctions {
  model_default_params(): ModelParams;
  context_default_params(): ContextParams;
  model_load_from_file(path: string, params: ModelParams): Pointer | null;
  init_from_model(model: Pointer, params: ContextParams): Pointer | null;
  free(context: Pointer): void;
  model_n_embd_out(model: Pointer): number;
  model_get_vocab(model: Pointer): Pointer;
  model_chat_template(model: Pointer, name: string | null): string | null;
  model_is_recurrent(model: Pointer): boolean;
  model_is_hybrid(model: Pointer): boolean;
  model_n_swa(model: Pointer): number;
  model_has_encoder(model: Pointer): boolean;
  vocab_type(vocab: Pointer): number;
  vocab_n_tokens(vocab: Pointer): number;
  vocab_bos(vocab: Pointer): number;
  vocab_eos(vocab: Pointer): number;
  vocab_get_add_bos(vocab: Pointer): boolean;
  vocab_get_text(vocab: Pointer, token: number): string | null;
  vocab_is_eog(vocab: Pointer, token: number): boolean;
  /** How many tokens, or minus how many there would be if they had room. `async`: on another thread. */
  tokenize: ((...given: TokenizeArguments) => number) & {
    async(...given: [...TokenizeArguments, made: (error: Error | null, count: number) => void]): void;
  };
  /** How many bytes, or minus how many there would be if they had room. */
  token_to_piece(vocab: Pointer, token: number, bytes: Uint8Array, length: number, lstrip: number, special: boolean): number;
  n_ctx_seq(context: Pointer): number;
  n_batch(context: Pointer): number;
  n_seq_max(context: Pointer): number;
  n_threads(context: Pointer): number;
  /** Null: the model keeps no state, because it reads all of a text at once. */
  get_memory(context: Pointer): Pointer | null;
  memory_clear(memory: Pointer, data: boolean): void;
  memory_seq_rm(memory: Pointer, sequence: number, from: number, to: number): boolean;
  memory_seq_cp(memory: Pointer, source: number, target: number, from: number, to: number): void;
  adapter_lora_init(model: Pointer, path: string): Pointer | null;
  /** `adapters` is a list of pointers; 0 when they are taken. */
  set_adapters_lora(context: Pointer, adapters: Pointer, count: number, scales: Float32Array): number;
  /** Each of these gives bytes; 0 when it failed. */
  state_seq_get_size(context: Pointer, sequence: number): number;
  state_seq_get_data(context: Pointer, state: Uint8Array, bytes: number, sequence: number): number;
  state_seq_set_data(context: Pointer, state: Uint8Array, bytes: number, sequence: number): number;
  batch_init(tokens: number, embd: number, sequences: number): Batch;
  decode(context: Pointer, batch: Batch): number;
  encode(context: Pointer, batch: Batch): number;
  batch_free(batch: Batch): void;
  get_logits_ith(context: Pointer, index: number): Pointer | null;
  set_embeddings(context: Pointer, embeddings: boolean): void;
  get_embeddings_ith(context: Pointer, index: number): Pointer | null;
  get_embeddings_seq(context: Pointer, sequence: number): Pointer | null;
  sampler_chain_init(params: { no_perf: boolean }): Pointer;
  sampler_chain_add(chain: Pointer, sampler: Pointer): void;
  sampler_chain_n(chain: Pointer): number;
  sampler_chain_remove(chain: Pointer, index: number): Pointer;
  sampler_free(sampler: Pointer): void;
  sampler_init_greedy(): Pointer;
  sampler_init_top_k(k: number): Pointer;
  sampler_init_top_p(p: number, min_keep: number): Pointer;
  sampler_init_min_p(p: number, min_keep: number): Pointer;
  sampler_init_temp(temperature: number): Pointer;
  sampler_init_dist(seed: number): Pointer;
  /** Null when it can't be read. */
  sampler_init_grammar(vocab: Pointer, grammar: string, root: string): Pointer | null;
  /** A grammar aborts the process on a token that it does not allow. */
  sampler_accept(sampler: Pointer, token: number): void;
  sampler_apply(sampler: Pointer, candidates: Pointer): void;
  sampler_sample(chain: Pointer, context: Pointer, index: number): number;
}
