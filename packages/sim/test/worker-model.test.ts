/** The simulated worker, against sums done by hand. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { DEFAULTS, type Machine } from "../src/fleet.ts";
import type { Request } from "../src/trace.ts";
import { WorkerModel } from "../src/worker-model.ts";

const MACHINE: Machine = {
  ...DEFAULTS,
  id: "w1",
  prefill_ms_per_token: 1,
  iteration_ms: 10,
  iteration_ms_per_sequence: 1,
  chunk_tokens: 100,
};

function request(at_ms: number, prompt_tokens: number, output_tokens: number, prefix: number[] = []): Request {
  return { at_ms, prompt_tokens, output_tokens, prefix };
}

/** First token and end of each request. */
function times(machine: Partial<Machine>, requests: readonly Request[]) {
  const model = new WorkerModel({ ...MACHINE, ...machine });
  const found = requests.map(() => ({ first_ms: Number.NaN, end_ms: Number.NaN }));
  const until = (now_ms: number) => {
    while (model.due_ms <= now_ms && Number.isFinite(model.due_ms)) {
      const due_ms = model.due_ms;
      for (const { kind, number } of model.advance())
        Object.assign(found[number] ?? {}, { [kind === "end" ? "end_ms" : "first_ms"]: due_ms });
    }
  };
  for (const [number, one] of requests.entries()) {
    until(one.at_ms);
    model.take(number, one, one.at_ms);
  }
  until(Number.POSITIVE_INFINITY);
  return { found: found.map(({ first_ms, end_ms }) => [first_ms, end_ms]), model };
}

test("one request alone: its prompt in chunks, then one token an iteration", () => {
  // 10 + 100, 10 + 100, 10 + 50, then twice 10 + 1.
  const { found, model } = times({}, [request(1000, 250, 3)]);
  assert.deepEqual(found, [[1280, 1302]]);
  assert.deepEqual([model.busy_ms, model.cached_tokens, model.computed_tokens], [302, 0, 253]);
  assert.deepEqual(times({ speed: 0.5 }, [request(1000, 250, 3)]).found, [[1560, 1604]]);
  assert.deepEqual(times({}, [request(0, 50, 1)]).found, [[60, 60]], "an answer of one token ends with its prompt");
});

test("answers share an iteration, which takes longer the more they are", () => {
  // 10 + 10; 10 + 1 + 20; then three answers at 13 ms, then two at 12.
  const requests = [request(0, 10, 4), request(0, 10, 3), request(0, 10, 2)];
  assert.deepEqual(times({}, requests).found, [
    [20, 76],
    [51, 76],
    [51, 64],
  ]);
});

test("a request that arrives amid an iteration joins when it ends", () => {
  // Iterations of the first end at 20 + 11 n; at 108 the second joins: 10 + 1 + 10, then both at 12 ms.
  const { found } = times({}, [request(0, 10, 12), request(100, 10, 3)]);
  assert.deepEqual(found, [
    [20, 153],
    [129, 153],
  ]);
});

test("of a prompt that begins like a computed one only the rest is computed", () => {
  // 10 + 1024; then 10 + 1 + 512, since the block [1] was kept.
  const requests = [request(0, 1024, 2, [1, 2]), request(0, 1024, 1, [1, 3])];
  const { found, model } = times({ chunk_tokens: 1024 }, requests);
  assert.deepEqual(found, [
    [1034, 1557],
    [1557, 1557],
  ]);
  assert.equal(model.cached_tokens, 512);
});

test("a prompt that was kept whole still has its last token computed", () => {
  const requests = [request(0, 512, 1, [1]), request(1000, 512, 1, [1])];
  assert.deepEqual(times({ chunk_tokens: 1024 }, requests).found, [
    [522, 522],
    [1011, 1011],
  ]);
});

test("what was unused for longest is given up first, the end of a prompt before its beginning", () => {
  const machine = { chunk_tokens: 4096, cache_tokens: 3 * 512 };
  const asked = (...prefixes: number[][]) => {
    const requests = prefixes.map((prefix, at) => request(at * 10_000, 512 * prefix.length + 1, 1, prefix));
    return times(machine, requests).model.cached_tokens / 512;
  };
  assert.equal(asked([1, 2], [1, 2]), 2);
  assert.equal(asked([1, 2], [3, 4], [1, 2]), 1, "2 was given up for 4");
  assert.equal(asked([1, 2], [3, 4, 5], [1, 2]), 0);
  assert.equal(asked([1, 2, 3, 4], [1, 2, 3, 4]), 3, "no more than there is room for");
  assert.equal(times({ ...machine, cache_tokens: 511 }, [request(0, 513, 1, [1]), request(9000, 513, 1, [1])]).model.cached_tokens, 0);
});

test("more requests than slots are the caller's mistake", () => {
  const model = new WorkerModel({ ...MACHINE, slots: 1 });
  model.take(0, request(0, 1, 1), 0);
  assert.throws(() => model.take(1, request(0, 1, 1), 0), /more than its 1 slots/);
});
