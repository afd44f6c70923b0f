/** A step is cut into the sizes that cost the least together. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { StepPlan } from "../src/libllama/step-plan.ts";

test("rows that cost more together than one by one are computed one by one, and sizes that suit the kernels are used", () => {
  // Milliseconds that 8-bit weights of a 110 M model took on one core.
  const plan = new StepPlan([5, 20.9, 25.7, 30.6, 36, 39, 43.8, 39.6]);
  assert.deepEqual(plan.sizes(1), [1]);
  assert.deepEqual(plan.sizes(4), [1, 1, 1, 1]);
  assert.deepEqual(plan.sizes(7), [1, 1, 1, 1, 1, 1, 1]);
  // 40 one by one, 39.6 together: too little to be sure of.
  assert.deepEqual(plan.sizes(8), [8]);
});

test("where more rows cost little more, a step stays whole", () => {
  const plan = new StepPlan([10, 11, 12, 13]);
  assert.deepEqual(
    [1, 2, 3, 4].map((rows) => plan.sizes(rows)),
    [[1], [2], [3], [4]],
  );
});

test("more rows than were timed stay together", () => {
  assert.deepEqual(new StepPlan([1, 9]).sizes(3), [3]);
  assert.deepEqual(new StepPlan([]).sizes(2), [2]);
});

test("every row is computed once, and never at a higher cost than all at once", () => {
  const costs = fc.array(fc.integer({ min: 1, max: 1_000 }), { minLength: 1, maxLength: 12 });
  fc.assert(
    fc.property(costs, (cost) => {
      const plan = new StepPlan(cost);
      for (let rows = 1; rows <= cost.length; rows += 1) {
        const sizes = plan.sizes(rows);
        const of = (size: number) => cost[size - 1] ?? Number.NaN;
        assert.equal(
          sizes.reduce((sum, size) => sum + size, 0),
          rows,
        );
        assert.ok(sizes.reduce((sum, size) => sum + of(size), 0) <= of(rows));
      }
    }),
  );
});
