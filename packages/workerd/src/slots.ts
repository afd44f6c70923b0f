/**
 * Which slot a new prompt gets. Pure bookkeeping over token lists; the engine adapter owns the state behind each slot.
 *
 * A slot that still holds the beginning of the prompt spares computing it. Otherwise the lowest free slot is taken: the engine
 * needs one pass for each run of neighbouring busy slots, so holes between them cost time.
 */
export interface SlotState {
  busy: boolean;
  /** The tokens whose state the slot holds. */
  kept: readonly number[];
  /** How many of them may be used again. */
  reusable: number;
}

export interface SlotChoice {
  slot: number;
  /** Leading prompt tokens that need not be computed again. */
  cached: number;
}

/** A kept beginning shorter than this is not worth a hole between busy slots. */
export const PREFIX_WORTH_TOKENS = 16;

/**
 * The slot for a prompt, or undefined when all are busy. `step` is the number of tokens to which reuse is rounded down
 * (the prefill chunk in deterministic mode, so that chunks begin where they would without reuse).
 */
export function chooseSlot(slots: readonly SlotState[], prompt: readonly number[], step = 1): SlotChoice | undefined {
  let lowest: SlotChoice | undefined;
  let longest: SlotChoice | undefined;
  for (const [slot, { busy, kept, reusable }] of slots.entries()) {
    if (busy) continue;
    // The last prompt token is always computed: its result is the first token of the answer.
    const common = Math.min(commonLength(kept, prompt), reusable, prompt.length - 1);
    const choice = { slot, cached: Math.max(0, Math.floor(common / step) * step) };
    lowest ??= choice;
    if (longest === undefined || choice.cached > longest.cached) longest = choice;
  }
  if (lowest === undefined || longest === undefined) return undefined;
  return longest.cached - lowest.cached >= PREFIX_WORTH_TOKENS ? longest : lowest;
}

/**
 * Copying a slot's state costs about what all of its context weighs, whatever is in it: a hundred times less a token than computing
 * it, where that was measured. So fewer shared tokens than this are computed again.
 */
export function copyWorthTokens(context_size: number): number {
  return Math.max(PREFIX_WORTH_TOKENS, Math.ceil(context_size / 64));
}

/**
 * What putting a state back from memory costs: all of its tokens are copied, each for a fiftieth of what computing it costs or less,
 * where that was measured. So it has to spare more than that.
 */
export function restoreWorthTokens(state_tokens: number): number {
  return Math.max(PREFIX_WORTH_TOKENS, Math.ceil(state_tokens / 32));
}

/** Setting aside costs as much, and may be for nothing: fewer tokens than this are computed again. */
export const SET_ASIDE_WORTH_TOKENS = 64;

export function commonLength(a: ArrayLike<number>, b: ArrayLike<number>): number {
  const most = Math.min(a.length, b.length);
  for (let i = 0; i < most; i++) if (a[i] !== b[i]) return i;
  return most;
}
