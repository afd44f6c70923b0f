/** `npm run test:chaos`: real workers under every kind of trouble, and clients that look at each token. */
import { parseArgs } from "node:util";
import { runChaos } from "./chaos.ts";
import { demoFleet, demoPrompts, scriptedFleet, scriptedPrompts } from "./prompts.ts";
import type { Pace } from "./schedule.ts";

const HELP = `test:chaos: the programs are killed, frozen, cut off and slowed down while clients check each stream token by token.

  --seconds N    how long it goes wrong (default 120)
  --seed N       the schedule of an earlier run again (default: a new one)
  --clients N    clients at once (default 8)
  --quiet        only the summary and what is wrong
`;
const EXIT = { ok: 0, violations: 1, usage: 2 } as const;

const PACE: Pace = { first_ms: 1000, worker_ms: [400, 2200], orcd_ms: [5000, 14_000], for_ms: [100, 4000], away_ms: [50, 2000] };

async function main(argv: readonly string[]): Promise<number> {
  const text = { type: "string" } as const;
  const options = { seconds: text, seed: text, clients: text, quiet: { type: "boolean" }, help: { type: "boolean", short: "h" } } as const;
  let values: ReturnType<typeof parseArgs<{ options: typeof options }>>["values"];
  try {
    values = parseArgs({ args: [...argv], options }).values;
  } catch (error) {
    process.stderr.write(`test:chaos: ${(error as Error).message}\n\n${HELP}`);
    return EXIT.usage;
  }
  if (values.help === true) {
    process.stdout.write(HELP);
    return EXIT.ok;
  }
  const seconds = Number(values.seconds ?? 120);
  const seed = Number(values.seed ?? Math.floor(Math.random() * 1_000_000));
  const clients = Number(values.clients ?? 8);
  if (!(seconds > 0) || !Number.isSafeInteger(seed) || !(clients >= 1)) {
    process.stderr.write(`test:chaos: --seconds, --seed and --clients take numbers\n\n${HELP}`);
    return EXIT.usage;
  }
  if (process.platform === "win32") {
    process.stdout.write("test:chaos freezes processes with SIGSTOP, which Windows does not have.\n");
    return EXIT.ok;
  }
  const { summary, violations } = await runChaos({
    seconds,
    seed,
    clients,
    pace: PACE,
    fleets: (folder) => [scriptedFleet(folder, 2), demoFleet(2)],
    prompts: [...scriptedPrompts(), ...demoPrompts()],
    say: (line) => values.quiet === true || process.stderr.write(`${line}\n`),
  });
  if (violations.length > 0) process.stdout.write(`${violations.join("\n\n")}\n\n`);
  process.stdout.write(`${summary}\n`);
  return violations.length > 0 ? EXIT.violations : EXIT.ok;
}

process.exitCode = await main(process.argv.slice(2));
