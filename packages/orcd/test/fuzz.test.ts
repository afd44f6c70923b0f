/** Requests that are nearly good, some hundred of those that `npm run fuzz:api` sends by the ten thousand. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { fuzzApi } from "./fuzz/fuzz-api.ts";

test("400 mutated requests to /v1, /v2 and /api: each is answered, or refused in its door's form, and the next good one works", async (t) => {
  // A bound for what hangs, not for what is slow.
  const { violations, statuses } = await fuzzApi(t, { count: 400, seed: 20_26, answer_ms_max: 10_000 });
  assert.deepEqual(violations, []);
  assert.ok((statuses.get(200) ?? 0) > 80 && (statuses.get(400) ?? 0) > 80, JSON.stringify([...statuses]));
});
