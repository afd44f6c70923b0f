/** Sections `token`, `small` and `ttft`: each round measures every target in a process of its own, in turn. */

import { median, paired, spread, table } from "../report.ts";
import { type Bench, ENDLESS, SMALL } from "./bench.ts";
import { fsyncUs } from "./fsync.ts";
import type { TargetName } from "./targets.ts";

/** A relay that is starved merges tokens and looks cheap: such rounds say nothing. */
const LAG_US_MAX = 1000;
/** Rounds that may be repeated because one was starved. */
const REPEATS_MAX = 2;
/** So many starved rounds and none to keep: the machine is simply busy. */
const STARVED_MAX = 3;

interface Cell {
  token_us: number;
  lag_p50_us: number;
  lag_p99_us: number;
  delivered: number;
  request_us: number;
  requests_per_s: number;
  ttft_us: number;
}

type Round = Map<TargetName, Cell> & { fsync_us?: number };

export async function measureRounds(bench: Bench): Promise<void> {
  const { options, targets } = bench;
  const kept: Round[] = [];
  let rejected = 0;
  for (let round = 0; kept.length < options.rounds && round < options.rounds + REPEATS_MAX; round += 1) {
    const cells: Round = new Map();
    // Another one goes first each time, so that none profits from its place.
    const order = [...targets.slice(round % targets.length), ...targets.slice(0, round % targets.length)];
    for (const name of order) {
      bench.progress(`round ${round + 1}: ${name}`);
      cells.set(name, await measureCell(bench, name));
    }
    if (options.only.includes("ttft")) cells.fsync_us = fsyncUs(bench.processes.folder);
    const starved = [...cells].filter(([, { lag_p50_us }]) => lag_p50_us > LAG_US_MAX);
    if (starved.length > 0) {
      rejected += 1;
      const who = starved.map(([name, { lag_p50_us }]) => `${name} ${(lag_p50_us / 1000).toFixed(1)} ms`).join(", ");
      bench.progress("");
      bench.say(`Round ${round + 1} rejected: half of the tokens came more than 1 ms late (${who}); the machine is busy.`);
    } else kept.push(cells);
    if (kept.length === 0 && rejected === STARVED_MAX) break;
  }
  bench.progress("");
  if (kept.length === 0) {
    bench.say("No round could be kept: run this on a machine that is less busy, or with fewer --streams.");
    return;
  }
  report(bench, kept, rejected);
}

async function measureCell(bench: Bench, name: TargetName): Promise<Cell> {
  const { harness, options } = bench;
  const cell: Cell = {
    token_us: Number.NaN,
    lag_p50_us: Number.NaN,
    lag_p99_us: Number.NaN,
    delivered: Number.NaN,
    request_us: Number.NaN,
    requests_per_s: Number.NaN,
    ttft_us: Number.NaN,
  };
  await bench.fresh(name, { streams: options.streams }, async ({ target, pid }) => {
    if (options.only.includes("small")) {
      const small = await harness.requests({ target, connections: 16, pace: SMALL, settle_ms: 200, window_ms: 1000, pid });
      bench.check(`${name}, small`, small);
      cell.request_us = small.cpu_ns / 1000 / small.requests;
      cell.requests_per_s = small.requests / small.seconds;
    }
    if (options.only.includes("ttft")) {
      const alone = await harness.requests({ target, connections: 1, pace: { ...SMALL, tokens: 3 }, settle_ms: 50, window_ms: 500, pid });
      bench.check(`${name}, ttft`, alone);
      cell.ttft_us = alone.first_token_us.p50;
    }
    if (options.only.includes("token")) {
      const { streams, rate, seconds } = options;
      const pace = { rate, tokens: ENDLESS, pad: 0 };
      // Without a relay there is no CPU to count: a second is enough for the lag.
      const window_ms = (name === "direct" ? 1 : seconds) * 1000;
      const result = await harness.streams({ target, streams, pace, settle_ms: 700, window_ms, pid });
      bench.check(`${name}, token`, result);
      cell.token_us = result.cpu_ns / 1000 / result.tokens;
      cell.lag_p50_us = result.lag_us.p50;
      cell.lag_p99_us = result.lag_us.p99;
      cell.delivered = result.delivered;
    }
  });
  return cell;
}

