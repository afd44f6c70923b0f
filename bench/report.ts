/** How figures are summed up and shown: medians with their range, ratios paired within a round, and a verdict a target. */

export interface Verdict {
  readonly what: string;
  readonly value: number;
  /** Exactly one of the two. */
  readonly at_least?: number;
  readonly at_most?: number;
  /** What the number counts; ratios have none. */
  readonly unit?: string;
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  const upper = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : (upper + (sorted[middle - 1] ?? Number.NaN)) / 2;
}

/** `median [min–max]`. */
export function spread(values: readonly number[], digits = 1): string {
  if (values.length === 0 || values.some(Number.isNaN)) return "–";
  const shown = (value: number) => value.toFixed(digits);
  return values.length === 1
    ? shown(median(values))
    : `${shown(median(values))} [${shown(Math.min(...values))}–${shown(Math.max(...values))}]`;
}

/** Each round's value over the same round's base: what the rounds have in common cancels out. */
export function paired(values: readonly number[], bases: readonly number[]): number[] {
  return values.map((value, round) => value / (bases[round] ?? Number.NaN));
}

export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = head.map((title, column) => Math.max(title.length, ...rows.map((row) => row[column]?.length ?? 0)));
  const line = (cells: readonly string[]) =>
    `  ${cells.map((cell, column) => (column === 0 ? cell.padEnd(widths[column] ?? 0) : cell.padStart(widths[column] ?? 0))).join("  ")}`;
  return [line(head), ...rows.map(line)].join("\n");
}

export function verdictTable(verdicts: readonly Verdict[]): string {
  return table(
    ["target", "measured", "limit", ""],
    verdicts.map(({ what, value, at_least, at_most = Number.NaN, unit = "×" }) => {
      const shown = (number: number) => `${number.toFixed(number < 10 ? 2 : 1)} ${unit}`;
      const met = at_least === undefined ? value <= at_most : value >= at_least;
      const limit = at_least === undefined ? `≤ ${shown(at_most)}` : `≥ ${shown(at_least)}`;
      return Number.isNaN(value) ? [what, "–", limit, "not measured"] : [what, shown(value), limit, met ? "PASS" : "MISS"];
    }),
  );
}
