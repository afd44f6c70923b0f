import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { RbeesError } from "@rbees/contracts/errors";
import fc from "fast-check";
import { writeGguf } from "../../../models/fixtures/write-gguf.ts";
import { readGguf } from "../src/gguf.ts";

const folder = mkdtempSync(join(tmpdir(), "rbees-gguf-"));
after(() => rmSync(folder, { recursive: true, force: true }));
const path = join(folder, "model.gguf");
writeGguf(
  path,
  [
    ["general.architecture", { string: "llama" }],
    ["general.license", { string: "apache-2.0" }],
    ["general.file_type", { u32: 15 }],
    ["llama.context_length", { u32: 4096 }],
    ["llama.eps", { f32: 0.5 }],
    ["flag", { bool: true }],
    ["words", { strings: ["one", "zwei", "三"] }],
    ["numbers", { i32s: [1, -2] }],
  ],
  [
    { name: "a", shape: [4, 64], type: "q8_0" },
    { name: "b", shape: [32], type: "f32", fill: (row) => row.fill(1) },
  ],
);
const whole = readFileSync(path);

test("reads what was written", async () => {
  const gguf = await readGguf(path, { arrays: true });
  assert.deepEqual([gguf.architecture, gguf.license, gguf.quantisation, gguf.context_size], ["llama", "apache-2.0", "Q4_K_M", 4096]);
  assert.deepEqual([gguf.version, gguf.number("llama.eps"), gguf.metadata.get("flag")], [3, 0.5, true]);
  assert.deepEqual(gguf.array("words"), { length: 3, of: "string", values: ["one", "zwei", "三"] });
  assert.deepEqual(gguf.array("numbers")?.values, [1, -2]);
  assert.deepEqual(
    gguf.tensors.map(({ name, shape, type, bytes }) => [name, shape, type, bytes]),
    [
      ["a", [64, 4], "Q8_0", 272],
      ["b", [32], "F32", 128],
    ],
  );
  assert.equal(gguf.described_bytes, whole.length);
  assert.equal(gguf.truncated, undefined);
});

test("arrays are skipped unless asked for", async () => {
  const gguf = await readGguf(path);
  assert.deepEqual(gguf.array("words"), { length: 3, of: "string" });
  assert.deepEqual(gguf.array("numbers"), { length: 2, of: "i32" });
});

test("a truncated file is told from its header", async () => {
  const cut = join(folder, "cut.gguf");
  writeFileSync(cut, whole.subarray(0, whole.length - 100));
  const { truncated } = await readGguf(cut);
  assert.match(truncated ?? "", new RegExp(`describes ${whole.length} bytes, the file has ${whole.length - 100}: it is truncated`));
});

test("what is no file or no model is said in a sentence", async () => {
  await assert.rejects(readGguf(join(folder, "missing")), { code: "NOT_FOUND" });
  await assert.rejects(readGguf(folder), /this is a folder/);
  const page = join(folder, "page.gguf");
  writeFileSync(page, "<!DOCTYPE html><html></html>");
  await assert.rejects(readGguf(page), /begins with "<!DO"/);
});

test("any damage ends in a header or in one refusal that names the file, never in another error", async () => {
  const damaged = join(folder, "damaged.gguf");
  const edit = fc.record({
    at: fc.nat(whole.length - 9),
    value: fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }),
    bytes: fc.constantFrom(1, 4, 8),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(edit, { minLength: 1, maxLength: 3 }), fc.nat(whole.length), fc.boolean(), async (edits, length, cut) => {
      const bytes = Buffer.from(whole);
      for (const { at, value, bytes: count } of edits) {
        const encoded = Buffer.alloc(8);
        encoded.writeBigUInt64LE(value);
        encoded.copy(bytes, at, 0, count);
      }
      writeFileSync(damaged, cut ? bytes.subarray(0, length) : bytes);
      try {
        await readGguf(damaged, { arrays: true });
      } catch (error) {
        assert.ok(error instanceof RbeesError, String(error));
        assert.ok(error.message.startsWith(`${damaged}: `) && !error.message.includes("\n"));
      }
    }),
    { numRuns: 500 },
  );
});
