/**
 * What an answer may say next, guessed without a model: where its last tokens stood before, in the prompt or in the answer itself, the
 * same may follow again. Texts that repeat what they were given (code that is changed, quotations, tables) are guessed well, others not.
 */

/** So many tokens must be the same. */
const SAME_TOKENS = 3;
/** How much the last guess counts in the rate of those that were right, and how fast a bad rate is forgotten while none is made. */
const LATEST = 0.3;
const FORGIVEN = 0.02;
const RATE_FIRST = 0.7;

/** What followed the latest place that ends as `tokens` and `last` do: `most` tokens. What repeats is taken to go on so. */
export function guess(tokens: readonly number[], last: number, most: number): number[] {
  const before = SAME_TOKENS - 1;
  const end = tokens.length;
  if (most <= 0 || end < before) return [];
  for (let at = end - 1; at >= before; at -= 1) {
    if (tokens[at] !== last) continue;
    let same = 1;
    while (same <= before && tokens[at - same] === tokens[end - same]) same += 1;
    if (same <= before) continue;
    const follows: number[] = [];
    for (let from = at + 1; follows.length < most; from += 1)
      follows.push((from < end ? tokens[from] : from === end ? last : follows[from - end - 1]) ?? 0);
    return follows;
  }
  return [];
}

/** How often the guesses of one answer were right. */
export class GuessRate {
  made = 0;
  hit = 0;
  #rate = RATE_FIRST;
  #open: { guessed: number; right: number } | undefined;

  /** Which part of them was right, the latest counting most. */
  get rate(): number {
    if (this.#open === undefined) return this.#rate;
    return this.#rate + LATEST * (this.#open.right / this.#open.guessed - this.#rate);
  }

  /** So many are made at once. */
  guessed(tokens: number): void {
    this.#rate = this.rate;
    this.#open = { guessed: tokens, right: 0 };
    this.made += tokens;
  }

  /** One of them was right. */
  right(): void {
    if (this.#open !== undefined) this.#open.right += 1;
    this.hit += 1;
  }

  /** A guess was there, and not worth making. */
  passed(): void {
    this.#rate = Math.min(RATE_FIRST, this.rate + FORGIVEN);
    this.#open = undefined;
  }
}