function report(bench: Bench, rounds: readonly Round[], rejected: number): void {
  const { options, targets } = bench;
  const of = (name: TargetName, field: keyof Cell) => rounds.map((round) => round.get(name)?.[field] ?? Number.NaN);
  const over = (name: TargetName, base: TargetName, field: keyof Cell) => paired(of(name, field), of(base, field));
  const ratio = (name: TargetName, base: TargetName, field: keyof Cell) =>
    name === "direct" || !targets.includes(base) ? "–" : spread(over(name, base, field), 2);
  const note = `${rounds.length} rounds${rejected > 0 ? `, ${rejected} rejected` : ""}, median [min–max]; ratios are paired within a round`;

  if (options.only.includes("token")) {
    bench.say(`\nCPU per relayed token: ${options.streams} streams × ${options.rate} tokens/s (${note})`);
    const rows = targets.map((name) => [
      name,
      name === "direct" ? "–" : spread(of(name, "token_us")),
      ratio(name, "bare", "token_us"),
      ratio(name, "nginx", "token_us"),
      spread(of(name, "lag_p50_us"), 0),
      spread(of(name, "lag_p99_us"), 0),
      spread(of(name, "delivered"), 3),
    ]);
    bench.say(table(["", "CPU µs/token", "× bare", "× nginx", "lag p50 µs", "lag p99 µs", "delivered"], rows));
    bench.verdicts.push({ what: "CPU per relayed token ÷ bare", value: median(over("rbees-orcd", "bare", "token_us")), at_most: 1.15 });
    if (targets.includes("nginx"))
      bench.verdicts.push({ what: "CPU per relayed token ÷ nginx", value: median(over("rbees-orcd", "nginx", "token_us")), at_most: 2 });
  }
  if (options.only.includes("small")) {
    bench.say(`\nCPU per small request: one token, 16 connections, keep-alive; the orchestrator's is durable (full fsync) and audited`);
    const rows = targets.map((name) => [
      name,
      name === "direct" ? "–" : spread(of(name, "request_us")),
      ratio(name, "bare", "request_us"),
      ratio(name, "nginx", "request_us"),
      spread(of(name, "requests_per_s"), 0),
    ]);
    bench.say(table(["", "CPU µs/request", "× bare", "× nginx", "requests/s"], rows));
    bench.verdicts.push({ what: "CPU per small request ÷ bare", value: median(over("rbees-orcd", "bare", "request_us")), at_most: 5 });
  }
  if (options.only.includes("ttft")) reportFirstToken(bench, rounds, (name) => of(name, "ttft_us"));
}

function reportFirstToken(bench: Bench, rounds: readonly Round[], of: (name: TargetName) => number[]): void {
  const added = (name: TargetName, base: TargetName) => of(name).map((value, round) => value - (of(base)[round] ?? Number.NaN));
  const fsyncs = rounds.map(({ fsync_us = Number.NaN }) => fsync_us);
  bench.say(`\nTime to first token, one stream at a time, p50 µs (one fdatasync here: ${spread(fsyncs, 0)} µs)`);
  const rows = bench.targets.map((name) => [
    name,
    spread(of(name), 0),
    name === "direct" ? "–" : spread(added(name, "direct"), 0),
    name === "direct" || name === "bare" ? "–" : spread(added(name, "bare"), 0),
  ]);
  bench.say(table(["", "p50 µs", "added to direct", "added to bare"], rows));
  const syncs = added("rbees-orcd", "bare").map((value, round) => value / (fsyncs[round] ?? Number.NaN));
  bench.verdicts.push({ what: "time to first token added to bare, in fdatasyncs", value: median(syncs), at_most: 3, unit: "syncs" });
}
