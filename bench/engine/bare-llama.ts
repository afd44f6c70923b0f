/**
 * Bare llama.cpp, a process of its own: the loop that a C program would run on libllama. Each step is one batch with the next
 * token of every sequence, in ascending order, then one draw per sequence through a sampler chain. The yardstick of the bench.
 */
import { writeSync } from "node:fs";
import { type Batch, FLASH_ATTENTION, HEADER_RELEASE, type Pointer } from "../../packages/workerd/src/libllama/c-api.ts";
import { type LlamaLibrary, NoLibrary, openLibrary } from "../../packages/workerd/src/libllama/library.ts";
import { type BareAnswer, type BareOrder, type DecodeResult, type EngineSetting, type ServedStep, STEPS_FD } from "./messages.ts";
import { SAMPLING } from "./workload.ts";

/** llama.h: LLAMA_LOAD_MODE_MMAP, LLAMA_LAZY_MODE_OFF. */
const LOAD_MMAP = 1;
const LAZY_OFF = 0;

/** A batch whose arrays can be written from here. */
class WritableBatch {
  readonly #batch: Batch;
  readonly #token: Int32Array;
  readonly #position: Int32Array;
  readonly #sequence_count: Int32Array;
  readonly #sequence: Int32Array[];
  readonly #output: Int8Array;

  constructor(library: LlamaLibrary, tokens_max: number) {
    const batch = library.batch_init(tokens_max, 0, 1);
    this.#batch = batch;
    this.#token = library.ints(batch.token, tokens_max);
    this.#position = library.ints(batch.pos, tokens_max);
    this.#sequence_count = library.ints(batch.n_seq_id, tokens_max);
    this.#sequence = library.pointers(batch.seq_id, tokens_max).map((list) => library.ints(list, 1));
    this.#output = library.bytes(batch.logits, tokens_max);
  }

  clear(): void {
    this.#batch.n_tokens = 0;
  }

