/** Serving a route table: ids, refusals, forms of an answer, starting and stopping. */
import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { ErrorBody } from "@rbees/contracts/error-body";
import { RbeesError } from "@rbees/contracts/errors";
import type { RouteTable } from "@rbees/contracts/route";
import { encodeEvent } from "@rbees/contracts/sse";
import { z } from "zod";
import type { EventStream } from "../src/event-stream.ts";
import { serve } from "../src/http.ts";
import { silentLog } from "../src/log.ts";
import { Raw, serving, until } from "./support.ts";

const routes = {
  health: { method: "GET", path: "/health", summary: "", replies: { 200: ["text", z.object({ status: z.string() })] } },
  echo: {
    method: "POST",
    path: "/echo/{name}",
    summary: "",
    query: z.strictObject({ times: z.coerce.number().int().min(1).default(1) }),
    body: z.strictObject({ prompt: z.string().min(1), n: z.int().default(7) }),
    replies: { 200: [z.unknown()] },
  },
  act: { method: "POST", path: "/act", summary: "", replies: { 202: [z.unknown()] } },
  busy: { method: "GET", path: "/busy", summary: "", replies: { 200: ["text"] } },
  broken: { method: "GET", path: "/broken", summary: "", replies: { 200: ["text"] } },
  leave: { method: "DELETE", path: "/things/{id}", summary: "", replies: { 204: ["none"] } },
  follow: { method: "GET", path: "/follow", summary: "", replies: { 200: ["events"] } },
} as const satisfies RouteTable;

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;

async function start(t: TestContext, options: Parameters<typeof serving>[3] = {}) {
  const streams: EventStream[] = [];
  const seen: string[] = [];
  const served = await serving(
    t,
    routes,
    {
      health: ({ wants }) => (wants.json ? { json: { status: "OK" } } : { text: "OK" }),
      echo({ params, query, body, correlation_id }) {
        seen.push(correlation_id);
        return { json: { ...params, ...query, ...body } };
      },
      act: () => ({ status: 202, json: { acted: true }, headers: { "x-more": "1" } }),
      busy() {
        throw new RbeesError("QUEUE_FULL", "The queue is full.", { retry_after_ms: 1234.2 });
      },
      broken() {
        throw new Error("secret internals");
      },
      leave: () => ({ none: true }),
      follow: () => ({ events: (stream) => streams.push(stream) }),
    },
    options,
  );
  const call = (path: string, init: RequestInit = {}) => fetch(`${served.url}${path}`, init);
  const post = (path: string, body: string, headers: Record<string, string> = { "content-type": "application/json" }) =>
    call(path, { method: "POST", body, headers });
  return { served, call, post, streams, seen };
}

/** The one error body; every refusal must have it. */
async function refusal(response: Response) {
  assert.match(response.headers.get("content-type") ?? "", /^application\/json/);
  const { error } = ErrorBody.parse(await response.json());
  assert.equal(response.headers.get("x-correlation-id"), error.correlation_id);
  return { ...error, status: response.status };
}

test("every answer carries a correlation id: the caller's own when it is well formed", async (t) => {
  const { call, post, seen } = await start(t);
  for (const path of ["/health", "/nowhere", "/busy", "/broken"]) {
    const given = await call(path, { headers: { "x-correlation-id": "my-id-1" } });
    assert.equal(given.headers.get("x-correlation-id"), "my-id-1", path);
    const minted = (await call(path)).headers.get("x-correlation-id") ?? "";
    assert.match(minted, UUID, path);
  }
  const echoed = await post("/echo/a", '{"prompt":"p"}', { "content-type": "application/json", "x-correlation-id": "for-the-handler" });
  assert.equal(echoed.status, 200);
  assert.deepEqual(seen, ["for-the-handler"]);
});

test("a correlation id that could forge a log line or a header is replaced", async (t) => {
  const { call } = await start(t);
  for (const bad of ["a b", "x".repeat(65), "a;b", "é", "a_b"]) {
    const response = await call("/health", { headers: { "x-correlation-id": bad } });
    assert.match(response.headers.get("x-correlation-id") ?? "", UUID, bad);
  }
});

test("an event stream carries the correlation id too", async (t) => {
  const { call, streams } = await start(t);
  const response = await call("/follow", { headers: { "x-correlation-id": "stream-1" } });
  assert.equal(response.headers.get("x-correlation-id"), "stream-1");
  streams[0]?.end();
  assert.equal(await response.text(), "");
});

test("an unknown path says what was asked and where to look, without its query", async (t) => {
  const { call } = await start(t);
  const { status, code, message } = await refusal(await call("/v3/tasks?token=secret", { method: "DELETE" }));
  assert.deepEqual([status, code, message], [404, "NOT_FOUND", "There is no DELETE /v3/tasks. GET /openapi.json lists what there is."]);
});

