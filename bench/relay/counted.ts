/** Sections `heap` and `syscalls`: counts rather than times, which repeat even on a busy machine. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { found } from "../processes.ts";
import { median, spread, table } from "../report.ts";
import { type Bench, ENDLESS } from "./bench.ts";
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

/** A tracer that stops only the given calls and leaves the program its process id. */
export function tracer(calls: readonly string[], file: string): string[] {
  return ["strace", "-D", "-f", "--seccomp-bpf", "-qq", "-ttt", "-e", `trace=${calls.join(",")}`, "-e", "signal=none", "-o", file];
}

/** How many of the calls lie between two moments, seconds since 1970. */
export function countCalls(file: string, calls: readonly string[], from_s: number, to_s: number): number {
  let count = 0;
  for (const line of readFileSync(file, "latin1").split("\n")) {
    const match = /^\d+ +([\d.]+) (\w+)\(/.exec(line);
    const at_s = Number(match?.[1]);
    if (match !== null && at_s >= from_s && at_s < to_s && calls.includes(match[2] as string)) count += 1;
  }
  return count;
}

export function tracerMissing(bench: Bench, what: string): boolean {
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
