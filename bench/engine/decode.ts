/**
 * Sections `decode`, `scaling` and `outside`: tokens of running streams, no prompts. Each round measures every number of streams
 * on both engines in turn; they stay loaded, and the one that does not compute sleeps.
 */

import { machineCpuUs } from "../proc-stat.ts";
import { median, paired, spread, table } from "../report.ts";
import type { Bench } from "./bench.ts";
import { Bare, Worker } from "./engines.ts";
import type { DecodeResult, EngineSetting } from "./messages.ts";
import type { MeasuredEngine } from "./options.ts";
import { prompt, VOCABULARY } from "./workload.ts";

const CONTEXT_TOKENS = 512;
const CHUNK_TOKENS = 64;
const PROMPT_TOKENS = 16;
/** Tokens of each stream before the window begins: prompts are read, and every stream is in every step. */
const SETTLE_TOKENS = 16;
/** Tokens that each stream may generate after the window, so that none ends within it. */
const SPARE_TOKENS = 24;
/** Windows that may be repeated because the model ended an answer in it. */
const REPEATS_MAX = 5;

interface OursResult extends DecodeResult {
  outside_us: number;
}

/** What each contender brought in one round at one number of streams. */
interface Cell {
  ours: ReadonlyMap<MeasuredEngine, OursResult>;
  bare: DecodeResult | undefined;
  served: DecodeResult | undefined;
}

type Round = Map<number, Cell>;

interface Contenders {
  workers: ReadonlyMap<MeasuredEngine, Worker>;
  bare: Bare | undefined;
  /** The same with its tokens given out over HTTP. */
  served: Bare | undefined;
}

/** Least CPU per token of bare llama.cpp over ours. */
const CPU_RATIO_MIN = {
  libllama: { alone: 0.97, together: 0.95 },
  "node-llama-cpp": { alone: 0.86, together: 0.88 },
} as const;
const SCALING_MIN = 2.2;
const OUTSIDE_US_MAX = 60;
const MANY = 16;

export async function measureDecode(bench: Bench): Promise<void> {
  const { processes, options, model_path } = bench;
  const setting: EngineSetting = {
    model_path,
    vocabulary: VOCABULARY,
    slots: Math.max(...options.streams),
    context_size: CONTEXT_TOKENS,
    threads: options.threads,
    chunk_tokens: CHUNK_TOKENS,
  };
  bench.progress("decode: loading");
  const workers = new Map<MeasuredEngine, Worker>();
  let bare: Bare | undefined;
  let served: Bare | undefined;
  const rounds: Round[] = [];
  const foreign: number[] = [];
  try {
    for (const engine of options.engines) workers.set(engine, await Worker.start(processes, engine, setting));
    if (bench.wants("decode")) {
      bare = await startBare(bench, setting);
      if (bare !== undefined) served = await startBare(bench, setting, true);
    }
    // The first round warms them up and is thrown away.
    for (let round = 0; round <= options.rounds; round += 1) {
      const busy = { machine_us: machineCpuUs(), own_us: 0, began_ms: performance.now() };
      const cells: Round = new Map();
      for (const streams of options.streams) {
        bench.progress(round === 0 ? "decode: warming up" : `decode: round ${round}, ${streams} streams`);
        cells.set(streams, await measureCell({ workers, bare, served }, streams, options.tokens, round));
      }
      if (round === 0) continue;
      rounds.push(cells);
      for (const { ours, bare, served } of cells.values()) {
        for (const { cpu_us, outside_us } of ours.values()) busy.own_us += cpu_us + outside_us;
        busy.own_us += (bare?.cpu_us ?? 0) + (served?.cpu_us ?? 0);
      }
      foreign.push((machineCpuUs() - busy.machine_us - busy.own_us) / 1000 / (performance.now() - busy.began_ms));
    }
  } finally {
    bench.progress("");
    for (const worker of workers.values()) await worker.stop();
    await bare?.stop();
    await served?.stop();
  }
  report(bench, rounds, foreign);
}

async function startBare(bench: Bench, setting: EngineSetting, served = false): Promise<Bare | undefined> {
  const started = await Bare.start(bench.processes, setting, served);
  if ("skipped" in started) bench.say(`Bare llama.cpp is left out: ${started.skipped}.`);
  else if (!served) bench.say(`Bare llama.cpp: the worker's own libllama, ${started.release}.`);
  return "bare" in started ? started.bare : undefined;
}

