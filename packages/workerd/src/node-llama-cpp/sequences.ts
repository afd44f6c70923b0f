/**
 * The sequences of a node-llama-cpp context, and how a step is computed on them: as one batch where the pinned binding lets it,
 * else the public way. The binding's own scheduling is left out of the game: it leaves streams out of batches and can't abort a
 * prompt.
 */
import type { LlamaContext, LlamaContextSequence, Token } from "node-llama-cpp";
import type { BatchItem, Sequence } from "../llama/model.ts";
import { Batch } from "./batch.ts";

export class Sequences {
  readonly #sequences: readonly LlamaContextSequence[];
  /** The quick way; undefined where the binding does not offer it. */
  readonly #batch: Batch | undefined;
  readonly all: readonly Sequence[];

  constructor(context: LlamaContext, slots: number) {
    this.#sequences = Array.from({ length: slots }, () => context.getSequence());
    this.#batch = Batch.on(context, this.#sequences);
    this.all = this.#sequences.map((sequence) => ({
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

  async compute(items: readonly BatchItem[]): Promise<(number | undefined)[]> {
    if (this.#batch !== undefined) return await this.#batch.compute(items);
    // Together the binding would draw for all of them at once, each in a thread of its own: see `Batch.compute` for what comes of it.
    const results: (number | undefined)[] = [];
    for (const item of items) results.push(await this.#compute(item));
    return results;
  }

  async computesNumbers(token: number): Promise<boolean> {
    const [sequence] = this.#sequences;
    const draw = { generateNext: { token: true, confidence: true, options: { temperature: 0 } } } as const;
    const [result] = (await sequence?.controlledEvaluate([[token as Token, draw]])) ?? [];
    await sequence?.clearHistory();
    return Number.isFinite(result?.next.confidence);
  }

  /** The public way: computes tokens in the slot's sequence; the drawn token, if one was asked for. */
  async #compute({ slot, tokens, sampling }: BatchItem): Promise<number | undefined> {
    const generate = sampling === undefined ? undefined : { generateNext: { token: true, options: sampling } };
    const input = tokens.map((token, i): Token | [Token, NonNullable<typeof generate>] =>
      generate !== undefined && i === tokens.length - 1 ? [token as Token, generate] : (token as Token),
    );
    // The binding types this as 1 to 5 and passes it on untouched: it is the place in the batch.
    const results = await this.#sequences[slot]?.controlledEvaluate(input, { evaluationPriority: (slot + 1) as 1 });
    const token = results?.at(-1)?.next.token ?? undefined;
    if (sampling !== undefined && token === undefined) throw new Error("the engine drew no token");
    return token;
  }
}
