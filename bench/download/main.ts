/**
 * `npm run bench:download`: what it takes `rbees-pool models download` to fetch, check and record a model from a local server, beside
 * curl on the same file; its memory; and how much comes again after it was killed half-way.
 */
import type { ChildProcess } from "node:child_process";
import { once } from "node:events";
import { readdirSync, rmSync } from "node:fs";
import { cpus } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { writeGguf } from "../../models/fixtures/write-gguf.ts";
import { readJournal } from "../../packages/cli/src/download/journal.ts";
import { peakBytes } from "../proc-stat.ts";
import { found, Processes } from "../processes.ts";
import { median, paired, spread, table, type Verdict, verdictTable } from "../report.ts";
import { FILE, REPO, type ServerOrder, type ServerReport } from "./server.ts";

const EXIT = { ok: 0, broken: 1, usage: 2 } as const;
const GIB = 1_073_741_824;
const MB = 1_000_000;
const LOOK_MS = 5;
/** What a connection of a far server gives, roughly: one is not enough to fill a line. */
const FAR_BYTES_PER_SECOND = 50 * MB;
const POOL = [process.execPath, fileURLToPath(new URL("../../packages/cli/src/rbees-pool.ts", import.meta.url))];

const HELP = `bench:download: rbees-pool models download beside curl, from a server on this machine.

  --bytes N      size of the file (default ${GIB})
  --rounds N     interleaved rounds (default 3)
  --folder PATH  where the files are written (default: the folder for temporary files)
`;

interface Options {
  bytes: number;
  rounds: number;
  folder: string | undefined;
}

interface Run {
  seconds: number;
  peak: number;
}

class Bench {
  readonly #processes: Processes;
  readonly #options: Options;
  readonly #hub: ChildProcess;
  #at = { hub: "", plain: "" };

  constructor(processes: Processes, options: Options) {
    this.#processes = processes;
    this.#options = options;
    this.#hub = processes.fork(new URL("server.ts", import.meta.url));
  }

