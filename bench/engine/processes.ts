/** The processes of the bench and what the kernel knows of them: started here, and ended one by one by their ids. Linux only. */
import { type ChildProcess, fork, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { cpuNs } from "../relay/proc-stat.ts";

/** Nothing of the caller's settings may reach a measured program. */
const SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const STOP_MS_MAX = 5000;
/** The kernel tells times of ended threads and of all cores in ticks of this length. */
const TICK_US = 10_000;

export class Processes {
  readonly #running = new Set<ChildProcess>();
  /** For everything that is written; gone at the end. */
  readonly folder = mkdtempSync(join(tmpdir(), "rbees-bench-"));

  constructor() {
    // However this process ends, nothing of it stays.
    process.once("exit", () => this.endAll());
  }

  /** A process of the bench that talks over a channel. */
  fork(file: URL): ChildProcess {
    return this.#watch(fork(file, { execArgv: [], stdio: ["ignore", "inherit", "inherit", "ipc"] }));
  }

  /** A program to be measured. What it says comes as lines to `onLine`. */
  spawn(program: string, args: readonly string[], onLine: (line: string) => void): ChildProcess {
    const env = { PATH: SEARCH_PATH, RBEES_HOME: join(this.folder, "home") };
    const child = this.#watch(spawn(program, args, { env, cwd: this.folder, stdio: ["ignore", "pipe", "pipe"] }));
    for (const output of [child.stdout, child.stderr]) {
      let rest = "";
      output?.setEncoding("utf8").on("data", (text: string) => {
        const lines = (rest + text).split("\n");
        rest = lines.pop() ?? "";
        for (const line of lines) onLine(line);
      });
    }
    return child;
  }

  #watch(child: ChildProcess): ChildProcess {
    this.#running.add(child);
    child.once("exit", () => this.#running.delete(child));
    child.once("error", () => this.#running.delete(child));
    return child;
  }

  async stop(child: ChildProcess): Promise<void> {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const gone = once(child, "exit");
    child.kill("SIGTERM");
    const impatient = setTimeout(() => kill(child), STOP_MS_MAX);
    await gone;
    clearTimeout(impatient);
  }

  /** Ends all of it at once. */
  endAll(): void {
    for (const child of this.#running) kill(child);
    rmSync(this.folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 50 });
  }
}

/** A process and those that it has started. */
function kill({ pid }: ChildProcess): void {
  if (pid === undefined) return;
  for (const one of [...childrenOf(pid), pid]) {
    try {
      process.kill(one, "SIGKILL");
    } catch {
      // It has ended by itself.
    }
  }
}

export function childrenOf(parent: number): number[] {
  return readdirSync("/proc")
    .map(Number)
    .filter((pid) => pid > 0 && parentOf(pid) === parent);
}

function parentOf(pid: number): number | undefined {
  try {
    // The name in parentheses may hold anything; behind it come state and parent.
    return Number(readFileSync(`/proc/${pid}/stat`, "latin1").split(") ").at(-1)?.split(" ")[1]);
  } catch {
    return undefined;
  }
}

/** CPU time of a process. Threads that have ended are only in the coarse count, so that one is taken where threads come and go. */
export function cpuUs(pid: number, threads_end: boolean): number {
  if (!threads_end) return cpuNs(pid) / 1000;
  const fields = readFileSync(`/proc/${pid}/stat`, "latin1").split(") ").at(-1)?.split(" ") ?? [];
  return (Number(fields[11]) + Number(fields[12])) * TICK_US;
}

/** CPU time that all processes of the machine have had. */
export function machineCpuUs(): number {
  const [user = 0, nice = 0, system = 0, , , irq = 0, softirq = 0] = (/^cpu +(.*)$/m.exec(readFileSync("/proc/stat", "latin1"))?.[1] ?? "")
    .split(" ")
    .map(Number);
  return (user + nice + system + irq + softirq) * TICK_US;
}
