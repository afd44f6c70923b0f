import assert from "node:assert/strict";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import { RbeesError } from "@rbees/contracts/errors";
import { fingerprint } from "@rbees/kit/fingerprint";
import { readGguf } from "@rbees/kit/gguf";
import { neededBytes } from "@rbees/kit/model-memory";
import { ANSWER, chain } from "../../../models/fixtures/scripted.ts";
import { checkModel } from "../src/model-check.ts";
import { ask, scripted, startWorker } from "./support.ts";

const path = scripted("checked", { edges: chain(ANSWER, [" a"]), shape: { layers: 4, width: 128, heads: 4, context: 16_384 } });
const options = { path, backend: "cpu", slots: 4, context_size: 0, prefill_chunk_tokens: 64, available_bytes: 8e9 } as const;

test("the context is what was asked for, else 8192 at most, else what memory holds", async () => {
  assert.equal((await checkModel({ ...options, context_size: 1_000 })).context_size, 1_000);
  assert.equal((await checkModel(options)).context_size, 8_192);
  const gguf = await readGguf(path);
  const available_bytes = neededBytes(gguf, options, 2_048).total;
  assert.equal((await checkModel({ ...options, available_bytes })).context_size, 2_048);
});

test("the KV cache is counted by llama.cpp's formula", async () => {
  const { context } = neededBytes(await readGguf(path), options, 1_024);
  // 4 blocks × 4 slots × 1024 tokens × (128 key + 128 value) × 2 bytes
  assert.equal(context, 4 * 4 * 1_024 * 256 * 2);
  const shorter = async (cache_type: "q8_0" | "q4_0") =>
    neededBytes(await readGguf(path), { ...options, cache_type }, 1_024).context / context;
  assert.deepEqual([await shorter("q8_0"), await shorter("q4_0")], [34 / 64, 18 / 64]);
});

test("what does not fit is refused with how much is missing and what would help", async () => {
  await assert.rejects(checkModel({ ...options, context_size: 16_000, available_bytes: 300_000_000 }), (error) => {
    assert.ok(error instanceof RbeesError && error.code === "INSUFFICIENT_MEMORY");
    assert.match(error.message, /are missing\. --ctx \d+ would fit/);
    const { needed_bytes, available_bytes, missing_bytes } = error.details as Record<string, number>;
    assert.equal((needed_bytes ?? 0) - (available_bytes ?? 0), missing_bytes);
    return true;
  });
  await assert.rejects(checkModel({ ...options, available_bytes: 1_000_000 }), /fewer --slots/);
});

test("what was measured counts in place of the estimate, in both directions", async () => {
  const asked = { ...options, context_size: 1024 };
  const { needed_bytes } = await checkModel(asked);
  const less = { ...asked, available_bytes: needed_bytes - 1 };
  await assert.rejects(checkModel(less), /INSUFFICIENT|needs about/);
  assert.equal((await checkModel({ ...less, measured_bytes: needed_bytes - 2 })).context_size, 1024);
  await assert.rejects(checkModel({ ...asked, available_bytes: 2 * needed_bytes, measured_bytes: 3 * needed_bytes }), /as it was measured/);
});

test("memory for prefixes counts when it is asked for, and takes some of what is left when it is not", async () => {
  const asked = { ...options, context_size: 1024 };
  const { needed_bytes } = await checkModel(asked);
  const room = { ...asked, available_bytes: needed_bytes + 400_000_000 };
  assert.equal((await checkModel({ ...room, prefix_cache_bytes: 400_000_000 })).prefix_cache_bytes, 400_000_000);
  await assert.rejects(
    checkModel({ ...room, prefix_cache_bytes: 400_000_001 }),
    /prefixes 0\.37 GiB\).*are missing.*a smaller --prefix-cache-bytes-max/,
  );
  assert.equal((await checkModel({ ...room, prefix_cache_bytes: "auto" })).prefix_cache_bytes, 100_000_000);
  assert.equal((await checkModel({ ...asked, available_bytes: needed_bytes, prefix_cache_bytes: "auto" })).prefix_cache_bytes, 0);
  assert.equal((await checkModel({ ...asked, available_bytes: 1e12, prefix_cache_bytes: "auto" })).prefix_cache_bytes, 2 ** 30);
});

test("more context than the model was made for is refused", async () => {
  await assert.rejects(checkModel({ ...options, context_size: 20_000 }), /made for: 16384/);
});

test("the fingerprint tells models apart and is the same each time", async () => {
  const other = scripted("other", { edges: chain(ANSWER, [" b"]), shape: { layers: 4, width: 128, heads: 4, context: 16_384 } });
  const of = async (file: string) => fingerprint(file, await readGguf(file));
  assert.equal(await of(path), await of(path));
  assert.notEqual(await of(path), await of(other));
});

test("a model in several files is one: weights, tensors, digest and the engine's answer", async () => {
  const script = { edges: chain(ANSWER, [" bees", " dance"]) };
  const whole = scripted("whole", script);
  const first = scripted("parts-00001-of-00003", script);
  const { gguf } = await checkModel({ ...options, path: first, context_size: 256 });
  assert.equal(gguf.tensors.length, (await readGguf(whole)).tensors.length);
  assert.ok(gguf.file_bytes > (await readGguf(first)).file_bytes);
  const digest = await fingerprint(first, gguf);
  const last = first.replace("-00001-", "-00003-");
  const bytes = readFileSync(last);
  writeFileSync(last, bytes.fill(1, bytes.length - 64));
  assert.notEqual(await fingerprint(first, (await checkModel({ ...options, path: first, context_size: 256 })).gguf), digest);
  scripted("parts-00001-of-00003", script);
  const answers = [];
  for (const model of [whole, first]) {
    const worker = await startWorker({ model, ctx: 256 });
    const { text } = await ask(worker, { prompt: "Q", max_tokens: 8, temperature: 0 });
    answers.push(text);
    await worker.stop();
  }
  assert.equal(answers[0], " bees dance");
  assert.equal(answers[1], answers[0]);
  await assert.rejects(checkModel({ ...options, path: last }), /this is one part of a model; give the first one/);
  rmSync(last);
  await assert.rejects(checkModel({ ...options, path: first }), /-00003-of-00003\.gguf: there is no such file/);
});
