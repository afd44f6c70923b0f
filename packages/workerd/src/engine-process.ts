/**
 * The engine port across a process boundary: one life of the engine's child process. When the child dies, everything that waits
 * for it hears so, each once; starting another life is the supervisor's business.
 */
import { type ChildProcess, fork } from "node:child_process";
import { extname } from "node:path";
import { createInterface } from "node:readline";
import type { Readable } from "node:stream";
import { fileURLToPath } from "node:url";
import { RbeesError } from "@rbees/contracts/errors";
import type { Environment } from "@rbees/kit/config";
import type {
  EmbedRequest,
  Engine,
  EngineEvents,
  EngineOptions,
  ModelFacts,
  RunAccepted,
  RunRequest,
  StoredPrefixes,
  TokenizeRequest,
} from "./engine.ts";
import { type Accepted, type FromEngine, REPORTS_FD, type ToEngine, type WireError } from "./engine-messages.ts";

/** How many of the child's last lines on stderr an error may quote. */
const LAST_WORDS_LINES_MAX = 5;
const LAST_WORDS_CHARS_MAX = 600;
/** How long a child may take to end the program that computes for it. */
const END_MS_MAX = 2_000;

interface Waiting<T> {
  resolve: (value: T) => void;
  reject: (error: Error) => void;
}

/** The process ended by itself, without a word of why. */
export class EngineDied extends RbeesError {}

export class EngineProcess implements Engine {
  readonly #env: Environment;
  #child: ChildProcess | undefined;
  #has_program = false;
  #events: EngineEvents | undefined;
  #load: Waiting<ModelFacts> | undefined;
  #store: Waiting<StoredPrefixes | undefined> | undefined;
  readonly #starts = new Map<number, Waiting<Accepted>>();
  readonly #last_words: string[] = [];
  #failure: WireError | undefined;
  #on_lost: (error: RbeesError) => void = () => {};
  /** Resident memory of the child, as it last said. */
  memory_bytes = 0;
  /** What of it are prefixes that slots have lost. */
  prefix_cache_bytes = 0;

  constructor(env: Environment) {
    this.#env = env;
  }

  get pid(): number | undefined {
    return this.#child?.pid;
  }

  /** Called once when the child is gone after it had loaded. */
  onLost(listener: (error: RbeesError) => void): void {
    this.#on_lost = listener;
  }

