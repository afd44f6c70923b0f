/**
 * The embedding jobs of an engine: their inputs wait in one line, first come first served, and go through the model some at a time,
 * whosever they are. One piece of that is computed for each step of the answers, so that running streams keep their pace.
 */
import { RbeesError } from "@rbees/contracts/errors";
import type { EmbeddingReport, EmbedRequest, StepReport } from "../engine.ts";
import { LONG_CHARS } from "./prompt.ts";

/** What of a library makes vectors. */
export interface Embedder {
  /** Tokens that an input may have. */
  readonly context_size: number;
  readonly vocab_size: number;
  /** A text's tokens, with what the model wants around them. */
  tokenize(text: string): number[];
  /** The same on another thread; absent where that can't be. */
  tokenizeAside?(text: string): Promise<number[]>;
  /** The token that `tokenize` puts behind a text; undefined when none. */
  readonly last: number | undefined;
  /** How many of these inputs, from the first one on, go through the model together. At least one. */
  together(tokens: readonly (readonly number[])[]): number;
  /**
   * Makes the vectors of inputs that `together` allowed; each turn of the iterator computes one piece and may block for as long. Not
   * begun again before it has ended or was ended.
   */
  embed(inputs: readonly (readonly number[])[]): Pieces;
}

type Pieces = Iterator<void, Float32Array[]> | AsyncIterator<void, Float32Array[]>;

/** One embedding job. */
interface EmbedRun {
  readonly id: number;
  readonly tokens_in: number;
  readonly began_ms: number;
  readonly inputs: number;
  done: number;
  aborted: boolean;
}

interface Waiting {
  readonly run: EmbedRun;
  /** Which of its run's inputs. */
  readonly i: number;
  readonly tokens: readonly number[];
}

/** So many of the waiting inputs are looked at for one pack. */
const PACK_INPUTS_MAX = 64;

export class Embeddings {
  readonly #embedder: Embedder;
  readonly #runs = new Map<number, EmbedRun>();
  #waiting: Waiting[] = [];
  #now: { readonly pack: readonly Waiting[]; readonly pieces: Pieces } | undefined;

  constructor(embedder: Embedder) {
    this.#embedder = embedder;
  }

  /** Whether there is something to compute. */
  get busy(): boolean {
    return this.#runs.size > 0;
  }

