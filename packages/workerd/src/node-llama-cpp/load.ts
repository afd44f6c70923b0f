/**
 * Loads a model with node-llama-cpp and makes its context. The only file that loads the binding. What the binding does not offer
 * publicly (the template renderer) is reached for with care and does without when it is gone.
 */
import { RbeesError } from "@rbees/contracts/errors";
import type { CacheType } from "@rbees/contracts/sets";
import { readGguf } from "@rbees/kit/gguf";
import type { Llama, LlamaContext, LlamaModel } from "node-llama-cpp";
import type { EngineOptions } from "../engine.ts";
import { batchTokens, Complaints, type LoadedModel, quantised } from "../llama/model.ts";
import { type NativeRenderers, nativeRenderer } from "../llama/renderer.ts";
import { Sequences } from "./sequences.ts";
import { TokenBytes } from "./vocabulary.ts";

/** The package's version is pinned; a test holds this equal to it. */
export const BINDING_VERSION = "3.21.1";

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
    const context = await createContext(model, options);
    return await describe(llama, model, context, options);
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
    batching: {
      // The step loop queues a step as a whole; all of it goes into one batch. In the order of the slots, because llama.cpp
      // computes each run of neighbouring slots in one pass.
      itemPrioritizationStrategy: ({ items }) =>
        [...items].sort((a, b) => a.evaluationPriority - b.evaluationPriority).map((item) => ({ item, processAmount: item.tokens.length })),
    },
  });
}

async function describe(llama: Llama, model: LlamaModel, context: LlamaContext, options: EngineOptions): Promise<LoadedModel> {
  const { tokenizer } = model.fileInfo.metadata;
  const vocabulary = tokenizer?.ggml;
  const tokens = vocabulary?.tokens as readonly string[] | undefined;
  if (tokens === undefined) throw new RbeesError("INVALID_REQUEST", `${options.model_path} has no vocabulary`);
  const kinds = (vocabulary?.token_type ?? []) as unknown as readonly number[];
  const template = tokenizer?.chat_template;
  const bos = model.tokens.shouldPrependBosToken && model.tokens.bos !== null ? model.tokens.bos : undefined;
  const render_native = nativeRenderer((llama as unknown as { _bindings?: NativeRenderers })._bindings ?? {});
  const { release } = llama.llamaCppRelease;
  const sequences = new Sequences(context, options.slots);
  return {
    facts: {
      vocab_size: tokens.length,
      context_size: options.context_size,
      has_chat_template: template !== undefined,
      device: options.backend === "cpu" ? "" : ((await llama.getGpuDeviceNames())[options.gpu] ?? ""),
      vram_bytes: options.backend === "cpu" ? 0 : (await llama.getVramState()).used,
      engine: { name: "node-llama-cpp", version: `${BINDING_VERSION} (llama.cpp ${release})` },
      features: ["tools"],
    },
    prompt: {
      tokenize: (text, special, continues) => model.tokenize(text, special, continues ? "trimLeadingSpace" : undefined) as number[],
      bos,
      bos_text: model.tokens.bosString ?? "",
      eos_text: model.tokens.eosString ?? "",
      chat_template: template,
      ...(render_native === undefined ? {} : { render_native }),
    },
    bytes: new TokenBytes({ model: String(vocabulary?.model ?? ""), tokens, kinds }, (id) => model.detokenize([id as never])),
    ends: (id) => model.isEogToken(id as never),
    has_end: model.tokens.eos !== null,
    batch_invariant: options.backend === "cpu" && quantised(await readGguf(options.model_path)),
    sequences: sequences.all,
    embedder: "its engine, node-llama-cpp, pools nothing; --engine libllama does",
    in_turn: options.deterministic,
    compute: async (items) => (await sequences.compute(items)).map((token) => (token === undefined ? undefined : { token })),
    computesNumbers: (token) => sequences.computesNumbers(token),
  };
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
