/** How things look: one accent colour, human sizes, ages and rates. No colour in a pipe or with NO_COLOR. */
import type { Environment } from "@rbees/kit/config";
import picocolors from "picocolors";

export interface Look {
  readonly tty: boolean;
  /** How wide the terminal is; undefined where there is none. */
  readonly columns: number | undefined;
  /** What the user types before a command's name: `npx ` when this program was started by it. */
  readonly runner: string;
  /** Text that a program or a model wrote, made safe for where it goes: a terminal gets no control characters. */
  safe(text: string): string;
  accent(text: string): string;
  bold(text: string): string;
  dim(text: string): string;
  bad(text: string): string;
}

export function createLook(stream: { isTTY?: boolean; columns?: number }, env: Environment): Look {
  const tty = stream.isTTY === true;
  const forced = given(env["FORCE_COLOR"]) && env["FORCE_COLOR"] !== "0";
  const color = !given(env["NO_COLOR"]) && (forced || (tty && env["TERM"] !== "dumb"));
  const colors = picocolors.createColors(color);
  return {
    tty,
    // A terminal that does not know says 0.
    columns: tty ? stream.columns || undefined : undefined,
    runner: env["npm_command"] === "exec" ? "npx " : "",
    safe: (text) => (tty ? withoutControls(text) : text),
    accent: colors.yellow,
    bold: colors.bold,
    dim: colors.dim,
    bad: colors.red,
  };
}

function given(value: string | undefined): boolean {
  return value !== undefined && value !== "";
}

/** An answer could otherwise move the cursor, rename the window or write to the clipboard. */
export function withoutControls(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are the characters to take out
  return text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g, (character) => (character === "\r" ? "" : "\uFFFD"));
}

const UNITS = ["B", "kB", "MB", "GB", "TB", "PB"] as const;

/** `8.1 MB`: decimal units, two or three digits. */
export function size(bytes: number | null | undefined): string {
  if (bytes === null || bytes === undefined) return "–";
  let value = bytes;
  let unit = 0;
  while (value >= 999.5 && unit < UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit === 0 || value >= 99.95 ? Math.round(value) : value.toFixed(1)} ${UNITS[unit]}`;
}

/** `45s`, `3m`, `2h`, `5d`. */
export function age(seconds: number | null | undefined): string {
  if (seconds === null || seconds === undefined) return "–";
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < 60) return `${whole}s`;
  if (whole < 3600) return `${Math.floor(whole / 60)}m`;
  return whole < 86_400 ? `${Math.floor(whole / 3600)}h` : `${Math.floor(whole / 86_400)}d`;
}

export function ageOf(time: string | null, now: number): string {
  return time === null ? "–" : age((now - Date.parse(time)) / 1000);
}

/** `120 ms`, `1.2 s`, `2m 5s`. */
export function duration(ms: number): string {
  if (ms < 999.5) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(1)} s`;
  return `${Math.floor(ms / 60_000)}m ${Math.round((ms % 60_000) / 1000)}s`;
}

export function rate(per_second: number | null | undefined): string {
  if (per_second === null || per_second === undefined) return "–";
  return per_second >= 99.95 ? String(Math.round(per_second)) : per_second.toFixed(1);
}

/** `135 M`, `7.2 B`: how many parameters. */
export function count(value: number): string {
  for (const [unit, of] of [
    ["T", 1e12],
    ["B", 1e9],
    ["M", 1e6],
    ["k", 1e3],
  ] as const) {
    if (value >= of) return `${value / of >= 99.95 ? Math.round(value / of) : (value / of).toFixed(1)} ${unit}`;
  }
  return String(value);
}

export function percent(done: number, of: number): string {
  return of === 0 ? "100 %" : `${Math.floor((100 * done) / of)} %`;
}

export function plural(count: number, one: string, many = `${one}s`): string {
  return `${count} ${count === 1 ? one : many}`;
}
