/** The real programs as real processes, for a harness that kills and freezes them: whatever happens, none outlives it. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { quickStart } from "../support/quick-start.ts";

const packages = fileURLToPath(new URL("../../packages/", import.meta.url));
const LINES_KEPT = 20_000;
/** Faults before a job began that may still have to do with it. */
const BEFORE_MS = 3000;
const READY_MS_MAX = 30_000;
/** Below the ports that the system hands out by itself: a program that is away finds its own free when it comes back. */
const PORTS = { from: 12_000, to: 30_000 };

/** One life of a program. */
export class Program {
  readonly name: string;
  readonly exited: Promise<number | null>;
  readonly #child: ChildProcess;
  #ready: Promise<void>;
  /** Its end is wanted: it is no violation. */
  doomed = false;
  gone = false;

  constructor(name: string, child: ChildProcess, onLine: (line: string) => void) {
    this.name = name;
    this.#child = child;
    this.exited = new Promise((resolve) =>
      child.once("exit", (code) => {
        this.gone = true;
        resolve(code);
      }),
    );
    this.#ready = new Promise((resolve, reject) => {
      createInterface({ input: child.stderr as NodeJS.ReadableStream }).on("line", (line) => {
        onLine(line);
        if (line.includes('"msg":"ready"')) resolve();
      });
      child.once("error", reject);
      child.once("exit", (code, signal) => reject(new Error(`${name} ended (${signal ?? code}) before it was ready`)));
      setTimeout(() => reject(new Error(`${name} was not ready after ${READY_MS_MAX} ms`)), READY_MS_MAX).unref();
    });
    this.#ready.catch(() => {});
  }

  get pid(): number {
    return this.#child.pid as number;
  }

  ready(): Promise<void> {
    return this.#ready;
  }

  /** To the program and all that it has started: they are one process group. */
  signal(signal: NodeJS.Signals): void {
    try {
      process.kill(-this.pid, signal);
    } catch {
      // It has ended.
    }
  }

  /** The signal, and its exit code once it is gone; null when a signal ended it, or when it had to after `ms_max`. */
  async end(signal: NodeJS.Signals, ms_max = 15_000): Promise<number | null> {
    this.doomed = true;
    if (signal === "SIGKILL") this.signal(signal);
    else this.#child.kill(signal);
    const impatient = setTimeout(() => this.signal("SIGKILL"), ms_max);
    const code = await this.exited;
    clearTimeout(impatient);
    return code;
  }

  /** The processes that it has started. */
  children(): number[] {
    try {
      return readFileSync(`/proc/${this.pid}/task/${this.pid}/children`, "utf8").trim().split(" ").filter(Boolean).map(Number);
    } catch {
      return [];
    }
  }
}

export class Programs {
  /** For everything that is written; gone at the end. */
  readonly folder = mkdtempSync(join(tmpdir(), "rbees-chaos-"));
  readonly #running = new Set<Program>();
  readonly #lines: { at_ms: number; line: string }[] = [];
  readonly #taken = new Set<number>();
  readonly #began = performance.now();
  readonly #endAll = () => this.endAll();
  readonly #onSignal = () => process.exit(130);
  /** A program that ended although nobody asked it to. */
  onCrash: (program: Program, code: number | null) => void = () => {};

  constructor() {
    process.once("exit", this.#endAll);
    for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, this.#onSignal);
  }

  get now_ms(): number {
    return Math.round(performance.now() - this.#began);
  }

  start(name: string, room: "orcd" | "workerd", flags: readonly string[]): Program {
    const args = [join(packages, room, "src/main.ts"), "--log-format", "json", "--log-level", "debug", ...flags];
    const env = { PATH: "/usr/bin:/bin", ...quickStart(), RBEES_HOME: join(this.folder, "home") };
    // In a group of its own: Ctrl-C is for the harness, and a signal reaches the engine's process too.
    const child = spawn(process.execPath, args, { env, detached: true, stdio: ["ignore", "ignore", "pipe"] });
    const program = new Program(name, child, (line) => this.note(`${name}: ${line}`));
    this.#running.add(program);
    program.exited.then((code) => {
      this.#running.delete(program);
      if (!program.doomed) this.onCrash(program, code);
    });
    return program;
  }

  /** A line for the record beside what the programs say. */
  note(line: string): void {
    this.#lines.push({ at_ms: this.now_ms, line });
    if (this.#lines.length > LINES_KEPT) this.#lines.shift();
  }

  /** The last lines about a job and the faults of its time; the last faults when it is about no job. */
  lines(job: string, count: number): string[] {
    const about = this.#lines.filter(({ line }) => job !== "" && line.includes(job));
    const from_ms = (about[0]?.at_ms ?? 0) - BEFORE_MS;
    const until_ms = about.at(-1)?.at_ms ?? Number.POSITIVE_INFINITY;
    const shown = this.#lines.filter(
      (each) => about.includes(each) || (each.line.startsWith("FAULT") && each.at_ms >= from_ms && each.at_ms <= until_ms),
    );
    return shown.slice(-count).map(({ at_ms, line }) => `${at_ms} ${line}`);
  }

  async freePort(): Promise<number> {
    for (;;) {
      const port = PORTS.from + Math.floor(Math.random() * (PORTS.to - PORTS.from));
      if (this.#taken.has(port)) continue;
      const server = createServer();
      try {
        server.listen(port, "127.0.0.1");
        await once(server, "listening");
      } catch {
        continue;
      }
      server.close();
      await once(server, "close");
      this.#taken.add(port);
      return port;
    }
  }

  endAll(): void {
    for (const program of this.#running) {
      program.doomed = true;
      program.signal("SIGKILL");
    }
    rmSync(this.folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 50 });
  }

  async close(): Promise<void> {
    const running = [...this.#running];
    this.endAll();
    await Promise.all(running.map(({ exited }) => exited));
    process.off("exit", this.#endAll);
    for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.off(signal, this.#onSignal);
  }
}
