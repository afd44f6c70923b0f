/**
 * llama.cpp's own server as a child of the engine's process: where it is, what it is started with, when it is ready, what it said last, and
 * that it does not outlive whoever started it.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { accessSync, constants, readFileSync } from "node:fs";
import { createServer } from "node:net";
import { delimiter, join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { RbeesError } from "@rbees/contracts/errors";
import { environment } from "@rbees/kit/config";
import type { EngineOptions, ProgramOptions } from "../engine.ts";
import { batchTokens } from "../llama/model.ts";

const NAME = "llama-server";
const POLL_MS = 50;
const LAST_WORDS_LINES_MAX = 5;
const LAST_WORDS_CHARS_MAX = 600;
const PAGE_BYTES = 4096;
/** Between a connection that breaks and the news that the program is gone. */
const ENDING_MS = 500;

export class Program {
  readonly #child: ChildProcess;
  readonly #path: string;
  readonly url: string;
  /** It answers nobody who does not show it. */
  readonly key: string;
  readonly #last_words: string[] = [];
  #over: RbeesError | undefined;
  #on_over: (error: RbeesError) => void = () => {};

  private constructor(child: ChildProcess, path: string, port: number, key: string) {
    this.#child = child;
    this.#path = path;
    this.url = `http://127.0.0.1:${port}`;
    this.key = key;
    for (const stream of [child.stdout, child.stderr]) {
      if (stream !== null) createInterface({ input: stream }).on("line", (line) => this.#remember(line));
    }
    child.on("error", (error) => this.#remember(error.message));
    // `close` comes after its last line was read.
    child.on("close", (code, signal) => this.#ended(signal ?? `exit code ${code}`));
    process.once("exit", () => child.kill("SIGKILL"));
  }

  /** Starts it; it is not ready yet. */
  static async start(options: EngineOptions, { path }: ProgramOptions): Promise<Program> {
    const binary = found(path);
    const port = await freePort();
    const key = randomBytes(24).toString("hex");
    const [command, ...before] = [...boundToThis(), binary];
    const env = {
      ...environment(),
      LLAMA_API_KEY: key,
      // What newer ones keep of old prompts in memory is not counted anywhere here; older ones don't know the word.
      LLAMA_ARG_CACHE_RAM: "0",
    };
    const child = spawn(command as string, [...before, ...flagsOf(options, port)], { env, stdio: ["ignore", "pipe", "pipe"] });
    return new Program(child, binary, port, key);
  }

  /** Resolves when it has loaded its model. */
  async ready(within_ms: number): Promise<void> {
    const until = performance.now() + within_ms;
    for (;;) {
      if (this.#over !== undefined) throw this.#over;
      const answer = await fetch(`${this.url}/health`, { signal: AbortSignal.timeout(within_ms) }).catch(() => undefined);
      await answer?.body?.cancel();
      if (answer?.ok) return;
      if (performance.now() > until) {
        const hint = "Give it longer with --engine-ready-ms-max, or see whether it runs by hand";
        throw new RbeesError("ENGINE_FAILED", `${this.#path} was not ready within ${within_ms} ms. ${hint}.${this.#quote()}`);
      }
      await new Promise((done) => setTimeout(done, POLL_MS));
    }
  }

  /** Called once if it ends. */
  onOver(listener: (error: RbeesError) => void): void {
    this.#on_over = listener;
    if (this.#over !== undefined) listener(this.#over);
  }

  /** Whether it is ending: a connection that breaks is the first that is seen of that. */
  async isEnding(): Promise<boolean> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return true;
    return await new Promise((resolve) => {
      const waited = setTimeout(() => resolve(false), ENDING_MS);
      this.#child.once("exit", () => {
        clearTimeout(waited);
        resolve(true);
      });
    });
  }

  /** Resident memory, where the system says it. */
  get memory_bytes(): number {
    try {
      return Number(readFileSync(`/proc/${this.#child.pid}/statm`, "utf8").split(" ")[1] ?? 0) * PAGE_BYTES;
    } catch {
      return 0;
    }
  }

  #ended(how: string): void {
    this.#over = new RbeesError("ENGINE_FAILED", `${this.#path} ended (${how}).${this.#quote()}`);
    this.#on_over(this.#over);
  }

  #remember(line: string): void {
    if (line.trim() === "") return;
    this.#last_words.push(line.trim());
    if (this.#last_words.length > LAST_WORDS_LINES_MAX) this.#last_words.shift();
  }

  #quote(): string {
    const words = this.#last_words.join(" | ").slice(-LAST_WORDS_CHARS_MAX);
    return words === "" ? "" : ` Its last words: ${words}`;
  }
}

function flagsOf(options: EngineOptions, port: number): string[] {
  const { model_path, slots, context_size, threads, backend, gpu_layers, cache_type } = options;
  const layers = backend === "cpu" ? 0 : gpu_layers;
  const rows = batchTokens(options);
  return [
    ...["--model", model_path, "--host", "127.0.0.1", "--port", port],
    ...["--parallel", slots, "--ctx-size", slots * context_size, "--threads", threads],
    // A step computes no more of a prompt than that, so that running answers keep their pace.
    ...["--batch-size", rows, "--ubatch-size", rows],
    ...(layers === "auto" ? [] : ["--n-gpu-layers", layers]),
    ...(cache_type === "f16" ? [] : ["--cache-type-k", cache_type, "--cache-type-v", cache_type]),
  ].map(String);
}

function found(path: string): string {
  const places = path !== "" ? [resolve(path)] : (environment()["PATH"] ?? "").split(delimiter).map((folder) => join(folder, NAME));
  const place = places.find(isProgram);
  if (place !== undefined) return place;
  const where =
    path === ""
      ? `${NAME} is not on PATH: install llama.cpp, or say where it is with --engine-path`
      : `--engine-path: ${path} is no program`;
  throw new RbeesError("ENGINE_FAILED", `${where}.`);
}

function isProgram(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/** On Linux the kernel ends it with this process, also when that is killed. */
function boundToThis(): string[] {
  const setpriv = ["/usr/bin/setpriv", "/bin/setpriv"].find(isProgram);
  return process.platform !== "linux" || setpriv === undefined ? [] : [setpriv, "--pdeathsig", "KILL", "--"];
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((listening) => server.listen(0, "127.0.0.1", listening));
  const address = server.address();
  await new Promise((closed) => server.close(closed));
  if (address === null || typeof address === "string") throw new Error("no port was free");
  return address.port;
}
