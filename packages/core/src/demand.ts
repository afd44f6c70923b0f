/**
 * What a job's worker must have by order of its tenant or of a rule. Unlike a wish of the job itself it holds for every way to a worker, also
 * for one that would be started for it, and for whoever else serves the model: what can't take the job does not serve it.
 */
import type { Job, JobSpec, Queue, State } from "./state.ts";

export interface Demand {
  /** Who says so, in words: `tenant acme`, `rule eu-only`. */
  readonly by: string;
  /** It stands in one of these; empty: anywhere. */
  readonly areas: readonly string[];
  /** It computes with one of these; empty: with any. */
  readonly backends: readonly string[];
  readonly labels: Readonly<Record<string, string>>;
}

/** What demands are asked of: a worker that is there, or one that would be started. */
export interface Answerable {
  /** All areas that it is in; none when it does not say where it is. */
  readonly areas: readonly string[];
  readonly backend: string;
  readonly labels: Readonly<Record<string, string>>;
}

export const NO_DEMANDS: readonly Demand[] = [];

/** The first that is not met. */
export function unmet(demands: readonly Demand[], who: Answerable): Demand | undefined {
  for (const demand of demands) if (lack(demand, who) !== undefined) return demand;
  return undefined;
}

/** What is not as the demand says, in words. */
export function lack({ areas, backends, labels }: Demand, who: Answerable): string | undefined {
  if (areas.length > 0 && !areas.some((area) => who.areas.includes(area))) {
    const [region] = who.areas;
    return `a worker in ${areas.join(" or ")}, and ${region === undefined ? "it declares no region" : `its region is ${region}`}`;
  }
  if (backends.length > 0 && !backends.includes(who.backend)) return `the backend ${backends.join(" or ")}, and it has ${who.backend}`;
  for (const name in labels) {
    if (who.labels[name] !== labels[name]) return `the label ${name}=${labels[name]}, and its is ${who.labels[name] ?? "not set"}`;
  }
  return undefined;
}

/** Who says what, for people: `tenant acme demands a worker in EU`. */
export function inWords(demands: readonly Demand[]): string {
  return demands
    .map(({ by, areas, backends, labels }) => {
      const parts = [
        ...(areas.length > 0 ? [`a worker in ${areas.join(" or ")}`] : []),
        ...(backends.length > 0 ? [`the backend ${backends.join(" or ")}`] : []),
        ...Object.entries(labels).map(([name, value]) => `the label ${name}=${value}`),
      ];
      return `${by} demands ${parts.join(" and ")}`;
    })
    .join("; ");
}

/** The same for jobs with the same demands, empty for those without any. */
function keyOf(demands: readonly Demand[]): string {
  return demands.length === 0 ? "" : JSON.stringify(demands.map(({ areas, backends, labels }) => [areas, backends, labels]));
}

/** Those of its tenant, and those that rules have. */
export function demandsOn({ residencies }: State, { tenant }: JobSpec, by_rules: readonly Demand[]) {
  const of_tenant = residencies.size === 0 ? undefined : residencies.get(tenant);
  const demands = of_tenant === undefined ? by_rules : [of_tenant, ...by_rules];
  return { demands, demands_key: keyOf(demands) };
}

/** Jobs with the same demands that wait in one queue. */
export interface Wanted {
  readonly key: string;
  readonly demands: readonly Demand[];
  jobs: number;
}

/** Notes that one more, or one fewer, waits; those without demands are not counted. */
export function countWanted({ wanted }: Queue, { demands, demands_key: key }: Job, by: 1 | -1): void {
  if (key === "") return;
  const found = wanted.get(key);
  if (found === undefined) wanted.set(key, { key, demands, jobs: 1 });
  else if (found.jobs + by === 0) wanted.delete(key);
  else found.jobs += by;
}

const NOTHING: Omit<Wanted, "jobs"> = { key: "", demands: NO_DEMANDS };

/** What those who wait there ask of a worker: each set of demands once, those who ask for nothing last. `waiting`: jobs in the queue. */
export function wantedOf({ wanted }: Queue, waiting: number): Omit<Wanted, "jobs">[] {
  if (wanted.size === 0) return waiting === 0 ? [] : [NOTHING];
  const found: Omit<Wanted, "jobs">[] = [...wanted.values()].sort((a, b) => b.demands.length - a.demands.length);
  let demanding = 0;
  for (const { jobs } of wanted.values()) demanding += jobs;
  if (waiting > demanding) found.push(NOTHING);
  return found;
}
