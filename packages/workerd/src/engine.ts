/**
 * The engine port: what the worker asks of whatever generates tokens, and what it hears back.
 *
 * An engine holds one model and a fixed number of slots. It is told to start runs and to abort them; after each step of the
 * engine (one batch through the model) it reports, in one go, what that step brought for every run. The port is spoken twice:
 * by the step loop (`llama/engine.ts`, on one of the libraries in `engines.ts`) and by `EngineProcess`, which has it in a child
 * process.
 * Unloading a model is ending the process: native memory comes back no other way.
 */
import type { EmbedInput } from "@rbees/contracts/embed";
import type { ErrorCode } from "@rbees/contracts/errors";
import type { StopReason } from "@rbees/contracts/job";
import type { TokenLogprob } from "@rbees/contracts/logprobs";
import type { Message } from "@rbees/contracts/message";
import type { CacheType, EngineName, Feature, ReasoningEffort } from "@rbees/contracts/sets";
import type { Tool, ToolCallPiece, ToolChoice } from "@rbees/contracts/tools";
import type { Backend } from "@rbees/contracts/worker";

export interface EngineOptions {
  engine: EngineName;
  model_path: string;
  backend: Backend;
  /** Which GPU; no meaning on the CPU. */
  gpu: number;
  /** How many of the model's layers the GPU computes; no meaning on the CPU. */
  gpu_layers: number | "auto";
  slots: number;
  /** Tokens a slot can hold: prompt and answer together. */
  context_size: number;
  threads: number;
  /** Same request, same tokens, whatever runs beside it. */
  deterministic: boolean;
  prefill_chunk_tokens: number;
  /** From one token of an answer to its next, while prompts are computed ÷ otherwise, at most: chunks get smaller; 0: they never do. */
  prefill_stretch_max: number;
  cache_type: CacheType;
  /** What slots lose to other prompts is kept in so much memory, and put back when such a prompt comes again; 0: not at all. */
  prefix_cache_bytes_max: number;
  /** Files of LoRA adapters, by the names that runs ask for them with. */
  loras: Readonly<Record<string, string>>;
  /** Tokens of an answer that may be guessed and computed along with its next one; 0: none. */
  speculate_tokens_max: number;
  /** Where it is kept from one life to the next, and of which model it is; absent: nowhere. */
  prefix_file?: { path: string; model_digest: string; lora_digests: Readonly<Record<string, string>> } | undefined;
  /** The server that computes, for the engine `openai` and no other. */
  upstream?: UpstreamOptions | undefined;
  /** The program that computes, for the engine `llama-server` and no other. */
  program?: ProgramOptions | undefined;
}

/** The server that computes, where that is none of ours. */
export interface UpstreamOptions {
  /** Up to and with `/v1`. */
  url: string;
  /** What the server calls the model. */
  model: string;
  /** Shown as a bearer token. */
  key?: string | undefined;
  /** What it can do beyond text: `auto`, `none` or a list. */
  features: string;
}

/** The program that computes, where that is `llama-server`. */
export interface ProgramOptions {
  /** The binary; empty: it is looked for on PATH. */
  path: string;
  /** How long it may take to load its model. */
  ready_ms_max: number;
}

export interface ModelFacts {
  vocab_size: number;
  context_size: number;
  has_chat_template: boolean;
  /** The device as its driver names it; empty on the CPU. */
  device: string;
  /** Memory of the GPU that the model and its context take; 0 on the CPU. */
  vram_bytes: number;
  engine: { name: string; version: string };
  /** What it can do beyond what every engine can. */
  features: readonly Feature[];
  /** Whether slots' lost prefixes can be kept and put back. */
  keeps_prefixes?: boolean;
  /** Whether it guesses tokens, if it is asked to. */
  speculates?: boolean;
  /** The LoRA adapters that are loaded; absent where the engine has none. */
  loras?: readonly string[];
  /** What a step of 1, 2, … rows took when the model was loaded, microseconds; absent where the engine does not time it. */
  step_us?: readonly number[];
}

export interface RunRequest {
  /** Exactly one of `prompt`, `messages` and `token_prompt`. */
  prompt?: string | undefined;
  /** The numbers of its tokens, taken as they are. */
  token_prompt?: readonly number[] | undefined;
  messages?: readonly Message[] | undefined;
  /** The prompt is fed as it is. */
  raw: boolean;
  /** The LoRA adapter through which it is computed. */
  lora?: string | undefined;
  /** What was computed for requests with another one is not used again. */
  cache_salt?: string | undefined;
  /** Functions that the model may ask to have called. */
  tools?: readonly Tool[] | undefined;
  tool_choice?: ToolChoice | undefined;
  parallel_tool_calls?: boolean | undefined;
  /** What the template marks as thinking is no part of the text. */
  separate_reasoning?: boolean | undefined;
  /** How long to think, for a chat template that has a place for it. */
  reasoning_effort?: ReasoningEffort | undefined;
  /** The ids of calls are made from it: no two jobs have the same. */
  job_id?: string | undefined;
  max_tokens: number;
  /** Fewer than `max_tokens` where the context has no room for them. */
  fit_context: boolean;
  temperature: number;
  top_p?: number | undefined;
  top_k?: number | undefined;
  min_p?: number | undefined;
  seed: number;
  stop: readonly string[];
  frequency_penalty?: number | undefined;
  presence_penalty?: number | undefined;
  repeat_penalty?: number | undefined;
  repeat_last_n?: number | undefined;
  /** By the token's number. */
  logit_bias?: Readonly<Record<string, number>> | undefined;
  /** With how likely each token was, and so many of the likeliest. */
  logprobs?: number | undefined;
  /** In GBNF: nothing but what it allows. */
  grammar?: string | undefined;
  /** What the grammar was made of, for an engine that takes no grammars. */
  json_schema?: boolean | Readonly<Record<string, unknown>> | undefined;
  /** Tokens that another attempt has already sent: the answer goes on after them. */
  continue_tokens: readonly number[];
}

