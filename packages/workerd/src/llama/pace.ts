/**
 * How many tokens of waiting prompts a step computes beside running answers: as many as leave each answer its pace. What chunks and
 * steps take is not known before, and changes with the context that is read back: so it is what the last ones took that counts.
 *
 * The idea is stall-free batching under a token budget (Sarathi-Serve, OSDI 2024, section 4.3); the budget is found while it runs.
 */

/** Chunks are of these sizes while answers run: half as many tokens again each, so that none wastes much of its time. */
const SIZES = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096] as const;
/** Of how many timings the median counts: a step that lost its core for a while says nothing. */
const CHUNKS_KEPT = 5;
const STEPS_KEPT = 15;
/** This part of what the pace leaves is planned for: timings are never quite true, and a chunk costs more the deeper it is in its prompt. */
const PLANNED = 0.8;

/** Where a single token takes more than there is room for, as many are computed as take no longer than this many times as long. */
const AS_GOOD_AS_ONE = 1.25;

export interface PaceRules {
  /** Tokens in a chunk at most. */
  prefill_chunk_tokens: number;
  /** From one token of an answer to its next, beside a prompt ÷ without one, at most; 0: chunks are whole. */
  prefill_stretch_max: number;
}

export class Pace {
  readonly #rules: PaceRules;
  readonly #sizes: readonly number[];
  /** By number of answers: how long steps of nothing else took while no prompt waited. */
  readonly #steps = new Map<number, Timings>();
  /** The same while one did: what it has put into the context already is read by all. */
  readonly #beside = new Map<number, Timings>();
  /** Chunks, by number of tokens. */
  readonly #chunks = new Map<number, Timings>();

  constructor(rules: PaceRules) {
    this.#rules = rules;
    this.#sizes = [...SIZES.filter((size) => size < rules.prefill_chunk_tokens), rules.prefill_chunk_tokens];
  }

  /** A step of so many answers and tokens of prompts took so long; `waiting`: there were prompts, whether or not it computed any of them. */
  took(answers: number, prompt_tokens: number, waiting: boolean, ms: number): void {
    if (prompt_tokens === 0) {
      timingsOf(waiting ? this.#beside : this.#steps, answers, STEPS_KEPT).add(ms);
      if (!waiting) this.#beside.clear();
      return;
    }
    const answers_ms = answers === 0 ? 0 : this.#answersMs(answers);
    // What a prompt ends with is of any size.
    const size = Math.min(prompt_tokens, this.#rules.prefill_chunk_tokens);
    if (answers_ms !== undefined && this.#sizes.includes(size))
      timingsOf(this.#chunks, size, CHUNKS_KEPT).add(Math.max(ms - answers_ms, 0));
  }

  /** How many tokens of prompts are computed next, while so many answers run. */
  tokens(answers: number): number {
    const { prefill_chunk_tokens: most, prefill_stretch_max: stretch } = this.#rules;
    if (stretch === 0 || answers === 0) return most;
    const [pace_ms, answers_ms] = [medianOf(this.#steps, answers) ?? medianOf(this.#beside, answers), this.#answersMs(answers)];
    if (pace_ms === undefined || answers_ms === undefined) return 1;
    const room_ms = pace_ms * (1 + (stretch - 1) * PLANNED) - answers_ms;
    return this.#largest(Math.max(room_ms, (this.#chunkMs(1) ?? 0) * AS_GOOD_AS_ONE));
  }

  /** The part of a step that is theirs. */
  #answersMs(answers: number): number | undefined {
    return medianOf(this.#beside, answers) ?? medianOf(this.#steps, answers);
  }

  #chunkMs(tokens: number): number | undefined {
    return this.#chunks.get(tokens)?.median;
  }

  /** The largest chunk that is expected to take no longer. */
  #largest(room_ms: number): number {
    let largest = 1;
    let smaller_ms = 0;
    for (const [at, size] of this.#sizes.entries()) {
      const expected_ms = this.#chunkMs(size) ?? this.#untimed(at);
      // It may be long ago that this size was timed, on less context: it takes no less than a smaller one.
      if (expected_ms !== undefined && Math.max(expected_ms, smaller_ms) <= room_ms) largest = size;
      smaller_ms = Math.max(smaller_ms, this.#chunkMs(size) ?? 0);
    }
    return largest;
  }

  /** What a size may take that was not timed. Undefined: nobody knows; it is tried after those before it. */
  #untimed(at: number): number | undefined {
    const [size = 1, before = 0, before_that = 0] = [this.#sizes[at], this.#sizes[at - 1], this.#sizes[at - 2]];
    const [last, first = 0] = [this.#chunkMs(before), this.#chunkMs(before_that)];
    // Until it was tried a second token costs nothing: only with it is it known what each takes, beside the pass as a whole.
    if (last === undefined || before <= 1) return last;
    return last + (Math.max(last - first, 0) / (before - before_that)) * (size - before);
  }
}

/** The last so many of them, milliseconds. There is one at least. */
class Timings {
  readonly #kept: number[] = [];
  readonly #most: number;
  #next = 0;

  constructor(most: number) {
    this.#most = most;
  }

  add(ms: number): void {
    this.#kept[this.#next] = ms;
    this.#next = (this.#next + 1) % this.#most;
  }

  get median(): number {
    return this.#kept.toSorted((a, b) => a - b)[this.#kept.length >> 1] ?? Number.NaN;
  }
}

function timingsOf(timings: Map<number, Timings>, of: number, most: number): Timings {
  let found = timings.get(of);
  if (found === undefined) {
    found = new Timings(most);
    timings.set(of, found);
  }
  return found;
}

/** Of so many answers, or of the most fewer that were timed: it takes that long at least. */
function medianOf(timings: ReadonlyMap<number, Timings>, answers: number): number | undefined {
  for (let fewer = answers; fewer >= 1; fewer -= 1) {
    const timed = timings.get(fewer);
    if (timed !== undefined) return timed.median;
  }
  return undefined;
}
