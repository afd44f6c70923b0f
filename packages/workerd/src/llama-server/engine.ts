/**
 * The engine port on llama.cpp's own server, a program of the user's that runs as this process's child. It is spoken to in tokens: the
 * prompt is made here, by the same templates as everywhere, and which tokens an answer has is known, so that it goes on elsewhere and what
 * began elsewhere goes on here. Its `/completion` was taken rather than its OpenAI API for that, and because it holds to grammars.
 */
import { RbeesError } from "@rbees/contracts/errors";
import { templateFacts } from "../chat/template-facts.ts";
import { thinkingFeature } from "../chat/thinking.ts";
import type {
  CountedTokens,
  Engine,
  EngineEvents,
  EngineOptions,
  ModelFacts,
  RunAccepted,
  RunRequest,
  StepReport,
  TokenizeRequest,
} from "../engine.ts";
import { libraryFolder } from "../libllama/library.ts";
import type { GrammarState, SpokenModel } from "../llama/model.ts";
import { readsFromBothSides } from "../llama/pooling.ts";
import { givenTokens, hasTemplate, type Prompt, partsOf, withBos } from "../llama/prompt.ts";
import { addonIn, nativeRenderer } from "../llama/renderer.ts";
import { fitting } from "../llama/request.ts";
import { positionSeed, Run } from "../llama/run.ts";
import { type Chunk, Client, type Props } from "./client.ts";
import { Program } from "./program.ts";
import { Words } from "./words.ts";

/** The server holds to the grammar. */
const HELD: GrammarState = { allows: () => true, accept() {}, release() {} };

interface Loaded {
  client: Client;
  words: Words;
  model: SpokenModel;
  /** Tokens that were seen to end an answer. */
  ends: Set<number>;
  context_size: number;
  slots: number;
  events: EngineEvents;
}

interface Running {
  abort: AbortController;
  slot: number;
}

/** A special token that may be the end or not: what comes next says it. */
interface Undecided {
  token: number | undefined;
}

export class LlamaServerEngine implements Engine {
  #loaded: Loaded | undefined;
  #program: Program | undefined;
  readonly #running = new Map<number, Running>();

  async load(options: EngineOptions, events: EngineEvents): Promise<ModelFacts> {
    const { program: asked, model_path, slots } = options;
    if (asked === undefined) throw new Error("which program is not said");
    const words = await Words.of(model_path);
    if (readsFromBothSides(words.gguf))
      throw new RbeesError("INVALID_REQUEST", `${model_path} makes embeddings and no text: leave --engine llama-server out for it`);
    events.progress(0);
    const program = await Program.start(options, asked);
    this.#program = program;
    await program.ready(asked.ready_ms_max);
    const client = new Client(program, words.noText);
    const [props, bos] = await Promise.all([client.props(), client.beginning()]);
    const context_size = Math.min(options.context_size, props.default_generation_settings.n_ctx);
    const ends = new Set<number>();
    const model = spokenModel(words, ends, bos, props);
    this.#loaded = { client, words, model, ends, context_size, slots, events };
    if (hasTemplate(model.prompt)) templateFacts(model.prompt);
    // Nobody here can go on without it: this process ends too, and is started again.
    program.onOver((error) => {
      throw error;
    });
    events.progress(1);
    return {
      vocab_size: words.count,
      context_size,
      has_chat_template: hasTemplate(model.prompt),
      device: "",
      vram_bytes: 0,
      engine: { name: "llama-server", version: props.build_info },
      features: [
        ...(["grammar", "json_schema", "logit_bias", "penalties", "repeat_penalty", "tools", "tokenize", "token_prompts"] as const),
        ...(hasTemplate(model.prompt) ? thinkingFeature(model.prompt) : []),
      ],
    };
  }

  get program_bytes(): number {
    return this.#program?.memory_bytes ?? 0;
  }

  get #alive(): Loaded {
    if (this.#loaded === undefined) throw new Error("no model is loaded");
    return this.#loaded;
  }

