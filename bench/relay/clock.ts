/** One clock for every process of the bench: CLOCK_MONOTONIC in microseconds, so that a token's age can be told at its arrival. */

export function nowUs(): number {
  const [seconds, nanoseconds] = process.hrtime();
  return seconds * 1_000_000 + nanoseconds / 1000;
}

export function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
