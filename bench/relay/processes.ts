/** The processes of the bench: started on a core of their own, and ended one by one, whatever happens. */
import { type ChildProcess, type ForkOptions, fork, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { type AddressInfo, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { allowedCores } from "./proc-stat.ts";

/** Nothing of the caller's settings may reach a measured program. */
const SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const STOP_MS_MAX = 5000;

export class Processes {
  readonly #running = new Set<ChildProcess>();
  /** A folder for everything that is written; gone at the end. */
  readonly folder: string;
  readonly pinned: boolean;
  readonly #cores = allowedCores();

  /** `parent`: where the folder is made; it must be on a disk, since one of the targets is durable. */
  constructor(parent = tmpdir()) {
    this.folder = mkdtempSync(join(parent, "rbees-bench-"));
    this.pinned = this.#cores.length > 1 && found("taskset");
    // However this process ends, nothing of it stays.
    process.once("exit", () => this.endAll());
  }

  /** Relays run on the first core, the harness on the others. */
  #command(role: "relay" | "harness", command: readonly string[]): readonly [string, ...string[]] {
    const cores = role === "relay" ? this.#cores.slice(0, 1) : this.#cores.slice(1);
    return (this.pinned ? ["taskset", "-c", cores.join(","), ...command] : command) as [string, ...string[]];
  }

  /** A harness process that talks over a channel. */
  fork(file: URL): ChildProcess {
    const options: ForkOptions = { stdio: ["ignore", "ignore", "inherit", "ipc"] };
    const child = fork(file, options);
    if (this.pinned) spawnSync("taskset", ["-a", "-p", "-c", this.#cores.slice(1).join(","), String(child.pid)]);
    return this.#watch(child);
  }

  /** A program to be measured. What it says on stdout and stderr comes as lines to `onLine`. */
  spawn(command: readonly string[], onLine: (line: string) => void): ChildProcess {
    const [program, ...args] = this.#command("relay", command);
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
    const impatient = setTimeout(() => child.kill("SIGKILL"), STOP_MS_MAX);
    await gone;
    clearTimeout(impatient);
  }

  /** Ends all of it at once. */
  endAll(): void {
    for (const child of this.#running) child.kill("SIGKILL");
    rmSync(this.folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 50 });
  }
}

/** Whether a program can be started by that name. */
export function found(program: string): boolean {
  return spawnSync("sh", ["-c", `command -v "$1"`, "sh", program], { env: { PATH: SEARCH_PATH }, stdio: "ignore" }).status === 0;
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
