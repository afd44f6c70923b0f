/** The flags of the bench. */
import { parseArgs } from "node:util";

export const SECTIONS = ["token", "small", "ttft", "growth", "stalled", "heap", "syscalls", "commits", "rows", "audit", "trust"] as const;
export type Section = (typeof SECTIONS)[number];

export interface Options {
  rounds: number;
  streams: number;
  rate: number;
  seconds: number;
  only: readonly Section[];
  folder: string | undefined;
}

export const HELP = `bench:relay: what the orchestrator costs per token and per request, next to a bare relay and nginx, in one run.

  --rounds N     interleaved rounds (default 5; less is for trying things out)
  --streams N    streams at once (default 200)
  --rate N       tokens a second in each (default 50)
  --seconds N    the measured window of a round (default 3)
  --only A,B     sections: ${SECTIONS.join(", ")} (default: all)
  --folder PATH  where the temporary folder is made; it must be on a disk (default: the system's temporary folder)
`;

/** Undefined when help was asked for. Throws a RangeError that names the flag. */
export function readOptions(argv: readonly string[]): Options | undefined {
  const text = { type: "string" } as const;
  const { values } = parseArgs({
    args: [...argv],
    options: { rounds: text, streams: text, rate: text, seconds: text, only: text, folder: text, help: { type: "boolean", short: "h" } },
  });
  if (values.help === true) return undefined;
  const number = (name: "rounds" | "streams" | "rate" | "seconds", fallback: number) => {
    const value = Number(values[name] ?? fallback);
    if (!(value > 0)) throw new RangeError(`--${name} must be a number above 0`);
    return value;
  };
  const only = values.only === undefined ? SECTIONS : values.only.split(",").map((name) => section(name.trim()));
  return {
    rounds: Math.ceil(number("rounds", 5)),
    streams: Math.ceil(number("streams", 200)),
    rate: number("rate", 50),
    seconds: number("seconds", 3),
    only,
    folder: values.folder,
  };
}

function section(name: string): Section {
  if (!(SECTIONS as readonly string[]).includes(name))
    throw new RangeError(`--only: there is no section "${name}"; there are ${SECTIONS.join(", ")}`);
  return name as Section;
}
