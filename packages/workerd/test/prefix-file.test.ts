/** Kept prefixes outlive a worker in a file, if they are asked to: for its next life, once, and for nobody else. */
import assert from "node:assert/strict";
import { chmodSync, existsSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { environment } from "@rbees/kit/config";
import { type Log, silentLog } from "@rbees/kit/log";
import { type Binding, readPrefixes, writePrefixes } from "../src/llama/prefix-file.ts";
import { PLAIN, prefixKind } from "../src/llama/prefix-kind.ts";
import { createWorkerd } from "../src/workerd.ts";
import { ask, folder, startWorker, testConfig } from "./support.ts";

const DEMO = fileURLToPath(new URL("../../../models/demo/demo.gguf", import.meta.url));
const BINDING: Binding = { model: "blake", slots: 2, deterministic: false };
const PREFIXES = [
  { tokens: Int32Array.from([1, 2, 3]), state: Uint8Array.from([9, 8]), kind: PLAIN },
  { tokens: Int32Array.from([-5]), state: new Uint8Array(70_000).fill(7), kind: prefixKind({ lora: "a", cache_salt: "b" }) },
];

test("what was written is read once, by its owner alone", () => {
  const path = join(folder, "deep", "er", "a.prefixes");
  writePrefixes(path, BINDING, PREFIXES);
  assert.equal(statSync(path).mode & 0o777, 0o600);
  assert.deepEqual(readdirSync(join(folder, "deep", "er")), ["a.prefixes"]);
  const found = readPrefixes(path, BINDING, 1e6) ?? [];
  assert.deepEqual(
    found.map(({ tokens, state }) => [[...tokens], [...state]]),
    PREFIXES.map(({ tokens, state }) => [[...tokens], [...state]]),
  );
  assert.equal(existsSync(path), false);
  assert.equal(readPrefixes(path, BINDING, 1e6), undefined);
  writePrefixes(path, BINDING, PREFIXES);
  writePrefixes(path, BINDING, []);
  assert.equal(existsSync(path), false);
});

test("a file that is damaged, of something else, too large or open to others is not used, and it is said why", () => {
  const path = join(folder, "b.prefixes");
  const refusal = (change: (whole: Buffer) => Buffer, binding: Binding = BINDING, bytes_max = 1e6): string => {
    writePrefixes(path, BINDING, PREFIXES);
    writeFileSync(path, change(readFileSync(path)));
    try {
      readPrefixes(path, binding, bytes_max);
    } catch (error) {
      assert.equal(existsSync(path), false);
      return (error as Error).message;
    }
    return "none";
  };
  const flipped = (at: number) => (whole: Buffer) => {
    whole[at < 0 ? whole.length + at : at] = (whole.at(at) ?? 0) ^ 1;
    return whole;
  };
  for (const at of [9, 14, 40, -1, -40, -5_000]) assert.match(refusal(flipped(at)), /damaged/, String(at));
  assert.match(refusal(flipped(0)), /no file of prefixes/);
  for (const length of [0, 5, 11, 60, 5_000])
    assert.match(
      refusal((whole) => whole.subarray(0, length)),
      /damaged/,
      String(length),
    );
  assert.match(
    refusal((whole) => Buffer.concat([whole, whole])),
    /damaged/,
  );
  assert.match(
    refusal((whole) => whole, { ...BINDING, slots: 3 }),
    /its slots is 2, and here that is 3/,
  );
  assert.match(
    refusal((whole) => whole, BINDING, 70_000),
    /more than --prefix-cache-bytes-max/,
  );
  writePrefixes(path, BINDING, PREFIXES);
  chmodSync(path, 0o640);
  assert.throws(() => readPrefixes(path, BINDING, 1e6), /others than its owner/);
});

const FIRST = { prompt: `What does rbees-orcd do? ${"The worker says more of that. ".repeat(12)}`, max_tokens: 24, temperature: 0 };
const OTHER = { prompt: `How is a worker started? ${"Nobody has asked so far. ".repeat(12)}`, max_tokens: 8, temperature: 0 };

async function life(dir: string, flags: Record<string, string | number | true> = {}) {
  const warned: unknown[] = [];
  const log: Log = Object.assign(silentLog(), { warn: (fields: unknown) => warned.push(fields) });
  const config = testConfig({
    ...{ model: DEMO, engine: "libllama", slots: 1, ctx: 512, worker_id: "w1", prefix_cache_dir: dir, ...flags },
  });
  return { warned, worker: await createWorkerd(config, log, environment(), { on_shutdown() {}, on_fatal() {} }) };
}

test("a worker that is started again is warm: what its slot held and what it had lost", async () => {
  const dir = join(folder, "kept");
  const { worker } = await life(dir);
  const first = await ask(worker, FIRST);
  const other = await ask(worker, OTHER);
  await worker.stop();
  assert.deepEqual(readdirSync(dir), ["w1.prefixes"]);
  const text = readFileSync(join(dir, "w1.prefixes"));

  const again = await life(dir);
  assert.deepEqual(readdirSync(dir), []);
  for (const [request, before] of [
    [FIRST, first],
    [OTHER, other],
  ] as const) {
    const { ids, end } = await ask(again.worker, request);
    assert.deepEqual(ids, before.ids);
    assert.equal(end?.tokens_cached, (end?.tokens_in ?? 0) - 1);
  }
  assert.deepEqual(again.warned, []);
  await again.worker.stop();

  text[text.length - 1] = (text.at(-1) ?? 0) ^ 1;
  writeFileSync(join(dir, "w1.prefixes"), text, { mode: 0o600 });
  const cold = await life(dir);
  assert.deepEqual(cold.warned, [{ file: join(dir, "w1.prefixes"), reason: "it is damaged" }]);
  const { ids, end } = await ask(cold.worker, FIRST);
  assert.deepEqual([ids, end?.tokens_cached], [first.ids, 0]);
  await cold.worker.stop();
});

test("a state that llama.cpp does not take is computed anew", async () => {
  const dir = join(folder, "foreign");
  const { worker } = await life(dir);
  const first = await ask(worker, FIRST);
  await worker.stop();
  const path = join(dir, "w1.prefixes");
  const whole = readFileSync(path);
  const header = JSON.parse(whole.subarray(12, 12 + whole.readUInt32LE(8)).toString()) as {
    binding: Binding;
    prefixes: { tokens: number }[];
  };
  const tokens = header.prefixes[0]?.tokens ?? 0;
  const at = 12 + whole.readUInt32LE(8);
  const numbers = Int32Array.from({ length: tokens }, (_, i) => whole.readInt32LE(at + 4 * i));
  writePrefixes(path, header.binding, [{ tokens: numbers, state: new Uint8Array(5_000), kind: PLAIN }]);
  const again = await life(dir);
  const { ids, end } = await ask(again.worker, FIRST);
  assert.deepEqual([ids, end?.tokens_cached], [first.ids, 0]);
  await again.worker.stop();
});

test("a folder for what is not kept, or is not found again, is refused before anything is loaded", async () => {
  const refused = (flags: Record<string, string | number>) => startWorker({ model: DEMO, prefix_cache_dir: folder, ...flags });
  await assert.rejects(refused({ worker_id: "w", prefix_cache_bytes_max: 0 }), /prefix-cache-dir: with --prefix-cache-bytes-max 0/);
  await assert.rejects(refused({ worker_id: "w", engine: "node-llama-cpp" }), /prefix-cache-dir: needs the engine libllama/);
  const elsewhere = startWorker({ model: DEMO, engine: "node-llama-cpp", prefix_cache_bytes_max: 5 });
  await assert.rejects(elsewhere, /prefix-cache-bytes-max: needs the engine libllama/);
  await assert.rejects(refused({ port: 0 }), /prefix-cache-dir: needs --worker-id or a --port/);
});