  load(options: EngineOptions, events: EngineEvents): Promise<ModelFacts> {
    this.#events = events;
    this.#has_program = options.program !== undefined;
    const child = fork(childPath(), [], {
      execArgv: [],
      env: {
        ...this.#env,
        // A failed assertion of ggml would start a debugger on itself.
        GGML_NO_BACKTRACE: "1",
        ...(process.platform === "linux" ? { GLIBC_TUNABLES: hugePages(this.#env["GLIBC_TUNABLES"]) } : {}),
        ...(options.backend === "cuda" ? { CUDA_VISIBLE_DEVICES: String(options.gpu) } : {}),
      },
      stdio: ["ignore", "ignore", "pipe", "ipc", "pipe"],
    });
    this.#child = child;
    this.#read(child.stdio[REPORTS_FD] as Readable);
    if (child.stderr !== null) createInterface({ input: child.stderr }).on("line", (line) => this.#remember(line));
    // `close` comes after the last line of its pipes was read, `exit` before.
    child.on("close", (code, signal) => this.#lost(code, signal, options));
    child.on("error", (error) => this.#remember(error.message));
    return new Promise<ModelFacts>((resolve, reject) => {
      this.#load = { resolve, reject };
      this.#send({ type: "load", options });
    });
  }

  start(run: number, request: RunRequest): Promise<RunAccepted> {
    return this.#begin(run, { type: "start", run, request }) as Promise<RunAccepted>;
  }

  embed(run: number, request: EmbedRequest): Promise<Accepted> {
    return this.#begin(run, { type: "embed", run, request });
  }

  tokenize(run: number, request: TokenizeRequest): Promise<Accepted> {
    return this.#begin(run, { type: "tokenize", run, request });
  }

  #begin(run: number, message: ToEngine): Promise<Accepted> {
    return new Promise<Accepted>((resolve, reject) => {
      if (this.#child?.connected !== true) return reject(new RbeesError("ENGINE_FAILED", "The engine is not running."));
      this.#starts.set(run, { resolve, reject });
      this.#send(message);
    });
  }

  abort(run: number): void {
    this.#send({ type: "abort", run });
  }

  store(): Promise<StoredPrefixes | undefined> {
    if (this.#child?.connected !== true) return Promise.resolve(undefined);
    return new Promise((resolve, reject) => {
      this.#store = { resolve, reject };
      this.#send({ type: "store" });
    });
  }

  /** Ends the child; resolves when it is gone. */
  async end(): Promise<void> {
    const child = this.#child;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    this.#on_lost = () => {};
    await new Promise<void>((resolve) => {
      child.once("exit", () => resolve());
      // Where it has a program to end it does that and ends by itself.
      if (this.#has_program && child.connected) {
        this.#send({ type: "end" });
        const late = setTimeout(() => child.kill("SIGKILL"), END_MS_MAX);
        child.once("exit", () => clearTimeout(late));
      }
      // Else it has nothing to put in order, and native code may be deep in a computation.
      else child.kill("SIGKILL");
    });
  }

  #send(message: ToEngine): void {
    // A write to a child that is just dying fails; its end is reported by `close`.
    if (this.#child?.connected) this.#child.send(message, () => {});
  }

  #read(reports: Readable): void {
    let begun = "";
    reports.setEncoding("utf8");
    reports.on("data", (text: string) => {
      const lines = (begun + text).split("\n");
      begun = lines.pop() ?? "";
      for (const line of lines) this.#receive(JSON.parse(line) as FromEngine);
    });
  }

  #receive(message: FromEngine): void {
    switch (message.type) {
      case "progress":
        return this.#events?.progress(message.fraction);
      case "fallback":
        return this.#events?.fallback?.(message.reason);
      case "loaded":
        this.#load?.resolve(message.facts);
        this.#load = undefined;
        return;
      case "failed":
        this.#failure = message.error;
        return;
      case "accepted":
        this.#starts.get(message.run)?.resolve(message.accepted);
        this.#starts.delete(message.run);
        return;
      case "refused":
        this.#starts.get(message.run)?.reject(fromWire(message.error));
        this.#starts.delete(message.run);
        return;
      case "step":
        return this.#events?.step(message.reports);
      case "recalled":
        return this.#events?.recalled?.(message.stored);
      case "stored":
        return this.#store?.resolve(message.stored);
      case "not_stored":
        return this.#store?.reject(new Error(message.problem));
      case "counted":
        this.prefix_cache_bytes = message.counts.prefix_cache_bytes ?? this.prefix_cache_bytes;
        return this.#events?.counted?.(message.counts);
      case "memory":
        this.memory_bytes = message.bytes;
    }
  }

  #remember(line: string): void {
    if (line.trim() === "") return;
    this.#last_words.push(line.trim());
    if (this.#last_words.length > LAST_WORDS_LINES_MAX) this.#last_words.shift();
  }

  #lost(code: number | null, signal: NodeJS.Signals | null, options: EngineOptions): void {
    this.memory_bytes = 0;
    this.prefix_cache_bytes = 0;
    const loading = this.#load;
    const how = signal ?? `exit code ${code}`;
    const error = this.#failure === undefined ? this.#died(how, options) : fromWire(this.#failure);
    if (loading !== undefined && this.#failure !== undefined) error.message += this.#quote();
    this.#load = undefined;
    loading?.reject(error);
    this.#store?.reject(error);
    for (const start of this.#starts.values()) start.reject(error);
    this.#starts.clear();
    if (loading === undefined) this.#on_lost(error);
  }

  #died(how: string, { model_path }: EngineOptions): EngineDied {
    const when = this.#load === undefined ? "" : ` while it loaded ${model_path}: the file is damaged, or this engine can't run it`;
    return new EngineDied("ENGINE_FAILED", `The engine died (${how})${when}.${this.#quote()}`);
  }

  #quote(): string {
    const words = this.#last_words.join(" | ").slice(0, LAST_WORDS_CHARS_MAX);
    return words === "" ? "" : ` Its last words: ${words}`;
  }
}

/** The child's entry lies beside this file, in the sources (.ts) and in a bundle (.js, .mjs) alike. */
function childPath(): string {
  return fileURLToPath(new URL(`./engine-child${extname(new URL(import.meta.url).pathname)}`, import.meta.url));
}

/**
 * Weights that llama.cpp has put in another order for this processor, and what slots hold, lie in memory from malloc: in pages of 2 MiB, where
 * the system gives them to those who ask, the processor looks up far fewer addresses (glibc 2.35 and later; elsewhere this does nothing).
 */
function hugePages(tunables: string | undefined): string {
  if (tunables === undefined || tunables === "") return HUGE_PAGES;
  return tunables.includes("glibc.malloc.hugetlb") ? tunables : `${tunables}:${HUGE_PAGES}`;
}

const HUGE_PAGES = "glibc.malloc.hugetlb=1";

function fromWire({ code, message, details, param }: WireError): RbeesError {
  return new RbeesError(code, message, { ...(details === undefined ? {} : { details }), ...(param === undefined ? {} : { param }) });
}
