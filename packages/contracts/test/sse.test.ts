/** Server-Sent Events: what goes in comes out, however the bytes are cut. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { encodeEvent, encodeSse, readEvents, SSE_PING, SseDecoder, type SseEvent } from "../src/sse.ts";

const bytes = (text: string) => new TextEncoder().encode(text);

/** Decodes the bytes in pieces that end at the given places. */
function decode(all: Uint8Array, cuts: readonly number[] = []): SseEvent[] {
  const decoder = new SseDecoder();
  const places = [0, ...cuts.map((cut) => Math.min(cut, all.length)).sort((a, b) => a - b), all.length];
  return places.slice(1).flatMap((to, i) => decoder.feed(all.subarray(places[i], to)));
}

/** Each byte on its own. */
function bytewise(text: string): SseEvent[] {
  const all = bytes(text);
  return decode(
    all,
    Array.from(all, (_, i) => i),
  );
}

// Text with every width of UTF-8, surrogate pairs, and what looks like the format itself.
const character = fc.oneof(
  fc.string({ unit: "grapheme", minLength: 1, maxLength: 1 }),
  fc.constantFrom(":", " ", "é", "€", "🐝", "\u2028", "data: ", "\\n"),
);
const line = fc.array(character, { maxLength: 12 }).map((parts) => parts.join("").replace(/[\r\n\0]/g, ""));
const lineEnd = fc.constantFrom("\n", "\r\n", "\r");
const cuts = fc.array(fc.nat(400), { maxLength: 30 });

interface Written {
  text: string;
  events: SseEvent[];
}

/** A stream as any server may write it: comments, ids, several data lines, unknown fields, line ends of three kinds. */
const stream: fc.Arbitrary<Written> = fc
  .tuple(
    fc.boolean(),
    fc.array(
      fc.record({
        id: fc.option(line, { nil: undefined }),
        event: fc.option(
          line.filter((name) => name !== ""),
          { nil: undefined },
        ),
        data: fc.array(line, { minLength: 1, maxLength: 3 }),
        comment: fc.option(line, { nil: undefined }),
        space: fc.boolean(),
        ends: fc.infiniteStream(lineEnd),
      }),
      { maxLength: 5 },
    ),
  )
  .map(([bom, blocks]) => {
    let text = bom ? "\uFEFF" : "";
    let lastId: string | undefined;
    const events: SseEvent[] = [];
    for (const { id, event, data, comment, space, ends } of blocks) {
      const write = (content: string) => {
        const end = ends.next().value ?? "\n";
        // A lone CR before a line that begins with LF would be one line end: no content begins so, but an empty line does.
        const joined = end === "\n" && text.endsWith("\r") && content === "" ? "\r\n" : end;
        text += content + joined;
      };
      const field = (name: string, value: string) => write(space || value.startsWith(" ") ? `${name}: ${value}` : `${name}:${value}`);
      if (comment !== undefined) write(`:${comment}`);
      if (id !== undefined) field("id", id);
      if (event !== undefined) field("event", event);
      write("retry: 3000");
      for (const each of data) field("data", each);
      write("");
      lastId = id ?? lastId;
      events.push({ ...(lastId === undefined ? {} : { id: lastId }), event: event ?? "message", data: data.join("\n") });
    }
    return { text, events };
  });

test("any stream is decoded to its events wherever its bytes are cut, also inside a character and inside CRLF", () => {
  fc.assert(
    fc.property(stream, cuts, ({ text, events }, places) => {
      assert.deepEqual(decode(bytes(text), places), events);
      assert.deepEqual(bytewise(text), events);
    }),
    { numRuns: 200 },
  );
});

test("what the encoder writes the decoder reads, wherever the bytes are cut", () => {
  const typed = fc.record({ type: line.filter((name) => name !== ""), t: fc.string({ unit: "binary" }), i: fc.nat() });
  fc.assert(
    fc.property(fc.array(fc.tuple(typed, fc.nat())), cuts, (events, places) => {
      const text = events.map(([event, id]) => encodeEvent(event, id)).join(SSE_PING);
      const expected = events.map(([event, id]) => ({ id: String(id), event: event.type, data: JSON.stringify(event) }));
      assert.deepEqual(decode(bytes(text), places), expected);
    }),
    { numRuns: 50 },
  );
});

test("an event is written as id, event and data line, in that order, and ended by an empty line", () => {
  assert.equal(encodeSse({ id: "7", event: "token", data: "{}" }), "id: 7\nevent: token\ndata: {}\n\n");
  assert.equal(encodeEvent({ type: "end" }), 'event: end\ndata: {"type":"end"}\n\n');
});

test("an empty line right after a CRLF that was cut in two still ends the event", () => {
  assert.deepEqual(bytewise("data: a\r\n\ndata: b\r\n\r\ndata: c\r\r"), [
    { event: "message", data: "a" },
    { event: "message", data: "b" },
    { event: "message", data: "c" },
  ]);
});

test("comments, pings and unknown fields give no events", () => {
  assert.deepEqual(decode(bytes(`${SSE_PING}:\n\nretry: 5\n\nfoo\n\nevent: lonely\n\n`)), []);
});

test("an event without a name is a message, and an id holds until the next one", () => {
  assert.deepEqual(decode(bytes("id: 1\ndata: a\n\ndata: b\n\nid\ndata: c\n\nid: bad\0id\ndata: d\n\n")), [
    { id: "1", event: "message", data: "a" },
    { id: "1", event: "message", data: "b" },
    { id: "", event: "message", data: "c" },
    { id: "", event: "message", data: "d" },
  ]);
});

test("only one space after the colon belongs to the format", () => {
  assert.deepEqual(decode(bytes("data:a\ndata:  b\ndata\ndata: \n\n")), [{ event: "message", data: "a\n b\n\n" }]);
});

test("an event that is not finished when the stream ends is not given", async () => {
  const chunks = [bytes("data: whole\n\nda"), bytes("ta: half\n")];
  const events: SseEvent[] = [];
  for await (const event of readEvents(ReadableStream.from(chunks))) events.push(event);
  assert.deepEqual(events, [{ event: "message", data: "whole" }]);
});

test("an unfinished event beyond the limit is refused, in one long line and in many short ones, in one chunk and in many", () => {
  const long = bytes(`data: ${"x".repeat(2000)}`);
  const many = bytes(`data: ${"x".repeat(90)}\n`.repeat(20));
  for (const all of [long, many]) {
    assert.throws(() => new SseDecoder(1000).feed(all), { name: "RangeError", message: "an SSE event exceeds 1000 characters" });
    const decoder = new SseDecoder(1000);
    assert.throws(() => {
      for (let i = 0; i < all.length; i += 7) decoder.feed(all.subarray(i, i + 7));
    }, RangeError);
  }
});

test("the limit is for one event: finished ones don't count towards the next, even when they share a chunk", () => {
  const event = `data: ${"x".repeat(600)}\n\n`;
  assert.equal(new SseDecoder(1000).feed(bytes(event.repeat(50))).length, 50);
  const decoder = new SseDecoder(1000);
  assert.equal(decoder.feed(bytes(`data: ${"a".repeat(600)}\n`)).length, 0);
  assert.equal(decoder.feed(bytes(`\ndata: ${"b".repeat(600)}`)).length, 1);
  assert.equal(decoder.feed(bytes("\n\n")).length, 1);
});
