/**
 * How many tokens of waiting prompts a step computes beside running answers: as many as leave each answer its pace. What chunks and
 * steps take is not known before, and changes with the context that is read back: so it is what the last ones took that counts.
 *
 * The idea is stall-free batching under a token budget (Sarathi-Serve, OSDI 2024, section 4.3); the budget is found while it runs.
 */

/** Chunks are of these sizes while answers run: half as many tokens again each, so that none wastes much of its time. */
const SIZES = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096] as const;
/** Of how many timings the median counts: a step that lost its core for a while says nothing. */
const TIMINGS_KEPT = 5;
/**
 * After so many steps with chunks one goes without: answers read back more with every token, and their pace is what they would take
 * now, not what they took before a long prompt.
 */
const STEPS_UNTIMED_MAX = 12;
/** This part of what the pace leaves is planned for: steps differ by a third from one to the next, and the pace is for all but the rarest. */
const PLANNED = 0.65;
/** Where a single token takes more than there is room for, as many are computed as take no longer than this many times as long. */
const AS_GOOD_AS_ONE = 1.25;

/** Over about so many tokens of context it must be seen what reading them takes, until it is believed. */
const CONTEXT_KNOWN_FROM = 100;
/** What was seen before counts this much of what is seen now. */
const SLOPES_FADE = 0.98;

export interface PaceRules {
  /** Tokens in a chunk at most. */
  prefill_chunk_tokens: number;
  /** From one token of an answer to its next, beside a prompt ÷ without one, at most; 0: chunks are whole. */
  prefill_stretch_max: number;
}

/** A step of the engine while answers run. */
export interface PacedStep {
  /** How many of them. */
  readonly answers: number;
  /** Whether it computed their next tokens. */
  readonly answered: boolean;
  /** How many tokens of prompts it computed. */
  readonly prompt_tokens: number;
  /** Tokens of context in front of those, which each of them reads back. */
  readonly context: number;
}

export class Pace {
  readonly #rules: PaceRules;
  readonly #sizes: readonly number[];
  /** By number of answers: what their tokens take, without a prompt. */
  readonly #answers = new Map<number, Timings>();
  /** By number of answers: how many steps had chunks since one without was timed. */
  readonly #untimed = new Map<number, number>();
  /** By number of tokens: what a chunk takes. */
  readonly #chunks = new Map<number, Timings>();
  readonly #reading = new Reading();

  constructor(rules: PaceRules) {
    this.#rules = rules;
    this.#sizes = [...SIZES.filter((size) => size < rules.prefill_chunk_tokens), rules.prefill_chunk_tokens];
  }

