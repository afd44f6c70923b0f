/**
 * What of a prompt need not be computed: it lies in its slot, in another slot, or in the cache of what slots have lost. Nothing here
 * computes; states are cut, copied, set aside and put back.
 */
import { commonLength, copyWorthTokens, restoreWorthTokens, SET_ASIDE_WORTH_TOKENS } from "../slots.ts";
import type { Sequence } from "./model.ts";
import type { PrefixCache } from "./prefix-cache.ts";
import type { PrefixKind } from "./prefix-kind.ts";
import type { Run } from "./run.ts";

export interface Slot {
  sequence: Sequence;
  run: Run | undefined;
  /** Of what it holds. */
  kind: PrefixKind;
  /** Tokens at the beginning whose state was computed as a prompt: in deterministic mode only these are used again. */
  prompt_tokens: number;
}

export interface ReuseRules {
  deterministic: boolean;
  prefill_chunk_tokens: number;
  context_size: number;
}

export class SlotPrefixes {
  readonly #slots: readonly Slot[];
  readonly #rules: ReuseRules;
  /** Undefined: what slots lose is not kept. */
  readonly #cache: PrefixCache | undefined;

  constructor(slots: readonly Slot[], rules: ReuseRules, cache: PrefixCache | undefined) {
    this.#slots = slots;
    this.#rules = rules;
    this.#cache = cache;
  }

  /** Tokens to which reuse is rounded down. */
  get step(): number {
    return this.#rules.deterministic ? this.#rules.prefill_chunk_tokens : 1;
  }

  /** How many tokens of a slot may be used again by what is of a kind. */
  reusable({ kind, prompt_tokens }: Slot, wanted: PrefixKind): number {
    if (kind !== wanted) return 0;
    return this.#rules.deterministic ? prompt_tokens : Number.MAX_SAFE_INTEGER;
  }

  /** Before the first step of a run: the slot forgets what the prompt does not share. */
  async prepare(slot: Slot, run: Run): Promise<void> {
    if (run.prepared) return;
    run.prepared = true;
    // Looked for before anything is set aside, which may take its place.
    run.found = this.#cache?.longest(run.prompt, this.step, run.kind);
    await this.#setAside(slot, run.done);
    await slot.sequence.keep(run.done);
    slot.prompt_tokens = Math.min(slot.prompt_tokens, run.done);
    slot.kind = run.kind;
  }

  /**
   * Before the first part of a prompt is computed: what another slot has computed of the same beginning is taken over from there, also
   * while that slot is busy. So of prompts that come together and begin alike, the beginning is computed once. What no slot holds any
   * more may be in the cache.
   */
  adopt(run: Run): void {
    if (run.begun) return;
    run.begun = true;
    const own = this.#slots[run.slot];
    if (own?.sequence.adopt === undefined) return;
    let best = { slot: run.slot, count: run.done };
    for (const [number, slot] of this.#slots.entries()) {
      const common = Math.min(commonLength(slot.sequence.tokens, run.prompt), this.reusable(slot, run.kind), run.prompt.length - 1);
      const count = Math.floor(common / this.step) * this.step;
      if (number !== run.slot && count > best.count) best = { slot: number, count };
    }
    if (this.#restore(own, run, best.count) || best.slot === run.slot) return;
    if (best.count - run.done < copyWorthTokens(this.#rules.context_size)) return;
    own.sequence.adopt(best.slot, best.count);
    own.prompt_tokens = best.count;
    run.adopted(best.count);
  }

  /** What the slots hold goes into the cache too, as far as there is room. No run may be under way. */
  async setAllAside(): Promise<void> {
    for (const slot of this.#slots) await this.#setAside(slot, 0);
  }

  /** What a slot is about to forget, all but `done` tokens, goes into the cache, unless it is held elsewhere too or is too little. */
  async #setAside(slot: Slot, done: number): Promise<void> {
    const { sequence } = slot;
    const cache = this.#cache;
    if (cache === undefined || sequence.save === undefined) return;
    if (sequence.tokens.length - done < SET_ASIDE_WORTH_TOKENS) return;
    // What was computed as an answer is not used again: it would only take room.
    if (this.#rules.deterministic) await sequence.keep(Math.max(done, slot.prompt_tokens));
    const { kind } = slot;
    const alike = this.#slots.filter((other) => other !== slot && other.kind === kind);
    const elsewhere = alike.map((other) => commonLength(other.sequence.tokens, sequence.tokens));
    const held = Math.max(done, ...elsewhere, cache.held(sequence.tokens, kind));
    if (sequence.tokens.length - held < SET_ASIDE_WORTH_TOKENS) return;
    const state = sequence.save(cache.bytes_max);
    if (state !== undefined) cache.add({ tokens: Int32Array.from(sequence.tokens), state, kind });
  }

  /** Puts back what the cache has of the prompt, if that is worth more than the `others` tokens that slots have of it. */
  #restore(own: Slot, run: Run, others: number): boolean {
    const { found } = run;
    if (found === undefined || own.sequence.restore === undefined) return false;
    const { prefix, count } = found;
    run.found = undefined;
    if (count - Math.max(others, run.done) < restoreWorthTokens(prefix.tokens.length)) return false;
    const taken = own.sequence.restore(prefix.tokens, prefix.state, count);
    own.prompt_tokens = taken ? count : 0;
    run.adopted(own.prompt_tokens);
    if (taken) this.#cache?.used();
    else this.#cache?.drop(prefix);
    return taken;
  }
}
