/**
 * What of the binding is used beyond what it publishes: its inner context, its sampler, its grammars. Its version is pinned, and this is
 * where a version that has something else is found out, before anything is computed.
 */
import { RbeesError } from "@rbees/contracts/errors";
import type { Llama, LlamaContext, LlamaContextSequence, LlamaModel } from "node-llama-cpp";

/** The package's version is pinned; a test holds this equal to it. */
export const BINDING_VERSION = "3.21.1";

export interface InnerContext {
  initBatch(tokens: number): void;
  /** Gives the places of the wanted outputs in the batch. */
  addToBatch(sequence: number, position: number, tokens: Uint32Array, outputs: Uint32Array): Uint32Array;
  decodeBatch(): Promise<void>;
  /** -1 when nothing could be drawn. */
  sampleToken(place: number, sampler: InnerSampler): Promise<number>;
  /** Asked for the likelihood too, it goes through the grammar before it draws, not after a draw that was refused. */
  sampleToken(place: number, sampler: InnerSampler, likelihoods: false, likelihood: true): Promise<[token: number, ...unknown[]]>;
  /** With the likelihoods of the tokens that it drew among: numbers and likelihoods in turn, the likeliest first. */
  sampleToken(place: number, sampler: InnerSampler, likelihoods: true): Promise<[token: number, likelihoods: readonly number[]]>;
  /** Forgets what a sequence holds. */
  disposeSequence(sequence: number): void;
  /** Of the one input that was computed last. */
  getEmbedding(tokens: number): Float64Array;
}

/** The configuration of a draw; what is left out is off. */
export interface SamplerConfig {
  temperature: number;
  topK: number;
  topP: number;
  minP: number;
  seed: number;
  tokenBiasKeys?: Uint32Array;
  tokenBiasValues?: Float32Array;
  /** After the biases. */
  repeatPenalty?: number;
  repeatPenaltyMaxTokens?: number;
  repeatPenaltyTokens?: Uint32Array;
  grammarEvaluationState?: InnerGrammarState;
}

export interface InnerSampler {
  applyConfig(config: SamplerConfig): void;
}

declare const grammar_state: unique symbol;
export interface InnerGrammarState {
  readonly [grammar_state]: true;
}

/** The sequence's own books, which its public methods go by. */
export interface InnerSequence {
  _sequenceId: number;
  _nextTokenIndex: number;
  _contextTokens: number[];
}

interface Bindings {
  AddonSampler: {
    new (model: unknown): InnerSampler;
    canBeNextTokenForGrammarEvaluationState(state: InnerGrammarState, token: number): boolean;
    /** Ends the process when the token ends the answer and the grammar wants more. */
    acceptGrammarEvaluationStateToken(state: InnerGrammarState, token: number): void;
  };
  AddonGrammar: new (text: string, options: { rootRuleName: string }) => object;
  AddonGrammarEvaluationState: {
    new (model: unknown, grammar: object): InnerGrammarState;
    new (copied: InnerGrammarState): InnerGrammarState;
  };
}

const CONTEXT_METHODS = ["initBatch", "addToBatch", "decodeBatch", "sampleToken", "disposeSequence", "getEmbedding"] as const;

/** A loaded model, from within. */
export class Binding {
  readonly #bindings: Bindings;
  readonly #model: unknown;

  private constructor(bindings: Bindings, model: unknown) {
    this.#bindings = bindings;
    this.#model = model;
  }

  static of(llama: Llama, model: LlamaModel): Binding {
    const { _bindings: bindings } = llama as unknown as { _bindings?: Partial<Bindings> };
    const { _model: inner } = model as unknown as { _model?: unknown };
    const { AddonSampler, AddonGrammar, AddonGrammarEvaluationState } = bindings ?? {};
    if (AddonSampler === undefined || AddonGrammar === undefined || AddonGrammarEvaluationState === undefined || inner === undefined)
      throw changed();
    return new Binding({ AddonSampler, AddonGrammar, AddonGrammarEvaluationState }, inner);
  }

  static context(context: LlamaContext): InnerContext {
    const { _ctx: inner } = context as unknown as { _ctx?: InnerContext };
    if (inner === undefined || CONTEXT_METHODS.some((name) => typeof inner[name] !== "function")) throw changed();
    return inner;
  }

  static sequence(sequence: LlamaContextSequence): InnerSequence {
    const inner = sequence as unknown as InnerSequence;
    const { _sequenceId, _nextTokenIndex, _contextTokens } = inner;
    if (!Number.isInteger(_sequenceId) || !Number.isInteger(_nextTokenIndex) || !Array.isArray(_contextTokens)) throw changed();
    return inner;
  }

  sampler(): InnerSampler {
    return new this.#bindings.AddonSampler(this.#model);
  }

  /** Throws what it can't read. */
  grammar(text: string): InnerGrammarState {
    const { AddonGrammar, AddonGrammarEvaluationState } = this.#bindings;
    return new AddonGrammarEvaluationState(this.#model, new AddonGrammar(text, { rootRuleName: "root" }));
  }

  copy(state: InnerGrammarState): InnerGrammarState {
    return new this.#bindings.AddonGrammarEvaluationState(state);
  }

  allows(state: InnerGrammarState, token: number): boolean {
    return this.#bindings.AddonSampler.canBeNextTokenForGrammarEvaluationState(state, token);
  }

  accept(state: InnerGrammarState, token: number): void {
    this.#bindings.AddonSampler.acceptGrammarEvaluationStateToken(state, token);
  }
}

function changed(): RbeesError {
  const why = `node-llama-cpp is not the version ${BINDING_VERSION} that this was made for`;
  return new RbeesError("ENGINE_FAILED", `${why}: install rbees again, or leave --engine out.`);
}
