/** Callers who mean harm: too slow, too many, too involved. They are refused within limits, and others are served on. */
import assert from "node:assert/strict";
import { connect } from "node:net";
import { networkInterfaces } from "node:os";
import { type TestContext, test } from "node:test";
import { ErrorBody } from "@rbees/contracts/error-body";
import type { RouteTable } from "@rbees/contracts/route";
import { z } from "zod";
import type { EventStream } from "../src/event-stream.ts";
import { AddressCount } from "../src/http-limits.ts";
import { Raw, serving, until } from "./support.ts";

const routes = {
  health: { method: "GET", path: "/health", summary: "", replies: { 200: ["text"] } },
  echo: {
    method: "POST",
    path: "/echo",
    summary: "",
    body: z.strictObject({ prompt: z.string(), n: z.int().default(7), more: z.array(z.string()).optional(), any: z.unknown().optional() }),
    replies: { 200: [z.unknown()] },
  },
  follow: { method: "GET", path: "/follow", summary: "", replies: { 200: ["events"] } },
} as const satisfies RouteTable;

async function start(t: TestContext, options: Parameters<typeof serving>[3] = {}) {
  const streams: EventStream[] = [];
  const served = await serving(
    t,
    routes,
    {
      health: () => ({ text: "OK" }),
      echo: ({ body }) => ({ json: { chars: body.prompt.length } }),
      follow: () => ({ events: (stream) => streams.push(stream) }),
    },
    options,
  );
  const post = (body: string) => fetch(`${served.url}/echo`, { method: "POST", body, headers: { "content-type": "application/json" } });
  return { served, post, streams };
}

/** Sends a byte of it now and then, until the other side has had enough. */
function drip(t: TestContext, raw: Raw, text: string): void {
  let at = 0;
  const timer = setInterval(() => (raw.closed ? clearInterval(timer) : raw.send(text[at++ % text.length] as string)), 10);
  t.after(() => clearInterval(timer));
}

test("headers that drip, a body that drips, a second request that never comes whole, and silence are ended in their time; a running stream goes on", async (t) => {
  const { served, streams } = await start(t, { headers_ms_max: 150, request_ms_max: 300 });
  const reader = new Raw(t, served.port);
  reader.send("GET /follow HTTP/1.1\r\nhost: x\r\n\r\n");
  await reader.sees("200 OK");
  const headers = new Raw(t, served.port);
  headers.send("GET /health HTTP/1.1\r\nhost: x\r\nx-slow: ");
  drip(t, headers, "a");
  const body = new Raw(t, served.port);
  body.send("POST /echo HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 10000\r\n\r\n{");
  drip(t, body, " ");
  const chunked = new Raw(t, served.port);
  chunked.send("POST /echo HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n");
  drip(t, chunked, "1\r\n \r\n");
  const second = new Raw(t, served.port);
  second.send("GET /health HTTP/1.1\r\nhost: x\r\n\r\n");
  await second.sees("OK");
  second.send("GET /health HTTP/1.1\r\nx-slow: ");
  drip(t, second, "a");
  const silent = new Raw(t, served.port);
  const half = new Raw(t, served.port);
  half.send("POST /echo HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{");
  // Whoever still sends as it is closed may lose the answer on the way.
  for (const [what, raw] of Object.entries({ headers, body, chunked, second })) {
    await until(() => raw.closed, `${what} is closed`);
    const answers = raw.text
      .split("HTTP/1.1 ")
      .slice(1)
      .map((answer) => answer.slice(0, 3));
    assert.ok(
      answers.every((status) => status === "408" || (status === "200" && raw === second)),
      `${what}: ${raw.text}`,
    );
  }
  for (const raw of [silent, half]) {
    assert.match(await raw.sees("REQUEST_TIMEOUT"), /HTTP\/1\.1 408 /);
    await until(() => raw.closed, "it is closed");
  }
  streams[0]?.write("event: x\ndata: still here\n\n");
  await reader.sees("still here");
  assert.equal(reader.closed, false);
});

test("headers beyond their limit are refused with 431 and the limit", async (t) => {
  const { served } = await start(t, { headers_bytes_max: 2048 });
  const raw = new Raw(t, served.port);
  raw.send(`GET /health HTTP/1.1\r\nhost: x\r\nx-large: ${"a".repeat(3000)}\r\n\r\n`);
  assert.match(await raw.sees("HEADERS_TOO_LARGE"), /larger than 2048 bytes/);
});

test("connections beyond the limit are closed as they come, and there is room again when others leave", async (t) => {
  const { served } = await start(t, { connections_max: 3 });
  const here = [new Raw(t, served.port), new Raw(t, served.port), new Raw(t, served.port)];
  const ask = (raw: Raw) => raw.send("GET /health HTTP/1.1\r\nhost: x\r\n\r\n");
  for (const raw of here) {
    ask(raw);
    await raw.sees("OK");
  }
  const late = new Raw(t, served.port);
  ask(late);
  await until(() => late.closed, "one too many is closed");
  assert.equal(late.text, "");
  for (const raw of here) assert.equal(raw.closed, false);
  here[0]?.socket.destroy();
  let again = new Raw(t, served.port);
  await until(() => {
    if (again.closed) again = new Raw(t, served.port);
    ask(again);
    return again.text.includes("OK");
  }, "there is room again");
});

