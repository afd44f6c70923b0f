/**
 * What slots held before other prompts took them: copies of the library's state in this process's memory, by the tokens that each is of.
 * Bounded in bytes; the one that was used longest ago goes first.
 */
import type { EngineCounts } from "../engine.ts";
import { commonLength } from "../slots.ts";
import type { PrefixKind } from "./prefix-kind.ts";

export interface KeptPrefix {
  readonly tokens: Int32Array;
  readonly state: Uint8Array;
  readonly kind: PrefixKind;
}

export interface FoundPrefix {
  readonly prefix: KeptPrefix;
  /** How many of its first tokens can be used. */
  readonly count: number;
}

/** Every one of them is compared with each new prompt. */
const PREFIXES_MAX = 1_024;

export class PrefixCache {
  readonly bytes_max: number;
  readonly #counted: (counts: EngineCounts) => void;
  /** The one used longest ago first. */
  #kept: KeptPrefix[] = [];
  #bytes = 0;

  constructor(bytes_max: number, counted: (counts: EngineCounts) => void) {
    this.bytes_max = bytes_max;
    this.#counted = counted;
  }

  /** The latest used last. */
  get all(): readonly KeptPrefix[] {
    return this.#kept;
  }

  /** The one that shares most with the beginning of a prompt, in whole steps. From here on it counts as used. */
  longest(prompt: readonly number[], step: number, kind: PrefixKind): FoundPrefix | undefined {
    let found: FoundPrefix | undefined;
    for (const prefix of this.#kept) {
      if (prefix.kind !== kind) continue;
      // The last prompt token is always computed: its result is the first token of the answer.
      const count = Math.floor(Math.min(commonLength(prefix.tokens, prompt), prompt.length - 1) / step) * step;
      if (count > (found?.count ?? 0)) found = { prefix, count };
    }
    if (found !== undefined) this.#touch(found.prefix);
    return found;
  }

  /** How many of these tokens, from the first on, are held here. All of them held: that counts as use. */
  held(tokens: readonly number[], kind: PrefixKind): number {
    let most = 0;
    for (const prefix of [...this.#kept]) {
      if (prefix.kind !== kind) continue;
      const common = commonLength(prefix.tokens, tokens);
      if (common === tokens.length) this.#touch(prefix);
      most = Math.max(most, common);
    }
    return most;
  }

  /** One whose tokens another begins with has nothing that this other has not. */
  add(prefix: KeptPrefix): void {
    const bytes = bytesOf(prefix);
    if (bytes > this.bytes_max) return;
    const covered = this.#kept.filter(({ tokens, kind }) => kind === prefix.kind && commonLength(tokens, prefix.tokens) === tokens.length);
    for (const kept of covered) this.#remove(kept);
    let evicted = 0;
    for (let oldest = this.#kept[0]; oldest !== undefined && this.#isFull(bytes); oldest = this.#kept[0]) {
      this.#remove(oldest);
      evicted += 1;
    }
    this.#kept.push(prefix);
    this.#bytes += bytes;
    this.#counted({ prefix_cache_bytes: this.#bytes, prefixes_stored: 1, prefixes_evicted: evicted });
  }

  /** With those of an earlier life, of which none has to make room. */
  fill(prefixes: readonly KeptPrefix[]): void {
    this.#kept = [...prefixes];
    this.#bytes = prefixes.reduce((sum, prefix) => sum + bytesOf(prefix), 0);
    this.#counted({ prefix_cache_bytes: this.#bytes });
  }

  used(): void {
    this.#counted({ prefix_cache_bytes: this.#bytes, prefixes_restored: 1 });
  }

  /** The library does not take it: nobody shall try again. */
  drop(prefix: KeptPrefix): void {
    this.#remove(prefix);
    this.#counted({ prefix_cache_bytes: this.#bytes, prefixes_evicted: 1 });
  }

  #isFull(more_bytes: number): boolean {
    return this.#bytes + more_bytes > this.bytes_max || this.#kept.length >= PREFIXES_MAX;
  }

  #touch(prefix: KeptPrefix): void {
    const at = this.#kept.indexOf(prefix);
    this.#kept.push(...this.#kept.splice(at, 1));
  }

  #remove(prefix: KeptPrefix): void {
    const at = this.#kept.indexOf(prefix);
    if (at < 0) return;
    this.#kept.splice(at, 1);
    this.#bytes -= bytesOf(prefix);
  }
}

export function bytesOf({ tokens, state }: KeptPrefix): number {
  return tokens.byteLength + state.byteLength;
}
