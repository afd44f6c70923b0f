/**
 * The engine port on llama.cpp, through whichever library computes. It owns the slots and the step loop: each step takes the next
 * token of every answer and one chunk of a waiting prompt, and all of it is one batch. Vectors are made in turn with that
 * (`embeddings.ts`).
 */
import { RbeesError } from "@rbees/contracts/errors";
import { templateFacts } from "../chat/template-facts.ts";
import type {
  CountedTokens,
  EmbedRequest,
  Engine,
  EngineEvents,
  EngineOptions,
  ModelFacts,
  RunAccepted,
  RunRequest,
  StepReport,
  StoredPrefixes,
  TokenizeRequest,
} from "../engine.ts";
import { chooseSlot } from "../slots.ts";
import { Embeddings } from "./embeddings.ts";
import { guess } from "./guesses.ts";
import type { BatchItem, Drawn, LoadedModel, LoadModel } from "./model.ts";
import { Pace } from "./pace.ts";
import { PrefixCache } from "./prefix-cache.ts";
import { type Binding, bytesOfAll, readPrefixes, writePrefixes } from "./prefix-file.ts";
import { PLAIN, prefixKind } from "./prefix-kind.ts";
import { hasTemplate, promptBeside } from "./prompt.ts";
import { fitting } from "./request.ts";
import { Run } from "./run.ts";
import { type Slot, SlotPrefixes } from "./slot-prefixes.ts";

/** What one step computes for one run. */
interface Work {
  run: Run;
  tokens: readonly number[];
  /** These tokens finish the prompt or go on with the answer: a token is drawn after them. */
  draw: boolean;
  /** What may come after them. */
  guess?: readonly number[];
}

export class LlamaEngine implements Engine {
  readonly #load_model: LoadModel;
  #model: LoadedModel | undefined;
  #options: EngineOptions | undefined;
  #events: EngineEvents | undefined;
  #slots: Slot[] = [];
  #prefixes: SlotPrefixes | undefined;
  /** What slots have lost; undefined: it is not kept. */
  #cache: PrefixCache | undefined;
  #embeddings: Embeddings | undefined;
  #pace: Pace | undefined;
  /** Runs whose text is being made tokens. */
  readonly #making = new Map<number, { aborted: boolean }>();
  #working = false;
  #last_was_prefill = false;

  constructor(load_model: LoadModel) {
    this.#load_model = load_model;
  }

  async load(options: EngineOptions, events: EngineEvents): Promise<ModelFacts> {
    const model = await this.#load_model(options, events.progress);
    this.#model = model;
    this.#options = options;
    this.#events = events;
    this.#slots = model.sequences.map((sequence) => ({ sequence, run: undefined, kind: PLAIN, prompt_tokens: 0 }));
    const keeps_prefixes = model.sequences.some(({ save }) => save !== undefined);
    if (keeps_prefixes && options.prefix_cache_bytes_max > 0)
      this.#cache = new PrefixCache(options.prefix_cache_bytes_max, (counts) => events.counted?.(counts));
    this.#prefixes = new SlotPrefixes(this.#slots, options, this.#cache);
    // In deterministic mode what is one chunk never depends on what else runs.
    this.#pace = new Pace(options.deterministic ? { ...options, prefill_stretch_max: 0 } : options);
    if (typeof model.embedder !== "string") this.#embeddings = new Embeddings(model.embedder);
    const token = model.prompt.bos ?? model.prompt.tokenize("a", false)[0] ?? 0;
    // Damaged weights load without a word and then say one token for ever.
    if (!(await model.computesNumbers(token))) {
      throw new RbeesError("ENGINE_FAILED", `${options.model_path} computes no numbers (NaN): its weights are damaged, download it again`);
    }
    // Now, so that the first request does not wait for it.
    if (hasTemplate(model.prompt)) templateFacts(model.prompt);
    const step_us = model.timeSteps?.(token);
    this.#recall();
    const speculates = model.worthGuessing !== undefined;
    return { ...model.facts, keeps_prefixes, speculates, ...(step_us === undefined ? {} : { step_us }) };
  }