  /** A step took so long. What is timed while no answer runs is of other caches and other sizes, and has no pace to leave. */
  took({ answers, answered, prompt_tokens, context }: PacedStep, ms: number): void {
    if (answers === 0) return;
    if (prompt_tokens === 0) {
      timingsOf(this.#answers, answers).add({ ms, context: 0 });
      this.#untimed.set(answers, 0);
      return;
    }
    this.#untimed.set(answers, (this.#untimed.get(answers) ?? 0) + 1);
    const answers_ms = answered ? this.#answers.get(answers)?.median() : 0;
    // What a prompt ends with is of any size.
    const size = Math.min(prompt_tokens, this.#rules.prefill_chunk_tokens);
    if (answers_ms === undefined || !this.#sizes.includes(size)) return;
    const renewed = timingsOf(this.#chunks, size).add({ ms: Math.max(ms - answers_ms, 0), context });
    if (renewed !== undefined) this.#reading.learn(size, ...renewed);
  }

  /** How many tokens of prompts are computed next, behind so many of context, while so many answers run. 0: the answers go alone. */
  tokens(answers: number, context: number): number {
    const { prefill_chunk_tokens: most, prefill_stretch_max: stretch } = this.#rules;
    if (stretch === 0 || answers === 0) return most;
    const pace_ms = this.#answers.get(answers)?.median();
    if (pace_ms === undefined || (this.#untimed.get(answers) ?? 0) >= STEPS_UNTIMED_MAX) return 0;
    const room_ms = pace_ms * (stretch - 1) * PLANNED;
    return this.#largest(Math.max(room_ms, (this.#chunkMs(1, context) ?? 0) * AS_GOOD_AS_ONE), context);
  }

  /** What a chunk takes there. Undefined: none of that size was timed. */
  #chunkMs(tokens: number, context: number): number | undefined {
    const read_ms = tokens * this.#reading.ms;
    const rest_ms = this.#chunks.get(tokens)?.median(read_ms);
    return rest_ms === undefined ? undefined : rest_ms + read_ms * context;
  }

  /** The largest chunk that is expected to take no longer. */
  #largest(room_ms: number, context: number): number {
    let largest = 1;
    let smaller_ms = 0;
    for (const [at, size] of this.#sizes.entries()) {
      const timed_ms = this.#chunkMs(size, context);
      const expected_ms = timed_ms ?? this.#untimedMs(at, context);
      // Timings are never quite true, but no size takes less than a smaller one.
      if (expected_ms !== undefined && Math.max(expected_ms, smaller_ms) <= room_ms) largest = size;
      smaller_ms = Math.max(smaller_ms, timed_ms ?? 0);
    }
    return largest;
  }

  /** What a size may take that was not timed. Undefined: nobody knows; it is tried after those before it. */
  #untimedMs(at: number, context: number): number | undefined {
    const [size = 1, before = 0, before_that = 0] = [this.#sizes[at], this.#sizes[at - 1], this.#sizes[at - 2]];
    const [last, first = 0] = [this.#chunkMs(before, context), this.#chunkMs(before_that, context)];
    // Until it was tried a second token costs nothing: only with it is it known what each takes, beside the pass as a whole.
    if (last === undefined || before <= 1) return last;
    return last + (Math.max(last - first, 0) / (before - before_that)) * (size - before);
  }
}

interface Timing {
  readonly ms: number;
  /** Tokens that were read back. */
  readonly context: number;
}

/** The last few of them. There is one at least. */
class Timings {
  readonly #kept: Timing[] = [];
  #added = 0;
  #middle: Timing | undefined;

  /** The middle ones of those before and of those that are kept now, once all of these are new. */
  add(timing: Timing): readonly [Timing, Timing] | undefined {
    this.#kept[this.#added % TIMINGS_KEPT] = timing;
    this.#added += 1;
    if (this.#added % TIMINGS_KEPT !== 0) return undefined;
    const before = this.#middle;
    const now = this.#kept.toSorted((a, b) => a.ms - b.ms)[TIMINGS_KEPT >> 1] as Timing;
    this.#middle = now;
    return before && [before, now];
  }

  /** Milliseconds, without those of reading, for each token of context. */
  median(read_ms = 0): number {
    return this.#kept.map(({ ms, context }) => ms - read_ms * context).toSorted((a, b) => a - b)[this.#kept.length >> 1] ?? Number.NaN;
  }
}

/** What it takes a token of a prompt to read back one of its context: the slope through chunks of one size at different depths. */
class Reading {
  #context_squared = CONTEXT_KNOWN_FROM ** 2;
  #context_by_ms = 0;

  learn(tokens: number, before: Timing, now: Timing): void {
    const context = now.context - before.context;
    this.#context_squared = this.#context_squared * SLOPES_FADE + context ** 2;
    this.#context_by_ms = this.#context_by_ms * SLOPES_FADE + context * ((now.ms - before.ms) / tokens);
  }

  /** Milliseconds. */
  get ms(): number {
    return Math.max(this.#context_by_ms / this.#context_squared, 0);
  }
}

function timingsOf(timings: Map<number, Timings>, of: number): Timings {
  let found = timings.get(of);
  if (found === undefined) {
    found = new Timings();
    timings.set(of, found);
  }
  return found;
}
