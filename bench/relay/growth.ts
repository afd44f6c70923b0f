/** Sections `growth` and `stalled`: how cost and memory of the orchestrator grow with streams, and what readers who stop cost. */
import { fileURLToPath } from "node:url";
import { rssBytes } from "../proc-stat.ts";
import { median, paired, spread, table } from "../report.ts";
import { type Bench, ENDLESS } from "./bench.ts";
import { sleep } from "./clock.ts";
import type { StreamsResult } from "./messages.ts";
import type { Started } from "./targets.ts";

const LEVELS = [1, 100, 500, 1000] as const;
/** What the others are compared with: one stream alone pays for a wake-up with each token. */
const USUAL = 1;
/** So slow that a stream is as good as idle while its memory is looked at. */
const IDLE = { rate: 0.2, tokens: ENDLESS, pad: 0 };
/** Per stream; half the usual rate, since the harness has one core and 1,000 × 50 would fill it. */
const GROWTH_RATE = 25;
const MEGABYTE = 1_048_576;
/** Beyond it tokens merge, and the cost of each is no measure of anything. */
const STARVED_LAG_US = 3000;

const GC_FLAGS = ["--expose-gc", "--import", fileURLToPath(new URL("gc-on-signal.ts", import.meta.url))];

export async function measureGrowth(bench: Bench): Promise<void> {
  const rounds = Math.min(2, bench.options.rounds);
  const most = Math.max(...LEVELS);
  const costs = LEVELS.map((): number[] => []);
  const lags = LEVELS.map((): number[] => []);
  const delivered = LEVELS.map((): number[] => []);
  const kilobytes: number[] = [];
  for (let round = 0; round < rounds; round += 1) {
    bench.progress(`growth: round ${round + 1}`);
    await bench.fresh("rbees-orcd", { streams: most, node_flags: GC_FLAGS }, async (started) => {
      const small = await idleRss(bench, started, LEVELS[USUAL]);
      const large = await idleRss(bench, started, most);
      kilobytes.push((large - small) / 1024 / (most - LEVELS[USUAL]));
      for (const [level, streams] of LEVELS.entries()) {
        const pace = { rate: GROWTH_RATE, tokens: ENDLESS, pad: 0 };
        const result = await bench.harness.streams({
          target: started.target,
          streams,
          pace,
          settle_ms: 800,
          window_ms: 1800,
          pid: started.pid,
        });
        bench.check(`growth, ${streams} streams`, result);
        costs[level]?.push(result.cpu_ns / 1000 / result.tokens);
        lags[level]?.push(result.lag_us.p50);
        delivered[level]?.push(result.delivered);
      }
    });
  }
  bench.progress("");
  const starved = (level: number) => median(lags[level] ?? []) > STARVED_LAG_US;
  bench.say(`\nGrowth of the orchestrator's cost: ${GROWTH_RATE} tokens/s a stream (${rounds} rounds)`);
  const rows = LEVELS.map((streams, level) => [
    String(streams),
    spread(costs[level] ?? []),
    spread(paired(costs[level] ?? [], costs[USUAL] ?? []), 2),
    spread(lags[level] ?? [], 0),
    spread(delivered[level] ?? [], 3),
    starved(level) ? "starved: not comparable" : "",
  ]);
  bench.say(table(["streams", "CPU µs/token", `× at ${LEVELS[USUAL]}`, "lag p50 µs", "delivered"], rows));
  bench.say(
    `  memory of an open stream: ${spread(kilobytes)} KB (resident memory after a collection, ${LEVELS[USUAL]} → ${most} idle streams)`,
  );
  for (const [level, streams] of LEVELS.entries()) {
    if (level > USUAL)
      bench.verdicts.push({
        what: `CPU per token at ${streams} streams ÷ at ${LEVELS[USUAL]}`,
        value: [USUAL, level].some(starved) ? Number.NaN : median(paired(costs[level] ?? [], costs[USUAL] ?? [])),
        at_most: 1,
      });
  }
  bench.verdicts.push({ what: "memory of an open stream", value: median(kilobytes), at_most: 30, unit: "KB" });
}

/** Resident memory with so many streams open and nearly nothing said, after a collection. */
async function idleRss(bench: Bench, { target, pid }: Started, streams: number): Promise<number> {
  let rss: Promise<number> | undefined;
  const begins = () => {
    process.kill(pid, "SIGUSR2");
    rss = sleep(500).then(() => rssBytes(pid));
  };
  const result = await bench.harness.streams({ target, streams, pace: IDLE, settle_ms: 300, window_ms: 700, pid: 0 }, { begins });
  bench.check(`memory, ${streams} streams`, result);
  return rss ?? Number.NaN;
}

const STALLED = 20;
/** Fast enough to fill every socket buffer on the way within a second or two. */
const FAST = { rate: 250, tokens: ENDLESS, pad: 6000 };

export async function measureStalled(bench: Bench): Promise<void> {
  const rounds = Math.min(2, bench.options.rounds);
  const grown = { read: [] as number[], stalled: [] as number[] };
  const lag = { read: [] as number[], stalled: [] as number[] };
  for (let round = 0; round < rounds; round += 1) {
    for (const kind of round % 2 === 0 ? (["read", "stalled"] as const) : (["stalled", "read"] as const)) {
      bench.progress(`stalled: round ${round + 1}, ${kind}`);
      const result = await withSideLoad(bench, kind === "read");
      bench.check(`stalled (${kind})`, result);
      grown[kind].push(result.rss_peak / MEGABYTE);
      lag[kind].push(result.lag_us.p50);
    }
  }
  bench.progress("");
  const more = grown.stalled.map((value, round) => value - (grown.read[round] ?? Number.NaN));
  bench.say(
    `\n${STALLED} readers that stop, of jobs that send ${((FAST.rate * FAST.pad) / 1e6).toFixed(1)} MB/s each, beside 100 usual streams (${rounds} rounds)`,
  );
  bench.say(
    table(
      [`the ${STALLED} readers`, "resident memory, peak MB", "the others' lag p50 µs"],
      [
        ["read", spread(grown.read), spread(lag.read, 0)],
        ["stop", spread(grown.stalled), spread(lag.stalled, 0)],
      ],
    ),
  );
  bench.verdicts.push({
    what: `memory of ${STALLED} stalled readers, above the same that read`,
    value: median(more),
    at_most: 30,
    unit: "MB",
  });
  bench.verdicts.push({
    what: "the others' lag with stalled readers ÷ with reading ones",
    value: median(paired(lag.stalled, lag.read)),
    at_most: 1.2,
  });
}

function withSideLoad(bench: Bench, read: boolean): Promise<StreamsResult> {
  const streams = 100;
  // The log of a job is the same with and without readers: kept short here, so that it does not drown what readers cost.
  const orcd_flags = ["--replay-bytes-per-job-max", "1048576"];
  return bench.fresh("rbees-orcd", { streams: streams + STALLED, orcd_flags }, ({ target, pid }) => {
    const pace = { rate: bench.options.rate, tokens: ENDLESS, pad: 0 };
    return bench.harness.streams({
      target,
      streams,
      pace,
      settle_ms: 500,
      window_ms: 3000,
      pid,
      side: { streams: STALLED, pace: FAST, read },
    });
  });
}