  async start(id: number, asked: RunRequest): Promise<RunAccepted> {
    const { model, options, prefixes } = this.#loaded();
    if (this.#slots.length === 0) throw new RbeesError("INVALID_REQUEST", "This model makes embeddings and no text: ask /v1/embeddings.");
    if (asked.lora !== undefined && model.facts.loras?.includes(asked.lora) !== true)
      throw new RbeesError("INVALID_REQUEST", `lora: there is no adapter ${asked.lora} here`, { param: "lora" });
    const { made, aborted } = await this.#beside(id, () => promptBeside(model.prompt, asked));
    const { tokens, reading } = made;
    const request = fitting(asked, tokens, { ...options, ...model.facts });
    const prompt = [...tokens, ...request.continue_tokens];
    const choice = chooseSlot(
      this.#slots.map((slot) => ({
        busy: slot.run !== undefined,
        kept: slot.run === undefined ? slot.sequence.tokens : [],
        reusable: prefixes.reusable(slot, prefixKind(request)),
      })),
      prompt,
      prefixes.step,
    );
    const slot = choice === undefined ? undefined : this.#slots[choice.slot];
    if (choice === undefined || slot === undefined) throw new RbeesError("ALL_SLOTS_BUSY", "Every slot of the engine is busy.");
    // A model whose state can't be cut back goes on from all of it or from nothing.
    if (slot.sequence.all_or_nothing && choice.cached < slot.sequence.tokens.length) choice.cached = 0;
    const run = new Run(id, request, model, { tokens, reading }, choice);
    run.aborted = aborted;
    slot.run = run;
    void this.#work();
    return { slot: choice.slot, tokens_in: run.tokens_in, tokens_cached: run.tokens_cached };
  }

  async tokenize(_run: number, { with_tokens, ...asked }: TokenizeRequest): Promise<CountedTokens> {
    const { tokens } = await promptBeside(this.#loaded().model.prompt, asked);
    return { tokens_in: tokens.length, ...(with_tokens ? { tokens } : {}) };
  }

  async embed(id: number, request: EmbedRequest): Promise<{ tokens_in: number }> {
    const { model } = this.#loaded();
    if (this.#embeddings === undefined) throw new RbeesError("INVALID_REQUEST", `This worker makes no embeddings: ${model.embedder}.`);
    const embeddings = this.#embeddings;
    const { made, aborted } = await this.#beside(id, () => embeddings.start(id, request));
    if (aborted) embeddings.abort(id);
    void this.#work();
    return made;
  }

  /** Long texts are made tokens on another thread: an abort may come before the run is there. */
  async #beside<T>(id: number, make: () => Promise<T>): Promise<{ made: T; aborted: boolean }> {
    const making = { aborted: false };
    this.#making.set(id, making);
    try {
      return { made: await make(), aborted: making.aborted };
    } finally {
      this.#making.delete(id);
    }
  }

  abort(id: number): void {
    const making = this.#making.get(id);
    if (making !== undefined) making.aborted = true;
    this.#embeddings?.abort(id);
    for (const { run } of this.#slots) if (run?.id === id) run.aborted = true;
  }

  async store(): Promise<StoredPrefixes | undefined> {
    const { options, prefixes } = this.#loaded();
    if (this.#cache === undefined || options.prefix_file === undefined) return undefined;
    await prefixes.setAllAside();
    const { all } = this.#cache;
    writePrefixes(options.prefix_file.path, this.#binding(options), all);
    return { prefixes: all.length, bytes: bytesOfAll(all) };
  }

  /** What an earlier life has stored comes into the cache. */
  #recall(): void {
    const { options, events } = this.#loaded();
    const cache = this.#cache;
    if (cache === undefined || options.prefix_file === undefined) return;
    try {
      const found = readPrefixes(options.prefix_file.path, this.#binding(options), cache.bytes_max);
      if (found === undefined) return;
      cache.fill(found);
      events.recalled?.({ prefixes: found.length, bytes: bytesOfAll(found) });
    } catch (error) {
      events.recalled?.({ prefixes: 0, bytes: 0, problem: (error as Error).message });
    }
  }

  #binding({ prefix_file, slots, context_size, cache_type, deterministic, prefill_chunk_tokens }: EngineOptions): Binding {
    const { name, version } = this.#loaded().model.facts.engine;
    return {
      ...{
        model: prefix_file?.model_digest ?? "",
        loras: JSON.stringify(prefix_file?.lora_digests ?? {}),
        engine: `${name} ${version}`,
        machine: process.arch,
      },
      ...{ slots, context_size, cache_type, deterministic, prefill_chunk_tokens },
    };
  }

  #loaded(): { model: LoadedModel; options: EngineOptions; events: EngineEvents; prefixes: SlotPrefixes; pace: Pace } {
    const [model, options, events, prefixes, pace] = [this.#model, this.#options, this.#events, this.#prefixes, this.#pace];
    if (model === undefined || options === undefined || events === undefined || prefixes === undefined || pace === undefined)
      throw new Error("no model is loaded");
    return { model, options, events, prefixes, pace };
  }

  async #work(): Promise<void> {
    if (this.#working) return;
    this.#working = true;
    const answering = () => this.#slots.some(({ run }) => run !== undefined);
    while (answering() || this.#embeddings?.busy) {
      // What came while a step was computed is heard before the next: an abort, or a start that shares it.
      await new Promise((resolve) => setImmediate(resolve));
      const reports = [...(answering() ? await this.#step() : []), ...((await this.#embeddings?.step()) ?? [])];
      if (reports.length > 0) this.#loaded().events.step(reports);
    }
    this.#working = false;
  }

  async #step(): Promise<StepReport[]> {
    const { model, prefixes } = this.#loaded();
    const reports: StepReport[] = [];
    for (const slot of this.#slots) {
      const { run } = slot;
      if (run === undefined) continue;
      const end = run.over;
      if (run.aborted) reports.push({ ...run.report(), aborted: true });
      else if (end !== undefined && run.last === undefined) reports.push({ ...run.report(), end });
      else {
        await prefixes.prepare(slot, run);
        continue;
      }
      this.#release(slot, run);
    }
    // A slot that is free is said to be so at once, not after the step that goes on without it.
    if (reports.length > 0) this.#loaded().events.step(reports.splice(0));
    const work = this.#plan();
    const began_ms = performance.now();
    const results = await model.compute(work.map((one) => this.#item(one, reports)));
    this.#timed(work, performance.now() - began_ms);
    for (const [index, { run, tokens, draw }] of work.entries()) {
      const slot = this.#slots[run.slot];
      if (run.prefilling) {
        run.done += tokens.length;
        if (slot !== undefined) slot.prompt_tokens = run.done;
      }
      const drawn = results[index];
      if (!draw || drawn === undefined) continue;
      this.#take(run, drawn, reports);
    }
    return reports;
  }

  #timed(work: readonly Work[], ms: number): void {
    const prompt_tokens = work.reduce((sum, { run, tokens }) => sum + (run.prefilling ? tokens.length : 0), 0);
    const waiting = this.#slots.some(({ run }) => run?.prefilling);
    this.#loaded().pace.took(work.filter(({ run }) => !run.prefilling).length, prompt_tokens, waiting, ms);
  }

  /** What is asked of the library. Tokens that were guessed right are reported while it still draws. */
  #item({ run, tokens, draw, guess }: Work, reports: StepReport[]): BatchItem {
    const item = { slot: run.slot, tokens, lora: run.lora, sampling: draw ? run.sampling : undefined };
    if (guess === undefined) return item;
    run.guesses.guessed(guess.length);
    const guessed = (drawn: Drawn) => {
      run.guesses.right();
      return this.#take(run, drawn, reports) ? run.sampling : undefined;
    };
    return { ...item, guess, guessed };
  }

  /** Whether the answer goes on after this token. */
  #take(run: Run, drawn: Drawn, reports: StepReport[]): boolean {
    const report = run.took(drawn, this.#loaded().model);
    reports.push(report);
    if (report.end === undefined && report.error === undefined) return true;
    const slot = this.#slots[run.slot];
    if (slot !== undefined) this.#release(slot, run);
    return false;
  }

  #release(slot: Slot, run: Run): void {
    run.release();
    slot.run = undefined;
    const { made: tokens_guessed, hit: tokens_guessed_right } = run.guesses;
    if (tokens_guessed > 0) this.#loaded().events.counted?.({ tokens_guessed, tokens_guessed_right });
  }

  /**
   * What the next step computes: all answers, and one chunk's worth of prompts, together or in turn. In deterministic mode that chunk is
   * of one prompt and always a batch of its own, and weights that are not quantised get one run a batch: then a number never depends
   * on what else is computed.
   */
  #plan(): Work[] {
    const { model, options, prefixes, pace } = this.#loaded();
    const runs = this.#slots.flatMap(({ run }) => (run === undefined ? [] : [run]));
    const going = runs.filter((run) => !run.prefilling);
    const answers = going.map((run): Work => ({ run, tokens: [run.last ?? 0], draw: true, ...this.#guess(run, going.length) }));
    const prompts = runs.filter((run) => run.prefilling).sort((a, b) => a.id - b.id);
    let budget = pace.tokens(answers.length);
    // Beside answers in the same batch, llama.cpp computes a chunk's first token in their pass. One more keeps the rest a whole chunk,
    // because its CPU flash attention works in tiles only from 64 rows on, and is twice as slow below.
    if (budget === options.prefill_chunk_tokens && !model.in_turn && answers.length > 0) budget += 1;
    const chunks: Work[] = [];
    for (const run of prompts) {
      if (budget === 0) break;
      prefixes.adopt(run);
      const tokens = run.prompt.slice(run.done, run.done + budget);
      budget -= tokens.length;
      chunks.push({ run, tokens, draw: run.done + tokens.length === run.prompt.length });
      if (options.deterministic) break;
    }
    if (!model.in_turn) return [...answers, ...chunks];
    this.#last_was_prefill = chunks.length > 0 && (answers.length === 0 || !this.#last_was_prefill);
    if (this.#last_was_prefill) return chunks;
    return !options.deterministic || model.batch_invariant ? answers : this.#oneAnswer(answers);
  }

  /** What is worth guessing of an answer. */
  #guess(run: Run, answers: number): Pick<Work, "guess"> {
    const { model, options } = this.#loaded();
    const sequence = this.#slots[run.slot]?.sequence;
    if (model.worthGuessing === undefined || sequence === undefined || run.last === undefined) return {};
    const guessed = guess(sequence.tokens, run.last, Math.min(run.room, options.speculate_tokens_max));
    if (guessed.length === 0) return {};
    const worth = model.worthGuessing(run.guesses.rate, answers);
    if (worth > 0) return { guess: guessed.slice(0, worth) };
    run.guesses.passed();
    return {};
  }

  #turn = 0;
  #oneAnswer(answers: Work[]): Work[] {
    if (answers.length === 0) return [];
    this.#turn = (this.#turn + 1) % answers.length;
    return answers.slice(this.#turn, this.#turn + 1);
  }
}
