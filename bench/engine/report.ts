/** A verdict a target, on top of how the benches sum up their figures. */
import { table } from "../relay/report.ts";

export { median, paired, spread, table } from "../relay/report.ts";

export interface Verdict {
  readonly what: string;
  readonly value: number;
  /** Exactly one of the two. */
  readonly at_least?: number;
  readonly at_most?: number;
  /** What the number counts; ratios have none. */
  readonly unit?: string;
}

export function verdictTable(verdicts: readonly Verdict[]): string {
  return table(
    ["target", "measured", "limit", ""],
    verdicts.map(({ what, value, at_least, at_most, unit }) => {
      const shown = (number: number) => (unit === undefined ? number.toFixed(2) : `${number.toFixed(number < 10 ? 2 : 1)} ${unit}`);
      const limit = at_least === undefined ? `≤ ${shown(at_most ?? Number.NaN)}` : `≥ ${shown(at_least)}`;
      const met = at_least === undefined ? value <= (at_most ?? Number.NaN) : value >= at_least;
      return [what, shown(value), limit, met ? "PASS" : "MISS"];
    }),
  );
}
