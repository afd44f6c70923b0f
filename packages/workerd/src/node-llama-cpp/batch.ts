/**
 * Computes one step as one batch, on the binding's inner context. The public way takes each sequence's tokens through a queue,
 * locks and a sampler of its own for every single token: 4 to 10 % of the CPU time of a small model. Only what the pinned
 * version has is used, and where it is not there (`undefined`), the caller goes the public way.
 */
import type { LlamaContext, LlamaContextSequence } from "node-llama-cpp";
import type { BatchItem, Sampling } from "../llama/model.ts";

interface InnerContext {
  initBatch(tokens: number): void;
  /** Gives the places of the wanted outputs in the batch. */
  addToBatch(sequence: number, position: number, tokens: Uint32Array, outputs: Uint32Array): Uint32Array;
  decodeBatch(): Promise<void>;
  /** -1 when nothing could be drawn. */
  sampleToken(place: number, sampler: InnerSampler): Promise<number>;
}
interface InnerSampler {
  applyConfig(sampling: Sampling): void;
}
/** The sequence's own books, which its public methods go by. */
interface InnerSequence {
  _sequenceId: number;
  _nextTokenIndex: number;
  _contextTokens: number[];
}
interface Inner {
  _ctx?: InnerContext;
  _llama?: { _bindings?: { AddonSampler?: new (model: unknown) => InnerSampler } };
  _model?: { _model?: unknown };
}

const NO_OUTPUT = new Uint32Array(0);
/** A sampler that gets the seed it already has goes on where it was. No draw has this one: see `positionSeed`. */
const UNUSED_SEED = 0x8000_0000;

export class Batch {
  readonly #context: InnerContext;
  /** By slot. */
  readonly #sequences: readonly InnerSequence[];
  readonly #newSampler: () => InnerSampler;
  /** By slot: its sampler, and the seed of its last draw. */
  readonly #samplers = new Map<number, { sampler: InnerSampler; seed: number }>();

  private constructor(context: InnerContext, sequences: readonly InnerSequence[], newSampler: () => InnerSampler) {
    this.#context = context;
    this.#sequences = sequences;
    this.#newSampler = newSampler;
  }

  /** Undefined where the binding has changed, or where the model's state needs the checkpoints that the public way takes. */
  static on(context: LlamaContext, sequences: readonly LlamaContextSequence[]): Batch | undefined {
    const { _ctx: inner, _llama: llama, _model: model } = context as unknown as Inner;
    const Sampler = llama?._bindings?.AddonSampler;
    const known = sequences.every((sequence) => {
      const { _sequenceId, _nextTokenIndex, _contextTokens } = sequence as unknown as Partial<InnerSequence>;
      return (
        !sequence.needsCheckpoints && Number.isInteger(_sequenceId) && Number.isInteger(_nextTokenIndex) && Array.isArray(_contextTokens)
      );
    });
    const methods = ["initBatch", "addToBatch", "decodeBatch", "sampleToken"] as const;
    if (!known || Sampler === undefined || inner === undefined || methods.some((name) => typeof inner[name] !== "function"))
      return undefined;
    return new Batch(inner, sequences as unknown as readonly InnerSequence[], () => new Sampler(model?._model));
  }

  /** The drawn tokens, in the order of the items; undefined where none was asked for. */
  async compute(items: readonly BatchItem[]): Promise<(number | undefined)[]> {
    if (items.length === 0) return [];
    this.#context.initBatch(items.reduce((sum, { tokens }) => sum + tokens.length, 0));
    const places: number[] = [];
    // llama.cpp computes each run of neighbouring sequences in one pass.
    const ordered = items.map((item, at) => ({ ...item, at })).sort((a, b) => a.slot - b.slot);
    for (const { at, slot, tokens, sampling } of ordered) {
      const books = this.#sequences[slot];
      if (books === undefined) throw new Error(`there is no slot ${slot}`);
      const outputs = sampling === undefined ? NO_OUTPUT : Uint32Array.of(tokens.length - 1);
      const [place] = this.#context.addToBatch(books._sequenceId, books._nextTokenIndex, Uint32Array.from(tokens), outputs);
      if (place !== undefined) places[at] = place;
      books._nextTokenIndex += tokens.length;
      for (const token of tokens) books._contextTokens.push(token);
    }
    await this.#context.decodeBatch();
    // llama.cpp puts the outputs into the order of the batch when the first of them is asked for, and each draw asks in a thread of
    // its own: two that ask first at once would both move them, and draw from each other's.
    const drawn: (number | undefined)[] = [];
    const first = items.findIndex(({ sampling }) => sampling !== undefined);
    if (first >= 0) drawn[first] = await this.#draw(items[first] as BatchItem, places[first]);
    return await Promise.all(items.map((item, at) => (at === first ? drawn[at] : this.#draw(item, places[at]))));
  }

  async #draw({ slot, sampling }: BatchItem, place: number | undefined): Promise<number | undefined> {
    if (sampling === undefined || place === undefined) return undefined;
    const kept = this.#samplers.get(slot);
    const sampler = kept?.sampler ?? this.#newSampler();
    if (kept?.seed === sampling.seed) sampler.applyConfig({ ...sampling, seed: UNUSED_SEED });
    sampler.applyConfig(sampling);
    this.#samplers.set(slot, { sampler, seed: sampling.seed });
    const token = await this.#context.sampleToken(place, sampler);
    if (token < 0) throw new Error("the engine drew no token");
    return token;
  }
}
