/**
 * Loads a model with node-llama-cpp and makes its context. The only file that loads the binding. What the binding does not offer
 * publicly (the template renderer) is reached for with care and does without when it is gone.
 */
import { RbeesError } from "@rbees/contracts/errors";
import type { CacheType } from "@rbees/contracts/sets";
import { readGguf } from "@rbees/kit/gguf";
import type { Llama, LlamaContext, LlamaModel } from "node-llama-cpp";
import type { EngineOptions } from "../engine.ts";
import { Likelihoods } from "../llama/likelihoods.ts";
import { batchTokens, Complaints, featuresOf, type LoadedModel, quantised } from "../llama/model.ts";
import { readsFromBothSides } from "../llama/pooling.ts";
import { type NativeRenderers, nativeRenderer } from "../llama/renderer.ts";
import { TokenBytes } from "../llama/vocabulary.ts";
import { BINDING_VERSION, Binding } from "./binding.ts";
import { BindingEmbedder, whyNone } from "./embedder.ts";
import { BindingGrammar } from "./grammar.ts";
import type { SamplerParts } from "./sampler.ts";
import { Sequences } from "./sequences.ts";

/** What the binding calls them. */
const GGML_TYPE = { f16: "F16", q8_0: "Q8_0", q4_0: "Q4_0" } as const satisfies Record<CacheType, string>;

/** Starts the native library; `complain` hears its errors, of whatever model it is loading. */
export async function startLlama({ backend, threads }: EngineOptions, complain: (message: string) => void): Promise<Llama> {
  // Loaded here and not above: the other engine does without it.
  const { getLlama, LlamaLogLevel } = await import("node-llama-cpp");
  return await getLlama({
    build: "never",
    gpu: backend === "cpu" ? false : backend,
    maxThreads: threads,
    logLevel: LlamaLogLevel.error,
    logger: (level, message) => {
      if (level === LlamaLogLevel.error || level === LlamaLogLevel.fatal) complain(message);
    },
  });
}

/** `start` may give a library that runs already. */
export async function loadModel(options: EngineOptions, progress: (fraction: number) => void, start = startLlama): Promise<LoadedModel> {
  const complaints = new Complaints();
  try {
    const llama = await start(options, (message) => complaints.add(message));
    const model = await llama.loadModel({
      modelPath: options.model_path,
      gpuLayers: options.backend === "cpu" ? 0 : options.gpu_layers,
      checkTensors: true,
      onLoadProgress: progress,
    });
    return await describe(llama, model, options);
  } catch (error) {
    throw await loadError(error, options, complaints);
  }
}

async function createContext(model: LlamaModel, options: EngineOptions): Promise<LlamaContext> {
  return await model.createContext({
    sequences: options.slots,
    contextSize: options.context_size,
    batchSize: batchTokens(options),
    threads: options.threads,
    // On, the result depends on what else is in the batch.
    flashAttention: options.deterministic ? false : "auto",
    experimentalKvCacheKeyType: GGML_TYPE[options.cache_type],
    experimentalKvCacheValueType: GGML_TYPE[options.cache_type],
    failedCreationRemedy: false,
  });
}

