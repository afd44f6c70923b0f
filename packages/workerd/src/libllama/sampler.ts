/** Draws tokens: one chain of llama.cpp's samplers for each slot, built again when a request wants another one. */
import type { Sampling } from "../llama/model.ts";
import type { LlamaFunctions, Pointer } from "./c-api.ts";

const MIN_KEEP = 1;

interface Chain {
  chain: Pointer;
  /** What it was built for, but for the seed. */
  form: string;
  /** The last link draws and has the seed; a greedy chain has none. */
  draws: boolean;
  seed: number | undefined;
}

export class Samplers {
  readonly #llama: LlamaFunctions;
  readonly #context: Pointer;
  readonly #vocabulary: number;
  readonly #chains = new Map<number, Chain>();

  constructor(llama: LlamaFunctions, context: Pointer, vocabulary: number) {
    this.#llama = llama;
    this.#context = context;
    this.#vocabulary = vocabulary;
  }

  /** A token after the output at that place of the last batch. */
  draw(slot: number, sampling: Sampling, place: number): number {
    const chain = this.#chain(slot, sampling);
    if (chain.draws) this.#seed(chain, sampling.seed);
    return this.#llama.sampler_sample(chain.chain, this.#context, place);
  }

  #chain(slot: number, { temperature, topK, topP, minP }: Sampling): Chain {
    const greedy = temperature <= 0;
    const form = greedy ? "greedy" : `${temperature} ${topK} ${topP} ${minP}`;
    const kept = this.#chains.get(slot);
    if (kept?.form === form) return kept;
    if (kept !== undefined) this.#llama.sampler_free(kept.chain);
    const llama = this.#llama;
    const chain = llama.sampler_chain_init({ no_perf: true });
    const add = (sampler: Pointer) => llama.sampler_chain_add(chain, sampler);
    if (greedy) add(llama.sampler_init_greedy());
    else {
      add(llama.sampler_init_top_k(topK <= 0 ? this.#vocabulary : Math.min(topK, this.#vocabulary)));
      add(llama.sampler_init_top_p(topP, MIN_KEEP));
      if (minP > 0) add(llama.sampler_init_min_p(minP, MIN_KEEP));
      add(llama.sampler_init_temp(temperature));
    }
    const made: Chain = { chain, form, draws: !greedy, seed: undefined };
    this.#chains.set(slot, made);
    return made;
  }

  /** A sampler goes on where it was, and each token has a seed of its own: so the last link is a new one each time. */
  #seed(chain: Chain, seed: number): void {
    const llama = this.#llama;
    if (chain.seed !== undefined) llama.sampler_free(llama.sampler_chain_remove(chain.chain, llama.sampler_chain_n(chain.chain) - 1));
    llama.sampler_chain_add(chain.chain, llama.sampler_init_dist(seed));
    chain.seed = seed;
  }
}
