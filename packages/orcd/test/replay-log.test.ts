/** The replay log: what was appended can be read again, byte for byte, from any event on. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { ReplayLog, SlabPool } from "../src/replay-log.ts";

/** A line of any bytes, and the empty line that ends the event; many fill a slab to its edge or just not. */
const event = fc
  .oneof(
    fc.string({ maxLength: 300, unit: "binary-ascii" }),
    fc.integer({ min: 4080, max: 4100 }).map((length) => "x".repeat(length)),
    fc.integer({ min: 0, max: 13_000 }).map((length) => "\xff".repeat(length)),
  )
  .map((line) => `${line.replaceAll("\n", " ")}\n\n`);

test("any run of events is read back from any id, in pieces of any size", () => {
  fc.assert(
    fc.property(fc.array(event, { maxLength: 40 }), fc.nat(50), fc.integer({ min: 1, max: 40_000 }), (events, from, bytes_max) => {
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
      log.seal(1);
      assert.equal(log.read(500, Number.POSITIVE_INFINITY).latin1, events.join(""));
      log.release();
      assert.equal(pool.lent_bytes, 0);
    }),
  );
});

test("beyond its bound the oldest events go, and first_id says which are left", () => {
  const pool = new SlabPool(0);
  const log = new ReplayLog(pool, 32_768, 0);
  for (let i = 0; i < 100; i += 1) log.append(`${"x".repeat(998)}\n\n`);
  assert.ok(pool.lent_bytes <= 32_768 + 512);
  assert.ok(log.first_id > 60 && log.first_id < 100, String(log.first_id));
  assert.equal(log.read(log.first_id - 1, 1000).latin1, `${"x".repeat(998)}\n\n`);
});

test("small logs that are sealed lie side by side, and each is read as before", () => {
  const pool = new SlabPool(1_048_576);
  const text = (n: number) => [`id: 1\ndata: ${n}\n\n`, `id: 2\ndata: ${"y".repeat(n)}\n\n`];
  const logs = Array.from({ length: 300 }, (_, n) => {
    const log = new ReplayLog(pool, 10_000_000, 0);
    for (const one of text(n * 12)) log.append(one);
    log.seal(n);
    log.seal(n + 1);
    return log;
  });
  const bytes = logs.reduce((sum, _, n) => sum + text(n * 12).join("").length, 0);
  assert.equal(pool.lent_bytes, bytes + 300 * 512, "their bytes, and what a log costs beside them");
  for (const [n, log] of logs.entries()) {
    assert.equal(log.sealed_at_ms, n);
    assert.deepEqual([log.first_id, log.last_id], [1, 2]);
    assert.equal(log.read(0, Number.POSITIVE_INFINITY).latin1, text(n * 12).join(""));
    assert.equal(log.read(1, 1).latin1, text(n * 12)[1]);
  }
  for (const log of logs) log.release();
  for (const log of logs) log.release();
  assert.equal(pool.lent_bytes, 0);
  assert.deepEqual([logs[5]?.first_id, logs[5]?.last_id, logs[5]?.read(0, 99).latin1], [3, 2, ""]);
});