  async start(id: number, { inputs, truncate }: EmbedRequest): Promise<{ tokens_in: number }> {
    const tokens: number[][] = [];
    const together = inputs.reduce((sum, { length }) => sum + length, 0);
    for (const [i, input] of inputs.entries()) {
      const made = typeof input === "string" ? await this.#tokenize(input, together) : [...input];
      tokens.push(this.#checked(made, i, inputs.length > 1, truncate));
    }
    const tokens_in = tokens.reduce((sum, { length }) => sum + length, 0);
    const run: EmbedRun = { id, tokens_in, began_ms: performance.now(), inputs: inputs.length, done: 0, aborted: false };
    this.#runs.set(id, run);
    for (const [i, list] of tokens.entries()) this.#waiting.push({ run, i, tokens: list });
    return { tokens_in };
  }

  abort(id: number): void {
    const run = this.#runs.get(id);
    if (run !== undefined) run.aborted = true;
  }

  /** Computes one piece, if there is one: what it brought. Meanwhile jobs may come and be aborted. */
  async step(): Promise<StepReport[]> {
    const reports = this.#sweep();
    let brought: Float32Array[];
    try {
      this.#now ??= this.#next();
      if (this.#now === undefined) return reports;
      const { done, value } = await this.#now.pieces.next();
      if (done !== true) return reports;
      brought = value;
    } catch (error) {
      if (!(error instanceof RbeesError)) throw error;
      return [...reports, ...this.#failed(error)];
    }
    const { pack } = this.#now;
    this.#now = undefined;
    const made = new Map<EmbedRun, EmbeddingReport[]>();
    for (const [at, { run, i }] of pack.entries()) {
      if (run.aborted) continue;
      const vector = brought[at] as Float32Array;
      made.set(run, [
        ...(made.get(run) ?? []),
        { i, v: Buffer.from(vector.buffer, vector.byteOffset, vector.byteLength).toString("base64") },
      ]);
    }
    for (const [run, embeddings] of made) {
      run.done += embeddings.length;
      reports.push({ ...report(run), embeddings, ...(run.done < run.inputs ? {} : { end: ended(run) }) });
      if (run.done === run.inputs) this.#runs.delete(run.id);
    }
    return reports;
  }

  /** Forgets the runs that were aborted; what is computed for nobody else any more is left off. */
  #sweep(): StepReport[] {
    const aborted = [...this.#runs.values()].filter((run) => run.aborted);
    if (aborted.length === 0) return [];
    for (const { id } of aborted) this.#runs.delete(id);
    this.#waiting = this.#waiting.filter(({ run }) => !run.aborted);
    if (this.#now?.pack.every(({ run }) => run.aborted)) {
      void this.#now.pieces.return?.([]);
      this.#now = undefined;
    }
    return aborted.map((run) => ({ ...report(run), aborted: true }));
  }

  #next() {
    if (this.#waiting.length === 0) return undefined;
    const candidates = this.#waiting.slice(0, PACK_INPUTS_MAX).map(({ tokens }) => tokens);
    const pack = this.#waiting.slice(0, this.#embedder.together(candidates));
    const pieces = this.#embedder.embed(pack.map(({ tokens }) => tokens));
    this.#waiting.splice(0, pack.length);
    return { pack, pieces };
  }

  /** What can't be begun ends the run whose input is the next: that of the others may be shorter. */
  #failed({ code, message }: RbeesError): StepReport[] {
    this.#waiting.unshift(...(this.#now?.pack ?? []));
    this.#now = undefined;
    const run = this.#waiting[0]?.run;
    if (run === undefined) return [];
    this.#runs.delete(run.id);
    this.#waiting = this.#waiting.filter((waiting) => waiting.run !== run);
    return [{ ...report(run), error: { code, message } }];
  }

  /** `together`: characters of all inputs. */
  async #tokenize(input: string, together: number): Promise<number[]> {
    if (together <= LONG_CHARS || this.#embedder.tokenizeAside === undefined) return this.#embedder.tokenize(input);
    return await this.#embedder.tokenizeAside(input);
  }

  #checked(tokens: number[], i: number, several: boolean, truncate: boolean): number[] {
    const { context_size, vocab_size, last } = this.#embedder;
    const param = several ? `input[${i}]` : "input";
    const refuse = (code: "INVALID_REQUEST" | "CONTEXT_TOO_LARGE", problem: string, details?: object) => {
      throw new RbeesError(code, `${param}: ${problem}`, { param, ...(details === undefined ? {} : { details }) });
    };
    if (tokens.length === 0) refuse("INVALID_REQUEST", "has no tokens");
    const unknown = tokens.find((token) => token >= vocab_size);
    if (unknown !== undefined) refuse("INVALID_REQUEST", `token ${unknown} is not in the model's vocabulary of ${vocab_size}`);
    if (tokens.length <= context_size) return tokens;
    if (!truncate) {
      refuse("CONTEXT_TOO_LARGE", `has ${tokens.length} tokens, and this worker takes ${context_size} of an input. Shorten or split it.`, {
        input: i,
        tokens_in: tokens.length,
        context_size,
      });
    }
    // What marks the end of a text marks the end of one that was cut.
    return last !== undefined && tokens.at(-1) === last ? [...tokens.slice(0, context_size - 1), last] : tokens.slice(0, context_size);
  }
}

function report({ id }: EmbedRun): StepReport {
  return { run: id, tokens_out: 0, generated: 0, decode_ms: 0 };
}

function ended({ tokens_in, began_ms }: EmbedRun): NonNullable<StepReport["end"]> {
  const timings = { prefill_ms: performance.now() - began_ms, decode_ms: 0 };
  return { stop_reason: "EMBEDDED", tokens_in, tokens_out: 0, tokens_cached: 0, timings };
}
