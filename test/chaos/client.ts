/**
 * A client that wants its whole answer: submits with `stream: true`, follows, and resumes with `Last-Event-ID` whenever its
 * connection breaks or it has left, until the job has ended. What it does beside that is drawn from its dice.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { SseDecoder } from "@rbees/contracts/sse";
import type { Random } from "../support/random.ts";
import { type Cut, StreamChecker, type Truth, type Violation } from "./checker.ts";
import type { Prompt } from "./prompts.ts";
import type { System } from "./system.ts";

/** What a client may do, with how likely each is. */
const WAYS = { steady: 10, leave: 7, pause: 4, cancel: 2, "walk-away": 1, deadline: 1 } as const;
type Way = keyof typeof WAYS;

/** Longer than any job needs, all faults included. */
const JOB_MS_MAX = 90_000;
/** The orchestrator says at least `: ping` more often than this; a frozen one is longer away. */
const SILENCE_MS_MAX = 12_000;
const RETRY_MS = 100;

export interface Tally {
  jobs: number;
  tokens: number;
  resumed: number;
  migrations: number;
  restarts: number;
  gone: number;
  unsure: number;
  readonly ways: Map<string, number>;
  readonly violations: Violation[];
  /** What each submission asked for, by the tag in its metadata. */
  readonly asked: Map<string, { truth: Truth; cut: Cut }>;
}

export function newTally(): Tally {
  return {
    jobs: 0,
    tokens: 0,
    resumed: 0,
    migrations: 0,
    restarts: 0,
    gone: 0,
    unsure: 0,
    ways: new Map(),
    violations: [],
    asked: new Map(),
  };
}

export interface ClientOptions {
  readonly name: string;
  readonly system: System;
  readonly dice: Random;
  readonly prompts: readonly { prompt: Prompt; truth: Truth }[];
  readonly tally: Tally;
  readonly stopped: () => boolean;
  /** The run is broken off: nothing is followed any more. */
  readonly broken_off: AbortSignal;
}

/** One job after the other until it is told to stop; the last one is still followed to its end. */
export async function runClient(options: ClientOptions): Promise<void> {
  for (let n = 1; !options.stopped() && !options.broken_off.aborted; n += 1) await new OneJob(options, `${options.name}.${n}`).run();
}

class OneJob {
  readonly #options: ClientOptions;
  readonly #tag: string;
  readonly #way: Way;
  readonly #prompt: Prompt;
  readonly #truth: Truth;
  readonly #cut: Cut;
  readonly #checker: StreamChecker;
  readonly #until_ms = performance.now() + JOB_MS_MAX;
  /** At how many tokens it does what it does. */
  #due: number;
  #deadline_ms: number;
  #pause_ms: number;
  #submissions = 0;
  /** The orchestrator's life in which it last read an event. */
  #life = 0;
  #over = false;

  constructor(options: ClientOptions, tag: string) {
    const { dice, prompts } = options;
    this.#options = options;
    this.#tag = tag;
    this.#way = dice.weighted(WAYS);
    const { prompt, truth } = dice.pick(prompts);
    this.#prompt = prompt;
    this.#truth = truth;
    this.#cut = this.#way === "deadline" ? ["DEADLINE_EXCEEDED"] : this.#way === "cancel" || this.#way === "walk-away" ? ["CANCELLED"] : [];
    this.#checker = new StreamChecker(truth, this.#cut);
    this.#due = dice.from(0, truth.ids.length);
    this.#deadline_ms = dice.from(50, 3000);
    this.#pause_ms = dice.from(20, 1200);
  }

