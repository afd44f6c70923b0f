/** What a replay means to those who waited for an answer, and to those who pay for the machines. */
import type { PolicyName } from "@rbees/core/state";
import type { Replayed, Served, TenantGap } from "./replay.ts";

/** What an answer must keep to count as good. */
export interface Slo {
  readonly ttft_ms: number;
  readonly tpot_ms: number;
}

export interface Report {
  readonly policy: PolicyName;
  readonly requests: number;
  readonly finished: number;
  /** From the request to the first token, seconds. */
  readonly ttft_s: { readonly mean: number; readonly p50: number; readonly p90: number; readonly p99: number };
  /** From one token of an answer to the next, milliseconds: the mean within an answer, over all answers of two tokens or more. */
  readonly tpot_ms: { readonly mean: number; readonly p99: number };
  /** Of all prompt tokens those that the workers did not have to compute, percent. */
  readonly hit_percent: number;
  /** Requests that kept the SLO, percent. */
  readonly goodput_percent: number;
  /** How much of the time the workers computed, percent: the idlest and the busiest. */
  readonly busy_percent: { readonly min: number; readonly max: number };
  /** From the request until it was sent to a worker, seconds. */
  readonly queue_s: { readonly p99: number };
  /** Jain's index of the tokens that each worker computed, divided by its speed: 1 when all had as much to do as they are fast. */
  readonly fairness: number;
  /** Of tenants that waited at the same time. */
  readonly tenants: TenantGap;
  /** From the first request to the end of the last answer, seconds. */
  readonly makespan_s: number;
}

export function reportOf({ policy, served, tenants, workers }: Replayed, slo: Slo): Report {
  const finished = served.filter(({ ended_ms }) => Number.isFinite(ended_ms));
  const ttft = finished.map(({ request, first_ms }) => first_ms - request.at_ms).sort(ascending);
  const tpot = finished
    .filter(({ tokens_out }) => tokens_out > 1)
    .map(tpotMs)
    .sort(ascending);
  const queue = finished.map(({ request, sent_ms }) => sent_ms - request.at_ms).sort(ascending);
  const good = finished.filter((one) => one.first_ms - one.request.at_ms <= slo.ttft_ms && tpotMs(one) <= slo.tpot_ms);
  const makespan_ms = finished.reduce((latest, { ended_ms }) => Math.max(latest, ended_ms), 0);
  const busy = workers.map(({ busy_ms }) => busy_ms / Math.max(1, makespan_ms)).sort(ascending);
  const prompt_tokens = finished.reduce((sum, { request }) => sum + request.prompt_tokens, 0);
  return {
    policy,
    requests: served.length,
    finished: finished.length,
    ttft_s: {
      mean: round(mean(ttft) / 1000, 3),
      p50: round(quantile(ttft, 0.5) / 1000, 3),
      p90: round(quantile(ttft, 0.9) / 1000, 3),
      p99: round(quantile(ttft, 0.99) / 1000, 3),
    },
    tpot_ms: { mean: round(mean(tpot), 2), p99: round(quantile(tpot, 0.99), 2) },
    hit_percent: round((100 * workers.reduce((sum, { cached_tokens }) => sum + cached_tokens, 0)) / Math.max(1, prompt_tokens), 2),
    goodput_percent: round((100 * good.length) / Math.max(1, served.length), 2),
    busy_percent: { min: round(100 * (busy[0] ?? 0), 1), max: round(100 * (busy.at(-1) ?? 0), 1) },
    queue_s: { p99: round(quantile(queue, 0.99) / 1000, 3) },
    fairness: round(jain(workers.map(({ machine, computed_tokens }) => computed_tokens / machine.speed)), 3),
    tenants,
    makespan_s: round(makespan_ms / 1000, 1),
  };
}

/** An answer of one token has nothing to wait for after it. */
function tpotMs({ first_ms, ended_ms, tokens_out }: Served): number {
  return tokens_out > 1 ? (ended_ms - first_ms) / (tokens_out - 1) : 0;
}

function ascending(a: number, b: number): number {
  return a - b;
}

function mean(values: readonly number[]): number {
  return values.length === 0 ? 0 : values.reduce((sum, value) => sum + value, 0) / values.length;
}

/** The smallest value that is at least as large as that share of them. */
export function quantile(sorted: readonly number[], share: number): number {
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? 0;
}

export function jain(loads: readonly number[]): number {
  const sum = loads.reduce((total, load) => total + load, 0);
  const squares = loads.reduce((total, load) => total + load * load, 0);
  return squares === 0 ? 1 : sum ** 2 / (loads.length * squares);
}

function round(value: number, digits: number): number {
  return Number(value.toFixed(digits));
}
