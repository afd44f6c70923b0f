/**
 * Sections `decode`, `scaling` and `outside`: tokens of running streams, no prompts. Each round measures every number of streams
 * on both engines in turn; they stay loaded, and the one that does not compute sleeps.
 */

import { machineCpuUs } from "../proc-stat.ts";
import { median, paired, spread, table } from "../report.ts";
import type { Bench } from "./bench.ts";
import { Bare, Worker } from "./engines.ts";
import type { DecodeResult, EngineSetting } from "./messages.ts";
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

interface Cell {
  ours: OursResult;
  bare?: DecodeResult;
}

type Round = Map<number, Cell>;

/** Least CPU per token of bare llama.cpp over ours. */
const CPU_RATIO_MIN = { alone: 0.86, together: 0.88 } as const;
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
  const worker = await Worker.start(processes, setting);
  const started = bench.wants("decode") ? await Bare.start(processes, setting) : undefined;
  const bare = started !== undefined && "bare" in started ? started.bare : undefined;
  if (started !== undefined && "skipped" in started) bench.say(`Bare llama.cpp is left out: ${started.skipped}.`);
  if (started !== undefined && "release" in started) bench.say(`Bare llama.cpp: the worker's own libllama, ${started.release}.`);
  const rounds: Round[] = [];
  const foreign: number[] = [];
  try {
    // The first round warms both up and is thrown away.
    for (let round = 0; round <= options.rounds; round += 1) {
      const busy = { machine_us: machineCpuUs(), own_us: 0, began_ms: performance.now() };
      const cells: Round = new Map();
      for (const streams of options.streams) {
        bench.progress(round === 0 ? "decode: warming up" : `decode: round ${round}, ${streams} streams`);
        cells.set(streams, await measureCell(worker, bare, streams, options.tokens, round));
      }
      if (round === 0) continue;
      rounds.push(cells);
      for (const { ours, bare } of cells.values()) busy.own_us += ours.cpu_us + ours.outside_us + (bare?.cpu_us ?? 0);
      foreign.push((machineCpuUs() - busy.machine_us - busy.own_us) / 1000 / (performance.now() - busy.began_ms));
    }
  } finally {
    bench.progress("");
    await worker.stop();
    await bare?.stop();
  }
  report(bench, rounds, foreign);
}

async function measureCell(worker: Worker, bare: Bare | undefined, streams: number, tokens: number, round: number): Promise<Cell> {
  const measureBare = async () => {
    const prompts = Array.from({ length: streams }, (_, stream) => prompt(PROMPT_TOKENS, stream).tokens);
    return bare?.decode({ prompts, settle: SETTLE_TOKENS, tokens });
  };
  // Another one goes first each time, so that none profits from its place.
  const before = round % 2 === 0 ? await measureBare() : undefined;
  const ours = await measureOurs(worker, streams, tokens, round);
  const beside = before ?? (await measureBare());
  return beside === undefined ? { ours } : { ours, bare: beside };
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
  const { options, verdicts } = bench;
  const of = (streams: number, value: (cell: Cell) => number) =>
    rounds.map((round) => {
      const cell = round.get(streams);
      return cell === undefined ? Number.NaN : value(cell);
    });
  const engineUs = ({ ours }: Cell) => ours.cpu_us / ours.tokens;
  const outsideUs = ({ ours }: Cell) => ours.outside_us / ours.tokens;
  const oursPerSecond = ({ ours }: Cell) => ours.tokens / ours.seconds;
  const bareUs = ({ bare }: Cell) => (bare === undefined ? Number.NaN : bare.cpu_us / bare.tokens);
  const barePerSecond = ({ bare }: Cell) => (bare === undefined ? Number.NaN : bare.tokens / bare.seconds);
  const wholeUs = (cell: Cell) => engineUs(cell) + outsideUs(cell);
  const engineRatio = (streams: number) => paired(of(streams, bareUs), of(streams, engineUs));
  const wholeRatio = (streams: number) => paired(of(streams, bareUs), of(streams, wholeUs));
  const speedRatio = (streams: number) => paired(of(streams, oursPerSecond), of(streams, barePerSecond));
  bench.say(
    `\nDecoding: ${options.tokens} tokens of each stream, ${options.threads} ${options.threads === 1 ? "thread" : "threads"}, ${rounds.length} rounds, median [min–max]; ratios are paired within a round. Others used ${spread(foreign, 2)} cores meanwhile, the bench's client among them.`,
  );
  const rows = options.streams.map((streams) => [
    String(streams),
    spread(of(streams, bareUs), 0),
    spread(of(streams, engineUs), 0),
    spread(of(streams, outsideUs), 0),
    spread(engineRatio(streams), 2),
    spread(wholeRatio(streams), 2),
    spread(of(streams, barePerSecond), 0),
    spread(of(streams, oursPerSecond), 0),
    spread(speedRatio(streams), 2),
  ]);
  bench.say(
    table(
      ["streams", "CPU µs/token: bare", "our engine", "our HTTP", "bare ÷ engine", "bare ÷ both", "tokens/s: bare", "ours", "ours ÷ bare"],
      rows,
    ),
  );
  if (bench.wants("decode")) {
    for (const streams of options.streams) {
      const value = median(engineRatio(streams));
      const at_least = streams === 1 ? CPU_RATIO_MIN.alone : CPU_RATIO_MIN.together;
      if (!Number.isNaN(value)) verdicts.push({ what: `CPU per token, bare ÷ our engine, ${streams} at once`, value, at_least });
    }
  }
  if (bench.wants("outside") && options.streams.includes(MANY)) {
    const value = median(of(MANY, outsideUs));
    verdicts.push({ what: `CPU outside the engine per token, ${MANY} at once`, value, at_most: OUTSIDE_US_MAX, unit: "µs" });
  }
  if (bench.wants("scaling") && options.streams.includes(1) && options.streams.includes(MANY)) {
    const gain = paired(of(MANY, oursPerSecond), of(1, oursPerSecond));
    const bare_gain = paired(of(MANY, barePerSecond), of(1, barePerSecond));
    bench.say(`Scaling, tokens/s of ${MANY} streams together ÷ of 1: ours ${spread(gain, 2)}, bare ${spread(bare_gain, 2)}.`);
    verdicts.push({ what: `tokens/s, ${MANY} at once ÷ 1`, value: median(gain), at_least: SCALING_MIN });
  }
}
