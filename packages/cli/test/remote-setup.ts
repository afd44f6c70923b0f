/** A far side for the tests of `rbees pool … --host`: a real sshd, with rbees-pool from source, and a near side whose ssh knows it. */
import { symlinkSync } from "node:fs";
import { after } from "node:test";
import { bench, REAL, SRC } from "./harness.ts";
import { noSshd, processes, startSshd } from "./sshd.ts";

export const skip = noSshd();

/** For one test file: `far` is the host `atlas`, and goes with the file. */
export async function setUp() {
  const cleaning: (() => Promise<void>)[] = [];
  after(async () => {
    for (const clean of cleaning.reverse()) await clean();
  });
  const later = (clean: () => Promise<void>) => void cleaning.push(clean);
  const far = await startSshd(later);
  // By this path the far side's commands are known among all processes.
  symlinkSync(process.execPath, `${far.folder}/node`);
  far.installPool([`${far.folder}/node`, `${SRC}rbees-pool.ts`]);
  const near = await bench(later, REAL);
  Object.assign(near.env, far.env);
  const rbees = (...words: string[]) => near.run(["rbees", ...words]);
  return {
    far,
    near,
    rbees,
    onAtlas: (...words: string[]) => rbees("pool", ...words, "--host", "atlas"),
    /** The commands of rbees that run on the far side. */
    farCommands: () => processes().filter(({ args }) => args.startsWith(`${far.folder}/node`) && args.includes("rbees-pool.ts")),
  };
}
