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
  /** By number of answers: how long the last steps of nothing else took while no prompt waited, milliseconds. */
  readonly #steps = new Map<number, number[]>();
  /** The same while one did: what it has put into the context already is read by all. */
  readonly #beside = new Map<number, number[]>();
  /** By number of tokens. */
  readonly #chunks = new Map<number, number[]>();

  constructor(rules: PaceRules) {
    this.#rules = rules;
    this.#sizes = [...SIZES.filter((size) => size < rules.prefill_chunk_tokens), rules.prefill_chunk_tokens];
  }

  /** A step of so many answers and tokens of prompts took so long; `waiting`: there were prompts, whether or not it computed any of them. */
  took(answers: number, prompt_tokens: number, waiting: boolean, ms: number): void {
    if (prompt_tokens === 0) {
      keep(waiting ? this.#beside : this.#steps, answers, ms, STEPS_KEPT);
      if (!waiting) this.#beside.clear();
      return;
    }
    const answers_ms = answers === 0 ? 0 : this.#answers(answers);
    // What a prompt ends with is of any size.
    const size = Math.min(prompt_tokens, this.#rules.prefill_chunk_tokens);
    if (answers_ms !== undefined && this.#sizes.includes(size)) keep(this.#chunks, size, Math.max(ms - answers_ms, 0), CHUNKS_KEPT);
  }

  /** How many tokens of prompts are computed next, while so many answers run. */
  tokens(answers: number): number {
    const { prefill_chunk_tokens: most, prefill_stretch_max: stretch } = this.#rules;
    if (stretch === 0 || answers === 0) return most;
    const [pace_ms, answers_ms] = [of(this.#steps, answers) ?? of(this.#beside, answers), this.#answers(answers)];
    if (pace_ms === undefined || answers_ms === undefined) return 1;
    const one_ms = this.#expected(0);
    const room_ms = Math.max(pace_ms * (1 + (stretch - 1) * PLANNED) - answers_ms, (one_ms ?? 0) * AS_GOOD_AS_ONE);
    const at = this.#sizes.findLastIndex((_, at) => (this.#expected(at) ?? Number.POSITIVE_INFINITY) <= room_ms);
    return this.#sizes[Math.max(at, 0)] ?? 1;
  }

  /** What the part of a step takes that is theirs. */
  #answers(answers: number): number | undefined {
    return of(this.#beside, answers) ?? of(this.#steps, answers);
  }

  /** What a chunk of the size at `at` takes. Undefined: nobody knows; it is tried after those before it. */
  #expected(at: number): number | undefined {
    const [size = 1, before = 0, before_that = 0] = [this.#sizes[at], this.#sizes[at - 1], this.#sizes[at - 2]];
    const [timed, first, last] = [this.#timed(size), this.#timed(before_that) ?? 0, this.#timed(before)];
    // Until it was tried a second token costs nothing: only with it is it known what each takes, beside the pass as a whole.
    const untimed =
      last === undefined || before <= 1 ? last : last + (Math.max(last - first, 0) / (before - before_that)) * (size - before);
    const expected = timed ?? untimed;
    if (expected === undefined) return undefined;
    // It may be long ago that this size was timed, on less context.
    const smaller = this.#sizes.slice(0, at).map((less) => this.#timed(less) ?? 0);
    return Math.max(expected, ...smaller);
  }

  #timed(tokens: number): number | undefined {
    const timed = this.#chunks.get(tokens);
    return timed === undefined ? undefined : median(timed);
  }
}

/** Of so many answers, or of the most fewer that were timed: it takes that long at least. */
function of(timings: ReadonlyMap<number, readonly number[]>, answers: number): number | undefined {
  for (let fewer = answers; fewer >= 1; fewer -= 1) {
    const timed = timings.get(fewer);
    if (timed !== undefined) return median(timed);
  }
  return undefined;
}

function keep(timings: Map<number, number[]>, of: number, ms: number, most: number): void {
  const kept = timings.get(of) ?? [];
  kept.push(ms);
  if (kept.length > most) kept.shift();
  timings.set(of, kept);
}

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[values.length >> 1] ?? Number.NaN;
}
