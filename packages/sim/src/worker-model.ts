/**
 * One simulated worker, as vLLM and llama.cpp work: iteration by iteration, in each of which every answer that has begun gets one
 * token, and up to `chunk_tokens` of the prompts that wait are computed, in the order of their arrival. The iteration that ends a
 * prompt gives its answer's first token.
 */
import { Heap } from "@rbees/core/heap";
import { BlockCache } from "./block-cache.ts";
import type { Machine } from "./fleet.ts";
import { BLOCK_TOKENS, type Request } from "./trace.ts";

interface Prompt {
  readonly number: number;
  readonly request: Request;
  /** Tokens still to compute; undefined before it is its turn. */
  left: number | undefined;
}

/** What has become of a request at the end of an iteration. */
export interface Sign {
  readonly kind: "first token" | "end";
  readonly number: number;
}

/** Iterations that are all alike, so that they need not be gone through one by one. */
interface Stretch {
  readonly began_ms: number;
  readonly step_ms: number;
  iterations: number;
  readonly prefill: readonly (readonly [Prompt, number])[];
}

export class WorkerModel {
  readonly machine: Machine;
  readonly #kept: BlockCache;
  readonly #prompts: Prompt[] = [];
  /** Answers that have begun, by the iteration that ends them. */
  readonly #answers = new Heap<number>();
  /** The iteration in which each of those answers began. */
  readonly #began = new Map<number, number>();
  #iteration = 0;
  #stretch: Stretch | undefined;
  /** Prompt tokens of all requests that it has now. */
  #held_tokens = 0;
  readonly #held = new Map<number, number>();
  busy_ms = 0;
  /** Prompt tokens that needed no computing. */
  cached_tokens = 0;
  /** Tokens of prompts and answers that it had to compute for the requests it began with. */
  computed_tokens = 0;

  constructor(machine: Machine) {
    this.machine = machine;
    this.#kept = new BlockCache(Math.floor(machine.cache_tokens / BLOCK_TOKENS));
  }

  /** When it will next have something to tell; infinite while it has nothing to do. */
  get due_ms(): number {
    if (this.#stretch === undefined) return Number.POSITIVE_INFINITY;
    const { began_ms, step_ms, iterations } = this.#stretch;
    return began_ms + step_ms * iterations;
  }

  /** Tokens that it could keep beside the requests that it has; a real one says it in bytes. */
  get free_tokens(): number {
    return Math.max(0, this.machine.cache_tokens - this.#held_tokens);
  }

  /** The answers under way, with the tokens that each has by now. */
  *progress(now_ms: number): Generator<{ readonly number: number; readonly tokens_out: number }> {
    const { began_ms, step_ms, iterations } = this.#stretch ?? { began_ms: 0, step_ms: 1, iterations: 0 };
    const done = this.#iteration + Math.max(0, Math.min(iterations, Math.floor((now_ms - began_ms) / step_ms)));
    for (const [number, first] of this.#began) yield { number, tokens_out: 1 + done - first };
  }

  /** A request arrives. It joins when the present iteration ends. */
  take(number: number, request: Request, now_ms: number): void {
    if (this.#held.size >= this.machine.slots) throw new Error(`${this.machine.id} was given more than its ${this.machine.slots} slots`);
    this.#held.set(number, request.prompt_tokens);
    this.#held_tokens += request.prompt_tokens;
    this.#prompts.push({ number, request, left: undefined });
    if (this.#stretch === undefined) this.#begin(now_ms);
    else {
      const { began_ms, step_ms, iterations } = this.#stretch;
      this.#stretch.iterations = Math.min(iterations, Math.max(1, Math.ceil((now_ms - began_ms) / step_ms)));
    }
  }

  /** What is due happens. */
  advance(): Sign[] {
    const stretch = this.#stretch;
    if (stretch === undefined) return [];
    const now_ms = this.due_ms;
    this.#iteration += stretch.iterations;
    this.busy_ms += stretch.step_ms * stretch.iterations;
    const signs: Sign[] = [];
    for (let next = this.#answers.first; next !== undefined && next.key <= this.#iteration; next = this.#answers.first) {
      this.#answers.take();
      this.#end(next.value, signs);
    }
    for (const [prompt, tokens] of stretch.prefill) this.#computed(prompt, tokens, signs);
    this.#begin(now_ms);
    return signs;
  }

  #computed(prompt: Prompt, tokens: number, signs: Sign[]): void {
    prompt.left = (prompt.left ?? 0) - tokens;
    if (prompt.left > 0) return;
    this.#prompts.splice(this.#prompts.indexOf(prompt), 1);
    const { number, request } = prompt;
    this.#kept.keep(request.prefix);
    signs.push({ kind: "first token", number });
    if (request.output_tokens === 1) this.#end(number, signs);
    else {
      this.#answers.push(number, this.#iteration + request.output_tokens - 1);
      this.#began.set(number, this.#iteration);
    }
  }

  #end(number: number, signs: Sign[]): void {
    this.#held_tokens -= this.#held.get(number) ?? 0;
    this.#held.delete(number);
    this.#began.delete(number);
    signs.push({ kind: "end", number });
  }

  #begin(now_ms: number): void {
    const { chunk_tokens, iteration_ms, iteration_ms_per_sequence, prefill_ms_per_token, speed } = this.machine;
    const prefill: [Prompt, number][] = [];
    let room = chunk_tokens;
    for (const prompt of this.#prompts) {
      if (room === 0) break;
      prompt.left ??= this.#toCompute(prompt.request);
      const tokens = Math.min(room, prompt.left);
      prefill.push([prompt, tokens]);
      room -= tokens;
    }
    const next_end = this.#answers.first?.key;
    if (prefill.length === 0 && next_end === undefined) {
      this.#stretch = undefined;
      return;
    }
    const tokens = chunk_tokens - room;
    this.#stretch = {
      began_ms: now_ms,
      step_ms: (iteration_ms + iteration_ms_per_sequence * this.#answers.size + prefill_ms_per_token * tokens) / speed,
      // Nothing changes before the next answer ends, unless a prompt is being computed or one arrives.
      iterations: prefill.length > 0 || next_end === undefined ? 1 : next_end - this.#iteration,
      prefill,
    };
  }

  /** A prompt of which everything is kept still needs its last token computed: the answer begins with what comes after it. */
  #toCompute({ prefix, prompt_tokens, output_tokens }: Request): number {
    const cached = Math.min(this.#kept.match(prefix) * BLOCK_TOKENS, prompt_tokens - 1);
    this.cached_tokens += cached;
    this.computed_tokens += prompt_tokens - cached + output_tokens;
    return prompt_tokens - cached;
  }
}
