/**
 * The core's clock: milliseconds that only ever go forward, whatever is done to the machine's clock, so that no back-off waits
 * for a day and no worker falls silent by a correction of the time. What people read (rows, audit, views) is wall-clock time.
 */

const EPOCH_MS = Math.round(performance.timeOrigin);

export function coreNow(): number {
  return EPOCH_MS + Math.round(performance.now());
}

/** The wall-clock time of a moment on the core's clock. */
export function wallTime(core_ms: number): number {
  return core_ms + Date.now() - coreNow();
}

/** The moment on the core's clock of a wall-clock time. */
export function coreTime(wall_ms: number): number {
  return wall_ms + coreNow() - Date.now();
}