  async start(id: number, asked: RunRequest): Promise<RunAccepted> {
    const loaded = this.#alive;
    const { model, words, context_size, slots } = loaded;
    const taken = new Set([...this.#running.values()].map(({ slot }) => slot));
    const slot = Array.from({ length: slots }, (_, at) => at).find((at) => !taken.has(at));
    if (slot === undefined) throw new RbeesError("ALL_SLOTS_BUSY", "Every slot of the engine is busy.");
    const abort = new AbortController();
    this.#running.set(id, { abort, slot });
    try {
      const { tokens, reading } = givenTokens(asked) ?? (await promptOf(loaded, asked));
      const request = fitting(asked, tokens, { context_size, vocab_size: words.count });
      const run = new Run(id, request, model, { tokens, reading }, { slot, cached: 0 });
      void this.#follow(loaded, abort, request, run);
      return { slot, tokens_in: tokens.length, tokens_cached: 0 };
    } catch (error) {
      this.#running.delete(id);
      throw error;
    }
  }

  async tokenize(_run: number, { with_tokens, ...asked }: TokenizeRequest): Promise<CountedTokens> {
    const { tokens } = await promptOf(this.#alive, asked);
    return { tokens_in: tokens.length, ...(with_tokens ? { tokens } : {}) };
  }

  async embed(): Promise<never> {
    throw new RbeesError("INVALID_REQUEST", "This worker makes no embeddings: llama-server makes either text or vectors.");
  }

  abort(id: number): void {
    this.#running.get(id)?.abort.abort();
  }

  async #follow(loaded: Loaded, abort: AbortController, request: RunRequest, run: Run): Promise<void> {
    const over = (report: StepReport) => {
      this.#running.delete(run.id);
      // It need not go on.
      abort.abort();
      loaded.events.step([report]);
    };
    const end = run.over;
    if (end !== undefined) return over({ ...run.report(0), end });
    const undecided: Undecided = { token: undefined };
    // Of tokens that another attempt sent the server knows as part of the prompt, or has made them again.
    const already = request.grammar === undefined ? request.continue_tokens.length : 0;
    try {
      for await (const chunk of await begin(loaded, request, run, abort.signal)) {
        for (const report of took(loaded, run, chunk, undecided, already)) {
          if (report.end !== undefined || report.error !== undefined) return over(report);
          loaded.events.step([report]);
        }
      }
      over({ ...run.report(0), error: { code: "ENGINE_FAILED", message: "llama-server's stream ended without an end." } });
    } catch (error) {
      if (abort.signal.aborted) return over({ ...run.report(0), aborted: true });
      // Then this process ends too, and that is how all who wait hear of it.
      if (!(error instanceof RbeesError) && (await this.#program?.isEnding())) return;
      const { code, message } = error instanceof RbeesError ? error : { code: "ENGINE_FAILED" as const, message: reasonOf(error) };
      over({ ...run.report(0), error: { code, message } });
    }
  }
}

/** The server makes text tokens. */
async function promptOf({ client, model }: Loaded, asked: Parameters<typeof partsOf>[1]): Promise<Prompt> {
  const { parts, reading } = partsOf(model.prompt, asked);
  return { tokens: withBos(model.prompt, await client.tokens(parts)), reading };
}

/**
 * Goes on after the tokens that another attempt sent. Not so where a grammar holds it: the server's begins at its beginning with each
 * request. Then all of the answer is asked for again, and must come out as it was.
 */
async function begin({ client }: Loaded, request: RunRequest, run: Run, signal: AbortSignal): Promise<AsyncIterable<Chunk>> {
  const { continue_tokens: sent, max_tokens, seed, grammar } = request;
  if (sent.length === 0 || grammar === undefined)
    return await client.complete(request, run.prompt, max_tokens - sent.length, positionSeed(seed, sent.length), signal);
  const again = await client.complete(request, run.prompt.slice(0, run.tokens_in), max_tokens, positionSeed(seed, 0), signal);
  return after(again, sent);
}

async function* after(chunks: AsyncIterable<Chunk>, sent: readonly number[]): AsyncGenerator<Chunk> {
  let at = 0;
  for await (const chunk of chunks) {
    if (at >= sent.length) yield chunk;
    // Where a character was made of several tokens, only the last of them is told.
    else if (chunk.stop || chunk.tokens.some((token) => sent[chunk.tokens_predicted - 1] !== token)) {
      throw new RbeesError(
        "ENGINE_FAILED",
        "continue_from: llama-server begins anew where a grammar holds it, and came to another answer.",
      );
    } else at = chunk.tokens_predicted;
  }
}

/** What a chunk makes of a run: a report for each token that is certain. */
function* took({ words, model, ends }: Loaded, run: Run, chunk: Chunk, undecided: Undecided, already: number): Generator<StepReport> {
  const { content, tokens, stop, stop_type, tokens_predicted, timings } = chunk;
  if (timings?.cache_n !== undefined) run.adopted(timings.cache_n);
  if (undecided.token !== undefined) {
    const { token } = undecided;
    undecided.token = undefined;
    if (stop && stop_type === "eos") ends.add(token);
    yield run.took({ token }, model);
  }
  // After the end that was just taken nobody asks for this one.
  if (stop) yield run.report(0, run.answer.finish(), stop_type === "limit" ? "MAX_TOKENS" : "EOS");
  const said = Buffer.from(content, "utf8");
  for (const token of tokens) {
    // Tokens of a character that was not complete came without a word.
    const before = said.subarray(0, Math.max(0, said.length - words.bytes.of(token).length));
    const silent = before.length === 0 ? [] : words.spelling(before, tokens_predicted - (run.answer.tokens - already) - 1);
    for (const part of silent) yield run.took({ token: part }, model);
    if (words.isMark(token)) undecided.token = token;
    else yield run.took({ token }, model);
  }
}

function spokenModel(words: Words, ends: ReadonlySet<number>, bos: number | undefined, { bos_token, eos_token }: Props): SpokenModel {
  const render_native = nativeRenderer(addonIn(libraryFolder));
  return {
    prompt: {
      tokenize: words.marksIn,
      bos,
      bos_text: bos_token,
      eos_text: eos_token,
      chat_template: words.gguf.text("tokenizer.chat_template"),
      ...(render_native === undefined ? {} : { render_native }),
    },
    bytes: words.bytes,
    ends: (token) => ends.has(token),
    has_end: true,
    grammar: () => HELD,
  };
}

function reasonOf(error: unknown): string {
  const { message = String(error), cause } = error as Error;
  return `llama-server's stream broke: ${cause instanceof Error && cause.message !== "" ? cause.message : message}.`;
}