test("of one address so many connections may be open, of loopback all", () => {
  const count = new AddressCount(2);
  assert.deepEqual([count.enter("192.0.2.1"), count.enter("192.0.2.1"), count.enter("192.0.2.1")], [true, true, false]);
  assert.equal(count.enter("192.0.2.2"), true);
  count.leave("192.0.2.1");
  assert.deepEqual([count.enter("192.0.2.1"), count.enter("192.0.2.1")], [true, false]);
  for (let n = 0; n < 5; n++) assert.equal(count.enter("127.0.0.1"), true);
  const open = new AddressCount(0);
  for (let n = 0; n < 5; n++) assert.equal(open.enter("192.0.2.1"), true);
});

test("somebody at another address can't take all connections", async (t) => {
  const own = Object.values(networkInterfaces())
    .flatMap((all) => all ?? [])
    .find(({ family, internal }) => family === "IPv4" && !internal)?.address;
  if (own === undefined) return t.skip("this machine has no address but loopback");
  const { served } = await start(t, { host: "0.0.0.0", connections_per_address_max: 2 });
  const from = () => {
    const socket = connect(served.port, own).on("error", () => {});
    t.after(() => socket.destroy());
    const seen = { text: "", closed: false };
    socket.setEncoding("utf8").on("data", (chunk: string) => {
      seen.text += chunk;
    });
    socket.on("close", () => {
      seen.closed = true;
    });
    socket.write("GET /health HTTP/1.1\r\nhost: x\r\n\r\n");
    return seen;
  };
  const [first, second] = [from(), from()];
  await until(() => first.text.includes("OK") && second.text.includes("OK"), "two get in");
  const third = from();
  await until(() => third.closed, "the third does not");
  assert.equal(third.text, "");
  assert.equal((await fetch(`http://127.0.0.1:${served.port}/health`)).status, 200, "others do");
});

test("JSON that is deep, wide, or wrong in very many places is refused in a short answer, and the next good one works", async (t) => {
  const { post } = await start(t, { body_bytes_max: 4_194_304, json_depth_max: 20, json_values_max: 10_000 });
  const deep = (n: number) => `{"prompt":"p","any":${"[".repeat(n)}${"]".repeat(n)}}`;
  const nested = (n: number) => `{"prompt":"p","any":${'{"a":'.repeat(n)}1${"}".repeat(n)}}`;
  const keys = (n: number) => `{${Array.from({ length: n }, (_, at) => `"k${at}":1`).join()},"prompt":"p"}`;
  const list = (n: number, one: string) => `{"prompt":"p","more":[${Array.from({ length: n }, () => one).join()}]}`;
  const digits = "9".repeat(1_000_000);
  for (const [what, status, body] of [
    ["as deep as may be", 200, deep(19)],
    ["too deep", 400, deep(20)],
    ["far too deep", 400, deep(1_000_000)],
    ["objects too deep", 400, nested(200_000)],
    ["many keys", 413, keys(100_000)],
    ["many unknown keys, within the limit", 400, keys(9000)],
    ["many values", 413, list(1_000_000, "1")],
    ["many wrong values, within the limit", 400, list(9000, "1")],
    ["a long unknown key", 400, `{"prompt":"p","${"k".repeat(1_000_000)}":1}`],
    ["a number without end", 400, `{"prompt":"p","n":${digits}}`],
    ["a fraction without end", 400, `{"prompt":"p","n":0.4${digits}}`],
    ["no number that can be", 400, '{"prompt":"p","n":1e999999999}'],
    ["another prototype", 400, '{"prompt":"p","__proto__":{"n":1}}'],
    ["another constructor", 400, '{"prompt":"p","constructor":{"prototype":{"n":1}}}'],
    ["the same key a hundred thousand times", 200, `{${'"prompt":"p",'.repeat(100_000)}"prompt":"p"}`],
  ] as const) {
    const answer = await post(body);
    const text = await answer.text();
    assert.equal(answer.status, status, `${what}: ${text.slice(0, 300)}`);
    assert.ok(text.length < 16_384, `${what}: an answer of ${text.length} characters`);
    if (status !== 200) ErrorBody.parse(JSON.parse(text));
  }
  const many = ErrorBody.parse(await (await post(keys(9000))).json()).error;
  assert.match(many.message, /k0: unknown field.*and 8968 more$/s);
  assert.equal((await post('{"prompt":"p"}')).status, 200);
  assert.equal(({} as { n?: number }).n, undefined);
});
