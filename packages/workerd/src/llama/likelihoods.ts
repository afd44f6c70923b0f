/**
 * How likely tokens were: the log-softmax of the logits as the model gave them, over the whole vocabulary. It is worked out only where a
 * request asks for it.
 */
import type { TokenLogprob, TopLogprob } from "@rbees/contracts/logprobs";
import type { LoadedModel } from "./model.ts";

/** What JSON has no number for, as OpenAI's API writes it. */
const IMPOSSIBLE = -9999;
/** A logit has about so many digits after the point. */
const PRECISION = 1e6;

export class Likelihoods {
  readonly #tokenizer: LoadedModel["bytes"];
  readonly #nameOf: (token: number) => string;
  readonly #text = new TextDecoder("utf-8", { ignoreBOM: true });

  /** `nameOf`: what the vocabulary calls a token that stands for no text. */
  constructor(tokenizer: LoadedModel["bytes"], nameOf: (token: number) => string) {
    this.#tokenizer = tokenizer;
    this.#nameOf = nameOf;
  }

  /** Of the drawn token, and of the `top` likeliest. */
  of(logits: Float32Array, token: number, top: number): TokenLogprob {
    const all = logSumExp(logits);
    const one = (id: number) => this.told(id, (logits[id] ?? Number.NEGATIVE_INFINITY) - all);
    return { ...one(token), top_logprobs: likeliest(logits, top).map(one) };
  }

  told(id: number, exact: number): TopLogprob {
    const logprob = Math.max(IMPOSSIBLE, Math.round(exact * PRECISION) / PRECISION);
    const bytes = this.#tokenizer.of(id);
    if (bytes.length === 0) return { token: this.#nameOf(id), logprob, bytes: [] };
    const token = this.#text.decode(bytes);
    return Buffer.from(token, "utf8").equals(bytes) ? { token, logprob } : { token, logprob, bytes: [...bytes] };
  }
}

/** The logarithm of the sum of their exponentials; none of which overflows, since the largest is taken out. */
export function logSumExp(logits: Float32Array): number {
  const { length } = logits;
  let most = Number.NEGATIVE_INFINITY;
  // By their places: an iterator takes three times as long, and a vocabulary can have 150,000 tokens.
  for (let id = 0; id < length; id += 1) most = Math.max(most, logits[id] ?? 0);
  let sum = 0;
  for (let id = 0; id < length; id += 1) sum += Math.exp((logits[id] ?? 0) - most);
  return most + Math.log(sum);
}

/** The places of the largest, the largest first; of equals the first. */
export function likeliest(logits: Float32Array, count: number): number[] {
  const found: number[] = [];
  if (count === 0) return found;
  let least = Number.NEGATIVE_INFINITY;
  for (let id = 0; id < logits.length; id += 1) {
    const logit = logits[id] ?? Number.NEGATIVE_INFINITY;
    if (found.length === count && !(logit > least)) continue;
    let at = found.length;
    while (at > 0 && (logits[found[at - 1] ?? 0] ?? 0) < logit) at -= 1;
    found.splice(at, 0, id);
    if (found.length > count) found.pop();
    least = logits[found.at(-1) ?? 0] ?? Number.NEGATIVE_INFINITY;
  }
  return found;
}
