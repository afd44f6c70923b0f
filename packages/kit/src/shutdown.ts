/** Ending a daemon: the first signal stops it in order, a second one or the deadline ends it at once. */
import type { Log } from "./log.ts";

/**
 * Runs until SIGTERM or SIGINT, then `stop`. Exit codes: 0 stopped in order, 1 not within `deadline_ms`.
 * The returned function asks for the same from within the program.
 */
export function stopOnSignal(stop: () => Promise<void>, log: Log, deadline_ms: number, exit: (code: number) => void): () => void {
  let stopping = false;
  const end = (why: string) => {
    if (stopping) {
      log.warn({ why }, "asked again: ending at once");
      return exit(1);
    }
    stopping = true;
    log.info({ why }, "stopping");
    const backstop = setTimeout(() => {
      log.error({ deadline_ms }, "did not stop in time");
      exit(1);
    }, deadline_ms);
    stop().then(
      () => {
        clearTimeout(backstop);
        exit(0);
      },
      (error) => {
        log.error({ err: error }, "stopping failed");
        exit(1);
      },
    );
  };
  process.on("SIGTERM", () => end("SIGTERM"));
  process.on("SIGINT", () => end("SIGINT"));
  return () => end("asked to");
}
