/** What both entry files do: an answer for people on an old Node.js, signals, one command line, all output out, the end. */
import { nodeTooOld } from "@rbees/kit/version";
import type { Program } from "./program.ts";

const FAILED = 1;
const INTERRUPTED = 130;

/** `entry` is the URL of the file that was started: in a release the other programs lie beside it, and not beside what it loads. */
export async function start(entry: string, argv: readonly string[], exit: (code: number) => void, program: () => Promise<Program>) {
  const old = nodeTooOld(process.versions.node);
  const { processWorld } = await import("./context.ts");
  const world = processWorld(entry, () => exit(INTERRUPTED));
  if (old !== undefined) {
    world.io.say(old);
    return exit(FAILED);
  }
  const { runProgram } = await import("./program.ts");
  const code = await runProgram(await program(), argv.slice(2), world);
  exit((await world.io.flushed()) ? code : FAILED);
}