test("a path that can't be decoded, and a parameter of any length, get the one error body or their handler", async (t) => {
  const { call } = await start(t);
  const { code } = await refusal(await call("/things/%zz", { method: "DELETE" }));
  assert.equal(code, "INVALID_REQUEST");
  assert.equal((await call(`/things/${"w".repeat(128)}`, { method: "DELETE" })).status, 204);
  const long = await refusal(await call(`/things/${"w".repeat(5000)}`, { method: "DELETE" }));
  assert.ok(long.status >= 400 && long.status < 500);
});

test("parameters, query and body reach the handler parsed, with defaults", async (t) => {
  const { post } = await start(t);
  const response = await post("/echo/a%20b?times=3", '{"prompt":"p"}');
  assert.deepEqual(await response.json(), { name: "a b", times: 3, prompt: "p", n: 7 });
});

test("all problems of query and body are told at once, without the prompt", async (t) => {
  const { post } = await start(t);
  const error = await refusal(await post("/echo/a?times=0&more=1", '{"prompt":"","n":"x","secret prompt":1}'));
  assert.deepEqual([error.status, error.code], [400, "INVALID_REQUEST"]);
  const fields = (error.details as { field: string }[]).map(({ field }) => field).sort();
  assert.deepEqual(fields, ["more", "n", "prompt", "secret prompt", "times"]);
  const again = await refusal(await post("/echo/a", '{"prompt":["my secret"]}'));
  assert.doesNotMatch(JSON.stringify(again), /my secret/);
});

test("a body beyond the limit is refused with 413 and the limit, whether its length was declared or not", async (t) => {
  const { post, call } = await start(t, { body_bytes_max: 1000 });
  const body = JSON.stringify({ prompt: "x".repeat(2000) });
  const declared = await refusal(await post("/echo/a", body));
  assert.deepEqual([declared.status, declared.code], [413, "PAYLOAD_TOO_LARGE"]);
  assert.match(declared.message, /1000 bytes/);
  const chunked = {
    method: "POST",
    body: ReadableStream.from([Buffer.from(body)]),
    duplex: "half",
    headers: { "content-type": "application/json" },
  };
  assert.equal((await refusal(await call("/echo/a", chunked as RequestInit))).status, 413);
});

test("malformed JSON is refused without echoing it", async (t) => {
  const { post } = await start(t);
  for (const body of ['{"prompt": "my secret', "my secret", '{"prompt":"my secret",}', '{"__proto__":{"x":"my secret"}}']) {
    const error = await refusal(await post("/echo/a", body));
    assert.deepEqual([error.status, error.code], [400, "INVALID_REQUEST"], body);
    assert.match(error.message, /not valid JSON/);
    assert.doesNotMatch(JSON.stringify(error), /my|secret/);
  }
});

test("a body of another type, or none, is refused with a hint at what to send", async (t) => {
  const { post, call } = await start(t);
  for (const type of ["application/x-www-form-urlencoded", "text/plain", "application/octet-stream"]) {
    const error = await refusal(await post("/echo/a", '{"prompt":"p"}', { "content-type": type }));
    assert.deepEqual([error.status, error.code], [400, "INVALID_REQUEST"], type);
    assert.match(error.message, /content-type: application\/json/i, type);
  }
  assert.match((await refusal(await post("/echo/a", ""))).message, /body is empty/i);
  assert.match((await refusal(await call("/echo/a", { method: "POST" }))).message, /JSON body is required/);
  assert.equal((await post("/echo/a", '{"prompt":"p"}', { "content-type": "application/json; charset=utf-8" })).status, 200);
});

test("a body with bytes that are no UTF-8 is refused, not read as something else", async (t) => {
  const { call, post } = await start(t);
  const send = (text: Buffer) =>
    call("/echo/a", { method: "POST", headers: { "content-type": "application/json" }, body: Buffer.from(text) as unknown as string });
  const latin1 = await refusal(await send(Buffer.from('{"prompt":"caf\u00e9"}', "latin1")));
  assert.deepEqual([latin1.status, latin1.code], [400, "INVALID_REQUEST"]);
  assert.match(latin1.message, /UTF-8/);
  assert.equal(
    (await refusal(await send(Buffer.from([...Buffer.from('{"prompt":"'), 0xed, 0xa0, 0x80, ...Buffer.from('"}')])))).status,
    400,
  );
  assert.equal((await post("/echo/a", '{"prompt":"caf\u00e9 \ud83d\udc1d"}')).status, 200);
});

test("a route without a body takes a POST without one, and gives status and headers as its handler says", async (t) => {
  const { call } = await start(t);
  const response = await call("/act", { method: "POST" });
  assert.deepEqual([response.status, response.headers.get("x-more"), await response.json()], [202, "1", { acted: true }]);
  const none = await call("/things/1", { method: "DELETE" });
  assert.deepEqual([none.status, await none.text()], [204, ""]);
});

