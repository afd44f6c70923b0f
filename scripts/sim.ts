/**
 * `npm run sim`: seeded worlds around the real core, one after the other, with everything that can go wrong in them. `--seed N` replays
 * one, `--seeds N --from S` runs a range. Ends with one summary line; exit code 1 when a world broke a rule.
 */
import { parseArgs } from "node:util";
import { World } from "../packages/core/test/sim-world.ts";

const HELP = `Usage: npm run sim -- [--seed N | --seeds N --from S]

  --seed N    replay one world, and say what happened in it
  --seeds N   how many worlds (default 2000)
  --from S    the first seed (default 1)
`;
const FAILURES_SHOWN = 10;
const PROGRESS_EVERY = 100;

function wholeNumber(name: string, text: string, least: number): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < least) throw new Error(`--${name} must be a whole number of at least ${least}, not ${text}`);
  return value;
}

function read(argv: readonly string[]): { from: number; count: number; one: boolean } | undefined {
  const { values } = parseArgs({
    args: [...argv],
    options: { seed: { type: "string" }, seeds: { type: "string" }, from: { type: "string" }, help: { type: "boolean", short: "h" } },
  });
  if (values.help === true) return undefined;
  if (values.seed !== undefined && (values.seeds ?? values.from) !== undefined)
    throw new Error("--seed replays one world: leave out --seeds and --from");
  if (values.seed !== undefined) return { from: wholeNumber("seed", values.seed, 0), count: 1, one: true };
  return { from: wholeNumber("from", values.from ?? "1", 0), count: wholeNumber("seeds", values.seeds ?? "2000", 1), one: false };
}

function main(argv: readonly string[]): number {
  let range: ReturnType<typeof read>;
  try {
    range = read(argv);
  } catch (error) {
    process.stderr.write(`sim: ${(error as Error).message}\n\n${HELP}`);
    return 2;
  }
  if (range === undefined) {
    process.stdout.write(HELP);
    return 0;
  }
  const began = performance.now();
  const total = { settled: 0, refused: 0, crashes: 0, steps: 0 };
  const failures: { seed: number; message: string }[] = [];
  const end = range.from + range.count;
  for (let seed = range.from; seed < end; seed += 1) {
    const world = new World(seed);
    try {
      world.run();
    } catch (error) {
      failures.push({ seed, message: `seed ${seed}, step ${world.steps}: ${(error as Error).message}` });
    }
    total.settled += world.oracle.settled;
    total.refused += world.oracle.refused.size;
    total.crashes += world.crashes;
    total.steps += world.steps;
    if (range.one) process.stdout.write(`${world.rules}\n${JSON.stringify(world.outcomes)}\n`);
    if (process.stderr.isTTY && seed % PROGRESS_EVERY === 0) process.stderr.write(`\r\x1b[K${seed - range.from} of ${range.count} worlds`);
  }
  if (process.stderr.isTTY) process.stderr.write("\r\x1b[K");
  for (const { seed, message } of failures.slice(0, FAILURES_SHOWN)) process.stdout.write(`${message}\n  npm run sim -- --seed ${seed}\n`);
  if (failures.length > FAILURES_SHOWN) process.stdout.write(`and ${failures.length - FAILURES_SHOWN} more\n`);
  const seconds = ((performance.now() - began) / 1000).toFixed(1);
  const n = (value: number) => value.toLocaleString("en");
  process.stdout.write(
    `${n(range.count)} ${range.count === 1 ? "world" : "worlds"}, ${n(total.steps)} steps, ${n(total.settled)} jobs settled, ${n(total.refused)} refused, ${n(total.crashes)} crashes, ${failures.length} broken, ${seconds} s\n`,
  );
  return failures.length === 0 ? 0 : 1;
}

process.exitCode = main(process.argv.slice(2));