async function measureCell({ workers, bare, served }: Contenders, streams: number, tokens: number, round: number): Promise<Cell> {
  const ours = new Map<MeasuredEngine, OursResult>();
  let beside: DecodeResult | undefined;
  let told: DecodeResult | undefined;
  const prompts = Array.from({ length: streams }, (_, stream) => prompt(PROMPT_TOKENS, stream).tokens);
  const turns = [...workers].map(([engine, worker]) => async () => {
    ours.set(engine, await measureOurs(worker, streams, tokens, round));
  });
  turns.push(async () => {
    beside = await bare?.decode({ prompts, settle: SETTLE_TOKENS, tokens });
  });
  turns.push(async () => {
    told = await served?.decode({ prompts, settle: SETTLE_TOKENS, tokens });
  });
  // Another one goes first each time, so that none profits from its place.
  for (let turn = 0; turn < turns.length; turn += 1) await turns[(turn + round) % turns.length]?.();
  return { ours, bare: beside, served: told };
}

async function measureOurs(worker: Worker, streams: number, tokens: number, round: number): Promise<OursResult> {
  for (let repeat = 0; repeat < REPEATS_MAX; repeat += 1) {
    const result = await decodeWindow(worker, streams, tokens, (round * REPEATS_MAX + repeat) * 1000);
    if (result !== undefined) return result;
  }
  throw new Error(`an answer ended within the window ${REPEATS_MAX} times in a row`);
}

/** Undefined when an answer ended within the window. */
async function decodeWindow(worker: Worker, count: number, tokens: number, seed: number): Promise<OursResult | undefined> {
  const edges: { at_ms: number; tokens: number; engine: number; outside: number }[] = [];
  const total = () => streams.reduce((sum, stream) => sum + stream.tokens, 0);
  const mark = () => edges.push({ at_ms: performance.now(), tokens: total(), ...worker.cpuUs() });
  const onToken = () => {
    if (edges.length === 0) {
      if (streams.length === count && streams.every((stream) => stream.tokens >= SETTLE_TOKENS)) mark();
    } else if (edges.length === 1 && total() >= (edges[0]?.tokens ?? 0) + count * tokens) mark();
  };
  const streams: ReturnType<Worker["ask"]>[] = [];
  const max_tokens = SETTLE_TOKENS + tokens + SPARE_TOKENS;
  for (let stream = 0; stream < count; stream += 1) {
    streams.push(worker.ask({ prompt: prompt(PROMPT_TOKENS, stream).text, max_tokens, seed: seed + stream }, onToken));
  }
  let short = false;
  const over = streams.map(async ({ ended }) => {
    await ended;
    if (edges.length < 2) short = true;
  });
  await Promise.all(over);
  const [from, to] = edges;
  if (short || from === undefined || to === undefined) return undefined;
  return {
    tokens: to.tokens - from.tokens,
    seconds: (to.at_ms - from.at_ms) / 1000,
    cpu_us: to.engine - from.engine,
    outside_us: to.outside - from.outside,
  };
}

function report(bench: Bench, rounds: readonly Round[], foreign: readonly number[]): void {
  const { options } = bench;
  bench.say(
    `\nDecoding: ${options.tokens} tokens of each stream, ${options.threads} ${options.threads === 1 ? "thread" : "threads"}, ${rounds.length} rounds, median [min–max]; ratios are paired within a round. Others used ${spread(foreign, 2)} cores meanwhile, the bench's client among them.`,
  );
  const figures = options.engines.map((engine) => new Figures(engine, rounds));
  const rows = options.streams.flatMap((streams) => [
    ...figures.map((of, i) => [
      i === 0 ? String(streams) : "",
      of.engine,
      spread(of.bareUs(streams), 0),
      spread(of.engineUs(streams), 0),
      spread(of.outsideUs(streams), 0),
      spread(of.engineRatio(streams), 2),
      spread(of.wholeRatio(streams), 2),
      spread(of.barePerSecond(streams), 0),
      spread(of.perSecond(streams), 0),
      spread(of.speedRatio(streams), 2),
    ]),
    ...(bench.wants("decode") ? [servedRow(rounds, streams)] : []),
  ]);
  bench.say(
    table(
      [
        "streams",
        "engine",
        "CPU µs/token: bare",
        "engine",
        "HTTP",
        "bare ÷ engine",
        "bare ÷ both",
        "tokens/s: bare",
        "ours",
        "ours ÷ bare",
      ],
      rows,
    ),
  );
  for (const of of figures) judge(bench, of);
}

