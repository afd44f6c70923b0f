/** What both entry files do: an answer for people on an old Node.js, signals, one command line, all output out, the end. */
import { nodeTooOld } from "@rbees/kit/version";
import type { Program } from "./program.ts";

const FAILED = 1;
const INTERRUPTED = 130;

export async function start(argv: readonly string[], exit: (code: number) => void, program: () => Promise<Program>): Promise<void> {
  const old = nodeTooOld(process.versions.node);
  const { processWorld } = await import("./context.ts");
  const world = processWorld(() => exit(INTERRUPTED));
  if (old !== undefined) {
    world.io.say(old);
    return exit(FAILED);
  }
  const { runProgram } = await import("./program.ts");
  const code = await runProgram(await program(), argv.slice(2), world);
  await world.io.flushed();
  exit(code);
}
