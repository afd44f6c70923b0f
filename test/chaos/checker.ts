/**
 * Knows what a job must say and looks at its stream event by event, over all connections that carried it: nothing lost, nothing
 * twice, one end and nothing after it, the text to the letter, and in the end the job's row saying the same.
 */
import { JobEvent } from "@rbees/contracts/events";
import type { JobView } from "@rbees/contracts/job";

/** What the job says when nothing disturbs it. */
export interface Truth {
  readonly text: string;
  /** The tokens that are sent; fewer than `tokens_out` where a stop string swallows the last ones. */
  readonly ids: readonly number[];
  readonly tokens_in: number;
  readonly tokens_out: number;
  readonly stop_reason: string;
}

export interface Violation {
  readonly job: string;
  readonly rule: string;
  readonly expected: string;
  readonly seen: string;
  /** The last events before it, as they came. */
  readonly events: readonly string[];
}

/** Ends that are no violation for this job beside the whole answer: codes of `error`. */
export type Cut = readonly ("CANCELLED" | "DEADLINE_EXCEEDED")[];

const EVENTS_KEPT = 14;

interface Piece {
  readonly i: number;
  readonly count: number;
  readonly t: string;
}

export class StreamChecker {
  readonly violations: Violation[] = [];
  readonly #truth: Truth;
  readonly #cut: Cut;
  readonly #recent: string[] = [];
  #pieces: Piece[] = [];
  #running = false;
  #end: { type: "end"; stop_reason: string; tokens_in: number; tokens_out: number } | { type: "error"; code: string } | undefined;
  /** Known once the answer's head has come. */
  job_id = "";
  last_id: number | undefined;
  tokens_checked = 0;
  restarts = 0;
  migrations = 0;

  constructor(truth: Truth, cut: Cut = []) {
    this.#truth = truth;
    this.#cut = cut;
  }

  get ended(): boolean {
    return this.#end !== undefined;
  }

  /** Tokens that the reader holds now. */
  get tokens(): number {
    const last = this.#pieces.at(-1);
    return last === undefined ? 0 : last.i + last.count;
  }

  get text(): string {
    return this.#pieces.map(({ t }) => t).join("");
  }

