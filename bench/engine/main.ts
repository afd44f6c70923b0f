/** `npm run bench:engine`: what the worker costs per token, as ratios to bare llama.cpp measured in the same run. */
import { cpus } from "node:os";
import { Processes } from "../processes.ts";
import { verdictTable } from "../report.ts";
import { Bench } from "./bench.ts";
import { measureDecode } from "./decode.ts";
import { measureEvicted } from "./evicted.ts";
import { measureLatencies } from "./latency.ts";
import { HELP, type Options, readOptions } from "./options.ts";
import { measureCacheTypes, measureGrammar, measureSpeculation } from "./spawn-options.ts";
import { MODEL_NAME, modelFile } from "./workload.ts";

const EXIT = { ok: 0, broken: 1, usage: 2 } as const;

async function main(argv: readonly string[]): Promise<number> {
  let options: Options | undefined;
  try {
    options = readOptions(argv);
  } catch (error) {
    process.stderr.write(`bench:engine: ${(error as Error).message}\n\n${HELP}`);
    return EXIT.usage;
  }
  if (options === undefined) {
    process.stdout.write(HELP);
    return EXIT.ok;
  }
  if (process.platform !== "linux") {
    process.stdout.write("bench:engine reads CPU times from /proc: it runs on Linux only.\n");
    return EXIT.ok;
  }
  const processes = new Processes({ pin: false });
  try {
    await run(processes, options);
    return EXIT.ok;
  } catch (error) {
    process.stderr.write(`\nbench:engine: ${(error as Error).stack}\n`);
    return EXIT.broken;
  }
}

async function run(processes: Processes, options: Options): Promise<void> {
  const began = performance.now();
  const model_path = modelFile();
  const bench = new Bench(processes, options, model_path);
  bench.say(`Node ${process.versions.node}, ${cpus()[0]?.model ?? "unknown processor"}, ${cpus().length} cores.`);
  bench.say(`Model: ${MODEL_NAME}, kept in ${model_path}.`);
  if (bench.wants("decode", "scaling", "outside")) await measureDecode(bench);
  if (bench.wants("abort", "pause", "prefix")) await measureLatencies(bench);
  if (bench.wants("evicted")) await measureEvicted(bench);
  if (bench.wants("speculate")) await measureSpeculation(bench);
  if (bench.wants("cache-type")) await measureCacheTypes(bench);
  if (bench.wants("grammar")) await measureGrammar(bench);
  bench.say(`\n${verdictTable(bench.verdicts)}`);
  bench.say(`\nTook ${Math.round((performance.now() - began) / 1000)} s.`);
}

process.exit(await main(process.argv.slice(2)));
