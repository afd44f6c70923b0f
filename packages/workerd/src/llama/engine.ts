/**
 * The engine port on llama.cpp, through whichever library computes. It owns the slots and the step loop: each step takes the next
 * token of every answer and one chunk of a waiting prompt, and all of it is one batch. Vectors are made in turn with that
 * (`embeddings.ts`).
 */
import { RbeesError } from "@rbees/contracts/errors";
import { templateFacts } from "../chat/template-facts.ts";
import { thinkingFeature } from "../chat/thinking.ts";
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
import { Pace, type PacedStep } from "./pace.ts";
import { PrefixCache } from "./prefix-cache.ts";
import { type Binding, bytesOfAll, readPrefixes, writePrefixes } from "./prefix-file.ts";
import { PLAIN, prefixKind } from "./prefix-kind.ts";
import { hasTemplate, promptBeside } from "./prompt.ts";
import { fitting } from "./request.ts";
import { Run } from "./run.ts";
import { type Slot, SlotPrefixes } from "./slot-prefixes.ts";

/** What one step computes for one run: a token is drawn where its tokens finish the prompt or go on with the answer. */
interface Work extends BatchItem {
  readonly run: Run;
}

/** What the next step computes. */
interface Step {
  readonly work: readonly Work[];
  readonly paced: PacedStep;
}

interface Loaded {
  readonly model: LoadedModel;
  readonly options: EngineOptions;
  readonly events: EngineEvents;
  readonly prefixes: SlotPrefixes;
  /** What slots have lost; undefined: it is not kept. */
  readonly cache: PrefixCache | undefined;
  readonly embeddings: Embeddings | undefined;
  readonly pace: Pace;
}

/**
 * Between two steps the weights have pushed all of this out of the processor's caches, so that what runs in each step costs many times
 * what it does when it is warm: there it is kept short, and makes few objects.
 */
export class LlamaEngine implements Engine {
  readonly #load_model: LoadModel;
  #now_loaded: Loaded | undefined;
  #slots: readonly Slot[] = [];
  /** Runs whose text is being made tokens. */
  readonly #making = new Map<number, { aborted: boolean }>();
  #working = false;
  #last_was_prefill = false;

  constructor(load_model: LoadModel) {
    this.#load_model = load_model;
  }

  async load(options: EngineOptions, events: EngineEvents): Promise<ModelFacts> {
    const model = await this.#load_model(options, events.progress);
    this.#slots = model.sequences.map((sequence) => ({ sequence, run: undefined, kind: PLAIN, prompt_tokens: 0 }));
    const keeps_prefixes = model.sequences.some(({ save }) => save !== undefined);
    const keeping = keeps_prefixes && options.prefix_cache_bytes_max > 0;
    const cache = keeping ? new PrefixCache(options.prefix_cache_bytes_max, (counts) => events.counted?.(counts)) : undefined;
    this.#now_loaded = {
      ...{ model, options, events, cache },
      prefixes: new SlotPrefixes(this.#slots, options, cache),
      embeddings: typeof model.embedder === "string" ? undefined : new Embeddings(model.embedder),
      // In deterministic mode what is one chunk never depends on what else runs.
      pace: new Pace(options.deterministic ? { ...options, prefill_stretch_max: 0 } : options),
    };
    const token = model.prompt.bos ?? model.prompt.tokenize("a", false)[0] ?? 0;
    // Damaged weights load without a word and then say one token for ever.
    if (!(await model.computesNumbers(token))) {
      throw new RbeesError("ENGINE_FAILED", `${options.model_path} computes no numbers (NaN): its weights are damaged, download it again`);
    }
    // Now, so that the first request does not wait for it.
    if (hasTemplate(model.prompt)) templateFacts(model.prompt);
    const features = hasTemplate(model.prompt) ? [...model.facts.features, ...thinkingFeature(model.prompt)] : model.facts.features;
    const step_us = model.timeSteps?.(token);
    this.#recall();
    const speculates = model.worthGuessing !== undefined;
    return { ...model.facts, features, keeps_prefixes, speculates, ...(step_us === undefined ? {} : { step_us }) };
  }

