/** Loads a model with libllama and makes its context. */
import { RbeesError } from "@rbees/contracts/errors";
import { readGguf } from "@rbees/kit/gguf";
import type { EngineOptions } from "../engine.ts";
import { Likelihoods } from "../llama/likelihoods.ts";
import { batchTokens, Complaints, featuresOf, type LoadedModel, quantised } from "../llama/model.ts";
import { whyNoVectors } from "../llama/pooling.ts";
import { addonIn, nativeRenderer } from "../llama/renderer.ts";
import { Adapters, loadAdapters } from "./adapters.ts";
import { CACHE_TYPE, FLASH_ATTENTION, HEADER_RELEASE, type Pointer, VOCABULARY_NONE } from "./c-api.ts";
import { Candidates } from "./candidates.ts";
import { Decoder, type DecoderOptions } from "./decoder.ts";
import { LibllamaEmbedder } from "./embedder.ts";
import { LlamaGrammar } from "./grammar.ts";
import { KOFFI_VERSION, type LlamaLibrary, openLibrary } from "./library.ts";
import { Tokenizer } from "./tokenizer.ts";

export async function loadModel(options: EngineOptions, progress: (fraction: number) => void): Promise<LoadedModel> {
  const llama = await openLibrary();
  const complaints = new Complaints();
  llama.hearErrors((line) => complaints.add(line));
  try {
    const model = loadWeights(llama, options, progress, complaints);
    const adapters = loadAdapters(llama, model, options.loras, complaints);
    const context = createContext(llama, model, options, complaints);
    return await describe(llama, model, context, options, new Adapters(llama, context, adapters));
  } finally {
    // From here on llama.cpp may complain from threads of its own, which can't wait for this one: to stderr then.
    llama.hearErrors(undefined);
  }
}

function loadWeights(llama: LlamaLibrary, options: EngineOptions, progress: (fraction: number) => void, complaints: Complaints): Pointer {
  const { callback, release } = llama.progressCallback(progress);
  const model = llama.model_load_from_file(options.model_path, {
    ...llama.model_default_params(),
    devices: llama.no_devices,
    n_gpu_layers: 0,
    check_tensors: true,
    progress_callback: callback,
  });
  release();
  if (model === null) throw complaints.refusal(options.model_path, "");
  if (llama.vocab_type(llama.model_get_vocab(model)) === VOCABULARY_NONE)
    throw new RbeesError("INVALID_REQUEST", `${options.model_path} has no vocabulary`);
  if (llama.model_has_encoder(model))
    throw complaints.refusal(options.model_path, "it is an encoder-decoder model, and this engine runs decoders only");
  return model;
}

function createContext(llama: LlamaLibrary, model: Pointer, options: EngineOptions, complaints: Complaints): Pointer {
  const { slots, context_size, threads, deterministic, model_path, speculate_tokens_max } = options;
  const batch_tokens = batchTokens(options);
  const context = llama.init_from_model(model, {
    ...llama.context_default_params(),
    n_ctx: context_size * slots,
    n_batch: batch_tokens,
    n_ubatch: batch_tokens,
    n_seq_max: slots,
    // A step draws one token for each slot at most, or those of one answer's guesses; room for more would cost memory for each token of a large vocabulary.
    n_outputs_max: Math.max(slots, 1 + speculate_tokens_max),
    n_threads: threads,
    n_threads_batch: threads,
    // On, the result depends on what else is in the batch.
    flash_attn_type: deterministic ? FLASH_ATTENTION.off : FLASH_ATTENTION.auto,
    type_k: CACHE_TYPE[options.cache_type],
    type_v: CACHE_TYPE[options.cache_type],
    no_perf: true,
    swa_full: false,
    // Each slot has cells of its own: on a CPU that measured faster than cells that all slots share.
    kv_unified: false,
  });
  if (context === null) {
    const why = [`no context of ${slots} × ${context_size} tokens can be made`, ...complaints.lines].join("; ");
    if (!complaints.lines.some((line) => /alloc|memory/i.test(line))) throw new RbeesError("ENGINE_FAILED", `${model_path}: ${why}.`);
    throw new RbeesError("INSUFFICIENT_MEMORY", `${model_path}: ${why}. Use fewer --slots or a smaller --ctx.`);
  }
  // What was set must read back the same: else a layout is off.
  const wrong = [
    ["n_ctx_seq", llama.n_ctx_seq(context) >= context_size],
    ["n_batch", llama.n_batch(context) === batch_tokens],
    ["n_seq_max", llama.n_seq_max(context) === slots],
    ["n_threads", llama.n_threads(context) === threads],
  ].find(([, right]) => !right);
  if (wrong !== undefined)
    throw new RbeesError("ENGINE_FAILED", `libllama took another ${wrong[0]} than it was given: use another --engine.`);
  return context;
}

