/**
 * Draws tokens: one chain of llama.cpp's samplers for each slot, built again when a request wants another one. What an answer's grammar
 * does not allow costs little while the model keeps to it by itself: a token is drawn as ever and looked at, and only when it is refused
 * all of the vocabulary is gone through and one of what may come is drawn.
 */

import type { Likelihoods } from "../llama/likelihoods.ts";
import type { Drawn, Repeats, Sampling } from "../llama/model.ts";
import type { Pointer } from "./c-api.ts";
import type { Candidates } from "./candidates.ts";
import { LlamaGrammar } from "./grammar.ts";
import type { LlamaLibrary } from "./library.ts";
import type { Tokenizer } from "./tokenizer.ts";

const MIN_KEEP = 1;
/** A second draw for the same place must not be the first one's: with the same number it would favour the tokens beside the refused. */
const SECOND_DRAW = 0x5bd1_e995;

type Form = Pick<Sampling, "temperature" | "topK" | "topP" | "minP">;

interface Chain {
  readonly chain: Pointer;
  /** What it was built for, but for the seed. */
  readonly form: Form;
  /** The last link draws and has the seed; a greedy chain has none. */
  readonly draws: boolean;
  /** Links before that. */
  readonly links: number;
  seed: number | undefined;
}

export interface SamplerParts {
  readonly context: Pointer;
  readonly vocabulary: number;
  readonly candidates: Candidates;
  readonly tokenizer: Tokenizer;
  readonly likelihoods: Likelihoods;
  readonly ends: (token: number) => boolean;
}

export class Samplers {
  readonly #llama: LlamaLibrary;
  readonly #parts: SamplerParts;
  readonly #chains = new Map<number, Chain>();
  /** Tokens that are no text but that a grammar takes for the names they have: found when they are drawn. */
  readonly #wordless = new Set<number>();

  constructor(llama: LlamaLibrary, parts: SamplerParts) {
    this.#llama = llama;
    this.#parts = parts;
  }

  /** A token after the output at that place of the last batch. */
  draw(slot: number, sampling: Sampling, place: number): Drawn {
    if (sampling.logprobs === undefined) return this.#draw(slot, sampling, place);
    const logits = this.#logits(place);
    // As the model gave them: they are weighed in place.
    const given = sampling.bias === undefined && sampling.repeats === undefined ? logits : logits.slice();
    const { token } = this.#draw(slot, sampling, place);
    return token === undefined ? { token } : { token, logprob: this.#parts.likelihoods.of(given, token, sampling.logprobs) };
  }

  #draw(slot: number, sampling: Sampling, place: number): Drawn {
    const chain = this.#chain(slot, sampling);
    if (chain.draws) this.#seed(chain, sampling.seed);
    if (sampling.bias !== undefined) this.#weigh(sampling.bias, place);
    if (sampling.repeats !== undefined) this.#penalise(sampling.repeats, place);
    const token = this.#llama.sampler_sample(chain.chain, this.#parts.context, place);
    const { grammar } = sampling;
    if (!(grammar instanceof LlamaGrammar)) return { token };
    if (!this.#isWordless(token) && grammar.allows(token)) {
      grammar.accept(token);
      return { token };
    }
    return this.#drawAllowed(chain, sampling, grammar, place);
  }

  /** One of the tokens that the grammar allows; none when there is none. */
  #drawAllowed(chain: Chain, { seed }: Sampling, grammar: LlamaGrammar, place: number): Drawn {
    const { candidates } = this.#parts;
    const logits = this.#logits(place);
    for (;;) {
      candidates.all(logits, this.#wordless);
      if (grammar.filter() === 0) return { token: undefined };
      if (chain.draws) this.#seed(chain, (seed ^ SECOND_DRAW) >>> 0);
      this.#llama.sampler_apply(chain.chain, candidates.pointer);
      const token = candidates.selected;
      if (this.#isWordless(token)) {
        this.#wordless.add(token);
        continue;
      }
      grammar.accept(token);
      return { token };
    }
  }

  /** In place: nothing reads these logits but what draws from them. */
  #weigh(bias: ReadonlyMap<number, number>, place: number): void {
    const logits = this.#logits(place);
    for (const [token, more] of bias) if (token < logits.length) logits[token] = (logits[token] ?? 0) + more;
  }

  /** In place too, and after biases, as the binding does it. */
  #penalise({ penalty, tokens }: Repeats, place: number): void {
    const logits = this.#logits(place);
    for (const token of tokens.keys()) {
      const logit = logits[token];
      if (logit !== undefined) logits[token] = logit > 0 ? logit / penalty : logit * penalty;
    }
  }

  #logits(place: number): Float32Array {
    const { context, vocabulary } = this.#parts;
    const at = this.#llama.get_logits_ith(context, place);
    if (at === null) throw new Error("the engine computed no logits");
    return this.#llama.floats(at, vocabulary);
  }

  #isWordless(token: number): boolean {
    const { tokenizer, ends } = this.#parts;
    return tokenizer.of(token).length === 0 && !ends(token);
  }

  #chain(slot: number, wanted: Form): Chain {
    const kept = this.#chains.get(slot);
    if (kept !== undefined && alike(kept.form, wanted)) return kept;
    if (kept !== undefined) this.#llama.sampler_free(kept.chain);
    const { temperature, topK, topP, minP } = wanted;
    const { vocabulary } = this.#parts;
    const greedy = temperature <= 0;
    const llama = this.#llama;
    const chain = llama.sampler_chain_init({ no_perf: true });
    const add = (sampler: Pointer) => llama.sampler_chain_add(chain, sampler);
    if (greedy) add(llama.sampler_init_greedy());
    else {
      add(llama.sampler_init_top_k(topK <= 0 ? vocabulary : Math.min(topK, vocabulary)));
      add(llama.sampler_init_top_p(topP, MIN_KEEP));
      if (minP > 0) add(llama.sampler_init_min_p(minP, MIN_KEEP));
      add(llama.sampler_init_temp(temperature));
    }
    const form = { temperature, topK, topP, minP };
    const made: Chain = { chain, form, draws: !greedy, links: llama.sampler_chain_n(chain), seed: undefined };
    this.#chains.set(slot, made);
    return made;
  }

  /** A sampler goes on where it was, and each token has a seed of its own: so the last link is a new one each time. */
  #seed(chain: Chain, seed: number): void {
    const llama = this.#llama;
    if (chain.seed !== undefined) llama.sampler_free(llama.sampler_chain_remove(chain.chain, chain.links));
    llama.sampler_chain_add(chain.chain, llama.sampler_init_dist(seed));
    chain.seed = seed;
  }
}

function alike(one: Form, other: Form): boolean {
  if (one.temperature <= 0 && other.temperature <= 0) return true;
  return one.temperature === other.temperature && one.topK === other.topK && one.topP === other.topP && one.minP === other.minP;
}