  add(token: number, position: number, sequence: number, output: boolean): void {
    const at = this.#batch.n_tokens++;
    this.#token[at] = token;
    this.#position[at] = position;
    this.#sequence_count[at] = 1;
    (this.#sequence[at] as Int32Array)[0] = sequence;
    this.#output[at] = output ? 1 : 0;
  }

  decode(library: LlamaLibrary, context: Pointer): void {
    const failed = library.decode(context, this.#batch);
    if (failed !== 0) throw new Error(`llama_decode gave ${failed}`);
  }
}

class BareEngine {
  readonly #library: LlamaLibrary;
  readonly #context: Pointer;
  readonly #memory: Pointer;
  readonly #batch: WritableBatch;
  readonly #samplers: Pointer[];

  constructor(library: LlamaLibrary, { model_path, slots, context_size, threads, chunk_tokens, vocabulary }: EngineSetting) {
    this.#library = library;
    const model = library.model_load_from_file(model_path, {
      ...library.model_default_params(),
      n_gpu_layers: 0,
      load_mode: LOAD_MMAP,
      lazy_mode: LAZY_OFF,
    });
    if (model === null) throw new Error(`libllama can't load ${model_path}`);
    const batch_tokens = slots + chunk_tokens;
    const context = library.init_from_model(model, {
      ...library.context_default_params(),
      n_ctx: context_size * slots,
      n_batch: batch_tokens,
      n_ubatch: batch_tokens,
      n_seq_max: slots,
      n_threads: threads,
      n_threads_batch: threads,
      flash_attn_type: FLASH_ATTENTION.auto,
      no_perf: true,
      swa_full: false,
      kv_unified: false,
    });
    if (context === null) throw new Error("libllama can't make a context");
    this.#context = context;
    expectEqual("vocabulary", library.vocab_n_tokens(library.model_get_vocab(model)), vocabulary);
    expectEqual("n_ctx_seq", library.n_ctx_seq(context), context_size);
    expectEqual("n_batch", library.n_batch(context), batch_tokens);
    expectEqual("n_seq_max", library.n_seq_max(context), slots);
    expectEqual("n_threads", library.n_threads(context), threads);
    const memory = library.get_memory(context);
    if (memory === null) throw new Error("the model keeps no state, and generates nothing");
    this.#memory = memory;
    this.#batch = new WritableBatch(library, batch_tokens);
    this.#samplers = Array.from({ length: slots }, (_, slot) => samplerChain(library, slot));
  }

  /** Generates on the first `streams` sequences; measures after `settle` steps. The end token is like any other. */
  async decode({ prompts, settle, tokens, served }: Extract<BareOrder, { kind: "decode" }>): Promise<DecodeResult> {
    this.#library.memory_clear(this.#memory, false);
    const last = prompts.map((prompt, sequence) => this.#prefill(prompt, sequence));
    const position = prompts.map(({ length }) => length);
    const step = async () => {
      this.#step(last, position);
      if (served !== true) return;
      writeSync(STEPS_FD, `${JSON.stringify({ i: position[0] ?? 0, ids: last } satisfies ServedStep)}\n`);
      // Where it would hear that an answer is not wanted any more.
      await new Promise((resolve) => setImmediate(resolve));
    };
    for (let settled = 0; settled < settle; settled += 1) await step();
    const cpu = process.cpuUsage();
    const began = performance.now();
    for (let done = 0; done < tokens; done += 1) await step();
    const seconds = (performance.now() - began) / 1000;
    const { user, system } = process.cpuUsage(cpu);
    return { tokens: tokens * prompts.length, seconds, cpu_us: user + system };
  }

  #prefill(prompt: readonly number[], sequence: number): number {
    this.#batch.clear();
    for (const [at, token] of prompt.entries()) this.#batch.add(token, at, sequence, at === prompt.length - 1);
    this.#batch.decode(this.#library, this.#context);
    return this.#draw(sequence, prompt.length - 1);
  }

  #step(last: number[], position: number[]): void {
    this.#batch.clear();
    for (let sequence = 0; sequence < last.length; sequence += 1) {
      this.#batch.add(last[sequence] as number, position[sequence] as number, sequence, true);
    }
    this.#batch.decode(this.#library, this.#context);
    for (let sequence = 0; sequence < last.length; sequence += 1) {
      last[sequence] = this.#draw(sequence, sequence);
      position[sequence] = (position[sequence] as number) + 1;
    }
  }

  #draw(sequence: number, index: number): number {
    return this.#library.sampler_sample(this.#samplers[sequence] as Pointer, this.#context, index);
  }
}

/** The chain that node-llama-cpp builds for the same request. */
function samplerChain(library: LlamaLibrary, seed: number): Pointer {
  const chain = library.sampler_chain_init({ no_perf: true });
  library.sampler_chain_add(chain, library.sampler_init_top_k(SAMPLING.top_k));
  library.sampler_chain_add(chain, library.sampler_init_top_p(SAMPLING.top_p, 1));
  library.sampler_chain_add(chain, library.sampler_init_temp(SAMPLING.temperature));
  library.sampler_chain_add(chain, library.sampler_init_dist(seed));
  return chain;
}

/** What was set must read back the same: else a layout is off. */
function expectEqual(what: string, found: number, expected: number): void {
  if (found !== expected) throw new NoLibrary(`${what} is ${found}, not ${expected}: the layouts do not fit this libllama`);
}

let engine: BareEngine | undefined;

async function answer(order: BareOrder): Promise<BareAnswer> {
  try {
    if (order.kind === "decode") {
      if (engine === undefined) throw new Error("nothing is loaded");
      return { decoded: await engine.decode(order) };
    }
    const library = await openLibrary();
    library.hearErrors(() => {});
    engine = new BareEngine(library, order.setting);
    return { loaded: { release: HEADER_RELEASE } };
  } catch (error) {
    return error instanceof NoLibrary ? { skipped: error.message } : { failed: String((error as Error).stack ?? error) };
  }
}

process.on("message", async (order: BareOrder) => {
  process.send?.(await answer(order));
});
process.on("disconnect", () => process.exit(0));
