/**
 * Computes steps on one llama.cpp context. It owns the context's memory and batch, and knows what each sequence holds. A step blocks
 * this thread while it computes, so that no thread more than asked for is ever runnable.
 */
import type { BatchItem, Drawn, Sampling, Sequence } from "../llama/model.ts";
import type { Adapters } from "./adapters.ts";
import { WritableBatch } from "./batch.ts";
import type { Pointer } from "./c-api.ts";
import { DraftPlan, timedRows } from "./draft-plan.ts";
import type { LlamaLibrary } from "./library.ts";
import { type SamplerParts, Samplers } from "./sampler.ts";
import { StepPlan } from "./step-plan.ts";

/** How long the timing of steps may take while the model loads, milliseconds, and how often each size is timed: the least counts. */
const TIMING_MS_MAX = 1_000;
const TIMINGS = 3;

export interface DecoderOptions {
  slots: number;
  /** Tokens that a step can have. */
  batch_tokens: number;
  speculate_tokens_max: number;
  sampling: Omit<SamplerParts, "context">;
  all_or_nothing: boolean;
  adapters: Adapters;
}

export class Decoder {
  readonly #llama: LlamaLibrary;
  readonly #context: Pointer;
  readonly #memory: Pointer;
  readonly #samplers: Samplers;
  readonly #batch: WritableBatch;
  readonly #vocabulary: number;
  readonly #adapters: Adapters;
  readonly #speculate_tokens_max: number;
  #plan = new StepPlan([]);
  #drafts = new DraftPlan(this.#plan, []);
  /** By slot. */
  readonly sequences: readonly HeldSequence[];

  /** `memory`: the context's. */
  constructor(llama: LlamaLibrary, context: Pointer, memory: Pointer, options: DecoderOptions) {
    const { slots, batch_tokens, speculate_tokens_max, sampling, all_or_nothing, adapters } = options;
    this.#adapters = adapters;
    this.#llama = llama;
    this.#context = context;
    this.#memory = memory;
    this.#samplers = new Samplers(llama, { ...sampling, context });
    this.#batch = new WritableBatch(llama, batch_tokens);
    this.#vocabulary = sampling.vocabulary;
    this.#speculate_tokens_max = all_or_nothing ? 0 : speculate_tokens_max;
    this.sequences = Array.from({ length: slots }, (_, slot) => new HeldSequence(slot, this, all_or_nothing));
  }

  compute(items: readonly BatchItem[]): (Drawn | undefined)[] {
    const passes = this.#passes(items);
    if (passes.length === 1) return this.#pass(items);
    const drawn = new Map<BatchItem, Drawn | undefined>();
    for (const pass of passes) {
      for (const [i, one] of this.#pass(pass).entries()) drawn.set(pass[i] as BatchItem, one);
    }
    return items.map((item) => drawn.get(item));
  }

  /** What is computed at once: rows in the cheapest sizes, parts of prompts together, an answer with guesses alone. */
  #passes(items: readonly BatchItem[]): (readonly BatchItem[])[] {
    if (items.every(({ lora, guess }) => lora === items[0]?.lora && guess === undefined)) return this.#groups(items);
    const passes: (readonly BatchItem[])[] = [];
    // One adapter is for all that is computed at once. The one that is on comes first.
    for (const name of new Set([this.#adapters.on, ...items.map(({ lora }) => lora)])) {
      const rows = items.filter(({ lora }) => lora === name);
      passes.push(...this.#groups(rows.filter(({ guess }) => guess === undefined)));
      // Rows of different numbers would be computed in several passes anyway.
      for (const item of rows) if (item.guess !== undefined) passes.push([item]);
    }
    return passes;
  }

  #groups(items: readonly BatchItem[]): (readonly BatchItem[])[] {
    if (items.length === 0) return [];
    if (items.some(({ tokens }) => tokens.length > 1)) return [items];
    const sizes = this.#plan.sizes(items.length);
    if (sizes.length === 1) return [items];
    const left = [...items];
    return sizes.map((size) => left.splice(0, size));
  }

  /** Items of one adapter. */
  #pass(items: readonly BatchItem[]): (Drawn | undefined)[] {
    this.#adapters.use(items[0]?.lora);
    this.#decode(items);
    let place = -1;
    return items.map((item) => {
      // After its last token, and before what was guessed.
      place += item.tokens.length;
      const drawn = item.sampling === undefined ? undefined : this.#draw(item, item.sampling, place);
      place += item.guess?.length ?? 0;
      return drawn;
    });
  }

  /** Draws after the item's tokens, then after each guess as long as it is what was drawn before. Wrong ones are forgotten. */
  #draw(item: BatchItem, first: Sampling, place: number): Drawn | undefined {
    const { slot, guess, guessed } = item;
    if (guess === undefined || guessed === undefined) return this.#samplers.draw(slot, first, place);
    const sequence = this.sequences[slot];
    const begin = (sequence?.tokens.length ?? 0) - guess.length;
    let sampling: Sampling | undefined = first;
    let right = 0;
    let drawn: Drawn | undefined;
    while (sampling !== undefined) {
      drawn = this.#samplers.draw(slot, sampling, place + right);
      if (right === guess.length || drawn.token !== guess[right]) break;
      sampling = guessed(drawn);
      drawn = undefined;
      right += 1;
    }
    sequence?.keep(begin + right);
    return drawn;
  }

