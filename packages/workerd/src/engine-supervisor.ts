/**
 * Keeps one engine process alive. A crash loses the running attempts, not the worker: the engine is started again, unless it
 * crashes so often that the fault is not chance.
 */
import { RbeesError } from "@rbees/contracts/errors";
import type { Environment } from "@rbees/kit/config";
import type { Log } from "@rbees/kit/log";
import type {
  CountedTokens,
  EmbedRequest,
  EngineCounts,
  EngineEvents,
  EngineOptions,
  ModelFacts,
  RunAccepted,
  RunRequest,
  StepReport,
  TokenizeRequest,
} from "./engine.ts";
import { EngineDied, EngineProcess } from "./engine-process.ts";

export const RESTART_LIMITS = { restarts_max: 3, window_ms: 600_000 } as const;

export interface SupervisorEvents {
  step: (reports: readonly StepReport[]) => void;
  progress: (fraction: number) => void;
  counted: (counts: EngineCounts) => void;
  /** The engine is gone and with it every run. */
  lost: (error: RbeesError) => void;
  /** It will not come back. */
  gave_up: (error: RbeesError) => void;
}

export class EngineSupervisor {
  readonly #options: EngineOptions;
  readonly #env: Environment;
  readonly #log: Log;
  readonly #events: SupervisorEvents;
  #process: EngineProcess | undefined;
  #ready = false;
  #stopped = false;
  #restarts_at_ms: number[] = [];

  constructor(options: EngineOptions, env: Environment, log: Log, events: SupervisorEvents) {
    this.#options = options;
    this.#env = env;
    this.#log = log;
    this.#events = events;
  }

  /** False while the engine is being started again. */
  get ready(): boolean {
    return this.#ready;
  }

  get memory_bytes(): number {
    return this.#process?.memory_bytes ?? 0;
  }

  get prefix_cache_bytes(): number {
    return this.#process?.prefix_cache_bytes ?? 0;
  }

  get pid(): number | undefined {
    return this.#process?.pid;
  }

  async load(): Promise<ModelFacts> {
    const engine = new EngineProcess(this.#env);
    this.#process = engine;
    engine.onLost((error) => this.#lost(error));
    const fallback = (reason: string) => this.#log.warn({ reason }, "another engine is used");
    const recalled: EngineEvents["recalled"] = ({ problem, ...stored }) =>
      problem === undefined
        ? this.#log.info(stored, "prefixes of the last life are there again")
        : this.#log.warn({ file: this.#options.prefix_file?.path, reason: problem }, "prefixes of the last life are not used");
    const facts = await engine.load(this.#options, { ...this.#events, fallback, recalled });
    this.#ready = true;
    return facts;
  }

  start(run: number, request: RunRequest): Promise<RunAccepted> {
    if (this.#process === undefined || !this.#ready) return Promise.reject(new RbeesError("ENGINE_FAILED", "The engine is not running."));
    return this.#process.start(run, request);
  }

  embed(run: number, request: EmbedRequest): Promise<{ tokens_in: number }> {
    if (this.#process === undefined || !this.#ready) return Promise.reject(new RbeesError("ENGINE_FAILED", "The engine is not running."));
    return this.#process.embed(run, request);
  }

  tokenize(run: number, request: TokenizeRequest): Promise<CountedTokens> {
    if (this.#process === undefined || !this.#ready) return Promise.reject(new RbeesError("ENGINE_FAILED", "The engine is not running."));
    return this.#process.tokenize(run, request);
  }

  /** What slots hold and have lost is written for the next life, if there is a place for it. */
  async store(): Promise<void> {
    if (this.#options.prefix_file === undefined || !this.#ready) return;
    const { path: file } = this.#options.prefix_file;
    try {
      const stored = await this.#process?.store();
      if (stored !== undefined) this.#log.info({ file, ...stored }, "prefixes are kept for the next life");
    } catch (error) {
      this.#log.warn({ file, reason: (error as Error).message }, "prefixes could not be kept");
    }
  }

  abort(run: number): void {
    this.#process?.abort(run);
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    this.#ready = false;
    await this.#process?.end();
  }

  #lost(error: RbeesError): void {
    this.#ready = false;
    if (this.#stopped) return;
    this.#events.lost(error);
    this.#restart(error);
  }

  #restart(error: RbeesError): void {
    this.#log.error({ err: error.message }, "engine lost");
    const now = performance.now();
    this.#restarts_at_ms = this.#restarts_at_ms.filter((at) => now - at < RESTART_LIMITS.window_ms);
    if (this.#restarts_at_ms.length >= RESTART_LIMITS.restarts_max) {
      const often = `The engine crashed ${RESTART_LIMITS.restarts_max + 1} times within ${RESTART_LIMITS.window_ms / 60_000} minutes`;
      return this.#events.gave_up(new RbeesError("ENGINE_FAILED", `${often}; last: ${error.message}`));
    }
    this.#restarts_at_ms.push(now);
    this.load().then(
      () => this.#log.info({ restarts: this.#restarts_at_ms.length }, "engine restarted"),
      (failure: RbeesError) => {
        if (this.#stopped) return;
        // Whoever killed it, for want of memory perhaps, may do so again while it loads.
        if (failure instanceof EngineDied) this.#restart(failure);
        else this.#events.gave_up(failure);
      },
    );
  }
}
