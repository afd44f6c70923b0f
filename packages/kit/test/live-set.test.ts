/** The set of what comes and goes: each member once, out when it is taken out, also in the middle of a walk. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { LiveSet } from "../src/live-set.ts";

test("it holds what was added and not taken out, whatever the order", () => {
  fc.assert(
    fc.property(fc.array(fc.record({ add: fc.boolean(), which: fc.nat(20) })), (acts) => {
      const set = new LiveSet<number>();
      const inside = new Map<number, () => void>();
      let next = 0;
      for (const { add, which } of acts) {
        const member = [...inside.keys()][which];
        if (add) {
          inside.set(next, set.add(next));
          next += 1;
        } else if (member !== undefined) {
          const leave = inside.get(member);
          leave?.();
          leave?.();
          inside.delete(member);
        }
        assert.equal(set.size, inside.size);
        assert.deepEqual(
          [...set].sort((a, b) => a - b),
          [...inside.keys()],
        );
      }
    }),
  );
});

test("a member may leave while the set is walked through: every other one still comes once", () => {
  const set = new LiveSet<number>();
  const leaves = Array.from({ length: 10 }, (_, n) => set.add(n));
  const seen: number[] = [];
  for (const member of set) {
    seen.push(member);
    if (member % 3 === 0) leaves[member]?.();
  }
  assert.deepEqual(
    seen.sort((a, b) => a - b),
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
  );
  assert.equal(set.size, 6);
});
