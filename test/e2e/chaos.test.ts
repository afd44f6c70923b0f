/** Real workers under every kind of trouble, while clients check each token; `npm run test:chaos` does it for two minutes. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { runChaos } from "../chaos/chaos.ts";
import { scriptedFleet, scriptedPrompts } from "../chaos/prompts.ts";

const SEED = 4;

test("programs are killed, frozen and cut off: nothing is lost, nothing comes twice, every job ends", {
  skip: process.platform === "win32" && "SIGSTOP",
}, async (t) => {
  const { tally, faults, summary, violations } = await runChaos({
    seconds: 12,
    seed: SEED,
    clients: 4,
    pace: { first_ms: 300, worker_ms: [200, 1200], orcd_ms: [3500, 5000], for_ms: [100, 2500], away_ms: [50, 500] },
    // Answers so long that some fault surely meets one.
    fleets: (folder) => [scriptedFleet(folder, 2)],
    prompts: scriptedPrompts(),
    say: () => {},
  });
  t.diagnostic(summary);
  assert.deepEqual(violations, [], `seed ${SEED}: ${violations.join("\n\n")}`);
  assert.ok(faults.size >= 5, summary);
  assert.ok(tally.tokens > 0 && tally.migrations + tally.restarts > 0, summary);
});
