import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { Answer } from "../src/answer.ts";
import type { TokenReport } from "../src/engine.ts";

interface Said {
  events: TokenReport[];
  text: string;
  stop: string | undefined;
}

/** Says tokens until a stop string or the end; the first `skip` are what another attempt has sent. */
function say(tokens: readonly Uint8Array[], stops: readonly string[], skip = 0): Said {
  const answer = new Answer(stops);
  const events: TokenReport[] = [];
  const keep = (event: TokenReport | undefined) => event !== undefined && events.push(event);
  for (const [id, bytes] of tokens.entries()) {
    if (answer.stop !== undefined) break;
    if (id < skip) answer.continued(id, bytes);
    else keep(answer.push(id, bytes));
  }
  keep(answer.finish());
  return { events, text: events.map(({ t }) => t).join(""), stop: answer.stop };
}

/** Says tokens with how likely each was, which is named after its number: what is told of which text. */
function likely(tokens: readonly string[], stops: readonly string[]): [text: string, of: string[], ids: number][] {
  const answer = new Answer(stops);
  const events: TokenReport[] = [];
  for (const [id, token] of tokens.entries()) {
    const event = answer.push(id, Buffer.from(token, "latin1"), { token: String(id), logprob: -1, top_logprobs: [] });
    if (event !== undefined) events.push(event);
    if (answer.stop !== undefined) break;
  }
  const last = answer.finish();
  return [...events, ...(last === undefined ? [] : [last])].map(({ t, ids, logprobs = [] }) => [
    t,
    logprobs.map(({ token }) => token),
    ids.length,
  ]);
}

test("how likely a token was is told once, with the text that it is part of; of a stop string's tokens it is not", () => {
  const é = Buffer.from("é").toString("latin1");
  assert.deepEqual(likely(["a", ...é, "b"], []), [
    ["a", ["0"], 1],
    ["é", ["1", "2"], 2],
    ["b", ["3"], 1],
  ]);
  assert.deepEqual(likely(["a", "E", "x"], ["END"]), [
    ["a", ["0"], 1],
    ["Ex", ["1", "2"], 2],
  ]);
  assert.deepEqual(likely(["a", "E", "N", "D", "x"], ["END"]), [["a", ["0"], 1]]);
  // The tokens of the stop string go along to be continued from; the one that it cuts into begins before it.
  assert.deepEqual(likely(["a", "bE", "N", "Dx"], ["END"]), [
    ["a", ["0"], 1],
    ["b", ["1"], 3],
  ]);
  assert.deepEqual(likely(["a", ...é, "x"], ["é"]), [["a", ["0"], 1]]);
  assert.deepEqual(likely(["a", é.charAt(0)], []), [
    ["a", ["0"], 1],
    ["\ufffd", ["1"], 1],
  ]);
});

const tokenList = fc.array(
  fc.oneof(
    fc.string({ unit: fc.constantFrom("a", "b", "é"), maxLength: 4 }).map((text) => new Uint8Array(Buffer.from(text))),
    fc.constantFrom(0xf0, 0x9f, 0x98, 0x80, 0xe2).map((byte) => Uint8Array.of(byte)),
  ),
  { maxLength: 20 },
);
const stopStrings = fc.array(fc.string({ unit: fc.constantFrom("a", "b", "é"), minLength: 1, maxLength: 4 }), { maxLength: 3 });

test("the events' texts are the text before the first stop string, however the tokens cut it", () => {
  fc.assert(
    fc.property(tokenList, stopStrings, (tokens, stops) => {
      const whole = new TextDecoder("utf-8", { ignoreBOM: true }).decode(Buffer.concat(tokens));
      const { text, stop } = say(tokens, stops);
      const ends = stops.flatMap((candidate) => (whole.includes(candidate) ? [whole.indexOf(candidate) + candidate.length] : []));
      const expected = stop === undefined ? whole : whole.slice(0, Math.min(...ends) - stop.length);
      assert.equal(stop !== undefined, ends.length > 0);
      assert.equal(text, expected);
    }),
    { numRuns: 2_000 },
  );
});

test("tokens are numbered without a gap, and no event splits a character", () => {
  fc.assert(
    fc.property(tokenList, stopStrings, (tokens, stops) => {
      let next = 0;
      for (const { i, ids } of say(tokens, stops).events) {
        assert.equal(i, next);
        assert.deepEqual(
          ids,
          ids.map((_, k) => i + k),
        );
        next += ids.length;
      }
    }),
  );
});

test("an answer continued after any of its events is the same answer", () => {
  fc.assert(
    fc.property(tokenList, stopStrings, fc.nat(20), (tokens, stops, cut) => {
      const whole = say(tokens, stops);
      const sent = whole.events.slice(0, cut);
      const skip = sent.reduce((sum, { ids }) => sum + ids.length, 0);
      const rest = say(tokens, stops, skip);
      assert.equal(sent.map(({ t }) => t).join("") + rest.text, whole.text);
      assert.equal(rest.stop, whole.stop);
      if (rest.events[0] !== undefined) assert.equal(rest.events[0].i, skip);
    }),
    { numRuns: 2_000 },
  );
});
