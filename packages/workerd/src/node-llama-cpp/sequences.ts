/**
 * The sequences of a node-llama-cpp context, and how a step is computed on them: as one batch, on the binding's inner context. Its own
 * scheduling is left out of the game: it leaves streams out of batches, can't abort a prompt, and takes each sequence's tokens through a
 * queue, locks and a sampler of its own for every single token, which is 4 to 10 % of the CPU time of a small model.
 */
import type { LlamaContext, LlamaContextSequence, Token } from "node-llama-cpp";
import type { BatchItem, Drawn, Sequence } from "../llama/model.ts";
import { Binding, type InnerContext, type InnerSequence } from "./binding.ts";
import { type SamplerParts, Samplers } from "./sampler.ts";

const NO_OUTPUT = new Uint32Array(0);

export class Sequences {
  readonly #context: InnerContext;
  readonly #first: LlamaContextSequence | undefined;
  /** By slot. */
  readonly #books: readonly InnerSequence[];
  readonly #samplers: Samplers;
  readonly all: readonly Sequence[];

  constructor(context: LlamaContext, slots: number, parts: Omit<SamplerParts, "context">) {
    const sequences = Array.from({ length: slots }, () => context.getSequence());
    this.#context = Binding.context(context);
    this.#first = sequences[0];
    this.#books = sequences.map(Binding.sequence);
    this.#samplers = new Samplers({ ...parts, context: this.#context });
    this.all = sequences.map((sequence) => ({
      get tokens() {
        return sequence.contextTokens;
      },
      all_or_nothing: sequence.needsCheckpoints,
      async keep(count) {
        if (count === 0) await sequence.clearHistory();
        // `false`: never shift cells, which changes positions silently.
        else await sequence.adaptStateToTokens(sequence.contextTokens.slice(0, count), false);
      },
    }));
  }

  async computesNumbers(token: number): Promise<boolean> {
    const draw = { generateNext: { token: true, confidence: true, options: { temperature: 0 } } } as const;
    const [result] = (await this.#first?.controlledEvaluate([[token as Token, draw]])) ?? [];
    await this.#first?.clearHistory();
    return Number.isFinite(result?.next.confidence);
  }

  /** What was drawn, in the order of the items; undefined where nothing was asked for. */
  async compute(items: readonly BatchItem[]): Promise<(Drawn | undefined)[]> {
    if (items.length === 0) return [];
    this.#context.initBatch(items.reduce((sum, { tokens }) => sum + tokens.length, 0));
    const places: number[] = [];
    // llama.cpp computes each run of neighbouring sequences in one pass.
    const ordered = items.map((item, at) => ({ ...item, at })).sort((a, b) => a.slot - b.slot);
    for (const { at, slot, tokens, sampling } of ordered) {
      const books = this.#books[slot];
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
    const drawn: (Drawn | undefined)[] = [];
    const first = items.findIndex(({ sampling }) => sampling !== undefined);
    if (first >= 0) drawn[first] = await this.#draw(items[first] as BatchItem, places[first]);
    return await Promise.all(items.map((item, at) => (at === first ? drawn[at] : this.#draw(item, places[at]))));
  }

  async #draw({ slot, sampling }: BatchItem, place: number | undefined): Promise<Drawn | undefined> {
    return sampling === undefined || place === undefined ? undefined : await this.#samplers.draw(slot, sampling, place);
  }
}
