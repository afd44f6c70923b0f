/**
 * What the step loop asks of a library that computes: one loaded model with a fixed number of sequences, one for each slot. Both
 * adapters give it: `libllama/` calls llama.cpp itself, `node-llama-cpp/` goes through that binding.
 */
import { RbeesError } from "@rbees/contracts/errors";
import type { TokenLogprob } from "@rbees/contracts/logprobs";
import type { Feature } from "@rbees/contracts/sets";
import type { Gguf } from "@rbees/kit/gguf";
import type { EngineOptions, ModelFacts } from "../engine.ts";
import type { Embedder } from "./embeddings.ts";
import type { PromptModel } from "./prompt.ts";

/** How a token is drawn. */
export interface Sampling {
  /** 0: the likeliest token. */
  temperature: number;
  /** 0: all tokens. */
  topK: number;
  topP: number;
  minP: number;
  seed: number;
  /** Added to the logits of tokens before anything else. */
  bias?: ReadonlyMap<number, number>;
  /** Makes tokens less likely by a factor, after that. */
  repeats?: Repeats;
  /** Nothing but what it allows; absent: anything. */
  grammar?: GrammarState;
  /** How likely the token was is to be told, and so many of the likeliest; absent: it is not. */
  logprobs?: number;
}

/** Tokens that came last: a logit of theirs above 0 is divided by the penalty, one below is multiplied. */
export interface Repeats {
  readonly penalty: number;
  /** With how often each is among them. */
  readonly tokens: ReadonlyMap<number, number>;
}

/** What may be said next by the grammar of one answer. */
export interface GrammarState {
  allows(token: number): boolean;
  /** The answer goes on with a token that it allows. */
  accept(token: number): void;
  /** It is not asked any more. */
  release(): void;
}

/** What was drawn; no token when the grammar allows none that the vocabulary has. The grammar has accepted it. */
export interface Drawn {
  token: number | undefined;
  /** Where it was asked for. */
  logprob?: TokenLogprob;
}

/** The tokens whose state the library holds for one slot. */
export interface Sequence {
  readonly tokens: readonly number[];
  /** The state can't be cut back: it goes on from all of it or from nothing. */
  readonly all_or_nothing: boolean;
  /** Forgets all but the first `count` tokens. */
  keep(count: number): Promise<void> | void;
  /** Takes over the state of the first `count` tokens that the sequence of another slot holds; absent where that can't be. */
  adopt?(slot: number, count: number): void;
  /** A copy of all of its state, of `bytes_max` at most; undefined when it is larger. Absent where that can't be had. */
  save?(bytes_max: number): Uint8Array | undefined;
  /** In place of what it holds the first `count` of those tokens, from a copy of their state. False: it was not taken, and it holds nothing. */
  restore?(tokens: ArrayLike<number>, state: Uint8Array, count: number): boolean;
}

/** Tokens that one step computes for one slot; `sampling` is there when a token is to be drawn after them. */
export interface BatchItem {
  slot: number;
  tokens: readonly number[];
  sampling: Sampling | undefined;
  /** The LoRA adapter through which they are computed. */
  lora?: string | undefined;
  /** What may be drawn after them, computed along: a token is drawn after each of these too, as long as all before it were right. */
  guess?: readonly number[];
  /** A token was drawn that was guessed, and the next can be drawn at once: how; undefined: the answer is over. */
  guessed?(drawn: Drawn): Sampling | undefined;
}

