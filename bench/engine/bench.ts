/** What every section is given, and where it leaves what it found. */

import type { Processes } from "../processes.ts";
import type { Verdict } from "../report.ts";
import type { Options, Section } from "./options.ts";

export class Bench {
  readonly processes: Processes;
  readonly options: Options;
  readonly model_path: string;
  readonly verdicts: Verdict[] = [];

  constructor(processes: Processes, options: Options, model_path: string) {
    this.processes = processes;
    this.options = options;
    this.model_path = model_path;
  }

  wants(...sections: readonly Section[]): boolean {
    return sections.some((section) => this.options.only.includes(section));
  }

  say(text: string): void {
    process.stdout.write(`${text}\n`);
  }

  /** Shows that a long run is alive; nothing when the output is a file. */
  progress(text: string): void {
    if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${text}`);
  }
}
