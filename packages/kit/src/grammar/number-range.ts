/** Numbers between two bounds, digit by digit. */
import { oneOf } from "./rules.ts";

export interface Bounds {
  minimum?: number;
  maximum?: number;
  exclusiveMinimum?: number;
  exclusiveMaximum?: number;
}

/** How many digits stand before the point where a bound leaves it open. */
const OPEN_DIGITS = 15;
/** How many more digits a number may have after the point than its bounds have. */
const MORE_DIGITS = 12;
/** How much finer than its bounds a number is that must not reach them. */
const FINER_DIGITS = 2;

/** Integers within the bounds; undefined when there are none. */
export function integers(bounds: Bounds): string | undefined {
  const { minimum, maximum, exclusiveMinimum: above, exclusiveMaximum: below } = bounds;
  const lows = [minimum === undefined ? undefined : Math.ceil(minimum), above === undefined ? undefined : Math.floor(above) + 1];
  const highs = [maximum === undefined ? undefined : Math.floor(maximum), below === undefined ? undefined : Math.ceil(below) - 1];
  const [low, high] = opened(most(lows.map(big)), least(highs.map(big)), 0);
  return within(low, high, (from, to) => [digits(from, to, 0)]);
}

/** Numbers within the bounds, with a point or without one; undefined when there are none. */
export function numbers(bounds: Bounds): string | undefined {
  const given = Object.values(bounds).filter((bound): bound is number => bound !== undefined);
  const exclusive = bounds.exclusiveMinimum !== undefined || bounds.exclusiveMaximum !== undefined;
  const places = Math.max(0, ...given.map(decimals)) + (exclusive ? FINER_DIGITS : 0);
  const scaled = (bound: number | undefined, beside = 0n) => (bound === undefined ? undefined : scale(bound, places) + beside);
  const lows = [scaled(bounds.minimum), scaled(bounds.exclusiveMinimum, 1n)];
  const highs = [scaled(bounds.maximum), scaled(bounds.exclusiveMaximum, -1n)];
  const [low, high] = opened(most(lows), least(highs), places);
  const more = places === 0 ? `("." [0-9]{1,${MORE_DIGITS}})?` : `[0-9]{0,${MORE_DIGITS}}`;
  return within(low, high, (from, to) => [
    // What is below the upper bound stays so whatever digits come after it.
    ...(from < to ? [`${digits(from, to - 1n, places)} ${more}`] : []),
    digits(to, to, places),
  ]);
}

/** What is negative of a range, and what is not, each by its amount. */
function within(low: bigint, high: bigint, amounts: (from: bigint, to: bigint) => string[]): string | undefined {
  if (low > high) return undefined;
  const negative = low < 0n ? amounts(high < 0n ? -high : 1n, -low).map((one) => `"-" ${one}`) : [];
  const positive = high >= 0n ? amounts(low > 0n ? low : 0n, high) : [];
  return oneOf([...negative, ...positive]);
}

/** An open end lies beyond the other bound and has so many digits. */
function opened(low: bigint | undefined, high: bigint | undefined, places: number): [bigint, bigint] {
  const far = 10n ** BigInt(OPEN_DIGITS + places) - 1n;
  const beyond = (bound: bigint) => 10n ** BigInt(String(bound < 0n ? -bound : bound).length + 1) - 1n;
  const reach = (bound: bigint | undefined) => (bound === undefined || beyond(bound) < far ? far : beyond(bound));
  return [low ?? -reach(high), high ?? reach(low)];
}

/** Amounts from one to the other, without leading zeros; the last `places` digits stand after the point. */
function digits(from: bigint, to: bigint, places: number): string {
  const least_digits = places + 1;
  const text = (value: bigint) => String(value).padStart(least_digits, "0");
  const alternatives: string[] = [];
  for (let low = from; low <= to; ) {
    const length = text(low).length;
    const last = 10n ** BigInt(length) - 1n;
    const high = last < to ? last : to;
    alternatives.push(alike(text(low), text(high), places));
    low = high + 1n;
  }
  return oneOf(alternatives);
}

/** From one to the other of two texts of digits that are of one length. */
function alike(low: string, high: string, places: number): string {
  const left = low.length;
  if (left === 0) return "";
  const point = left === places ? '"." ' : "";
  const [a, b] = [low[0] ?? "", high[0] ?? ""];
  const [low_rest, high_rest] = [low.slice(1), high.slice(1)];
  if (a === b) return `${point}"${a}" ${alike(low_rest, high_rest, places)}`.trim();
  if (/^0+$/.test(low) && /^9+$/.test(high)) return any(left, places);
  const alternatives: string[] = [];
  let [first, last] = [Number(a), Number(b)];
  if (!/^0*$/.test(low_rest)) {
    alternatives.push(`"${a}" ${alike(low_rest, "9".repeat(left - 1), places)}`.trim());
    first += 1;
  }
  const upper = /^9*$/.test(high_rest) ? undefined : `"${b}" ${alike("0".repeat(left - 1), high_rest, places)}`.trim();
  if (upper !== undefined) last -= 1;
  if (first <= last) alternatives.push(`${first === last ? `"${first}"` : `[${first}-${last}]`} ${any(left - 1, places)}`.trim());
  if (upper !== undefined) alternatives.push(upper);
  return `${point}${oneOf(alternatives)}`;
}

function any(left: number, places: number): string {
  if (left === 0) return "";
  const whole = left > places ? `[0-9]{${left - places}}` : "";
  const fraction = Math.min(left, places);
  const after = fraction === 0 ? "" : `${left >= places ? '"." ' : ""}[0-9]{${fraction}}`;
  return `${whole} ${after}`.trim();
}

function decimals(value: number): number {
  const [digits_part = "", exponent = "0"] = String(value).split("e");
  return Math.max(0, (digits_part.split(".")[1]?.length ?? 0) - Number(exponent));
}

function scale(value: number, places: number): bigint {
  const [digits_part = "", exponent = "0"] = String(value).split("e");
  const [whole = "", fraction = ""] = digits_part.split(".");
  return BigInt(whole + fraction) * 10n ** BigInt(places - fraction.length + Number(exponent));
}

function big(value: number | undefined): bigint | undefined {
  return value === undefined ? undefined : BigInt(value);
}

function most(values: readonly (bigint | undefined)[]): bigint | undefined {
  return values.reduce((a, b) => (a === undefined || (b !== undefined && b > a) ? b : a), undefined);
}

function least(values: readonly (bigint | undefined)[]): bigint | undefined {
  return values.reduce((a, b) => (a === undefined || (b !== undefined && b < a) ? b : a), undefined);
}
