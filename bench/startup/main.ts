/**
 * `npm run bench:startup`: how long people wait for the help of a released program, beside a Node that does nothing. Builds the release
 * into a temporary folder first.
 */
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { cpus, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs, promisify } from "node:util";
import { median, spread, table, verdictTable } from "../report.ts";

const BUILD = fileURLToPath(new URL("../../scripts/build.ts", import.meta.url));
/** What a program may take: so many times as long as bare Node, and so many ms. */
const LIMIT = { times: 1.5, ms: 60 };
const HELP = `bench:startup: --help of the released programs beside bare Node.

  --rounds N     interleaved rounds (default 21)
`;

/** Wall-clock ms from starting a program to its end. */
async function timed(command: readonly string[]): Promise<number> {
  const began = performance.now();
  const child = spawn(process.execPath, command, { stdio: ["ignore", "ignore", "inherit"] });
  const [code] = (await once(child, "exit")) as [number | null];
  if (code !== 0) throw new Error(`node ${command.join(" ")} ended with ${code}`);
  return performance.now() - began;
}

async function measure(release: string, rounds: number): Promise<void> {
  const programs = ["rbees", "rbees-pool"].map((name) => ({ name: `${name} --help`, command: [join(release, `${name}.mjs`), "--help"] }));
  const all = [{ name: "node -e 0", command: ["-e", "0"] }, ...programs];
  const taken = new Map(all.map(({ name }) => [name, [] as number[]]));
  // The first round reads the files from disk, and is not counted.
  for (let round = 0; round <= rounds; round++) {
    for (const { name, command } of all) {
      const ms = await timed(command);
      if (round > 0) taken.get(name)?.push(ms);
    }
  }
  const bare = taken.get("node -e 0") ?? [];
  const rows = all.map(({ name }) => [name, spread(taken.get(name) ?? [])]);
  const verdicts = programs.map(({ name }) => ({
    what: `${name}, less ${LIMIT.ms} ms, of bare Node`,
    value: median((taken.get(name) ?? []).map((ms, round) => (ms - LIMIT.ms) / (bare[round] ?? Number.NaN))),
    at_most: LIMIT.times,
  }));
  process.stdout.write(`${table(["", "ms"], rows)}\n\n${verdictTable(verdicts)}\n`);
}

async function main(argv: readonly string[]): Promise<number> {
  let rounds: number;
  try {
    const { values } = parseArgs({ args: [...argv], options: { rounds: { type: "string", default: "21" }, help: { type: "boolean" } } });
    rounds = Number(values.rounds);
    if (values.help || !Number.isSafeInteger(rounds) || rounds < 1) throw new RangeError("--rounds must be a whole number from 1");
  } catch (error) {
    process.stderr.write(`${(error as Error).message}\n\n${HELP}`);
    return 2;
  }
  const release = mkdtempSync(join(tmpdir(), "rbees-startup-"));
  try {
    await promisify(execFile)(process.execPath, [BUILD, release]);
    process.stdout.write(
      `Node ${process.versions.node}, ${cpus()[0]?.model ?? "unknown processor"}, ${cpus().length} cores, ${rounds} rounds.\n`,
    );
    await measure(release, rounds);
    return 0;
  } catch (error) {
    process.stderr.write(`\nbench:startup: ${(error as Error).stack}\n`);
    return 1;
  } finally {
    rmSync(release, { recursive: true, force: true });
  }
}

process.exit(await main(process.argv.slice(2)));
