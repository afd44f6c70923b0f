/**
 * Sections `abort`, `pause` and `prefix`: how soon a slot is free, how long running streams wait while a prompt is read, and what
 * a warm prefix saves. Measured in steps and chunks, which are timed in the same run on the same worker.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { median, spread, table } from "../report.ts";
import type { AnswerStream, Ended } from "./answer-stream.ts";
import type { Bench } from "./bench.ts";
import { Worker } from "./engines.ts";
import { MEASURED_ENGINES } from "./options.ts";
import { prompt, VOCABULARY } from "./workload.ts";

const SLOTS = 4;
/** Streams that generate while something happens in the last slot. */
const STREAMS = SLOTS - 1;
/** Aborts of a generating stream in each round. */
const ABORTS = 4;
/** Steps over which a step is timed, and how long that may take before it is clear that a stream has ended. */
const STEPS_TIMED = 12;
const STEPS_MS_MAX = 30_000;
const CONTEXT_TOKENS = 2048;
const CHUNK_TOKENS = 64;
const LONG_TOKENS = 1500;
const PREFIX_TOKENS = 1000;
const TAIL_TOKENS = 8;
const SHORT_TOKENS = 16;
/** Prompts may begin alike by chance, but no longer than this. */
const CHANCE_TOKENS = 16;
/** Tokens after which a stream counts as running. */
const SETTLED_TOKENS = 12;
const ANSWER_TOKENS = 1500;

const ABORT_MAX = 1;
const PAUSE_MAX = 2;
const STRETCH_MAX = 3;
const PREFIX_MAX = 0.06;

/** Each prompt shares nothing with those before it. */
let variants = 100;

/** The model drew its end token: the round is measured again. */
class EndedEarly extends Error {
  override message = "the model ended an answer by itself";
}
const REPEATS_MAX = 5;

/** Running streams while another prompt is read. */
interface BesidePrompt {
  unit_ms: number;
  /** A step of the streams alone after the prompt ÷ before it. */
  growth: number;
  /** In `unit_ms`. */
  worst: number;
  usual: number;
  /** ÷ what the same streams take without the prompt, at the same length. */
  p99: number;
  /** Of the prompt, ÷ the same when it is alone. */
  first_token: number;
}

class Latencies {
  readonly #bench: Bench;
  readonly #worker: Worker;
  #open: AnswerStream[] = [];

  constructor(bench: Bench, worker: Worker) {
    this.#bench = bench;
    this.#worker = worker;
  }

