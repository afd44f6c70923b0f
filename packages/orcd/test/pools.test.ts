/** The orchestrator's hand on the machines where workers are started: what it hears when that hand does not reach. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { silentLog } from "@rbees/kit/log";
import { Pools } from "../src/pools.ts";

test("that a worker could not be ended, however often it was tried, is told", async (t) => {
  const failed: string[] = [];
  const limits = { pools: {}, pool_regions: {}, pool_refresh_ms: 60_000, pool_call_ms_max: 1000, spawn_ms_max: 1000 };
  const pools = new Pools(limits, {
    log: silentLog(),
    url: () => "",
    reported: () => {},
    lost: () => {},
    loadEnded: () => {},
    evictFailed: (worker_id) => failed.push(worker_id),
    joinToken: async () => undefined,
  });
  t.after(() => pools.stop());
  await pools.evict({ type: "evict", worker_id: "a@box.0", pool_id: "box", reason: "idle for 60000 ms" });
  assert.deepEqual(failed, ["a@box.0"]);
});