  violation(rule: string, expected: unknown, seen: unknown): void {
    this.violations.push({ job: this.job_id, rule, expected: shown(expected), seen: shown(seen), events: [...this.#recent] });
  }

  /** True when the stream was cut off because the reader was slow: it may resume, the job goes on. */
  take({ id, data }: { id?: string; data: string }): boolean {
    this.#recent.push(`${id ?? "-"} ${data}`);
    if (this.#recent.length > EVENTS_KEPT) this.#recent.shift();
    const raw = parseJson(data) as { type?: string; from?: number } | undefined;
    // Without `from` the text begins anew.
    const parsed = JobEvent.safeParse(raw?.type === "restarted" ? { from: 0, ...raw } : raw);
    if (!parsed.success) {
      this.violation("an event has the shape of the contract", "a job event", data);
      return false;
    }
    const event = parsed.data;
    if (event.type === "error" && event.code === "LAGGED") return true;
    this.#takeId(id);
    if (this.#end !== undefined) {
      const last = event.type === "end" || event.type === "error";
      this.violation(last ? "a job ends once" : "nothing comes after the end", "nothing", data);
      return false;
    }
    switch (event.type) {
      case "queued":
        this.#running = false;
        break;
      case "started":
        this.#running = true;
        break;
      case "migrated":
        this.#running = true;
        this.migrations += 1;
        break;
      case "restarted":
        this.#restart(raw?.from ?? 0);
        break;
      case "token":
        this.#takeToken(event);
        break;
      case "metrics":
        break;
      case "end":
        this.#takeEnd(event);
        break;
      case "error":
        this.#end = event;
        if (!this.#cut.includes(event.code as Cut[number])) this.violation("the job ends well", this.#cut.join(" or ") || "end", data);
        if (!this.#truth.text.startsWith(this.text))
          this.violation("what was sent is the beginning of the text", this.#truth.text, this.text);
    }
    return false;
  }

  #takeId(text: string | undefined): void {
    const id = Number(text);
    if (!Number.isSafeInteger(id)) this.violation("every event has an id", "a number", text);
    else if (this.last_id !== undefined && id <= this.last_id) this.violation("ids rise", `more than ${this.last_id}`, id);
    this.last_id = Math.max(id, this.last_id ?? 0);
  }

  /** The text goes on after `from` of the tokens that were sent. */
  #restart(from: number): void {
    this.restarts += 1;
    this.#running = true;
    if (from > this.tokens) this.violation("a restart keeps only what was sent", `from at most ${this.tokens}`, from);
    this.#pieces = this.#pieces.filter(({ i }) => i < from);
    if (this.tokens > from) this.violation("a restart keeps whole token events", this.tokens, from);
  }

  #takeToken({ i, ids, t }: { i: number; ids: number[]; t: string }): void {
    if (!this.#running) this.violation("tokens come after `started` or `migrated`", "one of them", `token ${i}`);
    if (i > this.tokens) this.violation("no token is lost", `i = ${this.tokens}`, `i = ${i}`);
    if (i < this.tokens) this.violation("no token comes twice", `i = ${this.tokens}`, `i = ${i}`);
    const expected = this.#truth.ids.slice(i, i + ids.length);
    if (expected.join() !== ids.join()) this.violation("the tokens are those of the undisturbed run", `${i}: ${expected}`, `${i}: ${ids}`);
    this.#pieces.push({ i, count: ids.length, t });
    this.tokens_checked += ids.length;
  }

  #takeEnd(event: { type: "end"; stop_reason: string; tokens_in: number; tokens_out: number }): void {
    this.#end = event;
    const { text, ids, stop_reason, tokens_in, tokens_out } = this.#truth;
    if (this.text !== text) this.violation("the text is that of the undisturbed run", text, this.text);
    if (this.tokens !== ids.length) this.violation("all tokens were sent before the end", ids.length, this.tokens);
    this.#same("end", { stop_reason, tokens_in, tokens_out }, event);
  }

  /** Its events were forgotten with an earlier life of the orchestrator: the row has the whole answer. */
  gone(row: JobView): void {
    if (row.ended_at === null) this.violation("only events of ended jobs are gone", "ended", row.status);
    if (!row.text.startsWith(this.text)) this.violation("the row begins with what was sent", this.text, row.text);
    if (row.status === "succeeded") {
      if (row.text !== this.#truth.text) this.violation("the row has the text of the undisturbed run", this.#truth.text, row.text);
    } else if (!this.#cut.includes(row.error?.code as Cut[number]))
      this.violation("the job ends well", "succeeded", row.error ?? row.status);
  }

  /** The job's row, read after its end. */
  row(row: JobView): void {
    const end = this.#end;
    if (end === undefined) return this.violation("every job ends", "end or error", row.status);
    if (row.text !== this.text) this.violation("the row has the text that was sent", this.text, row.text);
    if (end.type === "end") {
      const { stop_reason, tokens_in, tokens_out } = end;
      const seen = { status: row.status, stop_reason: row.stop_reason, tokens_in: row.usage?.tokens_in, tokens_out: row.usage?.tokens_out };
      this.#same("row", { status: "succeeded", stop_reason, tokens_in, tokens_out }, seen);
    } else {
      const status = end.code === "CANCELLED" ? "cancelled" : "failed";
      this.#same("row", { status, code: end.code }, { status: row.status, code: row.error?.code });
    }
  }

  #same(where: string, expected: Record<string, unknown>, seen: Record<string, unknown>): void {
    for (const [name, value] of Object.entries(expected))
      if (seen[name] !== value) this.violation(`${name} of the ${where} is right`, value, seen[name]);
  }
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function shown(value: unknown): string {
  return typeof value === "string" ? value : JSON.stringify(value);
}
