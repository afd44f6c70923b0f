/** Sections `commits`, `rows` and `audit`: what the orchestrator's store costs, alone and under the whole program. */
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { median, paired, spread } from "../report.ts";
import { type Bench, SMALL } from "./bench.ts";
import { countCalls, tracer, tracerMissing } from "./counted.ts";

const SYNCS = ["fsync", "fdatasync"];
const MANY_ROWS = 1_000_000;

export async function measureCommits(bench: Bench): Promise<void> {
  bench.progress("commits");
  const cpu: Record<Written, number[]> = { row: [], sealed: [], whole: [] };
  for (let round = 0; round < Math.min(3, bench.options.rounds); round += 1)
    for (const written of WRITTEN) cpu[written].push(await storeCpuUs(bench, `store-${written}-${round}`, 0, written));
  bench.progress("");
  bench.say(
    `\nDurable admission, 64 submitters, µs of CPU a job that the store alone takes: a row of a job's size ${spread(cpu.row)}; a job's, its prompt encrypted ${spread(cpu.sealed)}; with its audit entry ${spread(cpu.whole)}`,
  );
  bench.verdicts.push({ what: "CPU of the store per row of a job's size, 64 submitters", value: median(cpu.row), at_most: 20, unit: "µs" });
  if (tracerMissing(bench, "Durable commits per job")) return;
  const file = join(bench.processes.folder, "calls-commits");
  let from_s = 0;
  let to_s = 0;
  const result = await bench.fresh("rbees-orcd", { streams: 100, wrapped_in: tracer(SYNCS, file) }, ({ target }) => {
    const begins = () => {
      from_s = Date.now() / 1000;
    };
    const ended = () => {
      to_s = Date.now() / 1000;
    };
    return bench.harness.requests({ target, connections: 64, pace: SMALL, settle_ms: 500, window_ms: 2000, pid: 0 }, { begins, ended });
  });
  bench.check("commits", result);
  const per_job = countCalls(file, SYNCS, from_s, to_s) / result.requests;
  bench.say(
    `  the whole orchestrator, from submission to end: ${per_job.toFixed(3)} syncs a job (${Math.round(result.requests / result.seconds)} jobs/s)`,
  );
  bench.verdicts.push({ what: "durable commits per job at 64 submitters", value: per_job, at_most: 1 / 8, unit: "syncs" });
}

/** Whether a job costs the store the same however many it has kept. */
export async function measureRows(bench: Bench): Promise<void> {
  const none: number[] = [];
  const many = await rounds(bench, 2, async (round) => {
    bench.progress(`rows: round ${round + 1}`);
    none.push(await storeCpuUs(bench, `rows-none-${round}`, 0));
    return storeCpuUs(bench, `rows-many-${round}`, MANY_ROWS);
  });
  bench.progress("");
  bench.say(
    `\nCPU of the store per job: ${spread(none)} µs in an empty database, ${spread(many)} µs with ${MANY_ROWS.toLocaleString("en")} jobs in it`,
  );
  bench.verdicts.push({
    what: "CPU of the store per job with 1,000,000 jobs ÷ with none",
    value: median(paired(many, none)),
    at_most: 1.2,
  });
}

/** Chaining an audit entry, beside writing its record as JSON and hashing that. */
export async function measureAudit(bench: Bench): Promise<void> {
  bench.progress("audit");
  const [chained, plain] = await lines(bench, "audit-load.ts", [], /^chained_us ([\d. ]+)\nplain_us ([\d. ]+)$/m);
  bench.progress("");
  const us = [chained, plain].map((list = "") => list.split(" ").map(Number)) as [number[], number[]];
  bench.say(
    `\nAn audit entry, canonical and chained: ${spread(us[0], 2)} µs of CPU; its record as JSON, and the SHA-256 of that: ${spread(us[1], 2)} µs`,
  );
  bench.verdicts.push({ what: "audit append ÷ SHA-256 + JSON of the record", value: median(paired(us[0], us[1])), at_most: 1.5 });
}

/** What is written of each job: see `store-load.ts`. */
const WRITTEN = ["row", "sealed", "whole"] as const;
type Written = (typeof WRITTEN)[number];

/** CPU of the store per job with 64 submitters who wait for their commit, in a process of its own, with so many jobs there before. */
async function storeCpuUs(bench: Bench, name: string, rows: number, written: Written = "whole"): Promise<number> {
  const path = join(bench.processes.folder, name, "store.sqlite");
  const [us] = await lines(bench, "store-load.ts", [path, "64", String(rows), written], /^cpu_us_per_job ([\d.]+)$/m);
  return Number(us);
}

async function rounds(bench: Bench, most: number, measure: (round: number) => Promise<number>): Promise<number[]> {
  const values: number[] = [];
  for (let round = 0; round < Math.min(most, bench.options.rounds); round += 1) values.push(await measure(round));
  return values;
}

/** What a program of this folder prints, taken apart. */
function lines(bench: Bench, program: string, args: readonly string[], wanted: RegExp): Promise<string[]> {
  const file = fileURLToPath(new URL(program, import.meta.url));
  return new Promise((resolve, reject) => {
    const said: string[] = [];
    const child = bench.processes.spawn([process.execPath, file, ...args], (line) => said.push(line));
    child.once("close", (code) => {
      const found = wanted.exec(said.join("\n"));
      if (code === 0 && found !== null) resolve(found.slice(1));
      else reject(new Error(`${program} failed:\n${said.join("\n")}`));
    });
  });
}
