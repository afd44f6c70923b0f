/**
 * A trace: requests as they once arrived, with the lengths of prompts and answers and no text. Two formats are read line by line: JSON
 * lines as Mooncake published them, and the CSV of Azure's LLM inference traces.
 */

/** Tokens that one of a trace's `hash_ids` stands for. */
export const BLOCK_TOKENS = 512;

export interface Request {
  /** Since the first one. */
  readonly at_ms: number;
  readonly prompt_tokens: number;
  /** What the model will answer; the orchestrator is not told. */
  readonly output_tokens: number;
  /** The prompt block by block; empty when the trace does not say. */
  readonly prefix: readonly number[];
  /** Whose it is, where the trace says so. */
  readonly tenant?: string;
}

export interface TraceOptions {
  /** Arrivals so many times as fast. */
  readonly rate?: number | undefined;
  /** Only the first so many requests. */
  readonly limit?: number | undefined;
}

/** What is wrong with a trace, line by line. */
export class TraceError extends Error {
  readonly problems: readonly string[];

  constructor(problems: readonly string[]) {
    super(problems.join("; "));
    this.name = "TraceError";
    this.problems = problems;
  }
}

const PROBLEMS_SHOWN = 5;
const CSV_HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens";

/** Takes lines in their order and makes requests of them; wrong ones are collected, to be told all at once. */
export class TraceReader {
  readonly #options: TraceOptions;
  readonly #rows: Request[] = [];
  readonly #problems: string[] = [];
  #wrong = 0;
  #line = 0;
  #read: ((line: string) => Request) | undefined;

  constructor(options: TraceOptions = {}) {
    this.#options = options;
  }

  /** No further line would change anything. */
  get full(): boolean {
    return this.#rows.length >= (this.#options.limit ?? Number.POSITIVE_INFINITY);
  }

  take(line: string): void {
    this.#line += 1;
    const text = line.trim();
    if (text === "" || this.full) return;
    try {
      if (this.#read !== undefined) this.#rows.push(this.#read(text));
      else if (text.replace(/^\uFEFF/, "").toLowerCase() === CSV_HEADER.toLowerCase()) this.#read = csvRow;
      else if (text.startsWith("{")) {
        this.#read = jsonRow;
        this.#rows.push(jsonRow(text));
      } else {
        throw new TraceError([`${shown(text)} is neither a JSON object nor the header ${CSV_HEADER}, so this is no trace`]);
      }
    } catch (error) {
      if (!(error instanceof TraceError)) throw error;
      // A file that is something else would be wrong in every line.
      if (this.#read === undefined) throw new TraceError([`line ${this.#line}: ${error.message}`]);
      this.#wrong += 1;
      if (this.#problems.length < PROBLEMS_SHOWN) this.#problems.push(`line ${this.#line}: ${error.message}`);
    }
  }

  /** All requests, in the order of their arrival; throws a TraceError when a line was wrong. */
  requests(): Request[] {
    const untold = this.#wrong - this.#problems.length;
    if (untold > 0) this.#problems.push(`${untold} more lines like these`);
    if (this.#problems.length > 0) throw new TraceError(this.#problems);
    if (this.#rows.length === 0) throw new TraceError(["it holds no request"]);
    return spread(
      this.#rows.toSorted((a, b) => a.at_ms - b.at_ms),
      this.#options.rate ?? 1,
    );
  }
}

/**
 * A trace may count time in steps of seconds, and the requests of one step did not all come at once. They are spread evenly until the
 * next step; the last ones over a step of usual length.
 */
function spread(rows: readonly Request[], rate: number): Request[] {
  const steps = [...new Set(rows.map(({ at_ms }) => at_ms))];
  const gaps = steps.slice(1).map((at_ms, index) => at_ms - (steps[index] as number));
  const usual = gaps.toSorted((a, b) => a - b)[gaps.length >> 1] ?? 0;
  const start = steps[0] as number;
  const requests: Request[] = [];
  let from = 0;
  for (const [index, at_ms] of steps.entries()) {
    let until = from;
    while (rows[until]?.at_ms === at_ms) until += 1;
    const gap = Math.min(gaps[index] ?? usual, usual);
    for (let row = from; row < until; row += 1) {
      const later = (gap * (row - from)) / (until - from);
      requests.push({ ...(rows[row] as Request), at_ms: (at_ms + later - start) / rate });
    }
    from = until;
  }
  return requests;
}

function jsonRow(line: string): Request {
  let row: unknown;
  try {
    row = JSON.parse(line);
  } catch {
    throw new TraceError([`${shown(line)} is not JSON`]);
  }
  if (typeof row !== "object" || row === null) throw new TraceError([`${shown(line)} is not a JSON object`]);
  const { timestamp, input_length, output_length, hash_ids = [], tenant } = row as Record<string, unknown>;
  if (typeof timestamp !== "number" || timestamp < 0) throw new TraceError(["timestamp must be milliseconds, 0 or more"]);
  const prompt_tokens = tokens("input_length", input_length);
  if (!Array.isArray(hash_ids) || !hash_ids.every((id) => Number.isSafeInteger(id))) {
    throw new TraceError(["hash_ids must be a list of whole numbers"]);
  }
  if ((hash_ids.length - 1) * BLOCK_TOKENS >= prompt_tokens) {
    throw new TraceError([`${hash_ids.length} hash_ids are more than ${prompt_tokens} tokens have blocks of ${BLOCK_TOKENS}`]);
  }
  if (tenant !== undefined && typeof tenant !== "string") throw new TraceError(["tenant must be text"]);
  const request = { at_ms: timestamp, prompt_tokens, output_tokens: tokens("output_length", output_length), prefix: hash_ids };
  return tenant === undefined ? request : { ...request, tenant };
}

function csvRow(line: string): Request {
  const cells = line.split(",");
  if (cells.length !== 3) throw new TraceError([`${shown(line)} has ${cells.length} columns, not 3`]);
  const [time, context, generated] = cells as [string, string, string];
  return {
    at_ms: instant(time),
    prompt_tokens: tokens("ContextTokens", numberOf(context)),
    output_tokens: tokens("GeneratedTokens", numberOf(generated)),
    prefix: [],
  };
}

function numberOf(cell: string): number {
  return cell.trim() === "" ? Number.NaN : Number(cell);
}

/** `2023-11-16 18:15:46.6805900`: more digits than `Date` takes. */
function instant(text: string): number {
  const found = /^(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)?$/.exec(text.trim());
  const whole_ms = found === null ? Number.NaN : Date.parse(`${found[1]}T${found[2]}${found[4] ?? "Z"}`);
  if (Number.isNaN(whole_ms)) throw new TraceError([`TIMESTAMP ${shown(text)} is no date and time`]);
  return whole_ms + 1000 * Number(found?.[3] ?? 0);
}

function tokens(name: string, value: unknown): number {
  if (!Number.isSafeInteger(value) || (value as number) < 1) throw new TraceError([`${name} must be a whole number from 1`]);
  return value as number;
}

function shown(text: string): string {
  return JSON.stringify(text.length > 40 ? `${text.slice(0, 40)}…` : text);
}

/** Deals a trace out to so many tenants: each sends half as many requests as the one before it, the last two equally many. */
export function dealtOut(requests: readonly Request[], tenants: number): Request[] {
  return requests.map((request, at) => {
    const halvings = 31 - Math.clz32((at + 1) & -(at + 1));
    return { ...request, tenant: `t${Math.min(tenants, halvings + 1)}` };
  });
}
