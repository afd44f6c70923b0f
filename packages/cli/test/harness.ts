/** What the tests share: a world with streams that remember, command lines run in this process or in one of their own. */
import { type ChildProcess, spawn } from "node:child_process";
import { randomInt } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PassThrough } from "node:stream";
import { fileURLToPath } from "node:url";
import type { Environment } from "@rbees/kit/config";
import { environment } from "@rbees/kit/config";
import { homeOf } from "@rbees/kit/home";
import { quickStart } from "../../../test/support/quick-start.ts";
import type { World } from "../src/context.ts";
import { createIo } from "../src/io.ts";
import { pool } from "../src/pool-verbs.ts";
import { runProgram } from "../src/program.ts";
import { findPrograms, type Programs } from "../src/programs.ts";
import { rbees } from "../src/rbees-verbs.ts";

export const SRC = fileURLToPath(new URL("../src/", import.meta.url));
const TEST = fileURLToPath(new URL("./", import.meta.url));

/** The programs of this checkout. */
export const REAL = findPrograms(new URL("../src/programs.ts", import.meta.url).href);

interface Ran {
  exit: number;
  out: string;
  err: string;
}

export interface Bench {
  root: string;
  env: Environment;
  programs: Programs;
  /** One command line, such as `["rbees", "jobs", "list"]`, in this process. */
  run(argv: readonly string[], options?: RunOptions): Promise<Ran>;
  /** The same in a process of its own. */
  /** `stdout`: a file that its data goes to; `out()` has nothing then. */
  start(argv: readonly string[], env?: Record<string, string>, stdout?: number): Started;
}

interface RunOptions {
  stdin?: string;
  tty?: boolean;
  /** How wide that terminal is. */
  columns?: number;
  signal?: AbortSignal;
  env?: Record<string, string>;
  /** Called with all of stdout so far. */
  onOut?: (out: string) => void;
  onErr?: (err: string) => void;
}

interface Started {
  child: ChildProcess;
  out(): string;
  err(): string;
  ended: Promise<Ran>;
}

/** A folder of its own for everything that rbees keeps; `after` ends what runs and removes it. */
export async function bench(after: (clean: () => Promise<void>) => void, real?: Programs): Promise<Bench> {
  const root = await mkdtemp(join(tmpdir(), "rbees-cli-"));
  const { PATH, HOME } = environment();
  const env = { PATH, HOME, ...quickStart(), RBEES_HOME: root };
  const programs: Programs = real ?? {
    ...REAL,
    workerd: [process.execPath, join(TEST, "fake-workerd.ts")],
    orcd: [process.execPath, join(TEST, "fake-orcd.ts")],
    demo_model: join(root, "demo.gguf"),
    workerPackage: () => root,
  };
  const run: Bench["run"] = (argv, options = {}) => runHere(argv, { env, programs }, options);
  after(async () => {
    await run(["rbees", "down", "--now"]);
    await run(["rbees-pool", "worker", "stop-all", "--now"]);
    await rm(root, { recursive: true, force: true });
  });
  return {
    root,
    env,
    programs,
    run,
    start: (argv, more = {}, stdout = undefined) => startProcess(argv, { ...env, ...more }, stdout),
  };
}

async function runHere(argv: readonly string[], { env, programs }: Pick<Bench, "env" | "programs">, options: RunOptions): Promise<Ran> {
  const [name, ...rest] = argv;
  const stdin = new PassThrough();
  stdin.end(options.stdin ?? "");
  let out = "";
  let err = "";
  const stdout = Object.assign(new PassThrough(), { isTTY: options.tty === true, columns: options.columns ?? 200 });
  const stderr = Object.assign(new PassThrough(), { isTTY: options.tty === true, columns: options.columns ?? 200 });
  stdout.on("data", (chunk) => {
    out += chunk;
    options.onOut?.(out);
  });
  stderr.on("data", (chunk) => {
    err += chunk;
    options.onErr?.(err);
  });
  const own_env = { ...env, ...options.env };
  const io = createIo({ stdin, stdout, stderr }, own_env);
  const world: World = { io, env: own_env, home: homeOf(own_env), programs, signal: options.signal ?? new AbortController().signal };
  const exit = await runProgram(name === "rbees-pool" ? pool : rbees, rest, world);
  await io.flushed();
  return { exit, out, err };
}

function startProcess(argv: readonly string[], env: Environment, stdout: number | undefined): Started {
  const [name, ...rest] = argv;
  const child = spawn(process.execPath, [join(SRC, `${name}.ts`), ...rest], { env, stdio: ["ignore", stdout ?? "pipe", "pipe"] });
  let out = "";
  let err = "";
  child.stdout?.setEncoding("utf8").on("data", (chunk) => {
    out += chunk;
  });
  child.stderr?.setEncoding("utf8").on("data", (chunk) => {
    err += chunk;
  });
  const ended = new Promise<Ran>((resolve) => {
    child.on("close", (code) => resolve({ exit: code ?? -1, out, err }));
  });
  return { child, out: () => out, err: () => err, ended };
}

/** Waits for a fact. */
export async function until(fact: () => boolean | Promise<boolean>, what: string, ms_max = 15_000): Promise<void> {
  const give_up = performance.now() + ms_max;
  while (!(await fact())) {
    if (performance.now() > give_up) throw new Error(`waited in vain until ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** A port that nobody has at the moment. */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = randomInt(...PORTS);
    if (await isFree(port)) return port;
  }
}

/** Below those that the system gives to connections that go out: of these it may give one away before it is listened on. */
const PORTS = [20_000, 32_000] as const;

function isFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once("error", () => resolve(false));
    server.listen({ host: "127.0.0.1", port }, () => server.close(() => resolve(true)));
  });
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: an escape code begins with one
export const ANSI = /\u001b\[/;