  async run(): Promise<void> {
    const { tally, broken_off } = this.#options;
    tally.ways.set(this.#way, (tally.ways.get(this.#way) ?? 0) + 1);
    while (!this.#over && !broken_off.aborted) {
      if (performance.now() > this.#until_ms) {
        this.#checker.violation("every job ends", `within ${JOB_MS_MAX} ms`, "still running");
        break;
      }
      const leave = new AbortController();
      try {
        const answer = await this.#connect(leave.signal);
        if (answer !== undefined) await this.#read(answer, leave);
      } catch {
        // The connection broke, or this side has left: what comes next resumes.
      }
      leave.abort();
      if (this.#checker.ended) await this.#compare();
      if (!this.#over) await sleep(RETRY_MS);
    }
    tally.jobs += 1;
    tally.tokens += this.#checker.tokens_checked;
    tally.migrations += this.#checker.migrations;
    tally.restarts += this.#checker.restarts;
    tally.violations.push(...this.#checker.violations);
  }

  /** An open event stream, or undefined when it was refused: then there is something to wait for. */
  async #connect(signal: AbortSignal): Promise<Response | undefined> {
    const { system, tally } = this.#options;
    const { job_id, last_id } = this.#checker;
    if (job_id === "") return this.#submit(signal);
    const headers: Record<string, string> = last_id === undefined ? {} : { "last-event-id": String(last_id) };
    const answer = await fetch(`${system.url}/v2/tasks/${job_id}/events`, { headers, signal });
    if (answer.ok) {
      tally.resumed += 1;
      return answer;
    }
    const said = await answer.text();
    if (answer.status === 410) await this.#gone();
    else if (answer.status !== 503) {
      this.#checker.violation("a stream can be resumed", "200", `${answer.status} ${said} after ${last_id}`);
      this.#over = true;
    }
    return undefined;
  }

  async #submit(signal: AbortSignal): Promise<Response | undefined> {
    const { system, tally } = this.#options;
    this.#submissions += 1;
    const tag = `${this.#tag}.${this.#submissions}`;
    tally.asked.set(tag, { truth: this.#truth, cut: this.#cut });
    const body = {
      ...this.#prompt.body,
      stream: true,
      metadata: { chaos: tag },
      ...(this.#way === "walk-away" ? { on_disconnect: "cancel" } : {}),
      ...(this.#way === "deadline" ? { deadline_ms: this.#deadline_ms } : {}),
    };
    const request = { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body), signal };
    let answer: Response;
    try {
      answer = await fetch(`${system.url}/v2/tasks`, request);
    } catch (error) {
      // Unless nobody was there, it may have been accepted; the rows are looked at in the end.
      if (((error as Error).cause as NodeJS.ErrnoException | undefined)?.code !== "ECONNREFUSED") tally.unsure += 1;
      throw error;
    }
    if (answer.ok) {
      this.#checker.job_id = answer.headers.get("x-rbees-job-id") ?? "";
      if (this.#checker.job_id === "") this.#checker.violation("an accepted job is named", "x-rbees-job-id", "none");
      return answer;
    }
    const said = await answer.text();
    if (answer.status === 429 || answer.status === 503) return undefined;
    this.#over = true;
    // Where others wait, a deadline may be too near from the beginning: that is refused at once, and has to say so.
    if (this.#way === "deadline" && answer.status === 504 && said.includes('"DEADLINE_EXCEEDED"')) return undefined;
    this.#checker.violation("a good job is accepted", "200", `${answer.status} ${said}`);
    return undefined;
  }

  async #read(answer: Response, leave: AbortController): Promise<void> {
    const decoder = new SseDecoder();
    const silent = setTimeout(() => {
      this.#checker.violation("an open stream is not silent", `a byte every ${SILENCE_MS_MAX} ms`, "nothing");
      leave.abort();
    }, SILENCE_MS_MAX);
    try {
      for await (const chunk of answer.body as unknown as AsyncIterable<Uint8Array>) {
        silent.refresh();
        for (const event of decoder.feed(chunk)) {
          this.#life = this.#options.system.lives;
          if (this.#checker.take(event)) return;
        }
        if (!this.#checker.ended && this.#checker.tokens >= this.#due && (await this.#act(leave))) return;
        silent.refresh();
      }
    } finally {
      clearTimeout(silent);
    }
  }

  /** What it came to do; true when it has left. */
  async #act(leave: AbortController): Promise<boolean> {
    const { system } = this.#options;
    this.#due = Number.POSITIVE_INFINITY;
    switch (this.#way) {
      case "leave":
      case "walk-away":
        leave.abort();
        await sleep(this.#pause_ms);
        return true;
      case "pause":
        await sleep(this.#pause_ms);
        return false;
      case "cancel":
        await fetch(`${system.url}/v2/tasks/${this.#checker.job_id}`, { method: "DELETE" }).catch(() => {
          // Not heard or not answered: asked again at the next chance.
          this.#due = 0;
        });
        return false;
      case "steady":
      case "deadline":
        return false;
    }
  }

  /** The events are forgotten: that may be only after the orchestrator was started again. */
  async #gone(): Promise<void> {
    const { system, tally } = this.#options;
    tally.gone += 1;
    if (this.#life === system.lives) this.#checker.violation("events are kept while the orchestrator lives", "200", "410");
    const row = await system.row(this.#checker.job_id);
    if (row === undefined) this.#checker.violation("an accepted job has a row", this.#checker.job_id, "none");
    else this.#checker.gone(row);
    this.#over = true;
  }

  async #compare(): Promise<void> {
    this.#over = true;
    const row = await this.#options.system.row(this.#checker.job_id);
    if (row === undefined) this.#checker.violation("an accepted job has a row", this.#checker.job_id, "none");
    else this.#checker.row(row);
  }
}
