/**
 * Finds stop strings in a text that comes in pieces. The result does not depend on how the text was cut: the stop that is
 * complete first wins, and of two that are complete at the same character the longer one.
 */
export interface StopMatch {
  stop: string;
  /** Where in the whole text the stop string begins. */
  start: number;
}

export class StopMatcher {
  readonly #stops: readonly string[];
  readonly #keep_chars: number;
  /** The end of the text: as much as a stop string can still reach back into. */
  #tail = "";
  #length = 0;

  constructor(stops: readonly string[]) {
    this.#stops = [...stops].sort((a, b) => b.length - a.length);
    this.#keep_chars = Math.max(0, (this.#stops[0]?.length ?? 0) - 1);
  }

  /** Adds text. After a match the matcher is spent. */
  push(text: string): StopMatch | undefined {
    const before = this.#length - this.#tail.length;
    this.#length += text.length;
    if (this.#stops.length === 0) return undefined;
    const window = this.#tail + text;
    let found: (StopMatch & { end: number }) | undefined;
    for (const stop of this.#stops) {
      const at = window.indexOf(stop);
      const end = at + stop.length;
      if (at >= 0 && (found === undefined || end < found.end)) found = { stop, start: before + at, end };
    }
    this.#tail = this.#keep_chars === 0 ? "" : window.slice(-this.#keep_chars);
    return found === undefined ? undefined : { stop: found.stop, start: found.start };
  }

  /** The text before this index can't belong to a stop string any more. */
  get safe(): number {
    for (let held = this.#tail.length; held > 0; held--) {
      const end = this.#tail.slice(-held);
      if (this.#stops.some((stop) => stop.startsWith(end))) return this.#length - held;
    }
    return this.#length;
  }
}
