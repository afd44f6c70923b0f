/** What every section is given, and where it leaves what it found. */

import type { Processes } from "../processes.ts";
import type { Verdict } from "../report.ts";
import type { Harness } from "./harness.ts";
import type { Pace } from "./messages.ts";
import type { Options } from "./options.ts";
import { type Started, type StartOptions, start, type TargetName } from "./targets.ts";

/** So many that no stream ends before the window does: the worker is told when to stop. */
export const ENDLESS = 100_000;
/** After so many V8 compiles nothing further for a while, in the orchestrator as in the references. */
const WARM_UP_REQUESTS = 20_000;
/** One token, answered at once. */
export const SMALL: Pace = { rate: 0, tokens: 1, pad: 0 };

export class Bench {
  readonly processes: Processes;
  readonly harness: Harness;
  readonly options: Options;
  readonly targets: readonly TargetName[];
  readonly verdicts: Verdict[] = [];
  readonly errors: string[] = [];

  constructor(processes: Processes, harness: Harness, options: Options, targets: readonly TargetName[]) {
    this.processes = processes;
    this.harness = harness;
    this.options = options;
    this.targets = targets;
  }

  say(text: string): void {
    process.stdout.write(`${text}\n`);
  }

  /** Shows that a long run is alive; nothing when the output is a file. */
  progress(text: string): void {
    if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${text}`);
  }

  /** Remembers what went wrong in a measurement: errors and lost tokens fail the whole run. */
  check(where: string, { errors }: { errors: readonly string[] }): void {
    for (const error of errors) this.errors.push(`${where}: ${error}`);
  }

  /** A fresh process of that target, warmed up, for as long as `measure` takes. */
  async fresh<T>(name: TargetName, options: StartOptions, measure: (started: Started) => Promise<T>): Promise<T> {
    const started = await start(name, this.processes, this.harness, options);
    try {
      await this.#warmUp(name, started, options.streams ?? this.options.streams);
      return await measure(started);
    } finally {
      await started.stop();
    }
  }

  /** Until V8 has compiled what is hot: as many small requests for the slowest target as for the fastest, and streams at twice the pace. */
  async #warmUp(name: TargetName, { target }: Started, streams: number): Promise<void> {
    if (name === "direct") return;
    for (let sent = 0; sent < WARM_UP_REQUESTS; ) {
      const small = await this.harness.requests({ target, connections: 16, pace: SMALL, settle_ms: 0, window_ms: 500, pid: 0 });
      this.check(`${name}, warm-up`, small);
      if (small.requests === 0) break;
      sent += small.requests;
    }
    const pace = { rate: 100, tokens: ENDLESS, pad: 0 };
    const long = await this.harness.streams({ target, streams: Math.min(streams, 200), pace, settle_ms: 0, window_ms: 700, pid: 0 });
    this.check(`${name}, warm-up`, long);
  }
}