/** What bare llama.cpp takes once its tokens are given out: the least for any engine in a process of its own. */
function servedRow(rounds: readonly Round[], streams: number): string[] {
  const figure = (of: "bare" | "served", value: (result: DecodeResult) => number) =>
    rounds.map((round) => {
      const result = round.get(streams)?.[of];
      return result === undefined ? Number.NaN : value(result);
    });
  const cpu = ({ cpu_us, tokens }: DecodeResult) => cpu_us / tokens;
  const speed = ({ seconds, tokens }: DecodeResult) => tokens / seconds;
  return [
    "",
    "bare, served",
    spread(figure("bare", cpu), 0),
    spread(figure("served", cpu), 0),
    "",
    spread(paired(figure("bare", cpu), figure("served", cpu)), 2),
    "",
    spread(figure("bare", speed), 0),
    spread(figure("served", speed), 0),
    spread(paired(figure("served", speed), figure("bare", speed)), 2),
  ];
}

function judge(bench: Bench, of: Figures): void {
  const { options, verdicts } = bench;
  const { engine } = of;
  if (bench.wants("decode")) {
    for (const streams of options.streams) {
      const value = median(of.engineRatio(streams));
      const at_least = CPU_RATIO_MIN[engine][streams === 1 ? "alone" : "together"];
      if (!Number.isNaN(value)) verdicts.push({ what: `${engine}: CPU per token, bare ÷ engine, ${streams} at once`, value, at_least });
    }
  }
  if (bench.wants("outside") && options.streams.includes(MANY)) {
    const value = median(of.outsideUs(MANY));
    verdicts.push({ what: `${engine}: CPU outside the engine per token, ${MANY} at once`, value, at_most: OUTSIDE_US_MAX, unit: "µs" });
  }
  if (bench.wants("scaling") && options.streams.includes(1) && options.streams.includes(MANY)) {
    const gain = paired(of.perSecond(MANY), of.perSecond(1));
    const bare_gain = paired(of.barePerSecond(MANY), of.barePerSecond(1));
    bench.say(`Scaling, tokens/s of ${MANY} streams together ÷ of 1: ${engine} ${spread(gain, 2)}, bare ${spread(bare_gain, 2)}.`);
    verdicts.push({ what: `${engine}: tokens/s, ${MANY} at once ÷ 1`, value: median(gain), at_least: SCALING_MIN });
  }
}

/** The figures of one engine beside those of the bare loop, by round, at a number of streams; NaN where there are none. */
class Figures {
  readonly engine: MeasuredEngine;
  readonly #rounds: readonly Round[];

  constructor(engine: MeasuredEngine, rounds: readonly Round[]) {
    this.engine = engine;
    this.#rounds = rounds;
  }

  readonly engineUs = (streams: number) => this.#ours(streams, ({ cpu_us, tokens }) => cpu_us / tokens);
  readonly outsideUs = (streams: number) => this.#ours(streams, ({ outside_us, tokens }) => outside_us / tokens);
  readonly perSecond = (streams: number) => this.#ours(streams, ({ tokens, seconds }) => tokens / seconds);
  readonly bareUs = (streams: number) => this.#bare(streams, ({ cpu_us, tokens }) => cpu_us / tokens);
  readonly barePerSecond = (streams: number) => this.#bare(streams, ({ tokens, seconds }) => tokens / seconds);
  readonly engineRatio = (streams: number) => paired(this.bareUs(streams), this.engineUs(streams));
  readonly wholeRatio = (streams: number) =>
    paired(
      this.bareUs(streams),
      this.#ours(streams, ({ cpu_us, outside_us, tokens }) => (cpu_us + outside_us) / tokens),
    );
  readonly speedRatio = (streams: number) => paired(this.perSecond(streams), this.barePerSecond(streams));

  #ours(streams: number, value: (result: OursResult) => number): number[] {
    return this.#rounds.map((round) => {
      const result = round.get(streams)?.ours.get(this.engine);
      return result === undefined ? Number.NaN : value(result);
    });
  }

  #bare(streams: number, value: (result: DecodeResult) => number): number[] {
    return this.#rounds.map((round) => {
      const result = round.get(streams)?.bare;
      return result === undefined ? Number.NaN : value(result);
    });
  }
}
