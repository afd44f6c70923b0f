/**
 * The text of one answer as its tokens come: joins bytes to characters, looks for stop strings, and gives out only text that
 * is certain, in whole tokens. So whoever has the tokens of what was given out can continue the answer exactly there.
 */
import type { TokenLogprob } from "@rbees/contracts/logprobs";
import type { TokenReport } from "./engine.ts";
import { type StopMatch, StopMatcher } from "./stop-matcher.ts";
import { Utf8Joiner } from "./utf8-joiner.ts";

/** A token that has not been given out, and where in the text it begins and ends; -1 while its last character is not complete. */
interface Held {
  id: number;
  from: number;
  end: number;
  logprob: TokenLogprob | undefined;
}

export class Answer {
  readonly #joiner = new Utf8Joiner();
  readonly #matcher: StopMatcher;
  readonly #held: Held[] = [];
  /** The text from `#given` on. */
  #text = "";
  /** How much of the text was given out. */
  #given = 0;
  #next_index = 0;
  #tokens = 0;
  #match: StopMatch | undefined;

  constructor(stops: readonly string[]) {
    this.#matcher = new StopMatcher(stops);
  }

  /** Tokens so far, continued ones included. */
  get tokens(): number {
    return this.#tokens;
  }

  /** The stop string that ended the answer. */
  get stop(): string | undefined {
    return this.#match?.stop;
  }

  /** A token that the client already has: its text. */
  continued(id: number, bytes: Uint8Array): string {
    this.#add(id, bytes);
    const text = this.#text;
    this.#held.length = 0;
    this.#next_index = this.#tokens;
    this.#given += text.length;
    this.#text = "";
    return text;
  }

  /** A new token: what can be given out with it, if anything. */
  push(id: number, bytes: Uint8Array, logprob?: TokenLogprob): TokenReport | undefined {
    this.#add(id, bytes, logprob);
    if (this.#match !== undefined) return this.#upTo(this.#match.start);
    const safe = this.#matcher.safe;
    if (this.#held.length === 1 && this.#held[0]?.end === safe) return this.#give(1, safe);
    const whole = this.#held.findLastIndex(({ end }) => end >= 0 && end <= safe);
    return whole < 0 ? undefined : this.#give(whole + 1, this.#held[whole]?.end ?? this.#given);
  }

  /** No more tokens: what was held back, a cut character as U+FFFD. */
  finish(): TokenReport | undefined {
    if (this.#match !== undefined || this.#held.length === 0) return undefined;
    const rest = this.#joiner.finish();
    this.#text += rest;
    const match = this.#matcher.push(rest);
    if (match !== undefined) {
      this.#match = match;
      return this.#upTo(match.start);
    }
    return this.#give(this.#held.length, this.#given + this.#text.length);
  }

  #add(id: number, bytes: Uint8Array, logprob?: TokenLogprob): void {
    const from = this.#given + this.#text.length;
    const text = this.#joiner.push(bytes);
    this.#tokens++;
    this.#text += text;
    this.#held.push({ id, from, end: this.#joiner.whole ? this.#given + this.#text.length : -1, logprob });
    this.#match ??= this.#matcher.push(text);
  }

  /**
   * The text before a stop string. Its tokens go along even where the stop string cuts into them, and so do those of the stop string; how
   * likely they were is told of those only that begin in the text.
   */
  #upTo(start: number): TokenReport | undefined {
    return start > this.#given ? this.#give(this.#held.length, start) : undefined;
  }

  #give(count: number, end: number): TokenReport | undefined {
    if (count === 0) return undefined;
    const held = this.#held.splice(0, count);
    const cut = end - this.#given;
    const said = { t: this.#text.slice(0, cut), i: this.#next_index, ids: held.map(({ id }) => id) };
    // Whoever reads tells a plain token from others by what stands first: `t`.
    const report = held[0]?.logprob === undefined ? said : { logprobs: this.#likely(held, end), ...said };
    this.#text = this.#text.slice(cut);
    this.#given = end;
    this.#next_index += count;
    return report;
  }

  /** Tokens of a stop string begin where the text ends that is given out. */
  #likely(held: readonly Held[], end: number): TokenLogprob[] {
    const told = this.#match === undefined ? held : held.filter(({ from }) => from < end);
    return told.flatMap(({ logprob }) => logprob ?? []);
  }
}
