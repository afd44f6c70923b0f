/**
 * The load of the bench, a process of its own: opens streams or sends small requests through a target, counts what arrives,
 * and reads the target's CPU at the very edges of the window.
 */

import { cpuNs, rssBytes } from "../proc-stat.ts";
import { nowUs, sleep } from "./clock.ts";
import type { ClientReport, Order, Quantiles, RequestsOrder, RequestsResult, StreamsOrder, StreamsResult } from "./messages.ts";
import { StreamConnection } from "./stream-connection.ts";

/** Streams that may be on their way to their first token at once while they are being opened. */
const OPENING_MAX = 32;
const ERRORS_KEPT = 5;
const MEMORY_LOOK_MS = 50;

/** Values of one window; sorted once, when it is over. */
class Samples {
  #values = new Float64Array(65_536);
  #count = 0;

  add(value: number): void {
    if (this.#count === this.#values.length) {
      const grown = new Float64Array(this.#values.length * 2);
      grown.set(this.#values);
      this.#values = grown;
    }
    this.#values[this.#count] = value;
    this.#count += 1;
  }

  get count(): number {
    return this.#count;
  }

  clear(): void {
    this.#count = 0;
  }

  quantiles(): Quantiles {
    const sorted = this.#values.slice(0, this.#count).sort();
    const at = (share: number) => sorted[Math.min(this.#count - 1, Math.floor(share * this.#count))] ?? Number.NaN;
    return { p50: at(0.5), p99: at(0.99) };
  }
}

class Problems {
  readonly kept: string[] = [];

  add(problem: string | undefined): void {
    if (problem !== undefined && this.kept.length < ERRORS_KEPT) this.kept.push(problem);
  }
}

/** CPU of a process between two moments; 0 for none. */
function cpuOf(pid: number): number {
  return pid === 0 ? 0 : cpuNs(pid);
}

async function streams(order: StreamsOrder): Promise<StreamsResult> {
  const { pace, pid } = order;
  const problems = new Problems();
  const lag = new Samples();
  let tokens = 0;
  let counting = false;
  const onToken = (sent_us: number, now_us: number) => {
    if (!counting) return;
    tokens += 1;
    lag.add(now_us - sent_us);
  };
  const main = await open(order.streams, order, { onToken }, problems);
  const side = await openSide(order, problems);
  if (order.window_ms > 0) await sleep(order.settle_ms);

  const rss_before = pid === 0 ? 0 : rssBytes(pid);
  let rss_peak = rss_before;
  const memory = setInterval(() => {
    if (pid !== 0) rss_peak = Math.max(rss_peak, rssBytes(pid));
  }, MEMORY_LOOK_MS);
  tell({ window: "begins" });
  counting = true;
  const from_ns = cpuOf(pid);
  const from_us = nowUs();
  if (order.window_ms > 0) await sleep(order.window_ms);
  else await main.ended;
  const cpu_ns = cpuOf(pid) - from_ns;
  const seconds = (nowUs() - from_us) / 1e6;
  counting = false;
  clearInterval(memory);
  const early = main.connections.length - main.running();
  if (order.window_ms > 0 && early > 0 && problems.kept.length === 0) problems.add(`${early} streams ended before the window did`);
  tell({ window: "ended" });

  for (const connection of side.connections) connection.resume();
  await Promise.all([main.ended, side.ended]);
  for (const connection of [...main.connections, ...side.connections]) connection.close();
  const delivered = tokens / (order.streams * pace.rate * seconds);
  return { tokens, seconds, cpu_ns, delivered, lag_us: lag.quantiles(), rss_before, rss_peak, side_cut: side.cut(), errors: problems.kept };
}

interface Open {
  readonly connections: StreamConnection[];
  /** Resolves when every stream has ended. */
  readonly ended: Promise<unknown>;
  running(): number;
}

/** Opens the streams, at most `OPENING_MAX` at a time; resolves when each has had its first token. */
async function open(
  count: number,
  { target, pace }: Pick<StreamsOrder, "target" | "pace">,
  { onToken }: { onToken: (sent_us: number, now_us: number) => void },
  problems: Problems,
): Promise<Open> {
  const connections: StreamConnection[] = [];
  const ends: Promise<void>[] = [];
  let running = 0;
  const openOne = () =>
    new Promise<void>((resolve) => {
      const connection = new StreamConnection(target);
      connections.push(connection);
      running += 1;
      const listener = {
        onToken(sent_us: number, now_us: number) {
          resolve();
          onToken(sent_us, now_us);
        },
      };
      const over = connection.run(pace, listener).then((problem) => {
        running -= 1;
        problems.add(problem);
        resolve();
      });
      ends.push(over);
    });
  const lanes = Array.from({ length: Math.min(OPENING_MAX, count) }, async () => {
    while (connections.length < count) await openOne();
  });
  await Promise.all(lanes);
  return { connections, ended: Promise.all(ends), running: () => running };
}

/** The side load; a stream of it that is not read may be cut off, and that is no error. */
async function openSide({ target, side }: StreamsOrder, problems: Problems): Promise<Open & { cut: () => number }> {
  const verdicts = new Problems();
  if (side === undefined) return { connections: [], ended: Promise.resolve(), running: () => 0, cut: () => 0 };
  const opened = await open(side.streams, { target, pace: side.pace }, { onToken() {} }, side.read ? problems : verdicts);
  if (!side.read) for (const connection of opened.connections) connection.stall();
  return { ...opened, cut: () => verdicts.kept.length };
}

/** A closed loop: each connection sends its next request when the last is answered. */
async function requests({ target, connections, pace, settle_ms, window_ms, pid }: RequestsOrder): Promise<RequestsResult> {
  const problems = new Problems();
  const first = new Samples();
  let over = false;
  let answered = 0;
  const loops = Array.from({ length: connections }, async () => {
    const connection = new StreamConnection(target);
    while (!over && problems.kept.length === 0) {
      const asked_us = nowUs();
      let first_us = 0;
      const listener = {
        onToken(_sent_us: number, now_us: number) {
          if (first_us === 0) first_us = now_us;
        },
      };
      problems.add(await connection.run(pace, listener));
      answered += 1;
      first.add(first_us - asked_us);
    }
    connection.close();
  });
  await sleep(settle_ms);
  first.clear();
  tell({ window: "begins" });
  const from = { ns: cpuOf(pid), us: nowUs(), answered };
  await sleep(window_ms);
  const result = { requests: answered - from.answered, seconds: (nowUs() - from.us) / 1e6, cpu_ns: cpuOf(pid) - from.ns };
  const first_token_us = first.quantiles();
  tell({ window: "ended" });
  over = true;
  await Promise.all(loops);
  return { ...result, first_token_us, errors: problems.kept };
}

function tell(report: ClientReport): void {
  process.send?.(report);
}

process.on("message", (order: Order) => {
  const done =
    order.kind === "streams"
      ? streams(order).then((result) => tell({ streams: result }))
      : requests(order).then((result) => tell({ requests: result }));
  done.catch((error) => tell({ failed: String((error as Error).stack ?? error) }));
});
process.on("disconnect", () => process.exit(0));
