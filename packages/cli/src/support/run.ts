/** `rbees test models` from end to end: what shall be tested, the tests, the page. */
import { RbeesError } from "@rbees/contracts/errors";
import { canonicalModel } from "@rbees/contracts/sets";
import type { Backend } from "@rbees/contracts/worker";
import type { Context } from "../context.ts";
import { isReference } from "../download/reference.ts";
import { plural } from "../look.ts";
import { catalogue, DEMO, knownReference } from "../pool/catalogue.ts";
import { readPools } from "../remote/pools.ts";
import { testCombinations } from "./combinations.ts";
import { merged, readPage, writePage } from "./page.ts";
import type { PoolResult } from "./result.ts";

interface Wanted {
  models: readonly string[] | undefined;
  pools: readonly string[] | undefined;
  backends: readonly Backend[];
  /** The page, if one shall be written. */
  write: string | undefined;
}

export async function testModels(context: Context, { models, pools, backends, write }: Wanted): Promise<{ results: PoolResult[] }> {
  const known = (await catalogue(context)).map(({ name }) => name);
  const registered = await readPools(context);
  const combinations = {
    models: [...new Set((models ?? known).map(nameOf))],
    pools: pools ?? ["localhost", ...Object.keys(registered).sort()],
    backends,
  };
  const places = [
    ...combinations.pools.flatMap((pool) => [pool, ...pool.split("@")]),
    ...Object.entries(registered).flatMap(([name, { host }]) => [name, host]),
  ];
  const before = write === undefined ? [] : await readPage(write);
  const results: PoolResult[] = [];
  try {
    await testCombinations(context, combinations, (result) => results.push(result));
  } finally {
    if (write !== undefined && results.length > 0) {
      await writePage(write, merged(before, results, places), known.filter(everyoneKnows));
      context.say(`${plural(results.length, "result")} added to ${write}`);
    }
  }
  if (results.every(({ outcome }) => outcome === "skipped")) context.io.say(whyNothing(results));
  return { results };
}

function whyNothing(results: readonly PoolResult[]): string {
  const reasons = [...new Set(results.map(({ reason }) => reason?.split("\n")[0] ?? ""))];
  const others = reasons.length > 1 ? ` (and ${plural(reasons.length - 1, "other reason")}, above)` : "";
  return `Nothing was run, so nothing is known: ${reasons[0] ?? "there is nothing to test"}${others}`;
}

/** The page is for others: it must say which model that was. */
function nameOf(given: string): string {
  if (given.startsWith("file:") || (!isReference(given) && /[/\\]|\.gguf$/.test(given))) {
    throw new RbeesError("INVALID_REQUEST", `--models: give ${given} a name first: rbees-pool models register NAME ${given}`);
  }
  return canonicalModel(given);
}

/** A name that was given on this host alone means nothing on a page for others, until it has been tested. */
function everyoneKnows(name: string): boolean {
  return name === DEMO || knownReference(name) !== undefined;
}
