/** Fleets, from a file's tables and from flags. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { DEFAULTS, FleetError, fleetFrom, fleetOf } from "../src/fleet.ts";

test("a fleet is eight equal machines unless told otherwise; speeds begin again when they are fewer", () => {
  assert.deepEqual(
    fleetOf({}),
    ["w1", "w2", "w3", "w4", "w5", "w6", "w7", "w8"].map((id) => ({ id, ...DEFAULTS })),
  );
  assert.deepEqual(
    fleetOf({ workers: 3, speeds: [1, 0.5], slots: 4 }).map(({ speed, slots }) => [speed, slots]),
    [
      [1, 4],
      [0.5, 4],
      [1, 4],
    ],
  );
  assert.equal(fleetOf({ speeds: [1, 1, 2] }).length, 3, "as many machines as speeds");
});

test("a file's tables count machines, name them and share defaults", () => {
  const machines = fleetFrom({ defaults: { slots: 4 }, worker: [{ id: "gpu", count: 2 }, { id: "mac", speed: 0.25, slots: 1 }, {}] });
  assert.deepEqual(
    machines.map(({ id, speed, slots }) => [id, speed, slots]),
    [
      ["gpu-1", 1, 4],
      ["gpu-2", 1, 4],
      ["mac", 0.25, 1],
      ["w4", 1, 4],
    ],
  );
});

test("all problems of a fleet are told at once", () => {
  const described = { pool: 1, defaults: { chunk: 3 }, worker: [{ id: "a", speed: 0 }, { id: "a", slots: 1.5 }, { count: "2" }, 7] };
  assert.throws(
    () => fleetFrom(described),
    (error) => {
      assert.ok(error instanceof FleetError);
      assert.deepEqual(error.problems, [
        "pool: unknown, only [defaults] and [[worker]] are",
        "[defaults] chunk: unknown; known are speed, slots, cache_tokens, prefill_ms_per_token, iteration_ms, iteration_ms_per_sequence, chunk_tokens",
        "[[worker]] 1 speed: must be a number from 0.001 to 1000",
        "[[worker]] 2 slots: must be a whole number from 1 to 1000000",
        "[[worker]] 3 count: must be a whole number from 1 to 4096",
        "[[worker]] 4: must be a table",
        'id: two workers are called "a"',
      ]);
      return true;
    },
  );
  assert.throws(() => fleetFrom({ worker: { speed: 1 } }), /with two brackets/);
  assert.throws(() => fleetFrom({}), /no \[\[worker\]\] in it/);
});