export interface LoadedModel {
  facts: ModelFacts;
  prompt: PromptModel;
  /** The bytes each token stands for; none for a special token. */
  bytes: { of(id: number): Uint8Array };
  /** Whether a token ends the answer. */
  ends(id: number): boolean;
  /** Whether there is such a token. */
  has_end: boolean;
  /** Whether batches of any size give the same numbers: true of quantised weights without flash attention. */
  batch_invariant: boolean;
  /** By slot; none where the model generates no text. */
  sequences: readonly Sequence[];
  /** Makes vectors of texts; where it can't, why. */
  embedder: Embedder | string;
  /** A step is either answers or parts of prompts, in turn: so that an abort waits for one of the two only. */
  in_turn: boolean;
  /**
   * Computes the items, which come in the order of their slots, together, each after what its sequence holds: the drawn tokens, in the order of the items; undefined where
   * none was asked for, or where `guessed` has taken all. It may block the event loop for as long as it computes.
   */
  compute(items: readonly BatchItem[]): Promise<(Drawn | undefined)[]>;
  /** The beginning of an answer by a grammar in GBNF. Refuses what it can't read with INVALID_REQUEST. */
  grammar(text: string): GrammarState;
  /** Computes one token after nothing: whether numbers came out. Afterwards every sequence is empty. */
  computesNumbers(token: number): Promise<boolean>;
  /** Times steps of 1, 2, … rows, microseconds, for `compute` to go by; absent where nothing comes of it. Every sequence must be empty. */
  timeSteps?(token: number): number[];
  /** How many tokens of an answer are worth guessing, by which part of its guesses was right and how many answers go on; absent: none. */
  worthGuessing?(rate: number, answers: number): number;
}

/** What of a model is asked to make an answer of tokens. */
export type SpokenModel = Pick<LoadedModel, "prompt" | "bytes" | "ends" | "has_end" | "grammar">;

/** Loads the model named in the options; refuses with an `RbeesError`: ENGINE_FAILED, INSUFFICIENT_MEMORY, INVALID_REQUEST. */
export type LoadModel = (options: EngineOptions, progress: (fraction: number) => void) => Promise<LoadedModel>;

/** One step is at most one token of every slot and one chunk of a prompt (and one, see the step's plan). */
export function batchTokens(options: Pick<EngineOptions, "slots" | "prefill_chunk_tokens" | "speculate_tokens_max">): number {
  const { slots, prefill_chunk_tokens, speculate_tokens_max } = options;
  // Guesses of an answer are computed apart from all else.
  return Math.max(slots + prefill_chunk_tokens, speculate_tokens_max) + 1;
}

/** What is done beyond what every engine can, of a model that makes text, vectors or both. */
export function featuresOf(text: boolean, vectors: boolean): Feature[] {
  return [
    ...(text
      ? (["grammar", "json_schema", "logit_bias", "penalties", "repeat_penalty", "tools", "logprobs", "tokenize", "token_prompts"] as const)
      : []),
    ...(vectors ? (["embeddings"] as const) : []),
  ];
}

const UNQUANTISED: ReadonlySet<string> = new Set(["F32", "F16", "BF16", "F64", "I8", "I16", "I32", "I64"]);

/** Whether most of the weights are quantised. */
export function quantised({ tensors }: Gguf): boolean {
  let balance = 0;
  for (const { type, shape } of tensors) {
    const values = shape.reduce((product, length) => product * length, 1);
    balance += UNQUANTISED.has(type) ? -values : values;
  }
  return balance > 0;
}

/** How many of the engine's last complaints go into an error. */
const COMPLAINTS_MAX = 3;

/** The last errors of llama.cpp's log: the only place where it says why it can't load a model. */
export class Complaints {
  readonly lines: string[] = [];

  add(line: string): void {
    this.lines.push(line.trim());
    if (this.lines.length > COMPLAINTS_MAX) this.lines.shift();
  }

  /** The refusal of a model; `said` is what else there is to say. */
  refusal(model_path: string, said: string, cause?: unknown): RbeesError {
    const reason = this.lines.map((line) => /error loading model: (.*)/.exec(line)?.[1]).find((found) => found !== undefined);
    const why = reason ?? [said, ...this.lines].filter((text) => text !== "").join("; ");
    return new RbeesError("ENGINE_FAILED", `The engine can't load ${model_path}: ${why}.`, { cause });
  }
}
