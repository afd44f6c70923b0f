/** Reads trace and fleet, and replays the one on the other under each policy. */
import { readFile } from "node:fs/promises";
import { setImmediate as others } from "node:timers/promises";
import { invalidRequest, RbeesError } from "@rbees/contracts/errors";
import { FleetError, fleetFrom, fleetOf, type Machine } from "@rbees/sim/fleet";
import type { PolicyName } from "@rbees/sim/policies";
import { type Replayed, replay } from "@rbees/sim/replay";
import { type Report, reportOf, type Slo } from "@rbees/sim/report";
import { dealtOut, type Request, TraceError } from "@rbees/sim/trace";
import { readTrace } from "@rbees/sim/trace-file";
import { parse as parseToml, TomlError } from "smol-toml";
import type { Context } from "../context.ts";
import { percent } from "../look.ts";

export interface SimulateOptions {
  readonly trace: string;
  readonly fleet: string | undefined;
  /** The fleet by flags, when it is not in a file. */
  readonly machines: Parameters<typeof fleetOf>[0];
  readonly policies: readonly PolicyName[];
  readonly rate: number;
  readonly limit: number | undefined;
  /** Deal the requests out to so many; undefined: as the trace says. */
  readonly tenants: number | undefined;
  readonly slo: Slo;
}

export interface Simulation {
  readonly trace: {
    readonly file: string;
    readonly requests: number;
    readonly prompt_tokens: number;
    readonly output_tokens: number;
    /** From the first request to the last. */
    readonly duration_s: number;
    readonly rate: number;
  };
  readonly fleet: readonly Machine[];
  readonly slo: Slo;
  readonly policies: readonly Report[];
  /** The policy with the lowest mean time to the first token. */
  readonly best: PolicyName;
}

export async function simulate(context: Context, options: SimulateOptions): Promise<Simulation> {
  const fleet = await readFleet(options);
  const requests = await readRequests(options);
  const policies: Report[] = [];
  for (const policy of options.policies) policies.push(reportOf(await watched(context, requests, fleet, policy), options.slo));
  return {
    trace: {
      file: options.trace,
      requests: requests.length,
      prompt_tokens: requests.reduce((sum, { prompt_tokens }) => sum + prompt_tokens, 0),
      output_tokens: requests.reduce((sum, { output_tokens }) => sum + output_tokens, 0),
      duration_s: (requests.at(-1)?.at_ms ?? 0) / 1000,
      rate: options.rate,
    },
    fleet,
    slo: options.slo,
    policies,
    best: policies.reduce((best, one) => (one.ttft_s.mean < best.ttft_s.mean ? one : best)).policy,
  };
}

/** A replay that shows how far it is and can be interrupted. */
async function watched(context: Context, requests: readonly Request[], fleet: readonly Machine[], policy: PolicyName): Promise<Replayed> {
  const going = replay(requests, fleet, policy);
  for (;;) {
    const { done, value } = going.next();
    if (done) return value;
    if (context.io.err_look.tty) context.progress(`replaying with ${policy}`, percent(value, requests.length));
    await others();
    context.signal.throwIfAborted();
  }
}

async function readFleet({ fleet: file, machines }: SimulateOptions): Promise<Machine[]> {
  try {
    if (file === undefined) return fleetOf(machines);
    if (Object.values(machines).some((value) => value !== undefined)) {
      throw new RbeesError(
        "INVALID_REQUEST",
        "--fleet says what the machines are: leave out --workers, --speeds, --slots, --cache-tokens.",
      );
    }
    return fleetFrom(parseToml(await readFile(file, "utf8")));
  } catch (error) {
    const where = file ?? "--speeds";
    if (error instanceof FleetError) throw wrong(`The fleet of ${where} is not valid`, error.problems);
    if (error instanceof TomlError) throw wrong(`${where} is not TOML`, [`line ${error.line}: ${error.message.split("\n")[0]}`]);
    throw unreadable(where, "the fleet", error);
  }
}

async function readRequests({ trace, rate, limit, tenants }: SimulateOptions): Promise<Request[]> {
  try {
    const requests = await readTrace(trace, { rate, limit });
    return tenants === undefined ? requests : dealtOut(requests, tenants);
  } catch (error) {
    if (error instanceof TraceError) throw wrong(`The trace ${trace} can't be read`, error.problems);
    throw unreadable(trace, "the trace", error);
  }
}

function wrong(what: string, problems: readonly string[]): RbeesError {
  const { details } = invalidRequest(problems.map((problem) => ({ field: what, problem })));
  return new RbeesError("INVALID_REQUEST", `${what}: ${problems.join("; ")}.`, { details });
}

function unreadable(file: string, what: string, error: unknown): unknown {
  switch (error instanceof Error ? (error as NodeJS.ErrnoException).code : undefined) {
    case "ENOENT":
    case "ENOTDIR":
      return new RbeesError("NOT_FOUND", `There is no file ${file}; give the path of ${what}.`, { cause: error });
    case "EISDIR":
      return new RbeesError("INVALID_REQUEST", `${file} is a folder; give the path of ${what} in it.`, { cause: error });
    case "EACCES":
    case "EPERM":
      return new RbeesError("FORBIDDEN", `The system does not let you read ${file}; give ${what} in a file that you may read.`, {
        cause: error,
      });
    default:
      return error;
  }
}
