/**
 * The C functions of the libllama that node-llama-cpp ships, called through koffi: the very shared object the worker runs on.
 * Signatures and struct layouts are those of `include/llama.h` in the release named by `HEADER_RELEASE` (node-llama-cpp carries
 * its sources as `llama/gitRelease.bundle`). A library of another release, or defaults that make no sense, are refused.
 */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import koffi from "koffi";

/** The release whose header the layouts below were written from. */
export const HEADER_RELEASE = "v0.4.0";

/** What koffi gives for a pointer. */
export type Pointer = object & { readonly pointer: unique symbol };

export interface ContextParams {
  n_ctx: number;
  n_batch: number;
  n_ubatch: number;
  n_seq_max: number;
  n_threads: number;
  n_threads_batch: number;
  flash_attn_type: number;
  no_perf: boolean;
  swa_full: boolean;
  kv_unified: boolean;
}

export interface ModelParams {
  n_gpu_layers: number;
  load_mode: number;
  lazy_mode: number;
  use_extra_bufts: boolean;
  check_tensors: boolean;
}

/** The arrays of a batch, which lie in the library's memory. */
export interface Batch {
  n_tokens: number;
  readonly token: Pointer;
  readonly pos: Pointer;
  readonly n_seq_id: Pointer;
  readonly seq_id: Pointer;
  readonly logits: Pointer;
}

export interface LlamaLibrary {
  readonly release: string;
  readonly path: string;
  model_default_params(): ModelParams;
  context_default_params(): ContextParams;
  model_load_from_file(path: string, params: ModelParams): Pointer | null;
  init_from_model(model: Pointer, params: ContextParams): Pointer | null;
  model_get_vocab(model: Pointer): Pointer;
  vocab_n_tokens(vocab: Pointer): number;
  n_ctx_seq(context: Pointer): number;
  n_batch(context: Pointer): number;
  n_seq_max(context: Pointer): number;
  n_threads(context: Pointer): number;
  get_memory(context: Pointer): Pointer;
  memory_clear(memory: Pointer, data: boolean): void;
  memory_seq_rm(memory: Pointer, sequence: number, from: number, to: number): boolean;
  batch_init(tokens: number, embd: number, sequences: number): Batch;
  decode(context: Pointer, batch: Batch): number;
  sampler_chain_init(params: { no_perf: boolean }): Pointer;
  sampler_chain_add(chain: Pointer, sampler: Pointer): void;
  sampler_init_top_k(k: number): Pointer;
  sampler_init_top_p(p: number, min_keep: number): Pointer;
  sampler_init_temp(temperature: number): Pointer;
  sampler_init_dist(seed: number): Pointer;
  sampler_sample(chain: Pointer, context: Pointer, index: number): number;
}

/** Thrown where the bare loop can't run here; the bench then leaves it out and says why. */
export class NoLibrary extends Error {}

/** The folder of the shared objects that node-llama-cpp uses on this machine without a GPU. */
export function libraryFolder(): string {
  const platform = `${process.platform}-${process.arch}`;
  // The package has no entry that could be resolved by name.
  for (const modules of createRequire(import.meta.url).resolve.paths("node-llama-cpp") ?? []) {
    const folder = join(modules, "@node-llama-cpp", platform, "bins", platform);
    if (existsSync(folder)) return folder;
  }
  throw new NoLibrary(`@node-llama-cpp/${platform} is not installed: there is no libllama to compare with`);
}

const STRUCTS = {
  llama_model_params: {
    devices: "void *",
    tensor_buft_overrides: "void *",
    n_gpu_layers: "int32_t",
    split_mode: "int32_t",
    load_mode: "int32_t",
    lazy_mode: "int32_t",
    main_gpu: "int32_t",
    tensor_split: "void *",
    progress_callback: "void *",
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

/** What `llama_context_default_params` says in that release: a layout that is off reads something else. */
const DEFAULTS = {
  n_ctx: 512,
  n_batch: 2048,
  n_ubatch: 512,
  n_seq_max: 1,
  flash_attn_type: -1,
  yarn_beta_slow: -1,
  type_k: 1,
  type_v: 1,
  offload_kqv: true,
  no_perf: true,
  swa_full: true,
  kv_unified: false,
  n_samplers: 0,
} as const;

export function openLibrary(folder = libraryFolder()): LlamaLibrary {
  const file = readdirSync(folder).find((name) => /^libllama\.(v[\d.]+\.so|so|dylib)$/.test(name));
  if (file === undefined) throw new NoLibrary(`${folder} holds no libllama`);
  const metadata = join(folder, "_nlcBuildMetadata.json");
  const release = /"release":"([^"]+)"/.exec(readFileSync(metadata, "utf8"))?.[1] ?? "unknown";
  if (release !== HEADER_RELEASE) {
    throw new NoLibrary(
      `libllama is of release ${release}, the bare loop was written for ${HEADER_RELEASE}: check bench/engine/llama-library.ts`,
    );
  }
  const path = join(folder, file);
  for (const [name, members] of Object.entries(STRUCTS)) koffi.struct(name, members);
  const silent = koffi.register(() => {}, koffi.pointer(koffi.proto("void log_callback(int level, const char *text, void *data)")));
  loadBackends(folder, silent);
  const library = bind(path, release, silent);
  checkDefaults(library);
  return library;
}

