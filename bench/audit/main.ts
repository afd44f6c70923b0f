/**
 * `npm run bench:audit`: what the record costs. The whole orchestrator with durable writes and group commit, once as it is and once
 * without its record, interleaved in one run; and how fast a trail is verified.
 */
import { generateKeyPairSync } from "node:crypto";
import { writeFileSync } from "node:fs";
import { cpus } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { chain, GENESIS } from "../../packages/kit/src/audit-chain.ts";
import { headEntry } from "../../packages/kit/src/audit-head.ts";
import { peakBytes } from "../proc-stat.ts";
import { Processes } from "../processes.ts";
import { acceptedEntry } from "../relay/accepted-job.ts";
import { Bench, SMALL } from "../relay/bench.ts";
import { Harness } from "../relay/harness.ts";
import { readOptions } from "../relay/options.ts";
import { median, paired, spread, table, verdictTable } from "../report.ts";

const HELP = `bench:audit: what the record of what was done costs per job and per entry, and how fast it is verified.

  --rounds N       interleaved rounds (default 5)
  --entries N      entries of the trail that is verified (default 300000)
  --connections N  submitters at once (default 16)
  --folder PATH    where the temporary folder is made; it must be on a disk (default: the system's temporary folder)
`;
/** Accepted, dispatched, ended. */
const ENTRIES_PER_JOB = 3;
const ENTRIES_PER_HEAD = 200;
const WITHOUT_RECORD = ["--import", new URL("./without-record.ts", import.meta.url).href];

const RBEES = fileURLToPath(new URL("../../packages/cli/src/rbees.ts", import.meta.url));

interface Flags {
  readonly rounds: number;
  readonly entries: number;
  readonly connections: number;
  readonly folder: string | undefined;
}

function flagsIn(argv: readonly string[]): Flags | undefined {
  const text = { type: "string" } as const;
  const options = { rounds: text, entries: text, connections: text, folder: text, help: { type: "boolean", short: "h" } } as const;
  const { values } = parseArgs({ args: [...argv], options });
  if (values.help === true) return undefined;
  const number = (name: "rounds" | "entries" | "connections", otherwise: number) => {
    const value = Number(values[name] ?? otherwise);
    if (!(Number.isInteger(value) && value > 0)) throw new RangeError(`--${name} must be a whole number above 0`);
    return value;
  };
  return {
    rounds: number("rounds", 5),
    entries: number("entries", 300_000),
    connections: number("connections", 16),
    folder: values.folder,
  };
}

/** CPU of the orchestrator per small job, microseconds, and jobs a second. */
async function jobs(bench: Bench, round: number, recorded: boolean, connections: number): Promise<{ us: number; per_s: number }> {
  bench.progress(`round ${round + 1}: ${recorded ? "with" : "without"} the record`);
  const node_flags = recorded ? [] : WITHOUT_RECORD;
  return bench.fresh("rbees-orcd", { node_flags, streams: 200 }, async ({ target, pid }) => {
    const small = await bench.harness.requests({ target, connections, pace: SMALL, settle_ms: 300, window_ms: 2000, pid });
    bench.check(recorded ? "with the record" : "without the record", small);
    return { us: small.cpu_ns / 1000 / small.requests, per_s: small.requests / small.seconds };
  });
}

async function measureJobs(bench: Bench, { rounds, connections }: Flags): Promise<void> {
  const took = { with: [] as number[], without: [] as number[] };
  const rate = { with: [] as number[], without: [] as number[] };
  for (let round = 0; round < rounds; round += 1) {
    // Another one goes first each time, so that none profits from its place.
    for (const which of round % 2 === 0 ? (["with", "without"] as const) : (["without", "with"] as const)) {
      const { us, per_s } = await jobs(bench, round, which === "with", connections);
      took[which].push(us);
      rate[which].push(per_s);
    }
  }
  bench.progress("");
  bench.say(
    `\nCPU of the whole orchestrator per job of one token, ${connections} submitters, full fsync, ${rounds} rounds: median [min–max]`,
  );
  const rows = (["with", "without"] as const).map((which) => [`${which} the record`, spread(took[which]), spread(rate[which], 0)]);
  bench.say(table(["", "CPU µs/job", "jobs/s"], rows));
  const per_entry = took.with.map((us, round) => (us - (took.without[round] ?? Number.NaN)) / ENTRIES_PER_JOB);
  bench.say(`An entry takes ${spread(per_entry)} µs of CPU (${ENTRIES_PER_JOB} a job)`);
  bench.verdicts.push({ what: "CPU per job with the record ÷ without", value: median(paired(took.with, took.without)), at_most: 1.15 });
}

