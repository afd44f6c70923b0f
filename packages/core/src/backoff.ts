/** Waiting longer after each failure: `first_ms`, doubled with each one before (`before` of them), at most `max_ms`. */
export function backoffMs(first_ms: number, before: number, max_ms: number): number {
  return Math.min(first_ms * 2 ** Math.min(before, DOUBLINGS_MAX), max_ms);
}

/** More would be no wait any more, and no number in the end. */
const DOUBLINGS_MAX = 30;
