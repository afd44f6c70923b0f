/** `npm run bench:relay`: what the orchestrator costs, as ratios to a bare relay and to nginx measured in the same run. */
import { cpus } from "node:os";
import { Processes } from "../processes.ts";
import { verdictTable } from "../report.ts";
import { Bench } from "./bench.ts";
import { measureHeap, measureSystemCalls } from "./counted.ts";
import { measureGrowth, measureStalled } from "./growth.ts";
import { Harness } from "./harness.ts";
import { HELP, type Options, readOptions } from "./options.ts";
import { measureRounds } from "./rounds.ts";
import { measureAudit, measureCommits, measureRows } from "./store.ts";
import { nginxFound, TARGET_NAMES } from "./targets.ts";
import { measureTrust } from "./trust.ts";

const EXIT = { ok: 0, broken: 1, usage: 2 } as const;

async function main(argv: readonly string[]): Promise<number> {
  let options: Options | undefined;
  try {
    options = readOptions(argv);
  } catch (error) {
    process.stderr.write(`bench:relay: ${(error as Error).message}\n\n${HELP}`);
    return EXIT.usage;
  }
  if (options === undefined) {
    process.stdout.write(HELP);
    return EXIT.ok;
  }
  if (process.platform !== "linux") {
    process.stdout.write("bench:relay reads CPU times from /proc: it runs on Linux only.\n");
    return EXIT.ok;
  }
  const processes = new Processes({ parent: options.folder, pin: true });
  try {
    return await run(processes, options);
  } catch (error) {
    process.stderr.write(`\nbench:relay: ${(error as Error).stack}\n`);
    return EXIT.broken;
  }
}

async function run(processes: Processes, options: Options): Promise<number> {
  const began = performance.now();
  const nginx = nginxFound();
  const harness = await Harness.start(processes);
  const bench = new Bench(
    processes,
    harness,
    options,
    TARGET_NAMES.filter((name) => name !== "nginx" || nginx),
  );
  bench.say(
    `Node ${process.versions.node}, ${cpus()[0]?.model ?? "unknown processor"}, ${cpus().length} cores${processes.pinned ? "; the relay on one, the harness on the rest" : "; nothing pinned (taskset or a second core is missing): expect noise"}`,
  );
  if (!nginx) bench.say("nginx is not installed, so it is skipped (apt-get install nginx-light).");
  const wanted = (section: Options["only"][number]) => options.only.includes(section);

  if (wanted("token") || wanted("small") || wanted("ttft")) await measureRounds(bench);
  if (wanted("growth")) await measureGrowth(bench);
  if (wanted("stalled")) await measureStalled(bench);
  if (wanted("heap")) await measureHeap(bench);
  if (wanted("syscalls")) await measureSystemCalls(bench);
  if (wanted("commits")) await measureCommits(bench);
  if (wanted("rows")) await measureRows(bench);
  if (wanted("audit")) await measureAudit(bench);
  if (wanted("trust")) await measureTrust(bench);

  if (bench.verdicts.length > 0) bench.say(`\n${verdictTable(bench.verdicts)}`);
  bench.say(`\nTook ${Math.round((performance.now() - began) / 1000)} s.`);
  if (bench.errors.length === 0) return EXIT.ok;
  bench.say(
    `\n${bench.errors.length} errors or lost tokens:\n${[...new Set(bench.errors)]
      .slice(0, 10)
      .map((error) => `  ${error}`)
      .join("\n")}`,
  );
  return EXIT.broken;
}

process.exit(await main(process.argv.slice(2)));
