/** One orchestrator, workers behind proxies, and what can be done to them. */
import { setTimeout as sleep } from "node:timers/promises";
import type { JobView } from "@rbees/contracts/job";
import type { Program, Programs } from "./programs.ts";
import { type LinkMode, LinkProxy } from "./proxy.ts";
import type { Fault } from "./schedule.ts";

/** Short spans, so that two minutes see a lot. */
const ORCD_FLAGS = {
  heartbeat_ms: 200,
  worker_silence_ms_max: 900,
  attempt_silence_ms_max: 1500,
  connect_ms_max: 500,
  worker_inhibit_ms: 200,
  retry_backoff_ms: 20,
  retry_backoff_ms_max: 300,
  attempts_max: 20,
  tick_ms: 20,
  ping_ms: 300,
  drain_ms: 500,
};
const WORKER_FLAGS = { threads: 1, slots: 3, ping_ms: 300, metrics_ms: 250, drain_ms: 1500 };
/** How often a worker starts its engine again before it gives up. */
const ENGINE_KILLS_MAX = 3;
/** A life whose place was taken hears of it with its next heartbeat. */
const FENCED_MS_MAX = 20_000;
const START_TRIES = 5;

export interface Fleet {
  readonly model: string;
  readonly path: string;
  readonly workers: number;
  /** Same request, same tokens, whatever else runs: needed where two tokens may be almost equally likely. */
  readonly deterministic: boolean;
}

interface Worker {
  readonly id: string;
  readonly fleet: Fleet;
  readonly execute: LinkProxy;
  readonly register: LinkProxy;
  program: Program;
  engine_kills: number;
}

export class System {
  readonly #programs: Programs;
  readonly #workers: Worker[] = [];
  readonly #violation: (rule: string, expected: unknown, seen: unknown) => void;
  /** Faults of one program come one after the other. */
  readonly #turns = new Map<number | undefined, Promise<void>>();
  readonly data_dir: string;
  readonly content_key: string;
  #orcd: Program | undefined;
  #port = 0;
  /** How often the orchestrator was started. */
  lives = 0;

  constructor(programs: Programs, violation: (rule: string, expected: unknown, seen: unknown) => void) {
    this.#programs = programs;
    this.#violation = violation;
    this.data_dir = `${programs.folder}/data`;
    this.content_key = `${programs.folder}/content-key`;
    programs.onCrash = (program, code) => violation("no program ends by itself", "running", `${program.name} ended with ${code}`);
  }

  get url(): string {
    return `http://127.0.0.1:${this.#port}`;
  }