/** A signed trail in a database, as the orchestrator's store writes it. */
function writeTrail(folder: string, entries: number): { db: string; public_key: string } {
  const [file, public_key] = [join(folder, "trail.sqlite"), join(folder, "trail.pub.pem")];
  const keys = generateKeyPairSync("ed25519");
  writeFileSync(public_key, keys.publicKey.export({ type: "spki", format: "pem" }));
  const db = new DatabaseSync(file);
  db.exec(`pragma journal_mode = wal; create table audit (seq integer primary key, at_ms bigint not null, kind text not null,
    record text not null, previous text not null, hash text not null); begin`);
  const insert = db.prepare("insert into audit values (?, ?, ?, ?, ?, ?)");
  let last = GENESIS;
  for (let n = 1; n <= entries; n += 1) {
    const entry = acceptedEntry(n);
    const { seq, at_ms, kind, record, previous, hash } =
      n % ENTRIES_PER_HEAD === 0 ? headEntry(entry.at_ms, n, last, keys.privateKey) : chain(entry, n, last);
    insert.run(seq, at_ms, kind, record, previous, hash);
    last = hash;
  }
  db.exec("commit");
  db.close();
  return { db: file, public_key };
}

/** The command line, from its start to its end. */
function verify(bench: Bench, args: readonly string[]): Promise<{ seconds: number; peak_bytes: number }> {
  return new Promise((resolve, reject) => {
    const said: string[] = [];
    const began = performance.now();
    const child = bench.processes.spawn([process.execPath, RBEES, "audit", "verify", ...args], (line) => said.push(line));
    let peak_bytes = 0;
    const looks = setInterval(() => {
      peak_bytes = Math.max(peak_bytes, peakBytes(child.pid as number));
    }, 50);
    child.once("close", (code) => {
      clearInterval(looks);
      if (code === 0) resolve({ seconds: (performance.now() - began) / 1000, peak_bytes });
      else reject(new Error(`rbees audit verify failed:\n${said.join("\n")}`));
    });
  });
}

async function measureVerify(bench: Bench, { rounds, entries }: Flags): Promise<void> {
  bench.progress(`a trail of ${entries} entries`);
  const { db, public_key } = writeTrail(bench.processes.folder, entries);
  const rates: Record<string, number[]> = {};
  const peaks: Record<string, number[]> = {};
  for (let round = 0; round < rounds; round += 1) {
    for (const [what, more] of [
      ["chain alone", []],
      ["chain and signatures", ["--public-key", public_key]],
    ] as const) {
      bench.progress(`verify, round ${round + 1}: ${what}`);
      const { seconds, peak_bytes } = await verify(bench, ["--db", db, ...more]);
      rates[what] = [...(rates[what] ?? []), entries / seconds];
      peaks[what] = [...(peaks[what] ?? []), peak_bytes / 1_000_000];
    }
  }
  bench.progress("");
  bench.say(
    `\nrbees audit verify, a database of ${entries.toLocaleString("en")} entries, a head every ${ENTRIES_PER_HEAD}; with the program's start`,
  );
  const rows = Object.entries(rates).map(([what, values]) => [what, spread(values, 0), spread(peaks[what] ?? [], 0)]);
  bench.say(table(["", "entries/s", "peak MB"], rows));
  bench.verdicts.push({
    what: "entries verified a second",
    value: median(rates["chain and signatures"] ?? []),
    at_least: 100_000,
    unit: "/s",
  });
}

async function main(argv: readonly string[]): Promise<number> {
  const flags = flagsIn(argv);
  if (flags === undefined || process.platform !== "linux") {
    process.stdout.write(flags === undefined ? HELP : "bench:audit reads CPU times from /proc: it runs on Linux only.\n");
    return 0;
  }
  const processes = new Processes({ parent: flags.folder, pin: true });
  const relay = readOptions(["--rounds", String(flags.rounds)]);
  if (relay === undefined) return 0;
  const bench = new Bench(processes, await Harness.start(processes), relay, []);
  bench.say(`Node ${process.versions.node}, ${cpus()[0]?.model ?? "unknown processor"}, ${cpus().length} cores`);
  await measureJobs(bench, flags);
  await measureVerify(bench, flags);
  bench.say(`\n${verdictTable(bench.verdicts)}`);
  for (const error of new Set(bench.errors)) bench.say(`  ${error}`);
  return bench.errors.length === 0 ? 0 : 1;
}

main(process.argv.slice(2)).then(
  (code) => process.exit(code),
  (error) => {
    process.stderr.write(`\nbench:audit: ${error instanceof RangeError ? `${error.message}\n\n${HELP}` : (error as Error).stack}\n`);
    process.exit(error instanceof RangeError ? 2 : 1);
  },
);