/** As node-llama-cpp does it: the backends that are linked in, and if there are none, those that lie beside the library. */
function loadBackends(folder: string, silent: unknown): void {
  const file = readdirSync(folder).find((name) => /^libggml\.(v[\d.]+\.so|so|dylib)$/.test(name));
  if (file === undefined) throw new NoLibrary(`${folder} holds no libggml`);
  const ggml = koffi.load(join(folder, file));
  // Its own messages are switched off: errors are told by what the functions give back.
  (ggml.func("void ggml_log_set(log_callback *callback, void *data)") as (callback: unknown, data: null) => void)(silent, null);
  const count = ggml.func("size_t ggml_backend_reg_count()") as () => number;
  if (count() === 0) (ggml.func("void ggml_backend_load_all_from_path(const char *path)") as (path: string) => void)(folder);
  if (count() === 0) throw new NoLibrary(`${folder} holds no backend that runs on this processor`);
}

function bind(path: string, release: string, silent: unknown): LlamaLibrary {
  const llama = koffi.load(path);
  (llama.func("void llama_log_set(log_callback *callback, void *data)") as (callback: unknown, data: null) => void)(silent, null);
  (llama.func("void llama_backend_init()") as () => void)();
  const f = (definition: string) => llama.func(definition) as unknown;
  const functions = {
    model_default_params: f("llama_model_params llama_model_default_params()"),
    context_default_params: f("llama_context_params llama_context_default_params()"),
    model_load_from_file: f("void *llama_model_load_from_file(const char *path, llama_model_params params)"),
    init_from_model: f("void *llama_init_from_model(void *model, llama_context_params params)"),
    model_get_vocab: f("void *llama_model_get_vocab(void *model)"),
    vocab_n_tokens: f("int32_t llama_vocab_n_tokens(void *vocab)"),
    n_ctx_seq: f("uint32_t llama_n_ctx_seq(void *ctx)"),
    n_batch: f("uint32_t llama_n_batch(void *ctx)"),
    n_seq_max: f("uint32_t llama_n_seq_max(void *ctx)"),
    n_threads: f("int32_t llama_n_threads(void *ctx)"),
    get_memory: f("void *llama_get_memory(void *ctx)"),
    memory_clear: f("void llama_memory_clear(void *mem, bool data)"),
    memory_seq_rm: f("bool llama_memory_seq_rm(void *mem, int32_t seq_id, int32_t p0, int32_t p1)"),
    batch_init: f("llama_batch llama_batch_init(int32_t n_tokens, int32_t embd, int32_t n_seq_max)"),
    decode: f("int32_t llama_decode(void *ctx, llama_batch batch)"),
    sampler_chain_init: f("void *llama_sampler_chain_init(llama_sampler_chain_params params)"),
    sampler_chain_add: f("void llama_sampler_chain_add(void *chain, void *smpl)"),
    sampler_init_top_k: f("void *llama_sampler_init_top_k(int32_t k)"),
    sampler_init_top_p: f("void *llama_sampler_init_top_p(float p, size_t min_keep)"),
    sampler_init_temp: f("void *llama_sampler_init_temp(float t)"),
    sampler_init_dist: f("void *llama_sampler_init_dist(uint32_t seed)"),
    sampler_sample: f("int32_t llama_sampler_sample(void *smpl, void *ctx, int32_t idx)"),
  };
  return { path, release, ...functions } as LlamaLibrary;
}

function checkDefaults(library: LlamaLibrary): void {
  const found = library.context_default_params() as unknown as Record<string, unknown>;
  for (const [field, expected] of Object.entries(DEFAULTS)) {
    if (Number(found[field]) !== Number(expected)) {
      throw new NoLibrary(`llama_context_params does not fit this libllama: ${field} is ${found[field]}, not ${expected}`);
    }
  }
}
