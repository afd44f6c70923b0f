/** Event streams on the wire: exact bytes, readers that stall, leave or come back, and old clients. */
import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import type { RouteTable } from "@rbees/contracts/route";
import { encodeEvent, readEvents, SSE_PING } from "@rbees/contracts/sse";
import fc from "fast-check";
import type { EventStream } from "../src/event-stream.ts";
import { dechunk, Raw, serving, split, until } from "./support.ts";

const routes = {
  follow: { method: "GET", path: "/follow", summary: "", replies: { 200: ["events"] } },
  health: { method: "GET", path: "/health", summary: "", replies: { 200: ["text"] } },
} as const satisfies RouteTable;

const GET = "GET /follow HTTP/1.1\r\nhost: x\r\n\r\n";

/** A server whose streams the test holds in its hands. */
async function start(t: TestContext, options: { ping_ms?: number } = {}) {
  const streams: EventStream[] = [];
  const served = await serving(
    t,
    routes,
    {
      health: () => ({ text: "OK" }),
      follow: () => ({ events: (stream) => streams.push(stream), headers: { "x-job": "j1" } }),
    },
    options,
  );
  const open = async () => {
    const reader = new Raw(t, served.port);
    const before = streams.length;
    reader.send(GET);
    await until(() => streams.length > before, "the stream");
    const stream = streams[before];
    if (stream === undefined) throw new Error("no stream");
    await reader.sees("\r\n\r\n");
    return { reader, stream };
  };
  return { served, streams, open };
}

test("the headers come at once, before the first event, and tell proxies to keep their hands off", async (t) => {
  const { open } = await start(t);
  const { reader } = await open();
  const { head, body } = split(reader.bytes);
  assert.match(head, /^http\/1\.1 200 /);
  for (const line of [
    "content-type: text/event-stream; charset=utf-8",
    "cache-control: no-cache, no-transform",
    "x-accel-buffering: no",
    "x-job: j1",
  ]) {
    assert.ok(head.includes(line), line);
  }
  assert.equal(body.length, 0);
});

test("what is written arrives byte for byte, one chunk an event, also with characters of every width", async (t) => {
  const { open } = await start(t);
  const { reader, stream } = await open();
  const texts = ["plain", "é ß", "€ 漢字", "🐝 👩‍👩‍👧", "\u0000\u001f", "x".repeat(70_000)].map((text, i) =>
    encodeEvent({ type: "token", t: text } as { type: string }, i),
  );
  for (const text of texts) stream.writeText(text);
  stream.end();
  await reader.sees("0\r\n\r\n");
  const { payload, chunks, ended } = dechunk(split(reader.bytes).body);
  assert.deepEqual([payload.toString("utf8"), chunks, ended], [texts.join(""), texts.length, true]);
});

test("any text arrives as it was written, and latin1 strings as the bytes they stand for", async (t) => {
  const { open } = await start(t);
  const texts = fc.array(fc.oneof(fc.string({ unit: "binary" }), fc.string({ unit: "grapheme" })), { maxLength: 20 });
  await fc.assert(
    fc.asyncProperty(texts, fc.uint8Array({ maxLength: 50 }), async (written, bytes) => {
      const { reader, stream } = await open();
      for (const text of written) stream.writeText(text);
      stream.write(Buffer.from(bytes).toString("latin1"));
      stream.end();
      await until(() => dechunk(split(reader.bytes).body).ended, "the last chunk");
      const expected = Buffer.concat([...written.map((text) => Buffer.from(text, "utf8")), bytes]);
      assert.deepEqual(dechunk(split(reader.bytes).body).payload, expected);
      reader.socket.destroy();
    }),
    { numRuns: 20 },
  );
});

test("writing nothing does not end the stream", async (t) => {
  const { open } = await start(t);
  const { reader, stream } = await open();
  assert.equal(stream.write(""), true);
  stream.writeText(encodeEvent({ type: "after" }));
  await reader.sees("after");
  assert.equal(dechunk(split(reader.bytes).body).ended, false);
});

test("a silent stream gets a ping, one that was written to just now does not", async (t) => {
  const { open } = await start(t);
  const { reader, stream } = await open();
  stream.ping(60_000);
  stream.written_at_ms -= 60_000;
  stream.ping(60_000);
  stream.ping(60_000);
  stream.writeText(encodeEvent({ type: "done" }));
  await reader.sees("done");
  const { payload } = dechunk(split(reader.bytes).body);
  assert.equal(payload.toString(), `${SSE_PING}${encodeEvent({ type: "done" })}`);
});

test("the server pings its silent streams by itself", async (t) => {
  const { open } = await start(t, { ping_ms: 20 });
  const { reader } = await open();
  await reader.sees(SSE_PING);
});

