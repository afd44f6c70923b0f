/**
 * A conversation with a program of ours that was started for us (`AFAR`), here or through ssh: it hears that somebody is there, says on
 * stderr how far it is, and ends in good order, with what it had begun, when its stdin does, be it because it is not wanted any more or
 * because we are gone. Its stdout is whoever's who started it.
 */
import type { ChildProcessByStdio } from "node:child_process";
import { createInterface } from "node:readline";
import type { Readable, Writable } from "node:stream";
import { BEAT_MS } from "@rbees/contracts/afar";

export interface Conversation {
  /** Aborted: it is not wanted any more. */
  readonly signal: AbortSignal;
  /** What it needs to end in good order; then it is killed. */
  readonly end_ms_max: number;
  /** Goes to its stdin, as a line: a secret has no place among words that everybody on the machine can read. */
  readonly handover?: string | undefined;
  /** Each line of its stderr. */
  readonly onTalk: (line: string) => void;
}

/** Its exit code; null when a signal ended it. Rejects when it could not be started. */
export async function conversation(
  child: ChildProcessByStdio<Writable, Readable, Readable>,
  { signal, end_ms_max, handover, onTalk }: Conversation,
): Promise<number | null> {
  createInterface({ input: child.stderr }).on("line", onTalk);
  child.stdin.on("error", () => {});
  if (handover !== undefined) child.stdin.write(`${handover}\n`);
  const beats = setInterval(() => child.stdin.write("\n"), BEAT_MS);
  let insist: NodeJS.Timeout | undefined;
  const stop = () => {
    clearInterval(beats);
    child.stdin.end();
    insist = setTimeout(() => child.kill("SIGKILL"), end_ms_max);
  };
  if (signal.aborted) stop();
  else signal.addEventListener("abort", stop, { once: true });
  try {
    return await new Promise((resolve, reject) => {
      child.once("error", reject);
      child.once("close", resolve);
    });
  } finally {
    clearInterval(beats);
    clearTimeout(insist);
    signal.removeEventListener("abort", stop);
    child.stdin.destroy();
  }
}
