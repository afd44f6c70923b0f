/** The replay log: what was appended can be read again, byte for byte, from any event on. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { ReplayLog, SlabPool } from "../src/replay-log.ts";

test("any run of events is read back from any id, in pieces of any size", () => {
  fc.assert(
    fc.property(
      fc.array(fc.string({ minLength: 1, maxLength: 9000, unit: "binary-ascii" }), { maxLength: 40 }),
      fc.nat(50),
      fc.integer({ min: 1, max: 40_000 }),
      (events, from, bytes_max) => {
        const pool = new SlabPool(1_000_000);
        const log = new ReplayLog(pool, 100_000_000, 500);
        for (const event of events) log.append(event);
        assert.equal(log.last_id, 500 + events.length);
        let id = 500 + Math.min(from, events.length);
        let read = "";
        while (id < log.last_id) {
          const part = log.read(id, bytes_max);
          assert.ok(part.last_id > id);
          read += part.latin1;
          id = part.last_id;
        }
        assert.equal(read, events.slice(Math.min(from, events.length)).join(""));
        log.release();
        assert.equal(pool.lent_bytes, 0);
      },
    ),
  );
});

test("beyond its bound the oldest events go, and first_id says which are left", () => {
  const pool = new SlabPool(0);
  const log = new ReplayLog(pool, 32_768, 0);
  for (let i = 0; i < 100; i += 1) log.append("x".repeat(1000));
  assert.ok(pool.lent_bytes <= 32_768 + 2048);
  assert.ok(log.first_id > 60 && log.first_id < 100, String(log.first_id));
  assert.equal(log.read(log.first_id - 1, 1000).latin1, "x".repeat(1000));
});

test("a sealed log of several slabs keeps every byte, and only its bytes", () => {
  const pool = new SlabPool(1_048_576);
  const log = new ReplayLog(pool, 10_000_000, 0);
  const events = Array.from({ length: 50 }, (_, i) => `${i}`.repeat(700));
  for (const event of events) log.append(event);
  log.seal();
  log.seal();
  assert.equal(log.read(0, Number.POSITIVE_INFINITY).latin1, events.join(""));
  assert.equal(log.read(49, 1).latin1, events[49]);
  assert.equal(pool.lent_bytes, events.join("").length + 2048, "its bytes, and what a log costs beside them");
  log.release();
  assert.equal(pool.lent_bytes, 0);
});