  async offer(pace_bytes_per_second: number): Promise<void> {
    const header_file = join(this.#processes.folder, "header.gguf");
    writeGguf(header_file, [["general.architecture", { string: "llama" }]], [{ name: "token_embd.weight", shape: [64, 64], type: "f32" }]);
    const order: ServerOrder = { bytes: this.#options.bytes, header_file, pace_bytes_per_second };
    this.#hub.send(order);
    const [report] = (await once(this.#hub, "message")) as [ServerReport];
    if (report.type === "ready") this.#at = report;
  }

  async sent(): Promise<number> {
    this.#hub.send("sent");
    const [report] = (await once(this.#hub, "message")) as [ServerReport];
    return report.type === "sent" ? report.bytes : Number.NaN;
  }

  async run(command: readonly string[], watch: (child: ChildProcess) => Promise<boolean> = async () => false): Promise<Run> {
    const said: string[] = [];
    const began = performance.now();
    const child = this.#processes.spawn(command, (line) => said.push(line), { HF_ENDPOINT: this.#at.hub });
    const gone = once(child, "exit");
    let peak = 0;
    let killed = false;
    const timer = setInterval(async () => {
      peak = Math.max(peak, peakBytes(child.pid ?? 0));
      if (!killed && (await watch(child))) killed = child.kill("SIGKILL");
    }, LOOK_MS);
    const [code] = (await gone) as [number | null];
    clearInterval(timer);
    if (code !== 0 && !killed) throw new Error(`${command.join(" ")} ended with ${code}:\n${said.join("\n")}`);
    return { seconds: (performance.now() - began) / 1000, peak };
  }

  download(connections: number, watch?: (child: ChildProcess) => Promise<boolean>): Promise<Run> {
    return this.run([...POOL, "models", "download", `hf:${REPO}`, "--connections", String(connections)], watch);
  }

  get models(): string {
    return join(this.#processes.folder, "home", "data", "models");
  }

  forget(): void {
    rmSync(join(this.#processes.folder, "home"), { recursive: true, force: true });
  }

  /** The file alone; then its hash, which the pool computes as well. */
  async curl(): Promise<{ fetched: number; hashed: number }> {
    const path = join(this.#processes.folder, "curl.gguf");
    const fetched = await this.run(["curl", "--silent", "--fail", "--noproxy", "*", "--output", path, this.#at.plain]);
    const hashed = await this.run(["sha256sum", path]);
    rmSync(path);
    return { fetched: fetched.seconds, hashed: fetched.seconds + hashed.seconds };
  }
}

async function main(argv: readonly string[]): Promise<number> {
  const options = readOptions(argv);
  if (options === undefined) return EXIT.usage;
  if (process.platform !== "linux") {
    process.stdout.write("bench:download reads the memory of processes from /proc: it runs on Linux only.\n");
    return EXIT.ok;
  }
  const processes = new Processes({ parent: options.folder, pin: false });
  try {
    await measure(new Bench(processes, options), options);
    return EXIT.ok;
  } catch (error) {
    process.stderr.write(`\nbench:download: ${(error as Error).stack}\n`);
    return EXIT.broken;
  }
}

async function measure(bench: Bench, { bytes, rounds }: Options): Promise<void> {
  const say = (text: string) => process.stdout.write(`${text}\n`);
  const verdicts: Verdict[] = [];
  say(
    `Node ${process.versions.node}, ${cpus()[0]?.model ?? "unknown processor"}, ${cpus().length} cores. A file of ${bytes} bytes, ${rounds} rounds.`,
  );
  const with_curl = found("curl");
  const peaks: number[] = [];
  for (const [server, pace] of [
    ["as fast as loopback goes", 0],
    [`${FAR_BYTES_PER_SECOND / MB} MB/s for each connection`, FAR_BYTES_PER_SECOND],
  ] as const) {
    await bench.offer(pace);
    const seconds: Record<string, number[]> = {
      "rbees-pool, 4 connections": [],
      "rbees-pool, 1 connection": [],
      curl: [],
      "curl, then sha256sum": [],
    };
    for (let round = 0; round < rounds; round++) {
      for (const [name, connections] of [
        ["rbees-pool, 4 connections", 4],
        ["rbees-pool, 1 connection", 1],
      ] as const) {
        const { seconds: took, peak } = await bench.download(connections);
        seconds[name]?.push(took);
        peaks.push(peak / MB);
        bench.forget();
      }
      if (!with_curl) continue;
      const { fetched, hashed } = await bench.curl();
      seconds["curl"]?.push(fetched);
      seconds["curl, then sha256sum"]?.push(hashed);
    }
    const rows = Object.entries(seconds).filter(([, taken]) => taken.length > 0);
    say(
      `\nServer: ${server}\n${table(
        ["", "seconds", "MB/s"],
        rows.map(([name, taken]) => [
          name,
          spread(taken, 2),
          spread(
            taken.map((s) => bytes / MB / s),
            0,
          ),
        ]),
      )}`,
    );
    if (!with_curl) continue;
    const ratios = paired(seconds["rbees-pool, 4 connections"] ?? [], seconds["curl, then sha256sum"] ?? []);
    const [what, at_most] = pace === 0 ? ["loopback: time, of curl and sha256sum", 2] : ["far server: time, of curl and sha256sum", 0.35];
    verdicts.push({ what: String(what), value: median(ratios), at_most: Number(at_most) });
  }
  verdicts.push({ what: "peak memory of rbees-pool", value: Math.max(...peaks), at_most: 150, unit: "MB" });
  verdicts.push({ what: "fetched again after a kill at 50 %", value: await killed(bench, bytes), at_most: 51, unit: "%" });
  say(`\n${verdictTable(verdicts)}`);
}

/** Percent of the file that comes in the second run. */
async function killed(bench: Bench, bytes: number): Promise<number> {
  await bench.offer(2 * FAR_BYTES_PER_SECOND);
  await bench.download(4, async () => {
    try {
      const folder = readdirSync(bench.models).find((name) => !name.endsWith(".lock")) ?? "";
      return ((await readJournal(join(bench.models, folder, FILE)))?.ranges.bytes ?? 0) >= bytes / 2;
    } catch {
      return false;
    }
  });
  const before = await bench.sent();
  await bench.download(4);
  return (100 * ((await bench.sent()) - before)) / bytes;
}

function readOptions(argv: readonly string[]): Options | undefined {
  const text = { type: "string" } as const;
  try {
    const { values } = parseArgs({
      args: [...argv],
      options: { bytes: text, rounds: text, folder: text, help: { type: "boolean", short: "h" } },
    });
    if (values.help) throw new RangeError("");
    const whole = (name: string, given: string | undefined, fallback: number) => {
      const value = given === undefined ? fallback : Number(given);
      if (!Number.isSafeInteger(value) || value < 1) throw new RangeError(`--${name} must be a whole number from 1`);
      return value;
    };
    return { bytes: whole("bytes", values.bytes, GIB), rounds: whole("rounds", values.rounds, 3), folder: values.folder };
  } catch (error) {
    process.stderr.write(`${(error as Error).message}\n\n${HELP}`);
    return undefined;
  }
}

process.exit(await main(process.argv.slice(2)));