  async start(fleets: readonly Fleet[]): Promise<void> {
    this.#port = await this.#programs.freePort();
    await this.#startOrcd();
    for (const fleet of fleets) {
      for (let n = 0; n < fleet.workers; n += 1) {
        const [execute, register] = [await LinkProxy.start(0), await LinkProxy.start(this.#port)];
        const id = `w${this.#workers.length}`;
        this.#workers.push(await this.#launch({ id, fleet, execute, register, engine_kills: 0 }));
      }
    }
    await Promise.all(this.#workers.map(({ program }) => program.ready()));
    await this.settled(({ workers }) => workers.length === this.#workers.length, "all workers register");
  }

  async #startOrcd(): Promise<void> {
    this.lives += 1;
    const places = ["--data-dir", this.data_dir, "--content-key", this.content_key];
    this.#orcd = await this.#upright(async () =>
      this.#programs.start(`orcd#${this.lives}`, "orcd", ["--port", `${this.#port}`, ...places, ...flags(ORCD_FLAGS)]),
    );
  }

  async #launch(worker: Omit<Worker, "program">): Promise<Worker> {
    const { id, fleet, execute, register } = worker;
    const port = await this.#programs.freePort();
    execute.target_port = port;
    const program = this.#programs.start(id, "workerd", [
      ...["--model", fleet.path, "--model-name", fleet.model, "--worker-id", id, "--port", `${port}`],
      ...["--orchestrator", `http://127.0.0.1:${register.port}`, "--advertise-port", `${execute.port}`],
      ...(fleet.deterministic ? ["--deterministic"] : []),
      ...flags(WORKER_FLAGS),
    ]);
    return Object.assign(worker, { program, engine_kills: 0 });
  }

  /** Starts until it stands: the port of a program that was killed may be taken for another moment. */
  async #upright(start: () => Promise<Program>): Promise<Program> {
    for (let n = 1; ; n += 1) {
      const program = await start();
      program.doomed = true;
      try {
        await program.ready();
        program.doomed = false;
        return program;
      } catch (error) {
        program.signal("SIGKILL");
        if (n >= START_TRIES) throw error;
        this.#programs.note(`${program.name}: ${(error as Error).message}; trying again`);
        await sleep(300);
      }
    }
  }

  /** Carries a fault out, to its end; after the one before it at the same program. Whether there was anything to do. */
  inflict(fault: Fault): Promise<boolean> {
    const before = this.#turns.get(fault.worker) ?? Promise.resolve();
    const done = before.then(() => (fault.worker === undefined ? this.#orcdFault(fault) : this.#workerFault(fault)));
    this.#turns.set(
      fault.worker,
      done.then(
        () => {},
        () => {},
      ),
    );
    return done;
  }

  async #orcdFault({ kind, for_ms }: Fault): Promise<boolean> {
    const orcd = this.#orcd as Program;
    if (kind === "orcd-freeze") {
      orcd.signal("SIGSTOP");
      await sleep(for_ms);
      orcd.signal("SIGCONT");
      return true;
    }
    const code = await orcd.end(kind === "orcd-kill" ? "SIGKILL" : "SIGTERM");
    if (kind === "orcd-stop" && code !== 0) this.#violation("the orchestrator stops in order", 0, code);
    await sleep(for_ms);
    await this.#startOrcd();
    return true;
  }

  async #workerFault(fault: Fault): Promise<boolean> {
    const worker = this.#workers[fault.worker as number] as Worker;
    const { program } = worker;
    switch (fault.kind) {
      case "worker-kill":
        await program.end("SIGKILL");
        return this.#again(worker, fault.for_ms);
      case "worker-stop": {
        const code = await program.end("SIGTERM");
        if (code !== 0) this.#violation("a worker stops in order", 0, `${worker.id} ended with ${code}`);
        return this.#again(worker, fault.for_ms);
      }
      case "worker-freeze":
      case "worker-freeze-kill":
        program.signal("SIGSTOP");
        await sleep(fault.for_ms);
        if (fault.kind === "worker-freeze") program.signal("SIGCONT");
        else await program.end("SIGKILL");
        return fault.kind === "worker-freeze" || this.#again(worker, 0);
      case "worker-replaced":
        return this.#replace(worker, fault.for_ms);
      case "engine-kill": {
        const [engine] = program.children();
        if (engine === undefined || worker.engine_kills >= ENGINE_KILLS_MAX) return false;
        worker.engine_kills += 1;
        process.kill(engine, "SIGKILL");
        return true;
      }
      default:
        return this.#linkFault(worker, fault);
    }
  }

  async #again(worker: Worker, away_ms: number): Promise<boolean> {
    await sleep(away_ms);
    await this.#launch(worker);
    await worker.program.ready();
    return true;
  }

  /** Frozen, taken for dead and started elsewhere under its name; then it wakes up, and must find that its place is taken. */
  async #replace(worker: Worker, frozen_ms: number): Promise<boolean> {
    const old = worker.program;
    old.signal("SIGSTOP");
    old.doomed = true;
    const since_ms = Date.now();
    await this.#again(worker, 0);
    await sleep(frozen_ms);
    old.signal("SIGCONT");
    const left = await Promise.race([old.exited, sleep(FENCED_MS_MAX, "alive" as const, { ref: false })]);
    if (left !== "alive") return true;
    // An orchestrator that was started anew meanwhile may have met the old life first: then the id is that one's while it lives.
    const kept = await this.#epochOf(worker.id).catch(() => undefined);
    if (kept === undefined || kept >= since_ms)
      this.#violation("a worker whose place was taken ends", "ended", `${worker.id} was alive after ${FENCED_MS_MAX} ms`);
    await old.end("SIGKILL");
    return true;
  }

  /** Which life of it is registered: when that one began. */
  async #epochOf(worker_id: string): Promise<number | undefined> {
    const { workers } = (await (await this.get("/v2/workers")).json()) as { workers: { worker_id: string; epoch: number }[] };
    return workers.find((one) => one.worker_id === worker_id)?.epoch;
  }

  async #linkFault({ execute, register }: Worker, { kind, link, for_ms, bytes_per_s, delay_ms }: Fault): Promise<boolean> {
    const links = link === "execute" ? [execute] : link === "register" ? [register] : [execute, register];
    if (kind === "link-reset") {
      for (const one of links) one.reset();
      return true;
    }
    const modes: Partial<Record<Fault["kind"], LinkMode>> = {
      "link-half-open": { kind: "half-open" },
      "link-throttle": { kind: "throttle", bytes_per_s },
      "link-delay": { kind: "delay", ms: delay_ms },
      "link-down": { kind: "down" },
    };
    for (const one of links) one.mode = modes[kind] as LinkMode;
    await sleep(for_ms);
    for (const one of links) one.mode = { kind: "pass" };
    return true;
  }

  async get(path: string): Promise<Response> {
    return fetch(`${this.url}${path}`, { headers: { accept: "application/json" }, signal: AbortSignal.timeout(5000) });
  }

  /** The row, however long the orchestrator is away; undefined after `ms_max`. */
  async row(job_id: string, ms_max = 30_000): Promise<JobView | undefined> {
    const until = performance.now() + ms_max;
    do {
      const answer = await this.get(`/v2/tasks/${job_id}`).catch(() => undefined);
      if (answer?.status === 200) {
        const row = await answer.json().catch(() => undefined);
        if (row !== undefined) return row as JobView;
      }
      if (answer?.status === 404) return undefined;
      await sleep(100);
    } while (performance.now() < until);
    return undefined;
  }

  /** Waits until the workers look like that; a violation after `ms_max`. */
  async settled(
    met: (seen: { workers: { jobs_running: number }[]; slots_busy: number; queued: number }) => boolean,
    rule: string,
    ms_max = 30_000,
  ): Promise<void> {
    const until = performance.now() + ms_max;
    let seen: unknown;
    do {
      try {
        const { workers } = (await (await this.get("/v2/workers")).json()) as { workers: { jobs_running: number }[] };
        const { queue_depth } = (await (await this.get("/health")).json()) as { queue_depth: number };
        const busy = await Promise.all(
          this.#workers.map(async ({ execute }) => {
            const health = await fetch(`http://127.0.0.1:${execute.target_port}/health`, { signal: AbortSignal.timeout(5000) });
            return ((await health.json()) as { slots_busy: number }).slots_busy;
          }),
        );
        const found = { workers, queued: queue_depth, slots_busy: busy.reduce((sum, each) => sum + each, 0) };
        seen = found;
        if (met(found)) return;
      } catch (error) {
        seen = (error as Error).message;
      }
      await sleep(100);
    } while (performance.now() < until);
    this.#violation(rule, `within ${ms_max} ms`, seen);
  }

  /** Stops the orchestrator in order, and ends the rest. */
  async stop(): Promise<void> {
    const code = await (this.#orcd as Program).end("SIGTERM");
    if (code !== 0) this.#violation("the orchestrator stops in order", 0, code);
    this.close();
  }

  close(): void {
    for (const { execute, register } of this.#workers) {
      execute.close();
      register.close();
    }
  }
}

function flags(values: Readonly<Record<string, number>>): string[] {
  return Object.entries(values).flatMap(([name, value]) => [`--${name.replaceAll("_", "-")}`, `${value}`]);
}
