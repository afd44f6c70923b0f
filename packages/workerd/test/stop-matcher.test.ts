import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { StopMatcher } from "../src/stop-matcher.ts";

/** The rule on the whole text, one character at a time: what is complete first, of equals the longer. */
function search(text: string, stops: readonly string[]): { stop: string; start: number } | undefined {
  for (let end = 1; end <= text.length; end++) {
    const found = stops.filter((stop) => text.slice(0, end).endsWith(stop)).sort((a, b) => b.length - a.length)[0];
    if (found !== undefined) return { stop: found, start: end - found.length };
  }
  return undefined;
}

const letters = fc.string({ unit: fc.constantFrom("a", "b", "c"), maxLength: 30 });
const stopStrings = fc.array(fc.string({ unit: fc.constantFrom("a", "b", "c"), minLength: 1, maxLength: 5 }), { maxLength: 4 });

test("a text cut in any way gives the match of the whole text", () => {
  fc.assert(
    fc.property(fc.array(letters, { maxLength: 12 }), stopStrings, (pieces, stops) => {
      const matcher = new StopMatcher(stops);
      const expected = search(pieces.join(""), stops);
      let found: ReturnType<StopMatcher["push"]>;
      for (const piece of pieces) {
        found = matcher.push(piece);
        if (found !== undefined) break;
      }
      assert.deepEqual(found, expected);
    }),
    { numRuns: 2_000 },
  );
});

test("what is safe is never part of a later match, and all is safe that can't be", () => {
  fc.assert(
    fc.property(letters, letters, stopStrings, (first, rest, stops) => {
      const matcher = new StopMatcher(stops);
      if (matcher.push(first) !== undefined) return;
      const { safe } = matcher;
      const later = matcher.push(rest);
      if (later !== undefined) assert.ok(safe <= later.start);
      const held = first.slice(safe);
      if (held !== "")
        assert.ok(
          stops.some((stop) => stop.startsWith(held)),
          "held without need",
        );
    }),
    { numRuns: 2_000 },
  );
});