export interface EmbedRequest {
  inputs: readonly EmbedInput[];
  /** Inputs that are too long lose their end; else they are refused. */
  truncate: boolean;
}

/** A prompt whose tokens are counted, and told if that is asked for. */
export type TokenizeRequest = Pick<RunRequest, "prompt" | "messages" | "raw" | "tools" | "tool_choice"> & { with_tokens: boolean };

export interface CountedTokens {
  tokens_in: number;
  tokens?: number[];
}

/** A run has its slot; what is known of it before the first step. */
export interface RunAccepted {
  slot: number;
  tokens_in: number;
  /** Prompt tokens whose state was still in the slot; until the first is computed, more may be taken over from other slots. */
  tokens_cached: number;
}

export interface TokenReport {
  /** What these tokens say of thinking, where that is told apart; absent when nothing. */
  reasoning?: string;
  /** What they say of calls of functions; absent when nothing. */
  tool_calls?: ToolCallPiece[];
  /** How likely each of `ids` was, but for those of a stop string; absent when that is not asked. */
  logprobs?: TokenLogprob[];
  /** Text of whole tokens that ends between two characters. */
  t: string;
  /** Index in the answer of the first of `ids`, continued tokens included. */
  i: number;
  ids: number[];
}

/** The vector of one input, as the contract's `embedding` event has it. */
export interface EmbeddingReport {
  i: number;
  v: string;
}

export interface RunTimings {
  prefill_ms: number;
  decode_ms: number;
}

export interface RunEnd {
  stop_reason: StopReason;
  /** The stop string that was found. */
  stop?: string;
  tokens_in: number;
  tokens_out: number;
  tokens_cached: number;
  timings: RunTimings;
}

/** What one step brought for one run. The report with `end`, `error` or `aborted` is its last: the slot is free. */
export interface StepReport {
  run: number;
  token?: TokenReport;
  embeddings?: readonly EmbeddingReport[];
  /** Tokens of the answer so far, continued ones included. */
  tokens_out: number;
  /** Tokens that this step generated: 1, or 0 while the prompt is read. */
  generated: number;
  decode_ms: number;
  end?: RunEnd;
  error?: { code: ErrorCode; message: string };
  aborted?: true;
}

/** What happened since it was last told. */
export interface EngineCounts {
  /** Of what slots have lost, as it is now. */
  prefix_cache_bytes?: number;
  tokens_guessed?: number;
  tokens_guessed_right?: number;
  prefixes_stored?: number;
  prefixes_restored?: number;
  prefixes_evicted?: number;
}

export interface StoredPrefixes {
  prefixes: number;
  bytes: number;
}

export interface EngineEvents {
  /** 0…1 while the model loads. */
  progress: (fraction: number) => void;
  step: (reports: readonly StepReport[]) => void;
  /** What an earlier life had stored is there again; or why it can't be used. */
  recalled?: (stored: StoredPrefixes & { problem?: string }) => void;
  counted?: (counts: EngineCounts) => void;
  /** Another engine computes than is usually taken, and why. */
  fallback?: (reason: string) => void;
}

export interface Engine {
  load(options: EngineOptions, events: EngineEvents): Promise<ModelFacts>;
  /** Takes a slot for a run. Refuses with an `RbeesError`: CONTEXT_TOO_LARGE, INVALID_REQUEST, ALL_SLOTS_BUSY. */
  start(run: number, request: RunRequest): Promise<RunAccepted>;
  /**
   * Begins to make vectors: the reports of the run have them, some inputs at a time. It takes no slot of the engine's. Refuses with an
   * `RbeesError`: CONTEXT_TOO_LARGE, INVALID_REQUEST, INSUFFICIENT_MEMORY.
   */
  embed(run: number, request: EmbedRequest): Promise<{ tokens_in: number }>;
  /** Counts a prompt's tokens: no slot is taken. Refuses with INVALID_REQUEST. */
  tokenize(run: number, request: TokenizeRequest): Promise<CountedTokens>;
  /** Ends a run at the next step; unknown and ended runs are left alone. */
  abort(run: number): void;
  /** Resident memory of what computes, where that is another process than the engine's own. */
  readonly program_bytes?: number;
  /** Writes what slots hold and have lost to `prefix_file`, for the next life; nothing may run any more. Undefined: nowhere to. */
  store?(): Promise<StoredPrefixes | undefined>;
}