async function describe(
  llama: LlamaLibrary,
  model: Pointer,
  context: Pointer,
  options: EngineOptions,
  adapters: Adapters,
): Promise<LoadedModel> {
  const vocab = llama.model_get_vocab(model);
  const vocab_size = llama.vocab_n_tokens(vocab);
  const tokenizer = new Tokenizer(llama, vocab);
  const text = (token: number) => (token < 0 ? "" : (llama.vocab_get_text(vocab, token) ?? ""));
  const bos = llama.vocab_bos(vocab);
  const chat_template = llama.model_chat_template(model, null) ?? undefined;
  const render_native = nativeRenderer(addonIn(() => llama.folder));
  const gguf = await readGguf(options.model_path);
  const memory = llama.get_memory(context);
  const loras = Object.keys(options.loras);
  const no_vectors = whyNoVectors(gguf);
  const embedder = no_vectors ?? new LibllamaEmbedder({ llama, model, tokenizer, gguf, options, vocab_size, stateless: memory === null });
  const ends = (token: number) => llama.vocab_is_eog(vocab, token);
  const likelihoods = new Likelihoods(tokenizer, text);
  const sampling = { vocabulary: vocab_size, tokenizer, likelihoods, ends, candidates: new Candidates(llama, vocab_size) };
  const generating =
    memory === null ? noText(llama, context, embedder) : decoding(llama, model, context, memory, options, sampling, adapters);
  return {
    facts: {
      vocab_size,
      context_size: options.context_size,
      has_chat_template: chat_template !== undefined,
      device: "",
      vram_bytes: 0,
      engine: { name: "libllama", version: `${HEADER_RELEASE} (koffi ${KOFFI_VERSION})` },
      loras,
      features: featuresOf(memory !== null, typeof embedder !== "string"),
    },
    prompt: {
      tokenize: tokenizer.tokenize,
      tokenizeAside: tokenizer.tokenizeAside,
      bos: llama.vocab_get_add_bos(vocab) && bos >= 0 ? bos : undefined,
      bos_text: text(bos),
      eos_text: text(llama.vocab_eos(vocab)),
      chat_template,
      ...(render_native === undefined ? {} : { render_native }),
    },
    bytes: tokenizer,
    ends,
    has_end: llama.vocab_eos(vocab) >= 0,
    grammar: (text) => new LlamaGrammar(llama, vocab, sampling.candidates, text),
    // Adapters are not quantised.
    batch_invariant: quantised(gguf) && loras.length === 0,
    embedder,
    // llama.cpp computes them apart even if they come together.
    in_turn: true,
    ...generating,
  };
}

type Generating = Pick<LoadedModel, "sequences" | "compute" | "computesNumbers" | "timeSteps" | "worthGuessing">;

function decoding(
  llama: LlamaLibrary,
  model: Pointer,
  context: Pointer,
  memory: Pointer,
  options: EngineOptions,
  sampling: DecoderOptions["sampling"],
  adapters: Adapters,
): Generating {
  const { slots, speculate_tokens_max } = options;
  // A sliding window forgets what came before it.
  const all_or_nothing = llama.model_is_recurrent(model) || llama.model_is_hybrid(model) || llama.model_n_swa(model) > 0;
  const batch_tokens = batchTokens(options);
  const decoder = new Decoder(llama, context, memory, { slots, batch_tokens, speculate_tokens_max, sampling, all_or_nothing, adapters });
  return {
    sequences: decoder.sequences,
    compute: async (items) => decoder.compute(items),
    computesNumbers: async (token) => decoder.computesNumbers(token),
    timeSteps: (token) => decoder.timeSteps(token),
    ...(speculate_tokens_max === 0 || all_or_nothing ? {} : { worthGuessing: decoder.worthGuessing }),
  };
}

/** Of a model that keeps no state of a text: it has nothing to go on from, and makes vectors only. */
function noText(llama: LlamaLibrary, context: Pointer, embedder: LibllamaEmbedder | string): Generating {
  if (typeof embedder === "string") throw new RbeesError("INVALID_REQUEST", `This model makes neither text nor embeddings: ${embedder}.`);
  llama.free(context);
  return {
    sequences: [],
    compute: async () => [],
    computesNumbers: async (token) => embedder.computesNumbers(token),
  };
}
