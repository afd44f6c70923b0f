/** The map of what comes and goes: a Map in what it does, and it lets go of what is deleted. */
import assert from "node:assert/strict";
import { constants, PerformanceObserver } from "node:perf_hooks";
import { test } from "node:test";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import fc from "fast-check";
import { LiveMap } from "../src/live-map.ts";

test("it answers as a Map does, whatever is set and deleted", () => {
  const key = fc.constantFrom("a", "b", "c", "d");
  const act = fc.record({ what: fc.constantFrom("set", "set", "delete"), key, value: fc.nat() });
  fc.assert(
    fc.property(fc.array(act), (acts) => {
      const live = new LiveMap<number>();
      const model = new Map<string, number>();
      for (const { what, key: name, value } of acts) {
        if (what === "set") {
          live.set(name, value);
          model.set(name, value);
        } else assert.equal(live.delete(name), model.delete(name));
        assert.deepEqual([live.size, live.has(name), live.get(name)], [model.size, model.has(name), model.get(name)]);
      }
      assert.deepEqual([...live.values()], [...model.values()]);
    }),
  );
});

test("what is deleted while its values are walked through does not come, and nothing is missed", () => {
  const live = new LiveMap<number>();
  for (const [n, key] of ["a", "b", "c", "d"].entries()) live.set(key, n);
  const seen: number[] = [];
  for (const value of live.values()) {
    seen.push(value);
    if (value === 0) {
      live.delete("a");
      live.delete("b");
    }
  }
  assert.deepEqual(seen, [0, 2, 3]);
});

test("what has left it needs no full collection to be let go of, also after one", async () => {
  setFlagsFromString("--expose-gc");
  (runInNewContext("gc") as () => void)();
  let full = 0;
  const observer = new PerformanceObserver((list) => {
    for (const { detail } of list.getEntries() as unknown as { detail: unknown }[]) {
      if ((detail as { kind: number }).kind === constants.NODE_PERFORMANCE_GC_MAJOR) full += 1;
    }
  });
  observer.observe({ entryTypes: ["gc"] });
  const live = new LiveMap<number[]>();
  // The table of the map is made old once, with what it holds then; 800 MB go through it after that.
  for (let n = 0; n < 100_000; n += 1) {
    live.set(`job ${n}`, new Array(1000).fill(n));
    live.delete(`job ${n - 8}`);
    if (n === 1000) (runInNewContext("gc") as () => void)();
    if (n % 1000 === 0) await new Promise((resolve) => setImmediate(resolve));
  }
  observer.disconnect();
  // A Map in its place needs one for every 100 MB.
  assert.ok(full <= 3, `${full} full collections`);
});
