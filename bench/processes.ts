/** The processes of the bench: started on a core of their own, and ended one by one, whatever happens. */
import { type ChildProcess, fork, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { type AddressInfo, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { allowedCores, childrenOf } from "./proc-stat.ts";

/** Nothing of the caller's settings may reach a measured program. */
const SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const STOP_MS_MAX = 5000;
/** The exit code of a bench that was told to end. */
const INTERRUPTED = 130;

export class Processes {
  readonly #running = new Set<ChildProcess>();
  /** A folder for everything that is written; gone at the end. */
  readonly folder: string;
  readonly pinned: boolean;
  readonly #cores = allowedCores();

  /**
   * `parent`: where the folder is made; on a disk, where durability is measured. `pin`: what is measured runs on the first core,
   * the rest of the bench on the others, where the machine can do that.
   */
  constructor({ parent = tmpdir(), pin }: { parent?: string | undefined; pin: boolean }) {
    this.folder = mkdtempSync(join(parent, "rbees-bench-"));
    this.pinned = pin && this.#cores.length > 1 && found("taskset");
    // However this process ends, nothing of it stays.
    process.once("exit", () => this.endAll());
    // Each time: npm passes a signal on that came here already, and unheard it would end this process in the middle of ending the others.
    for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => process.exit(INTERRUPTED));
  }

  /** A harness process that talks over a channel. */
  fork(file: URL): ChildProcess {
    const child = fork(file, { execArgv: [], stdio: ["ignore", "ignore", "inherit", "ipc"] });
    if (this.pinned) spawnSync("taskset", ["-a", "-p", "-c", this.#cores.slice(1).join(","), String(child.pid)]);
    return this.#watch(child);
  }

  /** A program to be measured. What it says on stdout and stderr comes as lines to `onLine`. */
  spawn(command: readonly string[], onLine: (line: string) => void, more: Readonly<Record<string, string>> = {}): ChildProcess {
    const pinned = this.pinned ? ["taskset", "-c", String(this.#cores[0]), ...command] : command;
    const [program = "", ...args] = pinned;
    const env = { PATH: SEARCH_PATH, RBEES_HOME: join(this.folder, "home"), ...more };
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

/** Whether a program can be started by that name. */
export function found(program: string): boolean {
  return SEARCH_PATH.split(":").some((folder) => existsSync(join(folder, program)));
}

/** A port that nobody listens on at the moment. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}