  /** Every round is measured; one in which the model ended an answer by itself once more. */
  async #rounds<T>(section: string, measure: () => Promise<T>): Promise<T[]> {
    const found: T[] = [];
    let repeats = 0;
    while (found.length < this.#bench.options.rounds) {
      this.#bench.progress(`${section}: round ${found.length + 1}`);
      try {
        found.push(await measure());
      } catch (error) {
        repeats += 1;
        if (!(error instanceof EndedEarly) || repeats > REPEATS_MAX) throw error;
      }
      await this.#cancel(this.#open);
      this.#open = [];
    }
    this.#bench.progress("");
    return found;
  }

  #ask(tokens: number, max_tokens: number, on_token?: () => void): AnswerStream {
    variants += 1;
    const stream = this.#worker.ask({ prompt: prompt(tokens, variants).text, max_tokens, seed: variants }, on_token);
    this.#open.push(stream);
    return stream;
  }

  /** Streams that are generating. */
  async #running(count: number): Promise<AnswerStream[]> {
    const opened = Array.from({ length: count }, () => {
      const { promise, resolve, reject } = Promise.withResolvers<void>();
      const stream = this.#ask(SHORT_TOKENS, ANSWER_TOKENS, () => {
        if (stream.tokens >= SETTLED_TOKENS) resolve();
      });
      stream.ended.then(() => reject(new EndedEarly()), reject);
      return { stream, settled: promise };
    });
    await Promise.all(opened.map(({ settled }) => settled));
    return opened.map(({ stream }) => stream);
  }

  /** What each ended with; undefined: it was still generating. */
  async #cancel(streams: readonly AnswerStream[]): Promise<(Ended | undefined)[]> {
    await Promise.all(streams.map(({ job_id }) => this.#worker.cancel(job_id)));
    return await Promise.all(streams.map(({ ended }) => ended));
  }

  /** Milliseconds of a chunk when nothing else runs, a long prompt's mean. */
  async #chunkMs(): Promise<number> {
    const stream = this.#ask(LONG_TOKENS, 1);
    await stream.ended;
    return stream.first_token_ms / Math.ceil(LONG_TOKENS / CHUNK_TOKENS);
  }

  /**
   * From asking to cancel to the answer's last event, which the worker sends when the slot is free: its health must say so then.
   * Asking for the health all the while would take the time that is measured here from the engine.
   */
  async #untilFree(stream: AnswerStream, busy_before: number): Promise<number> {
    const began = performance.now();
    const cancelled = this.#worker.cancel(stream.job_id);
    const end = await stream.ended;
    const took = performance.now() - began;
    await cancelled;
    const busy = await this.#worker.slotsBusy();
    if (end !== undefined) throw new EndedEarly();
    if (busy >= busy_before) throw new Error(`an answer was cancelled, but ${busy} slots are busy, as before`);
    return took;
  }

  async measureAbort(): Promise<void> {
    const rounds = await this.#rounds("abort", async () => {
      const chunk_ms = await this.#chunkMs();
      const alone = this.#ask(LONG_TOKENS, 8);
      await alone.accepted;
      await sleep(chunk_ms * (2 + 10 * Math.random()));
      const prefilling = (await this.#untilFree(alone, 1)) / chunk_ms;

      const streams = await this.#running(STREAMS);
      const long = this.#ask(LONG_TOKENS, 8);
      await long.accepted;
      await sleep(chunk_ms * (2 + 10 * Math.random()));
      const waited_ms = await this.#untilFree(long, SLOTS);

      const decoding: number[] = [];
      let step_ms = Number.NaN;
      for (let abort = 0; abort < ABORTS; abort += 1) {
        step_ms = await this.#stepMs(streams);
        // At any moment of a step, not at its beginning, where a token has just come.
        await sleep(step_ms * Math.random());
        const victim = streams.shift() as AnswerStream;
        decoding.push((await this.#untilFree(victim, STREAMS)) / step_ms);
        streams.push(...(await this.#running(1)));
      }
      return { chunk_ms, step_ms, prefilling, beside: waited_ms / (step_ms + chunk_ms), decoding };
    });
    const decoding = rounds.flatMap((round) => round.decoding);
    const of = (field: "chunk_ms" | "step_ms" | "prefilling" | "beside") => rounds.map((round) => round[field]);
    this.#bench.say(
      `\nAbort, from asking to a slot that /health shows free (a step of ${STREAMS} streams ${spread(of("step_ms"))} ms, a chunk of ${CHUNK_TOKENS} prompt tokens ${spread(of("chunk_ms"))} ms):\n` +
        `  one of ${STREAMS} decoding streams: ${spread(decoding, 2)} steps\n` +
        `  a prompt of ${LONG_TOKENS} tokens alone: ${spread(of("prefilling"), 2)} chunks\n` +
        `  a prompt of ${LONG_TOKENS} tokens beside ${STREAMS} streams: ${spread(of("beside"), 2)} × (step + chunk)`,
    );
    this.#bench.verdicts.push(
      { what: "abort while decoding → slot free", value: median(decoding), at_most: ABORT_MAX, unit: "steps" },
      { what: "abort of a prompt → slot free", value: median(of("prefilling")), at_most: ABORT_MAX, unit: "chunks" },
      { what: "abort of a prompt beside streams", value: median(of("beside")), at_most: ABORT_MAX, unit: "× (step + chunk)" },
    );
  }

  /** `whole`: the same model on a worker whose chunks are whole whatever runs. */
  async measurePause(whole: Latencies): Promise<void> {
    const rounds = await this.#rounds("pause", async () => ({ paced: await this.#besidePrompt(), whole: await whole.#besidePrompt() }));
    await whole.#cancel(whole.#open);
    const of = (field: keyof BesidePrompt, kind: "paced" | "whole" = "paced") => rounds.map((round) => round[kind][field]);
    this.#bench.say(
      `\n${STREAMS} running streams while a prompt of ${LONG_TOKENS} tokens is read (step + chunk: ${spread(of("unit_ms"))} ms):`,
    );
    const row = (what: string, kind: "paced" | "whole") => [
      what,
      spread(of("p99", kind), 2),
      spread(of("growth", kind), 2),
      spread(of("usual", kind), 2),
      spread(of("worst", kind), 2),
      spread(of("first_token", kind), 2),
    ];
    this.#bench.say(
      table(
        ["chunks", "p99 ÷ without it", "streams' own growth", "usual, × (step + chunk)", "longest", "the prompt's first token ÷ alone"],
        [row("as the pace allows", "paced"), row("whole (--prefill-stretch-max 0)", "whole")],
      ),
    );
    this.#bench.verdicts.push(
      { what: "pause while another prompt is read", value: median(of("worst")), at_most: PAUSE_MAX, unit: "× (step + chunk)" },
      { what: "inter-token p99 beside a prompt ÷ without it", value: median(of("p99")), at_most: STRETCH_MAX },
    );
  }

  async #besidePrompt(): Promise<BesidePrompt> {
    const chunk_ms = await this.#chunkMs();
    const streams = await this.#running(STREAMS);
    const step_ms = await this.#stepMs(streams);
    const newcomer = this.#ask(LONG_TOKENS, 1);
    await newcomer.ended;
    const until = newcomer.began_ms + newcomer.first_token_ms;
    // The first of these gaps begins with the last token before the newcomer.
    const during = streams.map(({ arrivals_ms }) => {
      const first = Math.max(
        0,
        arrivals_ms.findLastIndex((at) => at <= newcomer.began_ms),
      );
      return gaps(arrivals_ms.slice(first).filter((at) => at <= until));
    });
    const after_ms = await this.#stepMs(streams);
    if ((await this.#cancel(streams)).some((end) => end !== undefined)) throw new EndedEarly();
    // Streams grow while the prompt is read, and read back more with each token: their own length is not the prompt's doing.
    const stretches = during.flatMap((gaps_ms) =>
      gaps_ms.map((gap_ms, at) => gap_ms / (step_ms + ((after_ms - step_ms) * (at + 1)) / gaps_ms.length)),
    );
    const unit_ms = step_ms + chunk_ms;
    return {
      unit_ms,
      growth: after_ms / step_ms,
      worst: Math.max(...during.flat()) / unit_ms,
      usual: median(during.flat()) / unit_ms,
      p99: stretches.toSorted((a, b) => a - b)[Math.floor(stretches.length * 0.99)] ?? Number.NaN,
      first_token: newcomer.first_token_ms / (chunk_ms * Math.ceil(LONG_TOKENS / CHUNK_TOKENS)),
    };
  }

  async measurePrefix(): Promise<void> {
    const rounds = await this.#rounds("prefix", async () => {
      variants += 2;
      const seed = variants;
      const beginning = prompt(PREFIX_TOKENS, seed).text;
      const first = async (tail: number, cached: number) => {
        const text = beginning + prompt(TAIL_TOKENS + 2, tail).text;
        const stream = this.#worker.ask({ prompt: text, max_tokens: 4, seed });
        const end = await stream.ended;
        if (end === undefined || Math.abs(end.tokens_cached - cached) > CHANCE_TOKENS)
          throw new Error(`${end?.tokens_cached} of ${end?.tokens_in} prompt tokens were cached, not ${cached}`);
        return stream.first_token_ms;
      };
      return { cold_ms: await first(seed, 0), warm_ms: await first(seed + 1, PREFIX_TOKENS) };
    });
    const shares = rounds.map(({ cold_ms, warm_ms }) => warm_ms / cold_ms);
    const cold = spread(rounds.map(({ cold_ms }) => cold_ms));
    const warm = spread(rounds.map(({ warm_ms }) => warm_ms));
    this.#bench.say(
      `\nTime to first token with a prefix of ${PREFIX_TOKENS} tokens and ${TAIL_TOKENS} more: cold ${cold} ms, warm ${warm} ms, warm ÷ cold ${spread(shares, 3)}`,
    );
    this.#bench.verdicts.push({ what: "first token with a warm prefix ÷ cold", value: median(shares), at_most: PREFIX_MAX });
  }

  /** Milliseconds from one token of a stream to its next while only these run, over the last few. */
  async #stepMs(streams: readonly AnswerStream[]): Promise<number> {
    const before = streams.map(({ arrivals_ms }) => arrivals_ms.length);
    const began = performance.now();
    while (streams.some(({ arrivals_ms }, i) => arrivals_ms.length < (before[i] ?? 0) + STEPS_TIMED)) {
      if (performance.now() - began > STEPS_MS_MAX) throw new EndedEarly();
      await sleep(5);
    }
    return median(streams.flatMap(({ arrivals_ms }, i) => gaps(arrivals_ms.slice(before[i]))));
  }
}

export async function measureLatencies(bench: Bench): Promise<void> {
  bench.progress("latencies: loading");
  const engine = bench.options.engines[0] ?? MEASURED_ENGINES[0];
  const setting = {
    model_path: bench.model_path,
    vocabulary: VOCABULARY,
    slots: SLOTS,
    context_size: CONTEXT_TOKENS,
    threads: bench.options.threads,
    chunk_tokens: CHUNK_TOKENS,
  };
  const worker = await Worker.start(bench.processes, engine, setting);
  try {
    const latencies = new Latencies(bench, worker);
    if (bench.wants("abort")) await latencies.measureAbort();
    if (bench.wants("pause")) {
      const whole = await Worker.start(bench.processes, engine, setting, { "prefill-stretch-max": 0 });
      await latencies.measurePause(new Latencies(bench, whole)).finally(() => whole.stop());
    }
    if (bench.wants("prefix")) await latencies.measurePrefix();
  } finally {
    bench.progress("");
    await worker.stop();
  }
}

function gaps(times: readonly number[]): number[] {
  return times.slice(1).map((at, i) => at - (times[i] ?? Number.NaN));
}
