/** Counts that outlive each command, because a pool has no daemon to keep them: what started, stopped and was downloaded. */
import { join } from "node:path";
import type { Home } from "@rbees/kit/home";
import { z } from "zod";
import { type SharedFile, sharedFile } from "../local/json-file.ts";

type Counted = "worker_starts" | "worker_stops" | "model_downloads";

const Counters = z.record(z.string(), z.record(z.string(), z.int().nonnegative()));
export type Counters = z.infer<typeof Counters>;

function file(home: Home): SharedFile<Counters> {
  // Nobody needs to hear of lost counts: a counter that begins again is what its readers expect of a restart.
  return sharedFile<Counters>(
    join(home.state, "counters.json"),
    Counters,
    () => ({}),
    () => {},
  );
}

/** What was done is done, also where it can't be counted: on a full disk workers have to be stopped, too. */
export async function countEvent(home: Home, what: Counted, outcome: string): Promise<void> {
  await file(home)
    .update((now) => ({ ...now, [what]: { ...now[what], [outcome]: (now[what]?.[outcome] ?? 0) + 1 } }))
    .catch(() => {});
}

export async function readCounters(home: Home): Promise<Counters> {
  return file(home).read();
}
