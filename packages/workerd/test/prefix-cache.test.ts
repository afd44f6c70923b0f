/** What slots lose to other prompts is kept and put back: the same tokens as without, within its bounds, and said where one looks. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { writeRandomModel } from "../../../models/fixtures/random.ts";
import type { EngineCounts } from "../src/engine.ts";
import { bytesOf, PrefixCache } from "../src/llama/prefix-cache.ts";
import { PLAIN, prefixKind } from "../src/llama/prefix-kind.ts";
import type { Workerd } from "../src/workerd.ts";
import { ask, folder, health, startWorker } from "./support.ts";

const DEMO = fileURLToPath(new URL("../../../models/demo/demo.gguf", import.meta.url));

function cacheOf(bytes_max: number) {
  const told: EngineCounts[] = [];
  return { told, cache: new PrefixCache(bytes_max, (counts) => told.push(counts)) };
}

const prefix = (tokens: number[], bytes = 100, kind = PLAIN) => ({ tokens: Int32Array.from(tokens), state: new Uint8Array(bytes), kind });
const range = (from: number, count: number) => Array.from({ length: count }, (_, i) => from + i);

test("the longest that a prompt begins with is found, in whole steps, and never all of the prompt", () => {
  const { cache } = cacheOf(10_000);
  const short = prefix(range(0, 10));
  const long = prefix([...range(0, 20), 7, 7]);
  for (const one of [short, long, prefix(range(500, 50))]) cache.add(one);
  assert.deepEqual(cache.longest(range(0, 40), 1, PLAIN), { prefix: long, count: 20 });
  assert.deepEqual(cache.longest(range(0, 40), 8, PLAIN), { prefix: long, count: 16 });
  assert.deepEqual(cache.longest([...range(0, 20), 7, 7], 1, PLAIN), { prefix: long, count: 21 });
  assert.equal(cache.longest(range(90, 40), 1, PLAIN), undefined);
  assert.equal(cache.longest(range(0, 40), 1, prefixKind({ cache_salt: "another" })), undefined);
  assert.equal(cache.held(range(0, 30), PLAIN), 20);
});

test("it takes no more than its bytes: the one used longest ago goes first, and one too large does not come in", () => {
  const [a, b, c] = [range(0, 5), range(100, 5), range(200, 5)].map((tokens) => prefix(tokens));
  assert.ok(a && b && c);
  const { cache, told } = cacheOf(2 * bytesOf(a));
  cache.add(a);
  cache.add(b);
  cache.longest(range(0, 9), 1, PLAIN);
  cache.add(c);
  assert.deepEqual(cache.all, [a, c]);
  assert.deepEqual(told.at(-1), { prefix_cache_bytes: 2 * bytesOf(a), prefixes_stored: 1, prefixes_evicted: 1 });
  cache.add(prefix(range(300, 5), 1_000));
  assert.deepEqual(cache.all, [a, c]);
});

test("one that goes on where another ends takes its place; one that was not taken is gone", () => {
  const { cache, told } = cacheOf(10_000);
  const whole = prefix(range(0, 9));
  cache.add(prefix(range(0, 5)));
  cache.add(whole);
  assert.deepEqual(cache.all, [whole]);
  cache.drop(whole);
  assert.deepEqual([cache.all, told.at(-1)], [[], { prefix_cache_bytes: 0, prefixes_evicted: 1 }]);
});

async function metric(worker: Workerd, name: string): Promise<number> {
  const text = await (await fetch(`${worker.url}/metrics`)).text();
  return Number(new RegExp(`^${name} (\\S+)$`, "m").exec(text)?.[1]);
}

test("a salt and an adapter keep prefixes apart, each by itself and both together", () => {
  const asked = [{}, { lora: "a" }, { lora: "b" }, { cache_salt: "a" }, { cache_salt: "b" }, { lora: "a", cache_salt: "b" }];
  assert.equal(new Set(asked.map(prefixKind)).size, asked.length);
});

const FIRST = { prompt: `What does rbees-orcd do? ${"The worker says more of that. ".repeat(12)}`, max_tokens: 40, temperature: 0 };
const OTHER = { prompt: `How is a worker started? ${"Nobody has asked so far. ".repeat(12)}`, max_tokens: 8, temperature: 0 };

test("a prompt that comes again after its slot was taken is not computed again, and its answer is the same", async () => {
  const worker = await startWorker({ model: DEMO, engine: "libllama", slots: 1, ctx: 512, prefix_cache_bytes_max: 100_000_000 });
  const first = await ask(worker, FIRST);
  await ask(worker, OTHER);
  const again = await ask(worker, FIRST);
  assert.deepEqual(again.ids, first.ids);
  assert.equal(again.end?.tokens_cached, (first.end?.tokens_in ?? 0) - 1);
  const back = await ask(worker, OTHER);
  assert.equal(back.end?.tokens_cached, (back.end?.tokens_in ?? 0) - 1);
  // The first one goes for the second time, and is there already.
  assert.equal(await metric(worker, "worker_prefix_cache_stored_total"), 2);
  assert.equal(await metric(worker, "worker_prefix_cache_hits_total"), 2);
  assert.equal(await metric(worker, "worker_prefix_cache_evicted_total"), 0);
  const { prefix_cache_bytes, prefix_cache_bytes_max } = await health(worker);
  assert.equal(prefix_cache_bytes, await metric(worker, "worker_prefix_cache_bytes"));
  assert.ok(prefix_cache_bytes > 0 && prefix_cache_bytes < prefix_cache_bytes_max);
  assert.equal(prefix_cache_bytes_max, 100_000_000);

  const without = await startWorker({ model: DEMO, engine: "libllama", slots: 1, ctx: 512, prefix_cache_bytes_max: 0 });
  assert.deepEqual((await ask(without, FIRST)).ids, first.ids);
  await ask(without, OTHER);
  assert.ok(((await ask(without, FIRST)).end?.tokens_cached ?? 0) < 64);
  assert.equal((await health(without)).prefix_cache_bytes_max, 0);
});

test("deterministic: what was computed as a prompt comes back in whole chunks, and nothing else changes", async () => {
  const model = join(folder, "random-evicted.gguf");
  writeRandomModel(model, { type: "q8_0" });
  const worker = await startWorker({ model, engine: "libllama", slots: 1, ctx: 1024, deterministic: true });
  const asked = ["one text ", "and another "].map((text, seed) => ({ prompt: text.repeat(20), seed, max_tokens: 24, temperature: 0.8 }));
  const first = [];
  for (const request of asked) first.push(await ask(worker, request));
  for (const [i, request] of asked.entries()) {
    const again = await ask(worker, request);
    assert.deepEqual(again.ids, first[i]?.ids);
    const { tokens_cached = 0, tokens_in = 0 } = again.end ?? {};
    assert.equal(tokens_cached, Math.floor((tokens_in - 1) / 64) * 64);
    assert.ok(tokens_cached > 0);
  }
});

test("an engine that can't keep them says so, and runs without", async () => {
  const worker = await startWorker({ model: DEMO, engine: "node-llama-cpp", slots: 1, ctx: 512 });
  assert.equal((await health(worker)).prefix_cache_bytes_max, 0);
});

test("what was computed for one salt is used for no other: not from a slot, not from one that is busy, not from the cache", async () => {
  for (const slots of [1, 3]) {
    const worker = await startWorker({ model: DEMO, engine: "libllama", slots, ctx: 512, prefix_cache_bytes_max: 100_000_000 });
    const cached = async (cache_salt: string | undefined) =>
      (await ask(worker, { ...FIRST, max_tokens: 4, cache_salt })).end?.tokens_cached;
    const first = await ask(worker, { ...FIRST, cache_salt: "one" });
    const whole = (first.end?.tokens_in ?? 0) - 1;
    assert.equal(await cached("two"), 0);
    assert.equal(await cached(undefined), 0);
    // Each comes back to its own.
    assert.deepEqual([await cached("one"), await cached("two"), await cached(undefined)], [whole, whole, whole]);
    if (slots > 1) assert.deepEqual(await Promise.all(["three", "four"].map(cached)), [0, 0]);
  }
});
