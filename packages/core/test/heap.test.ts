/** The heap and the line against plain arrays that do the same slowly. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { Heap } from "../src/heap.ts";
import { Line, type Waiting } from "../src/line.ts";

test("a heap gives the smallest key first, and of equal ones the one pushed first", () => {
  fc.assert(
    fc.property(fc.array(fc.option(fc.nat(9)), { maxLength: 200 }), (acts) => {
      const heap = new Heap<number>();
      const model: { value: number; key: number }[] = [];
      for (const [value, key] of acts.entries()) {
        if (key !== null) {
          heap.push(value, key);
          model.push({ value, key });
          continue;
        }
        const first = model.reduce<(typeof model)[number] | undefined>(
          (best, one) => (best === undefined || one.key < best.key ? one : best),
          undefined,
        );
        assert.deepEqual([heap.first?.value, heap.take()?.value], [first?.value, first?.value]);
        if (first !== undefined) model.splice(model.indexOf(first), 1);
      }
      assert.equal(heap.size, model.length);
    }),
  );
});

test("a heap that lets go of some gives the others in the order it would have", () => {
  fc.assert(
    fc.property(fc.array(fc.nat(9), { maxLength: 100 }), fc.nat(4), (keys, which) => {
      const heap = new Heap<number>();
      for (const [value, key] of keys.entries()) heap.push(value, key);
      heap.keep((value) => value % 5 !== which);
      heap.push(keys.length, 4);
      const left = [...keys, 4].map((key, value) => ({ key, value })).filter(({ value }) => value % 5 !== which || value === keys.length);
      const expected = left.sort((a, b) => a.key - b.key || a.value - b.value).map(({ value }) => value);
      assert.deepEqual(
        expected.map(() => heap.take()?.value),
        expected,
      );
      assert.equal(heap.size, 0);
    }),
  );
});

test("a first one that gets another key stands where it would if it had been taken and pushed", () => {
  fc.assert(
    fc.property(fc.array(fc.nat(9), { maxLength: 60 }), fc.array(fc.nat(12), { maxLength: 60 }), (keys, others) => {
      const [renewed, pushed] = [new Heap<number>(), new Heap<number>()];
      for (const heap of [renewed, pushed]) for (const [value, key] of keys.entries()) heap.push(value, key);
      for (const key of others) {
        renewed.renewFirst(key);
        const first = pushed.take();
        if (first !== undefined) pushed.push(first.value, key);
      }
      while (pushed.size > 0) assert.equal(renewed.take()?.value, pushed.take()?.value);
      assert.equal(renewed.size, 0);
    }),
  );
});

test("a line keeps its order, whoever leaves it and whenever", () => {
  const act = fc.oneof(
    { weight: 3, arbitrary: fc.constant("join" as const) },
    { weight: 2, arbitrary: fc.nat(5000) },
    fc.constant("first" as const),
  );
  fc.assert(
    fc.property(fc.array(act, { maxLength: 6000, size: "max" }), (acts) => {
      const line = new Line<Waiting>();
      const model: Waiting[] = [];
      for (const one of acts) {
        const leaver = one === "first" ? model[0] : one === "join" ? undefined : model[one % Math.max(1, model.length)];
        if (one === "join") {
          const job = { number_in_line: -1 };
          line.push(job);
          model.push(job);
        } else if (leaver !== undefined) {
          assert.equal(line.remove(leaver), true);
          assert.equal(line.remove(leaver), false);
          model.splice(model.indexOf(leaver), 1);
        }
        assert.equal(line.size, model.length);
      }
      assert.deepEqual([...line], model);
    }),
    { numRuns: 30 },
  );
});

test("jobs may leave a line while it is walked through: every other one comes once", () => {
  const line = new Line<Waiting>();
  const jobs = Array.from({ length: 3000 }, () => ({ number_in_line: -1 }));
  for (const job of jobs) line.push(job);
  const seen: Waiting[] = [];
  for (const job of line) {
    seen.push(job);
    line.remove(job);
  }
  assert.deepEqual(seen, jobs);
  assert.equal(line.size, 0);
});
