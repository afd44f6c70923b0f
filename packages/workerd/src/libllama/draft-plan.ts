/**
 * How many tokens of one answer are guessed and computed along with its next one. Those that were guessed right spare a step each; but
 * more rows cost more time, on processors not always less than the steps that they spare. So that is timed when the model loads, and it
 * is guessed only where it pays by how often guesses of this answer were right.
 */
import type { StepPlan } from "./step-plan.ts";

/** Less is not worth it: timings are never quite true. */
const GAIN_MIN = 1.1;

/** Sizes of which the time is taken, up to `most` tokens beside the first. */
export function timedRows(most: number): number[] {
  const sizes = [2, 4, 8, 16].filter((rows) => rows < most + 1);
  return most === 0 ? [] : [...sizes, most + 1];
}

export class DraftPlan {
  readonly #steps: StepPlan;
  /** Rows of one answer, and what computing them takes. */
  readonly #alone: readonly (readonly [rows: number, cost: number])[];

  constructor(steps: StepPlan, alone: Iterable<readonly [number, number]>) {
    this.#steps = steps;
    this.#alone = [...alone];
  }

  /** `rate`: which part of its guesses was right; `answers`: how many go on at once, itself included. */
  tokens(rate: number, answers: number): number {
    const together = this.#steps.cost(answers);
    if (together === undefined) return 0;
    let best = { tokens: 0, gain: GAIN_MIN };
    for (const [rows, cost] of this.#alone) {
      // The first token is certain; the next counts if the one before it was right.
      let expected = 0;
      for (let row = 0; row < rows; row += 1) expected += rate ** row;
      const gain = (expected * together) / answers / cost;
      if (gain > best.gain) best = { tokens: rows - 1, gain };
    }
    return best.tokens;
  }
}
