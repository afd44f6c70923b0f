/**
 * Draws tokens: one sampler of the binding's for each slot. A grammar is kept to as on libllama (`../libllama/sampler.ts`), with the same
 * numbers: a token is drawn as ever and looked at, and only when it is refused one of those that may come is drawn.
 */
import type { TokenLogprob } from "@rbees/contracts/logprobs";
import type { Likelihoods } from "../llama/likelihoods.ts";
import type { Drawn, LoadedModel, Repeats, Sampling } from "../llama/model.ts";
import type { Binding, InnerContext, InnerSampler, SamplerConfig } from "./binding.ts";
import { BindingGrammar } from "./grammar.ts";

/** A sampler that gets the seed it already has goes on where it was. No draw has this one: see `positionSeed`. */
const UNUSED_SEED = 0x8000_0000;
/** Every token may be drawn, as likely as it is. */
const AS_THE_MODEL_SAYS = { temperature: 1, topK: 0, topP: 1, minP: 0, seed: UNUSED_SEED } as const;
/** As on libllama: a second draw for the same place has a number of its own. */
const SECOND_DRAW = 0x5bd1_e995;
const NO_BIAS: ReadonlyMap<number, number> = new Map();

export interface SamplerParts {
  readonly context: InnerContext;
  readonly binding: Binding;
  readonly bytes: LoadedModel["bytes"];
  readonly likelihoods: Likelihoods;
  readonly ends: (token: number) => boolean;
}

interface Kept {
  readonly sampler: InnerSampler;
  /** Of its last draw. */
  seed: number;
}

export class Samplers {
  readonly #parts: SamplerParts;
  /** By slot. */
  readonly #samplers = new Map<number, Kept>();
  /** Tokens that are no text but that a grammar takes for the names they have: found when they are drawn. */
  readonly #wordless = new Set<number>();

  constructor(parts: SamplerParts) {
    this.#parts = parts;
  }

  /** A token after the output at that place of the last batch. */
  async draw(slot: number, sampling: Sampling, place: number): Promise<Drawn> {
    const { token } = await this.#draw(slot, sampling, place);
    if (sampling.logprobs === undefined || token === undefined) return { token };
    return { token, logprob: await this.#likelihood(slot, place, token, sampling.logprobs) };
  }

  /**
   * How likely a token was, as the model's logits had it, and the `top` likeliest. The binding gives out no logits: it is asked for a
   * draw among all tokens, of which it tells what it drew among.
   */
  async #likelihood(slot: number, place: number, token: number, top: number): Promise<TokenLogprob> {
    const { context, likelihoods } = this.#parts;
    const [, all] = await context.sampleToken(place, this.#sampler(slot, { ...AS_THE_MODEL_SAYS }), true);
    const told = (at: number) => likelihoods.told(all[at] ?? 0, Math.log(all[at + 1] ?? 0));
    let at = 0;
    while (at < all.length && all[at] !== token) at += 2;
    const count = Math.min(top, all.length / 2);
    return { ...told(at), top_logprobs: Array.from({ length: count }, (_, i) => told(2 * i)) };
  }

  async #draw(slot: number, sampling: Sampling, place: number): Promise<Drawn> {
    const { context } = this.#parts;
    const { grammar, bias = NO_BIAS } = sampling;
    const token = await context.sampleToken(place, this.#sampler(slot, configOf(sampling, bias)));
    if (token < 0) throw new Error("the engine drew no token");
    if (!(grammar instanceof BindingGrammar)) return { token };
    if (this.#isWordless(token) || !grammar.allows(token)) return await this.#drawAllowed(slot, sampling, grammar, place);
    grammar.accept(token);
    return { token };
  }

  /** One of the tokens that the grammar allows; none when there is none. */
  async #drawAllowed(slot: number, sampling: Sampling, grammar: BindingGrammar, place: number): Promise<Drawn> {
    const seed = (sampling.seed ^ SECOND_DRAW) >>> 0;
    for (;;) {
      const bias = new Map(sampling.bias ?? NO_BIAS);
      for (const token of this.#wordless) bias.set(token, Number.NEGATIVE_INFINITY);
      const config = configOf({ ...sampling, seed }, bias);
      let token = await this.#drawBy(slot, config, grammar, place);
      // Where rounding ended a draw among what may not come, the likeliest that may is taken.
      if (!grammar.allows(token) && sampling.temperature > 0)
        token = await this.#drawBy(slot, { ...config, temperature: 0 }, grammar, place);
      if (!grammar.allows(token)) return { token: undefined };
      if (this.#isWordless(token)) {
        this.#wordless.add(token);
        continue;
      }
      grammar.accept(token);
      return { token };
    }
  }

  /** By a copy of the grammar, because the binding goes on in it with what it drew. One that is not allowed: there is none that is. */
  async #drawBy(slot: number, config: SamplerConfig, grammar: BindingGrammar, place: number): Promise<number> {
    const sampler = this.#sampler(slot, { ...config, grammarEvaluationState: grammar.copy() });
    try {
      // Without chance it comes to the same, and does not sort the vocabulary.
      if (config.temperature <= 0) return await this.#parts.context.sampleToken(place, sampler);
      const [token] = await this.#parts.context.sampleToken(place, sampler, false, true);
      return token;
    } catch (error) {
      if (error instanceof Error && error.message.startsWith("Failed to accept token")) return NONE;
      throw error;
    }
  }

  #isWordless(token: number): boolean {
    const { bytes, ends } = this.#parts;
    return bytes.of(token).length === 0 && !ends(token);
  }

  #sampler(slot: number, config: SamplerConfig): InnerSampler {
    const kept = this.#samplers.get(slot);
    const sampler = kept?.sampler ?? this.#parts.binding.sampler();
    if (kept?.seed === config.seed) sampler.applyConfig({ ...config, seed: UNUSED_SEED });
    sampler.applyConfig(config);
    this.#samplers.set(slot, { sampler, seed: config.seed });
    return sampler;
  }
}

/** No token's number. */
const NONE = -1;

function configOf({ temperature, topK, topP, minP, seed, repeats }: Sampling, bias: ReadonlyMap<number, number>): SamplerConfig {
  const config = { temperature, topK, topP, minP, seed, ...(repeats === undefined ? {} : penaltyOf(repeats)) };
  if (bias.size === 0) return config;
  return { ...config, tokenBiasKeys: Uint32Array.from(bias.keys()), tokenBiasValues: Float32Array.from(bias.values()) };
}

/** Each token once: how often makes no difference. */
function penaltyOf({ penalty, tokens }: Repeats): Partial<SamplerConfig> {
  return { repeatPenalty: penalty, repeatPenaltyMaxTokens: tokens.size, repeatPenaltyTokens: Uint32Array.from(tokens.keys()) };
}
