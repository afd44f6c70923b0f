/**
 * How many rows (next tokens of running answers) are computed at once. A step of n rows usually costs less than n steps of one; but
 * on some processors and weights a few rows together cost more than one after another, and some sizes suit the kernels better
 * than their neighbours. So each size is timed when the model loads, and a step is cut into the sizes that cost the least together.
 */

/** A step is cut only where that spares at least this part of its time: timings are never quite true. */
const GAIN_MIN = 0.1;

export class StepPlan {
  /** By number of rows, from 0: the sizes that they are computed in. */
  readonly #sizes: readonly (readonly number[])[];
  readonly #costs: readonly number[];

  /** `cost[i]` is the time of a step of i + 1 rows. Steps of more rows than were timed are left whole. */
  constructor(cost: readonly number[]) {
    const best: { cost: number; sizes: readonly number[] }[] = [{ cost: 0, sizes: [] }];
    for (let rows = 1; rows <= cost.length; rows += 1) {
      let least = { cost: cost[rows - 1] ?? Number.POSITIVE_INFINITY, sizes: [rows] as readonly number[] };
      for (let size = rows - 1; size >= 1; size -= 1) {
        const rest = best[rows - size];
        const together = (cost[size - 1] ?? Number.POSITIVE_INFINITY) + (rest?.cost ?? Number.POSITIVE_INFINITY);
        if (rest !== undefined && together < least.cost) least = { cost: together, sizes: [size, ...rest.sizes] };
      }
      best.push(least);
    }
    this.#sizes = best.map(({ cost: together, sizes }, rows) => {
      const whole = cost[rows - 1] ?? 0;
      return together <= whole * (1 - GAIN_MIN) ? sizes : rows === 0 ? [] : [rows];
    });
    this.#costs = best.map(({ cost: together }) => together);
  }

  /** What they take in those sizes; undefined where that was not timed. */
  cost(rows: number): number | undefined {
    return this.#costs[rows];
  }

  sizes(rows: number): readonly number[] {
    return this.#sizes[rows] ?? [rows];
  }
}
