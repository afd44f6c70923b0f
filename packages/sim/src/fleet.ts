/** The machines of a simulated pool: how fast each is, how much it does at once and how much it keeps. */

/** One machine with one worker. The times are those of a machine of speed 1. */
export interface Machine {
  readonly id: string;
  /** 0.5 needs twice the time for everything. */
  readonly speed: number;
  /** Requests at once. */
  readonly slots: number;
  /** Tokens of prompts that it keeps, for the next one that begins alike. */
  readonly cache_tokens: number;
  readonly prefill_ms_per_token: number;
  /** What an iteration takes with nothing in it, and for each sequence that gets a token in it. */
  readonly iteration_ms: number;
  readonly iteration_ms_per_sequence: number;
  /** Prompt tokens computed in one iteration, at most. */
  readonly chunk_tokens: number;
}

/** An 8B model on a data-centre GPU, about: those of the replay that chose the default policy. */
export const DEFAULTS: Omit<Machine, "id"> = {
  speed: 1,
  slots: 64,
  cache_tokens: 976 * 512,
  prefill_ms_per_token: 0.15,
  iteration_ms: 8,
  iteration_ms_per_sequence: 0.12,
  chunk_tokens: 2048,
};
export const WORKERS_DEFAULT = 8;
const WORKERS_MAX = 4096;

/** Every problem of a fleet at once. */
export class FleetError extends Error {
  readonly problems: readonly string[];

  constructor(problems: readonly string[]) {
    super(problems.join("; "));
    this.name = "FleetError";
    this.problems = problems;
  }
}

interface Bounds {
  readonly whole: boolean;
  readonly min: number;
  readonly max: number;
}
const BOUNDS: Readonly<Record<keyof typeof DEFAULTS, Bounds>> = {
  speed: { whole: false, min: 0.001, max: 1000 },
  slots: { whole: true, min: 1, max: 1_000_000 },
  cache_tokens: { whole: true, min: 0, max: 1e9 },
  prefill_ms_per_token: { whole: false, min: 0, max: 1e6 },
  iteration_ms: { whole: false, min: 0.001, max: 1e6 },
  iteration_ms_per_sequence: { whole: false, min: 0, max: 1e6 },
  chunk_tokens: { whole: true, min: 1, max: 1e9 },
};
const KEYS = Object.keys(BOUNDS) as (keyof typeof BOUNDS)[];

/** Equal machines but for their speeds, which begin again when there are fewer than machines. */
export function fleetOf(options: {
  workers?: number | undefined;
  speeds?: readonly number[] | undefined;
  slots?: number | undefined;
  cache_tokens?: number | undefined;
}): Machine[] {
  const { speeds = [DEFAULTS.speed], slots = DEFAULTS.slots, cache_tokens = DEFAULTS.cache_tokens } = options;
  const workers = options.workers ?? (options.speeds === undefined ? WORKERS_DEFAULT : speeds.length);
  const table = Array.from({ length: workers }, (_, at) => ({ speed: speeds[at % speeds.length], slots, cache_tokens }));
  return fleetFrom({ worker: table });
}

/** A fleet as a file says it: `[[worker]]` tables, each with an optional `count` and `id`, over one of `[defaults]`. */
export function fleetFrom(described: unknown): Machine[] {
  const problems: string[] = [];
  const { defaults = {}, worker: tables = [], ...unknown } = tableOf(described, "the file", problems);
  for (const key of Object.keys(unknown)) problems.push(`${key}: unknown, only [defaults] and [[worker]] are`);
  const base = { ...DEFAULTS, ...values(tableOf(defaults, "[defaults]", problems), "[defaults]", problems) };
  const machines: Machine[] = [];
  if (!Array.isArray(tables)) problems.push("worker: write [[worker]], with two brackets");
  else if (tables.length === 0) problems.push("no [[worker]] in it");
  else {
    for (const [index, one] of tables.entries()) {
      const at = tables.length === 1 ? "[[worker]]" : `[[worker]] ${index + 1}`;
      const { id, count = 1, ...rest } = tableOf(one, at, problems);
      if (id !== undefined && (typeof id !== "string" || id === "")) problems.push(`${at} id: must be text`);
      const copies = wrong(count, { whole: true, min: 1, max: WORKERS_MAX });
      if (copies !== undefined) problems.push(`${at} count: ${copies}`);
      const machine = { ...base, ...values(rest, at, problems) };
      if (copies !== undefined) continue;
      for (let copy = 1; copy <= (count as number) && machines.length <= WORKERS_MAX; copy += 1) {
        machines.push({ id: id === undefined ? `w${machines.length + 1}` : count === 1 ? `${id}` : `${id}-${copy}`, ...machine });
      }
    }
  }
  if (machines.length > WORKERS_MAX) problems.push(`more than ${WORKERS_MAX} workers`);
  const ids = new Set<string>();
  for (const { id } of machines) {
    if (ids.has(id)) problems.push(`id: two workers are called "${id}"`);
    ids.add(id);
  }
  if (problems.length > 0) throw new FleetError(problems);
  return machines;
}

function tableOf(value: unknown, at: string, problems: string[]): Record<string, unknown> {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  problems.push(`${at}: must be a table`);
  return {};
}

function values(table: Record<string, unknown>, at: string, problems: string[]): Partial<Omit<Machine, "id">> {
  const found: Partial<Record<keyof typeof BOUNDS, number>> = {};
  for (const [name, value] of Object.entries(table)) {
    const key = KEYS.find((known) => known === name);
    const problem = key === undefined ? `unknown; known are ${KEYS.join(", ")}` : wrong(value, BOUNDS[key]);
    if (problem !== undefined) problems.push(`${at} ${name}: ${problem}`);
    else if (key !== undefined) found[key] = Number(value);
  }
  return found;
}

function wrong(value: unknown, { whole, min, max }: Bounds): string | undefined {
  const fits = typeof value === "number" && (whole ? Number.isInteger(value) : Number.isFinite(value)) && value >= min && value <= max;
  return fits ? undefined : `must be a ${whole ? "whole " : ""}number from ${min} to ${max}`;
}