test("a reader that takes nothing is reported: write says so, the bytes that wait are counted once, drain comes when it reads again", async (t) => {
  const { open } = await start(t);
  const { reader, stream } = await open();
  let drained = 0;
  stream.onDrain(() => {
    drained += 1;
  });
  reader.take();
  reader.socket.pause();
  const block = "x".repeat(65_536);
  let written = 0;
  let behind = false;
  // The kernel takes some megabytes before it is full.
  for (let i = 0; i < 1000 && !(behind && stream.buffered_bytes > 4 * block.length); i++) {
    behind = !stream.write(block) || behind;
    written += block.length;
    await new Promise(setImmediate);
  }
  assert.equal(behind, true);
  const waiting = stream.buffered_bytes;
  assert.ok(waiting > 0);
  stream.write(block);
  written += block.length;
  const grown = stream.buffered_bytes - waiting;
  assert.ok(grown >= block.length && grown < block.length + 100, `a block of ${block.length} bytes made it grow by ${grown}`);
  stream.written_at_ms -= 60_000;
  stream.ping(60_000);
  assert.equal(drained, 0);
  reader.socket.resume();
  await until(() => drained > 0, "drain");
  assert.equal(stream.buffered_bytes, 0);
  stream.end();
  await until(() => reader.bytes.length > written, "everything");
  await until(() => dechunk(reader.bytes).ended, "the last chunk");
  assert.equal(dechunk(reader.bytes).payload.length, written, "no ping in between, nothing lost");
});

test("a reader who leaves closes the stream, and writing to it then is refused quietly", async (t) => {
  const { open } = await start(t);
  const { reader, stream } = await open();
  let closed = 0;
  stream.onClose(() => {
    closed += 1;
  });
  reader.socket.destroy();
  await until(() => closed === 1, "close");
  assert.equal(stream.closed, true);
  assert.equal(stream.write("late"), false);
  stream.end();
  stream.onClose(() => {
    closed += 1;
  });
  assert.equal(closed, 2, "who asks afterwards is told at once");
});

test("a stream that is cut closes its connection without the last chunk", async (t) => {
  const { open } = await start(t);
  const { reader, stream } = await open();
  stream.writeText(encodeEvent({ type: "last" }));
  await reader.sees("last");
  stream.cut();
  await until(() => reader.closed, "the connection closed");
  assert.equal(dechunk(split(reader.bytes).body).ended, false);
  assert.equal(stream.write("x"), false);
});

test("after a stream has ended its connection serves the next request, and nothing of the old stream listens on it", async (t) => {
  const { streams, open } = await start(t);
  const { reader, stream } = await open();
  let drains = 0;
  for (let i = 0; i < 15; i++) {
    const current = i === 0 ? stream : streams[i];
    assert.ok(current !== undefined);
    current.onDrain(() => {
      drains += 1;
    });
    current.writeText(encodeEvent({ type: `round-${i}` }));
    current.end();
    assert.equal(current.write("late"), false);
    await reader.sees("0\r\n\r\n");
    assert.ok(reader.take().toString().includes(`round-${i}`));
    reader.send(GET);
    await until(() => streams.length === i + 2, "the next stream");
    await reader.sees("\r\n\r\n");
  }
  assert.equal(reader.closed, false);
  streams.at(-1)?.end();
  await reader.sees("0\r\n\r\n");
  reader.take();
  reader.send("GET /health HTTP/1.1\r\nhost: x\r\n\r\n");
  await reader.sees("OK");
  assert.equal(drains, 0);
});

test("a pipelined request waits for the stream before it, and its own events are framed like any other", async (t) => {
  const { served, streams } = await start(t);
  const reader = new Raw(t, served.port);
  reader.send(GET + GET);
  await until(() => streams.length === 2, "both streams");
  streams[1]?.writeText(encodeEvent({ type: "second" }));
  streams[0]?.writeText(encodeEvent({ type: "first" }));
  await reader.sees("first");
  assert.equal(reader.text.includes("second"), false);
  streams[0]?.end();
  await reader.sees("second");
  streams[1]?.writeText(encodeEvent({ type: "third" }));
  streams[1]?.end();
  await until(() => reader.text.endsWith("0\r\n\r\n") && reader.text.includes("third"), "the end of both");
  const [, first = "", second = ""] = reader.text.split("HTTP/1.1 200 OK");
  const payload = (answer: string) => dechunk(split(Buffer.from(answer)).body).payload.toString();
  assert.equal(payload(first), encodeEvent({ type: "first" }));
  assert.equal(payload(second), encodeEvent({ type: "second" }) + encodeEvent({ type: "third" }));
});

test("an HTTP/1.0 client gets the events without chunks, ended by the end of the connection", async (t) => {
  const { served, streams } = await start(t);
  const reader = new Raw(t, served.port);
  reader.send("GET /follow HTTP/1.0\r\nhost: x\r\n\r\n");
  await until(() => streams.length === 1, "the stream");
  const event = encodeEvent({ type: "token", t: "🐝" } as { type: string });
  streams[0]?.writeText(event);
  await reader.sees("🐝");
  streams[0]?.end();
  await until(() => reader.closed, "the connection closed");
  const { head, body } = split(reader.bytes);
  assert.doesNotMatch(head, /transfer-encoding/);
  assert.equal(body.toString("utf8"), event);
});

test("an ordinary client reads the events as they come", async (t) => {
  const { served, streams } = await start(t);
  const response = await fetch(`${served.url}/follow`);
  const events = readEvents(response.body as unknown as AsyncIterable<Uint8Array>);
  for (const i of [1, 2, 3]) {
    streams[0]?.writeText(encodeEvent({ type: "token" }, i));
    const { value } = await events.next();
    assert.deepEqual(value, { id: String(i), event: "token", data: '{"type":"token"}' });
  }
  streams[0]?.end();
  assert.equal((await events.next()).done, true);
});