  async start(id: number, asked: RunRequest): Promise<RunAccepted> {
    const { model, options, prefixes } = this.#loaded;
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
    const { tokens } = await promptBeside(this.#loaded.model.prompt, asked);
    return { tokens_in: tokens.length, ...(with_tokens ? { tokens } : {}) };
  }

  async embed(id: number, request: EmbedRequest): Promise<{ tokens_in: number }> {
    const { model, embeddings } = this.#loaded;
    if (embeddings === undefined) throw new RbeesError("INVALID_REQUEST", `This worker makes no embeddings: ${model.embedder}.`);
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
    this.#now_loaded?.embeddings?.abort(id);
    for (const { run } of this.#slots) if (run?.id === id) run.aborted = true;
  }

  async store(): Promise<StoredPrefixes | undefined> {
    const { options, prefixes, cache } = this.#loaded;
    if (cache === undefined || options.prefix_file === undefined) return undefined;
    await prefixes.setAllAside();
    const { all } = cache;
    writePrefixes(options.prefix_file.path, this.#binding(options), all);
    return { prefixes: all.length, bytes: bytesOfAll(all) };
  }

  /** What an earlier life has stored comes into the cache. */
  #recall(): void {
    const { options, events, cache } = this.#loaded;
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
    const { name, version } = this.#loaded.model.facts.engine;
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

  get #loaded(): Loaded {
    if (this.#now_loaded === undefined) throw new Error("no model is loaded");
    return this.#now_loaded;
  }

  get #answering(): boolean {
    return this.#slots.some(({ run }) => run !== undefined);
  }

  async #work(): Promise<void> {
    if (this.#working) return;
    this.#working = true;
    const { embeddings, events } = this.#loaded;
    while (this.#answering || embeddings?.busy) {
      // What came while a step was computed is heard before the next: an abort, or a start that shares it.
      await new Promise((resolve) => setImmediate(resolve));
      const reports: StepReport[] = [];
      if (this.#answering) await this.#step(reports);
      if (embeddings?.busy) reports.push(...(await embeddings.step()));
      if (reports.length > 0) events.step(reports);
    }
    this.#working = false;
  }

  /** `reports`: what it brings is added. */
  async #step(reports: StepReport[]): Promise<void> {
    const { model, prefixes, events, pace } = this.#loaded;
    for (const slot of this.#slots) {
      const { run } = slot;
      if (run === undefined) continue;
      const end = run.last === undefined ? run.over : undefined;
      if (run.aborted) reports.push({ ...run.report(0), aborted: true });
      else if (end !== undefined) reports.push({ ...run.report(0), end });
      else {
        if (!run.prepared) await prefixes.prepare(slot, run);
        continue;
      }
      this.#release(slot, run);
    }
    // A slot that is free is said to be so at once, not after the step that goes on without it.
    if (reports.length > 0) events.step(reports.splice(0));
    const { work, paced } = this.#plan(reports);
    const began_ms = performance.now();
    const results = await model.compute(work);
    pace.took(paced, performance.now() - began_ms);
    for (let at = 0; at < work.length; at += 1) {
      const { run, tokens, sampling } = work[at] as Work;
      if (run.prefilling) {
        run.done += tokens.length;
        const slot = this.#slots[run.slot];
        if (slot !== undefined) slot.prompt_tokens = run.done;
      }
      const drawn = results[at];
      if (sampling !== undefined && drawn !== undefined) this.#take(run, drawn, reports);
    }
  }

  /** Whether the answer goes on after this token. */
  #take(run: Run, drawn: Drawn, reports: StepReport[]): boolean {
    const report = run.took(drawn, this.#loaded.model);
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
    if (tokens_guessed > 0) this.#loaded.events.counted?.({ tokens_guessed, tokens_guessed_right });
  }

  /**
   * What the next step computes: all answers, and one chunk's worth of prompts, together or in turn. In deterministic mode that chunk is
   * of one prompt and always a batch of its own, and weights that are not quantised get one run a batch: then a number never depends
   * on what else is computed.
   */
  #plan(reports: StepReport[]): Step {
    const { model, prefixes, pace } = this.#loaded;
    const answers: Work[] = [];
    const prompts: Run[] = [];
    for (const { run } of this.#slots) {
      if (run === undefined) continue;
      if (run.prefilling) prompts.push(run);
      else answers.push({ run, slot: run.slot, tokens: [run.last ?? 0], lora: run.lora, sampling: run.sampling });
    }
    if (model.worthGuessing !== undefined) {
      for (const [at, answer] of answers.entries()) answers[at] = this.#guessing(answer, answers.length, reports);
    }
    const running = answers.length;
    const oldest = prompts.sort((a, b) => a.id - b.id)[0];
    let budget = 0;
    if (oldest !== undefined && (!model.in_turn || running === 0 || !this.#last_was_prefill)) {
      prefixes.adopt(oldest);
      budget = pace.tokens(running, oldest.done);
    }
    this.#last_was_prefill = budget > 0;
    if (oldest === undefined || budget === 0)
      return { work: this.#together(answers), paced: { answers: running, answered: true, prompt_tokens: 0, context: 0 } };
    const { done: context } = oldest;
    const chunks = this.#chunks(prompts, budget, running);
    const prompt_tokens = chunks.reduce((sum, { tokens }) => sum + tokens.length, 0);
    const work = model.in_turn ? chunks : [...answers, ...chunks].sort((a, b) => a.slot - b.slot);
    return { work, paced: { answers: running, answered: !model.in_turn, prompt_tokens, context } };
  }

  /** So many tokens of prompts, the oldest first. */
  #chunks(prompts: readonly Run[], budget: number, answers: number): Work[] {
    const { model, options, prefixes } = this.#loaded;
    // Beside answers in the same batch, llama.cpp computes a chunk's first token in their pass. One more keeps the rest a whole chunk,
    // because its CPU flash attention works in tiles only from 64 rows on, and is twice as slow below.
    let left = budget === options.prefill_chunk_tokens && !model.in_turn && answers > 0 ? budget + 1 : budget;
    const chunks: Work[] = [];
    for (const run of prompts) {
      if (left === 0) break;
      prefixes.adopt(run);
      const tokens = run.prompt.slice(run.done, run.done + left);
      left -= tokens.length;
      const complete = run.done + tokens.length === run.prompt.length;
      chunks.push({ run, slot: run.slot, tokens, lora: run.lora, sampling: complete ? run.sampling : undefined });
      if (options.deterministic) break;
    }
    return chunks.sort((a, b) => a.slot - b.slot);
  }

  /** With what is worth guessing of the answer. Tokens that were guessed right are reported while the library still draws. */
  #guessing(answer: Work, answers: number, reports: StepReport[]): Work {
    const { model, options } = this.#loaded;
    const { run } = answer;
    const sequence = this.#slots[run.slot]?.sequence;
    if (model.worthGuessing === undefined || sequence === undefined || run.last === undefined) return answer;
    const found = guess(sequence.tokens, run.last, Math.min(run.room, options.speculate_tokens_max));
    if (found.length === 0) return answer;
    const worth = model.worthGuessing(run.guesses.rate, answers);
    if (worth === 0) {
      run.guesses.passed();
      return answer;
    }
    const guessed = (drawn: Drawn) => {
      run.guesses.right();
      return this.#take(run, drawn, reports) ? run.sampling : undefined;
    };
    const tokens = found.slice(0, worth);
    run.guesses.guessed(tokens.length);
    return { ...answer, guess: tokens, guessed };
  }

  #turn = 0;
  /** What of the answers is computed in one step. */
  #together(answers: readonly Work[]): readonly Work[] {
    const { model, options } = this.#loaded;
    if (!options.deterministic || model.batch_invariant || answers.length === 0) return answers;
    this.#turn = (this.#turn + 1) % answers.length;
    return answers.slice(this.#turn, this.#turn + 1);
  }
}