  readonly worthGuessing = (rate: number, answers: number): number => this.#drafts.tokens(rate, answers);

  /**
   * Times steps of 1 row and more, up to a row for each slot, as long as there is time; microseconds of CPU time, in which others on
   * this machine show least. Sizes that would be cut are timed again, because nothing but chance makes a timing too high. Every sequence
   * must be empty.
   */
  timeSteps(token: number): number[] {
    const until = performance.now() + TIMING_MS_MAX;
    const cost: number[] = [];
    for (let rows = 1; rows <= this.sequences.length && performance.now() < until; rows += 1) cost.push(this.#timeStep(rows, token, until));
    const first = new StepPlan(cost);
    for (let rows = 1; rows <= cost.length && performance.now() < until; rows += 1) {
      if (first.sizes(rows).length > 1) cost[rows - 1] = Math.min(cost[rows - 1] ?? 0, this.#timeStep(rows, token, until));
    }
    this.#plan = new StepPlan(cost);
    this.#drafts = new DraftPlan(this.#plan, this.#timeGuesses(token));
    return cost;
  }

  /** The same for rows of one sequence. */
  #timeGuesses(token: number): [rows: number, cost: number][] {
    const until = performance.now() + TIMING_MS_MAX;
    const timed: [number, number][] = [];
    for (const rows of timedRows(this.#speculate_tokens_max)) {
      if (performance.now() >= until) break;
      const item = { slot: 0, tokens: [token], sampling: undefined, guess: new Array<number>(rows - 1).fill(token) };
      timed.push([rows, this.#timeItems([item], until)]);
    }
    return timed;
  }

  /** The least of some timings, or of as many as there was time for. */
  #timeStep(rows: number, token: number, until: number): number {
    return this.#timeItems(
      Array.from({ length: rows }, (_, slot) => ({ slot, tokens: [token], sampling: undefined })),
      until,
    );
  }

  #timeItems(items: readonly BatchItem[], until: number): number {
    let least = Number.POSITIVE_INFINITY;
    for (let time = 0; time < TIMINGS && (time === 0 || performance.now() < until); time += 1) {
      const before = process.cpuUsage();
      this.#decode(items, true);
      const { user, system } = process.cpuUsage(before);
      least = Math.min(least, user + system);
      for (const sequence of this.sequences) sequence.keep(0);
    }
    return least;
  }

  computesNumbers(token: number): boolean {
    this.#decode([{ slot: 0, tokens: [token], sampling: undefined }], true);
    const at = this.#llama.get_logits_ith(this.#context, 0);
    const logits = at === null ? [] : this.#llama.floats(at, this.#vocabulary);
    const numbers = logits.length > 0 && logits.every((logit) => !Number.isNaN(logit)) && logits.some(Number.isFinite);
    for (const sequence of this.sequences) sequence.keep(0);
    return numbers;
  }

  /** What is after the first `count` tokens of a slot is forgotten. */
  cut(slot: number, count: number): boolean {
    // All of it can always be forgotten.
    return this.#llama.memory_seq_rm(this.#memory, slot, count === 0 ? -1 : count, -1);
  }

  /** Copies all that a slot holds over what another one does; the copying itself is done when the next step is computed. */
  copy(source: number, target: number): void {
    this.#llama.memory_seq_cp(this.#memory, source, target, -1, -1);
  }

  /** All that a slot holds; undefined when that is more than `bytes_max`. */
  save(slot: number, bytes_max: number): Uint8Array | undefined {
    const bytes = Number(this.#llama.state_seq_get_size(this.#context, slot));
    if (bytes === 0 || bytes > bytes_max) return undefined;
    const state = roomFor(bytes);
    if (state === undefined) return undefined;
    return Number(this.#llama.state_seq_get_data(this.#context, state, bytes, slot)) === bytes ? state : undefined;
  }

  /** False: it was not taken, and the slot holds nothing. */
  restore(slot: number, state: Uint8Array): boolean {
    if (Number(this.#llama.state_seq_set_data(this.#context, state, state.byteLength, slot)) !== 0) return true;
    this.cut(slot, 0);
    return false;
  }

  /** Of neighbouring sequences in ascending order: then llama.cpp computes them in one pass. */
  #decode(items: readonly BatchItem[], output = false): void {
    const batch = this.#batch;
    batch.clear();
    for (const { slot, tokens, sampling, guess } of items) {
      const held = (this.sequences[slot] as HeldSequence).tokens;
      const wanted = output || sampling !== undefined;
      const last = tokens.length - 1;
      for (let i = 0; i <= last; i += 1) batch.add(tokens[i] as number, held.length + i, slot, wanted && i === last);
      if (guess !== undefined) {
        for (let i = 0; i < guess.length; i += 1) batch.add(guess[i] as number, held.length + tokens.length + i, slot, true);
      }
    }
    const failed = this.#llama.decode(this.#context, batch.raw);
    if (failed !== 0) throw new Error(`llama.cpp could not compute a step of ${batch.length} tokens (llama_decode gave ${failed})`);
    for (const { slot, tokens, guess = [] } of items) this.sequences[slot]?.tokens.push(...tokens, ...guess);
  }
}

/** None where memory is short: what would have been kept is computed again. */
function roomFor(bytes: number): Uint8Array | undefined {
  try {
    return Buffer.allocUnsafeSlow(bytes);
  } catch (error) {
    if (error instanceof RangeError) return undefined;
    throw error;
  }
}

class HeldSequence implements Sequence {
  readonly tokens: number[] = [];
  readonly all_or_nothing: boolean;
  readonly adopt?: (slot: number, count: number) => void;
  readonly save?: (bytes_max: number) => Uint8Array | undefined;
  readonly restore?: (tokens: ArrayLike<number>, state: Uint8Array, count: number) => boolean;
  readonly #slot: number;
  readonly #decoder: Decoder;

  constructor(slot: number, decoder: Decoder, all_or_nothing: boolean) {
    this.#slot = slot;
    this.#decoder = decoder;
    this.all_or_nothing = all_or_nothing;
    if (all_or_nothing) return;
    this.adopt = (source, count) => this.#adopt(source, count);
    this.save = (bytes_max) => decoder.save(slot, bytes_max);
    this.restore = (tokens, state, count) => this.#restore(tokens, state, count);
  }

  keep(count: number): void {
    if (count >= this.tokens.length) return;
    if (!this.#decoder.cut(this.#slot, count)) throw new Error(`llama.cpp could not cut a sequence back to ${count} tokens`);
    this.tokens.length = count;
  }

  #adopt(slot: number, count: number): void {
    const source = this.#decoder.sequences[slot]?.tokens ?? [];
    this.#decoder.copy(slot, this.#slot);
    this.tokens.splice(0, this.tokens.length, ...source);
    this.keep(count);
  }

  #restore(tokens: ArrayLike<number>, state: Uint8Array, count: number): boolean {
    this.tokens.length = 0;
    if (!this.#decoder.restore(this.#slot, state)) return false;
    for (let i = 0; i < tokens.length; i++) this.tokens.push(tokens[i] ?? 0);
    this.keep(count);
    return true;
  }
}
