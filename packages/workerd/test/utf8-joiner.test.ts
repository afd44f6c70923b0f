import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { Utf8Joiner } from "../src/utf8-joiner.ts";

/** Bytes as they come in practice and as they should not: text, cut text, noise. */
const bytes = fc.oneof(
  fc.string({ unit: "grapheme" }).map((text) => Buffer.from(text, "utf8")),
  fc.uint8Array({ maxLength: 24 }).map((values) => Buffer.from(values)),
  fc
    .array(fc.constantFrom(0xf0, 0x9f, 0x98, 0x80, 0xe2, 0x82, 0xac, 0xed, 0xa0, 0xc0, 0x41), { maxLength: 16 })
    .map((values) => Buffer.from(values)),
);

test("bytes cut in any way give the text of the whole", () => {
  fc.assert(
    fc.property(bytes, fc.array(fc.nat(24), { maxLength: 8 }), (all, cuts) => {
      const joiner = new Utf8Joiner();
      const at = [0, ...cuts.map((cut) => Math.min(cut, all.length)).sort((a, b) => a - b), all.length];
      const text = at.slice(1).map((end, i) => joiner.push(all.subarray(at[i], end)));
      assert.equal(text.join("") + joiner.finish(), new TextDecoder("utf-8", { ignoreBOM: true }).decode(all));
    }),
    { numRuns: 3_000 },
  );
});

test("a character comes when its last byte does", () => {
  const joiner = new Utf8Joiner();
  const given = [...Buffer.from("€😀")].map((byte) => joiner.push(Uint8Array.of(byte)));
  assert.deepEqual(given, ["", "", "€", "", "", "", "😀"]);
  assert.equal(joiner.whole, true);
});

test("a character that is cut off becomes one replacement character, at the end", () => {
  const joiner = new Utf8Joiner();
  assert.equal(joiner.push(Buffer.from("a😀").subarray(0, 4)), "a");
  assert.equal(joiner.whole, false);
  assert.equal(joiner.finish(), "\uFFFD");
});
