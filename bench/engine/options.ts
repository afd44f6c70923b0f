/** The flags of the bench. */
import { parseArgs } from "node:util";

export const SECTIONS = [
  "decode",
  "scaling",
  "outside",
  "abort",
  "pause",
  "prefix",
  "evicted",
  "speculate",
  "cache-type",
  "grammar",
] as const;
export type Section = (typeof SECTIONS)[number];

export const MEASURED_ENGINES = ["libllama", "node-llama-cpp"] as const;
export type MeasuredEngine = (typeof MEASURED_ENGINES)[number];

export interface Options {
  rounds: number;
  streams: readonly number[];
  tokens: number;
  threads: number;
  only: readonly Section[];
  /** The worker's engines that are measured; latencies are those of the first. */
  engines: readonly MeasuredEngine[];
}

const STREAMS_MAX = 64;
/** A slot holds `CONTEXT_TOKENS` of `decode.ts`; prompt and settling need a part of it. */
const TOKENS_MAX = 384;

export const HELP = `bench:engine: what the worker costs per token, next to bare llama.cpp on the same library, threads and model, in one run.

  --rounds N     interleaved rounds (default 5; less is for trying things out)
  --streams A,B  numbers of streams at once (default 1,4,8,16)
  --tokens N     tokens of each stream in the measured window (default 96, at most ${TOKENS_MAX})
  --threads N    threads that compute, of both (default 1)
  --engines A,B  engines of the worker (default: ${MEASURED_ENGINES.join(",")}); latencies are measured on the first
  --only A,B     sections: ${SECTIONS.join(", ")} (default: all)
`;

/** Undefined when help was asked for. Throws a RangeError that names the flag. */
export function readOptions(argv: readonly string[]): Options | undefined {
  const text = { type: "string" } as const;
  const { values } = parseArgs({
    args: [...argv],
    options: { rounds: text, streams: text, tokens: text, threads: text, engines: text, only: text, help: { type: "boolean", short: "h" } },
  });
  if (values.help === true) return undefined;
  const number = (name: string, given: string, most: number) => {
    const value = Number(given);
    if (!Number.isInteger(value) || value < 1 || value > most) throw new RangeError(`--${name} must be a whole number from 1 to ${most}`);
    return value;
  };
  const streams = (values.streams ?? "1,4,8,16").split(",").map((given) => number("streams", given, STREAMS_MAX));
  return {
    rounds: number("rounds", values.rounds ?? "5", 1000),
    streams: [...new Set(streams)].sort((a, b) => a - b),
    tokens: number("tokens", values.tokens ?? "96", TOKENS_MAX),
    threads: number("threads", values.threads ?? "1", 256),
    only: values.only === undefined ? SECTIONS : values.only.split(",").map((name) => section(name.trim())),
    engines: values.engines === undefined ? MEASURED_ENGINES : values.engines.split(",").map((name) => engine(name.trim())),
  };
}

function section(name: string): Section {
  if (!(SECTIONS as readonly string[]).includes(name))
    throw new RangeError(`--only: there is no section "${name}"; there are ${SECTIONS.join(", ")}`);
  return name as Section;
}

function engine(name: string): MeasuredEngine {
  if (!(MEASURED_ENGINES as readonly string[]).includes(name))
    throw new RangeError(`--engines: there is no engine "${name}"; there are ${MEASURED_ENGINES.join(", ")}`);
  return name as MeasuredEngine;
}