async function describe(llama: Llama, model: LlamaModel, options: EngineOptions): Promise<LoadedModel> {
  const { tokenizer } = model.fileInfo.metadata;
  const vocabulary = tokenizer?.ggml;
  const tokens = vocabulary?.tokens as readonly string[] | undefined;
  if (tokens === undefined) throw new RbeesError("INVALID_REQUEST", `${options.model_path} has no vocabulary`);
  const kinds = (vocabulary?.token_type ?? []) as unknown as readonly number[];
  const template = tokenizer?.chat_template;
  const bos = model.tokens.shouldPrependBosToken && model.tokens.bos !== null ? model.tokens.bos : undefined;
  const render_native = nativeRenderer((llama as unknown as { _bindings?: NativeRenderers })._bindings ?? {});
  const gguf = await readGguf(options.model_path);
  const binding = Binding.of(llama, model);
  const bytes = new TokenBytes({ model: String(vocabulary?.model ?? ""), tokens, kinds }, (id) => model.detokenize([id as never]));
  const ends = (id: number) => model.isEogToken(id as never);
  const likelihoods = new Likelihoods(bytes, (id) => tokens[id] ?? "");
  const embedder = whyNone(gguf) ?? new BindingEmbedder(model, gguf, options, tokens.length);
  const generating = readsFromBothSides(gguf) ? noText(embedder) : await decoding(model, options, { binding, bytes, ends, likelihoods });
  return {
    facts: {
      vocab_size: tokens.length,
      context_size: options.context_size,
      has_chat_template: template !== undefined,
      device: options.backend === "cpu" ? "" : ((await llama.getGpuDeviceNames())[options.gpu] ?? ""),
      vram_bytes: options.backend === "cpu" ? 0 : (await llama.getVramState()).used,
      engine: { name: "node-llama-cpp", version: `${BINDING_VERSION} (llama.cpp ${llama.llamaCppRelease.release})` },
      features: featuresOf(generating.sequences.length > 0, typeof embedder !== "string"),
    },
    prompt: {
      tokenize: (text, special, continues) => model.tokenize(text, special, continues ? "trimLeadingSpace" : undefined) as number[],
      bos,
      bos_text: model.tokens.bosString ?? "",
      eos_text: model.tokens.eosString ?? "",
      chat_template: template,
      ...(render_native === undefined ? {} : { render_native }),
    },
    bytes,
    ends,
    has_end: model.tokens.eos !== null,
    batch_invariant: options.backend === "cpu" && quantised(gguf),
    embedder,
    in_turn: options.deterministic,
    grammar: (text) => new BindingGrammar(binding, text),
    ...generating,
  };
}

type Generating = Pick<LoadedModel, "sequences" | "compute" | "computesNumbers">;

async function decoding(model: LlamaModel, options: EngineOptions, parts: Omit<SamplerParts, "context">): Promise<Generating> {
  const sequences = new Sequences(await createContext(model, options), options.slots, parts);
  return {
    sequences: sequences.all,
    compute: (items) => sequences.compute(items),
    computesNumbers: (token) => sequences.computesNumbers(token),
  };
}

/** Of a model that reads a text from both sides: it has nothing to go on from, and makes vectors only. */
function noText(embedder: BindingEmbedder | string): Generating {
  if (typeof embedder === "string") throw new RbeesError("INVALID_REQUEST", `This model makes neither text nor embeddings: ${embedder}.`);
  return { sequences: [], compute: async () => [], computesNumbers: (token) => embedder.computesNumbers(token) };
}

/** The engine's log comes by a queue of its own: this many turns of the event loop are given to it. */
const COMPLAINT_TURNS_MAX = 10;

async function loadError(error: unknown, options: EngineOptions, complaints: Complaints): Promise<RbeesError> {
  if (error instanceof RbeesError) return error;
  for (let turn = 0; turn < COMPLAINT_TURNS_MAX && complaints.lines.length === 0; turn++)
    await new Promise((resolve) => setTimeout(resolve, 1));
  const message = error instanceof Error ? (error.message.split("\n", 1)[0] ?? "") : String(error);
  const { InsufficientMemoryError } = await import("node-llama-cpp");
  if (error instanceof InsufficientMemoryError) {
    const layers = typeof options.gpu_layers === "number" && options.gpu_layers > 0 ? "fewer --gpu-layers, " : "";
    return new RbeesError("INSUFFICIENT_MEMORY", `${options.model_path}: ${message}. Use ${layers}fewer --slots or a smaller --ctx.`, {
      cause: error,
    });
  }
  if (error instanceof Error && error.name === "NoBinaryFoundError") {
    const why = `This installation has no engine for --backend ${options.backend} on this machine.`;
    return new RbeesError("ENGINE_FAILED", `${why} "rbees-pool backends list" says what works here.`, { cause: error });
  }
  return complaints.refusal(options.model_path, message, error);
}
