/** What rules may ask about: the names and types that conditions are checked against, and the facts of a job, a worker and a moment. */

import { Environment } from "@marcbachmann/cel-js";
import { areaName, areasOf } from "@rbees/contracts/regions";

export interface JobFacts {
  readonly tenant: string;
  /** Empty where nobody was asked for one. */
  readonly key: { readonly id: string; readonly name: string };
  readonly model: string;
  readonly job: {
    readonly priority: string;
    readonly prompt_tokens: number;
    readonly max_tokens: number;
    /** 0: none. */
    readonly deadline_ms: number;
    readonly metadata: Readonly<Record<string, string>>;
    readonly labels: Readonly<Record<string, string>>;
  };
  /** When it was submitted. */
  readonly at_ms: number;
}

export interface WorkerFacts {
  readonly id: string;
  /** Empty where it does not say. */
  readonly region: string;
  readonly backend: string;
  readonly pool: string;
  /** `joined` with a token, or `open`: nobody was asked. */
  readonly trust: string;
  readonly slots: number;
  /** 0: it does not say. */
  readonly context_size: number;
  readonly labels: Readonly<Record<string, string>>;
}

const STRINGS = "map<string, string>";

/** What a condition may cost to parse, as its limits; what it may cost to evaluate is `costOf`. */
const LIMITS = { maxAstNodes: 300, maxDepth: 32, maxListElements: 64, maxMapEntries: 0, maxCallArguments: 4 };

/** Conditions know these and no other names. */
export function environmentOfRules(): Environment {
  return new Environment({ limits: LIMITS })
    .registerType("Key", { fields: { id: "string", name: "string" } })
    .registerType("Job", {
      fields: { priority: "string", prompt_tokens: "int", max_tokens: "int", deadline_ms: "int", metadata: STRINGS, labels: STRINGS },
    })
    .registerType("Worker", {
      fields: {
        id: "string",
        region: "string",
        backend: "string",
        pool: "string",
        trust: "string",
        slots: "int",
        context_size: "int",
        labels: STRINGS,
      },
    })
    .registerType("Time", { fields: { hour: "int", minute: "int", weekday: "string", date: "string" } })
    .registerVariable("tenant", "string")
    .registerVariable("key", "Key")
    .registerVariable("model", "string")
    .registerVariable("job", "Job")
    .registerVariable("worker", "Worker")
    .registerVariable("time", "Time")
    .registerFunction("within(string, string): bool", (region: string, area: string) => areasOf(region).includes(areaName(area)));
}

/** As conditions see them: whole numbers are big ones. */
export function jobContext({ tenant, key, model, job, at_ms }: JobFacts, clock: Clock): Record<string, unknown> {
  const { prompt_tokens, max_tokens, deadline_ms, ...rest } = job;
  const numbers = { prompt_tokens: whole(prompt_tokens), max_tokens: whole(max_tokens), deadline_ms: whole(deadline_ms) };
  return { tenant, key, model, job: { ...rest, ...numbers }, time: clock(at_ms) };
}

export function workerContext({ slots, context_size, ...rest }: WorkerFacts): Record<string, unknown> {
  return { ...rest, slots: whole(slots), context_size: whole(context_size) };
}

function whole(value: number): bigint {
  return BigInt(Math.trunc(value));
}

/** What `time` is at a moment. */
export type Clock = (at_ms: number) => { hour: bigint; minute: bigint; weekday: string; date: string };

/** Throws a RangeError where there is no such time zone. */
export function clockIn(timezone: string): Clock {
  const parts = new Intl.DateTimeFormat("en-GB", {
    timeZone: timezone,
    year: "numeric",
    month: "2-digit",
    day: "2-digit",
    weekday: "short",
    hour: "2-digit",
    minute: "2-digit",
    hourCycle: "h23",
  });
  return (at_ms) => {
    const found = Object.fromEntries(parts.formatToParts(at_ms).map(({ type, value }) => [type, value]));
    const { year, month, day, weekday = "", hour = "0", minute = "0" } = found;
    return { hour: BigInt(hour), minute: BigInt(minute), weekday: weekday.toLowerCase(), date: `${year}-${month}-${day}` };
  };
}
