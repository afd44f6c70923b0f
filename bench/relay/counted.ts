/** Sections `heap`, `syscalls` and `commits`: counts rather than times, which repeat even on a busy machine. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { found } from "../processes.ts";
import { median, spread, table } from "../report.ts";
import { type Bench, ENDLESS, SMALL } from "./bench.ts";
import type { TargetName } from "./targets.ts";

const RELAYS = ["bare", "rbees-orcd"] as const satisfies readonly TargetName[];
const HEAP_LIMIT_BYTES = 2600;
/** A small young generation: it is collected often, so that little of the window is left uncounted at its edges. */
const TRACE_GC = ["--trace-gc", "--max-semi-space-size=2"];
const GC_LINE = /^\[\d+:(0x[0-9a-f]+)\].*? ([\d.]+) \([\d.]+\) -> ([\d.]+) \([\d.]+\) MB/;

/** Adds up what the JavaScript heaps of a process grow by between collections. */
class Allocations {
  readonly #after = new Map<string, number>();
  megabytes = 0;
  counting = false;

  line(text: string): void {
    const match = GC_LINE.exec(text);
    if (match === null) return;
    const [, isolate, before, after] = match as unknown as [string, string, string, string];
    const last = this.#after.get(isolate);
    if (this.counting && last !== undefined) this.megabytes += Number(before) - last;
    this.#after.set(isolate, Number(after));
  }
}

export async function measureHeap(bench: Bench): Promise<void> {
  const { streams, rate, rounds: asked } = bench.options;
  const rounds = Math.min(1, asked);
  const bytes = { bare: [] as number[], "rbees-orcd": [] as number[] };
  for (let round = 0; round < rounds; round += 1) {
    for (const name of RELAYS) {
      bench.progress(`heap: round ${round + 1}, ${name}`);
      const allocations = new Allocations();
      const onLine = (line: string) => allocations.line(line);
      const result = await bench.fresh(name, { streams, node_flags: TRACE_GC, onLine }, ({ target, pid }) => {
        const begins = () => {
          allocations.counting = true;
        };
        const ended = () => {
          allocations.counting = false;
        };
        const pace = { rate, tokens: ENDLESS, pad: 0 };
        return bench.harness.streams({ target, streams, pace, settle_ms: 500, window_ms: 3000, pid }, { begins, ended });
      });
      bench.check(`${name}, heap`, result);
      bytes[name].push((allocations.megabytes * 1_048_576) / result.tokens);
    }
  }
  bench.progress("");
  bench.say(`\nJavaScript heap allocated per relayed token, bytes (${rounds} rounds)`);
  bench.say(
    table(
      ["", "bytes/token"],
      RELAYS.map((name) => [name, spread(bytes[name], 0)]),
    ),
  );
  const ours = median(bytes["rbees-orcd"]);
  bench.verdicts.push({ what: "heap allocated per token ÷ bare", value: ours / median(bytes.bare), at_most: 1 });
  bench.verdicts.push({ what: "heap allocated per token", value: ours, at_most: HEAP_LIMIT_BYTES, unit: "bytes" });
}

const READS = ["read", "readv", "recvfrom", "recvmsg"];
const WRITES = ["write", "writev", "sendto", "sendmsg"];
const SYNCS = ["fsync", "fdatasync"];

/** A tracer that stops only the given calls and leaves the program its process id. */
function tracer(calls: readonly string[], file: string): string[] {
  return ["strace", "-D", "-f", "--seccomp-bpf", "-qq", "-ttt", "-e", `trace=${calls.join(",")}`, "-e", "signal=none", "-o", file];
}

/** How many of the calls lie between two moments, seconds since 1970. */
function countCalls(file: string, calls: readonly string[], from_s: number, to_s: number): number {
  let count = 0;
  for (const line of readFileSync(file, "latin1").split("\n")) {
    const match = /^\d+ +([\d.]+) (\w+)\(/.exec(line);
    const at_s = Number(match?.[1]);
    if (match !== null && at_s >= from_s && at_s < to_s && calls.includes(match[2] as string)) count += 1;
  }
  return count;
}

function tracerMissing(bench: Bench, what: string): boolean {
  if (found("strace")) return false;
  bench.say(`\n${what}: skipped, since strace is not installed (apt-get install strace).`);
  return true;
}

export async function measureSystemCalls(bench: Bench): Promise<void> {
  if (tracerMissing(bench, "System calls per token")) return;
  const rows: string[][] = [];
  for (const name of RELAYS) {
    bench.progress(`syscalls: ${name}`);
    const file = join(bench.processes.folder, `calls-${name}`);
    let from_s = 0;
    let to_s = 0;
    // Fewer tokens than elsewhere: being traced is slow, and a relay that falls behind would merge tokens.
    const result = await bench.fresh(name, { streams: 100, wrapped_in: tracer([...READS, ...WRITES], file) }, ({ target }) => {
      const begins = () => {
        from_s = Date.now() / 1000;
      };
      const ended = () => {
        to_s = Date.now() / 1000;
      };
      const pace = { rate: 10, tokens: ENDLESS, pad: 0 };
      return bench.harness.streams({ target, streams: 100, pace, settle_ms: 1000, window_ms: 2000, pid: 0 }, { begins, ended });
    });
    bench.check(`${name}, syscalls`, result);
    const reads = countCalls(file, READS, from_s, to_s) / result.tokens;
    const writes = countCalls(file, WRITES, from_s, to_s) / result.tokens;
    rows.push([name, reads.toFixed(3), writes.toFixed(3)]);
    if (name === "rbees-orcd") {
      bench.verdicts.push({ what: "reads per relayed token", value: reads, at_most: 1.05, unit: "calls" });
      bench.verdicts.push({ what: "writes per relayed token", value: writes, at_most: 1.05, unit: "calls" });
    }
  }
  bench.progress("");
  bench.say("\nSystem calls per relayed token: 100 streams × 10 tokens/s, by strace");
  bench.say(table(["", "reads", "writes"], rows));
}

export async function measureCommits(bench: Bench): Promise<void> {
  bench.progress("commits");
  const cpu = await storeCpuUs(bench);
  bench.progress("");
  bench.say(`\nDurable admission, 64 submitters: the store alone (job row + audit entry) takes ${spread(cpu)} µs of CPU a job`);
  bench.verdicts.push({ what: "CPU of the store per job at 64 submitters", value: median(cpu), at_most: 20, unit: "µs" });
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

/** CPU of the store with 64 submitters who wait for their commit, in a process of its own. */
async function storeCpuUs(bench: Bench): Promise<number[]> {
  const took: number[] = [];
  for (let round = 0; round < Math.min(3, bench.options.rounds); round += 1) {
    const file = fileURLToPath(new URL("store-load.ts", import.meta.url));
    const path = join(bench.processes.folder, `store-${round}`, "store.sqlite");
    took.push(
      await new Promise<number>((resolve, reject) => {
        const said: string[] = [];
        const child = bench.processes.spawn([process.execPath, file, path, "64"], (line) => said.push(line));
        child.once("close", (code) => {
          const us = Number(/^cpu_us_per_job ([\d.]+)$/m.exec(said.join("\n"))?.[1]);
          if (code === 0 && us > 0) resolve(us);
          else reject(new Error(`the store's load failed:\n${said.join("\n")}`));
        });
      }),
    );
  }
  return took;
}