test("a route without a body takes one that is named JSON and is empty, as clients send it that always name a type", async (t) => {
  const { served, call } = await start(t);
  const headers = { "content-type": "application/json" };
  assert.equal((await call("/act", { method: "POST", headers })).status, 202);
  assert.equal((await call("/things/1", { method: "DELETE", headers })).status, 204);
  const raw = new Raw(t, served.port);
  raw.send("POST /act HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 0\r\n\r\n");
  await raw.sees("HTTP/1.1 202");
});

test("HEAD is answered as GET, without the body; on a stream it is not there", async (t) => {
  const { call, streams } = await start(t);
  const [head, get] = [await call("/health", { method: "HEAD" }), await call("/health")];
  assert.deepEqual([head.status, await head.text()], [200, ""]);
  for (const name of ["content-type", "content-length"]) assert.equal(head.headers.get(name), get.headers.get(name), name);
  assert.equal((await call("/follow", { method: "HEAD" })).status, 404);
  assert.equal(streams.length, 0);
  const guarded = await start(t, {
    authorize() {
      throw new RbeesError("UNAUTHORIZED", "A key is required.");
    },
  });
  assert.equal((await guarded.call("/health", { method: "HEAD" })).status, 401);
});

test("a refusal that may be tried again says when, in whole seconds and in milliseconds, both rounded up", async (t) => {
  const { call } = await start(t);
  const response = await call("/busy");
  const waits = ["retry-after", "x-backoff-ms", "retry-after-ms", "x-should-retry"].map((name) => response.headers.get(name));
  assert.deepEqual(waits, ["2", "1235", "1235", "true"]);
  const { status, code, retriable, retry_after_ms } = await refusal(response);
  assert.deepEqual([status, code, retriable, retry_after_ms], [429, "QUEUE_FULL", true, 1235]);
  assert.equal((await call("/nowhere")).headers.get("retry-after"), null);
});

test("a bug is answered with 500 and the correlation id, and its details stay inside", async (t) => {
  const { call } = await start(t);
  const error = await refusal(await call("/broken"));
  assert.deepEqual([error.status, error.code], [500, "INTERNAL"]);
  assert.doesNotMatch(JSON.stringify(error), /secret internals|broken|http\.ts/);
});

test("text is the default form and JSON comes when it is asked for by name", async (t) => {
  const { call } = await start(t);
  for (const accept of [undefined, "*/*", "text/plain", "text/html"]) {
    const response = await call("/health", accept === undefined ? {} : { headers: { accept } });
    assert.match(response.headers.get("content-type") ?? "", /^text\/plain/, accept);
    assert.equal(await response.text(), "OK");
  }
  const json = await call("/health", { headers: { accept: "application/json" } });
  assert.match(json.headers.get("content-type") ?? "", /^application\/json/);
  assert.deepEqual(await json.json(), { status: "OK" });
});

test("a port that is taken is a CONFLICT that says so", async (t) => {
  const { served } = await start(t);
  const again = serve({}, {}, { host: "127.0.0.1", port: served.port, log: silentLog(), body_bytes_max: 1000, ping_ms: 1000 });
  await assert.rejects(again, (error: RbeesError) => {
    assert.equal(error.code, "CONFLICT");
    assert.match(error.message, new RegExp(`127.0.0.1:${served.port} is taken`));
    return true;
  });
});

test("an address of another machine is an invalid request, not a bug", async () => {
  const elsewhere = serve({}, {}, { host: "192.0.2.1", port: 0, log: silentLog(), body_bytes_max: 1000, ping_ms: 1000 });
  await assert.rejects(elsewhere, (error: RbeesError) => error.code === "INVALID_REQUEST" && /192\.0\.2\.1/.test(error.message));
});

test("closing lets open streams go on for the grace and then cuts them; nothing new gets in", async (t) => {
  const { served, streams } = await start(t);
  const reader = new Raw(t, served.port);
  reader.send("GET /follow HTTP/1.1\r\nhost: x\r\n\r\n");
  await until(() => streams.length === 1, "the stream");
  const closing = served.close(60_000);
  await until(() => streams[0]?.closed === false, "still open");
  streams[0]?.writeText(encodeEvent({ type: "still here" }));
  await reader.sees("still here");
  await Promise.all([served.close(1), closing]);
  await until(() => reader.closed, "the cut");
  assert.equal(streams[0]?.closed, true);
  await assert.rejects(fetch(`${served.url}/health`), TypeError);
});

test("closing does not wait for connections that idle, nor for a stream that ended, and can be asked twice", async (t) => {
  const { served, streams } = await start(t);
  const idle = new Raw(t, served.port);
  idle.send("GET /health HTTP/1.1\r\nhost: x\r\n\r\n");
  await idle.sees("OK");
  const reader = new Raw(t, served.port);
  reader.send("GET /follow HTTP/1.1\r\nhost: x\r\n\r\n");
  await until(() => streams.length === 1, "the stream");
  let closed = false;
  const closing = served.close(60_000).then(() => {
    closed = true;
  });
  await until(() => idle.closed, "the idle connection closed");
  assert.equal(closed, false);
  streams[0]?.end();
  await closing;
  await served.close(0);
});
