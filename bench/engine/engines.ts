/** The two programs that are compared, each in processes of its own and set up alike: the worker as it is run, and bare llama.cpp. */
import type { ChildProcess } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { childrenOf, cpuUs } from "../proc-stat.ts";
import type { Processes } from "../processes.ts";
import { AnswerStream, type Ask, call, read } from "./answer-stream.ts";
import type { BareAnswer, BareOrder, DecodeResult, EngineSetting } from "./messages.ts";
import type { MeasuredEngine } from "./options.ts";

const START_MS_MAX = 120_000;

export class Worker {
  readonly #processes: Processes;
  readonly #child: ChildProcess;
  readonly #engine_pid: number;
  readonly #threads: number;
  readonly port: number;

  private constructor(processes: Processes, child: ChildProcess, port: number, threads: number) {
    this.#processes = processes;
    this.#child = child;
    this.port = port;
    this.#threads = threads;
    const [engine] = childrenOf(child.pid as number);
    if (engine === undefined) throw new Error("the worker has no engine process");
    this.#engine_pid = engine;
  }

  /** `more`: flags beside those of the setting. */
  static async start(
    processes: Processes,
    engine: MeasuredEngine,
    setting: EngineSetting,
    more: Readonly<Record<string, string | number>> = {},
  ): Promise<Worker> {
    const file = fileURLToPath(new URL("../../packages/workerd/src/main.ts", import.meta.url));
    const flags = {
      engine,
      model: setting.model_path,
      orchestrator: "none",
      port: 0,
      slots: setting.slots,
      ctx: setting.context_size,
      threads: setting.threads,
      "prefill-chunk-tokens": setting.chunk_tokens,
      "log-format": "json",
      ...more,
    };
    const args = Object.entries(flags).flatMap(([name, value]) => [`--${name}`, String(value)]);
    const said: string[] = [];
    const { promise, resolve, reject } = Promise.withResolvers<number>();
    const child = processes.spawn([process.execPath, file, ...args], (line) => {
      said.push(line);
      const port = /"url":"http:\/\/127\.0\.0\.1:(\d+)".*"ready"/.exec(line)?.[1];
      if (port !== undefined) resolve(Number(port));
    });
    const fail = () => reject(new Error(`the worker did not start:\n${said.slice(-20).join("\n")}`));
    const late = setTimeout(fail, START_MS_MAX);
    child.once("exit", fail);
    try {
      return new Worker(processes, child, await promise, setting.threads);
    } finally {
      clearTimeout(late);
    }
  }

  ask(ask: Ask, on_token?: () => void): AnswerStream {
    return new AnswerStream(this.port, ask, on_token);
  }

  async slotsBusy(): Promise<number> {
    return (await call<{ slots_busy: number }>(this.port, "GET", "/health")).slots_busy;
  }

  async memoryBytes(): Promise<number> {
    return (await call<{ memory_bytes: number }>(this.port, "GET", "/health")).memory_bytes;
  }

  async cancel(job_id: string): Promise<void> {
    await call(this.port, "POST", "/cancel", { job_id });
  }

  /** Whether it has guessed any token so far. */
  async hasGuessed(): Promise<boolean> {
    const metrics = await (await fetch(`http://127.0.0.1:${this.port}/metrics`)).text();
    return /^worker_speculated_tokens_total(\{.*\})? [1-9]/m.test(metrics);
  }

  /** CPU time so far: of the engine's process, and of the one that serves HTTP. */
  cpuUs(): { engine: number; outside: number } {
    // llama.cpp starts its second and further threads anew for each step.
    return { engine: cpuUs(this.#engine_pid, this.#threads > 1), outside: cpuUs(this.#child.pid as number, false) };
  }

  async stop(): Promise<void> {
    await this.#processes.stop(this.#child);
  }
}

export class Bare {
  readonly #processes: Processes;
  readonly #child: ChildProcess;
  #port: number | undefined;

  private constructor(processes: Processes, child: ChildProcess) {
    this.#processes = processes;
    this.#child = child;
  }

  /** What it loaded, or why there is none on this machine. `served`: with a process beside it that gives its tokens out over HTTP. */
  static async start(
    processes: Processes,
    setting: EngineSetting,
    served = false,
  ): Promise<{ bare: Bare; release: string } | { skipped: string }> {
    const bare = new Bare(processes, processes.fork(new URL(served ? "served-bare.ts" : "bare-llama.ts", import.meta.url)));
    const answer = await bare.#order({ kind: "load", setting });
    if ("loaded" in answer) {
      bare.#port = answer.loaded.port;
      return { bare, release: answer.loaded.release };
    }
    await bare.stop();
    if ("skipped" in answer) return answer;
    throw new Error("the bare engine answered something else");
  }

  async decode(order: Omit<Extract<BareOrder, { kind: "decode" }>, "kind" | "served">): Promise<DecodeResult> {
    const port = this.#port;
    const clients = port === undefined ? [] : await Promise.all(order.prompts.map((_, stream) => read(port, stream)));
    const answer = await this.#order({ kind: "decode", ...order, served: port !== undefined });
    await Promise.all(clients.map(({ ended }) => ended));
    if (!("decoded" in answer)) throw new Error("the bare engine answered something else");
    return answer.decoded;
  }

  async stop(): Promise<void> {
    await this.#processes.stop(this.#child);
  }

  async #order(order: BareOrder): Promise<BareAnswer> {
    const gone = new AbortController();
    const onExit = () => gone.abort();
    this.#child.once("exit", onExit);
    try {
      this.#child.send(order);
      const [answer] = (await once(this.#child, "message", { signal: gone.signal })) as [BareAnswer];
      if ("failed" in answer) throw new Error(`the bare engine failed: ${answer.failed}`);
      return answer;
    } catch (error) {
      throw gone.signal.aborted ? new Error("the bare engine has ended") : error;
    } finally {
      this.#child.off("exit", onExit);
    }
  }
}
