/** The typed client of the contracts against a server of the kit: both read the same route table. */
import assert from "node:assert/strict";
import { createServer, type RequestListener } from "node:http";
import type { AddressInfo } from "node:net";
import { type TestContext, test } from "node:test";
import { createClient } from "@rbees/contracts/client";
import { RbeesError } from "@rbees/contracts/errors";
import type { RouteTable } from "@rbees/contracts/route";
import { encodeEvent } from "@rbees/contracts/sse";
import { z } from "zod";
import { serving, until } from "./support.ts";

const routes = {
  show: {
    method: "POST",
    path: "/things/{id}/parts/{part}",
    summary: "",
    query: z.strictObject({ limit: z.coerce.number().optional(), text: z.string().optional() }),
    body: z.strictObject({ n: z.int() }),
    replies: { 200: [z.object({ seen: z.unknown() })] },
  },
  health: { method: "GET", path: "/health", summary: "", replies: { 200: ["text", z.object({ status: z.string() })] } },
  leave: { method: "DELETE", path: "/things/{id}", summary: "", replies: { 204: ["none"] } },
  follow: { method: "GET", path: "/follow/{id}", summary: "", replies: { 200: ["events"] } },
} as const satisfies RouteTable;

async function start(t: TestContext) {
  const left = { streams: 0 };
  const served = await serving(t, routes, {
    show({ params, query, body, headers }) {
      return { json: { seen: { ...params, ...query, ...body, authorization: headers.authorization } } };
    },
    health: ({ wants }) => (wants.json ? { json: { status: "OK" } } : { text: "OK" }),
    leave({ params }) {
      if (params.id === "there") return { none: true };
      throw new RbeesError("QUEUE_FULL", "Come back.", { retry_after_ms: 1500, details: { waiting: 3 }, param: "id" });
    },
    follow: ({ params }) => {
      if (params.id === "unknown") throw new RbeesError("NOT_FOUND", "No such job.");
      return {
        events(stream) {
          stream.onClose(() => {
            left.streams += 1;
          });
          stream.writeText(encodeEvent({ type: "token" }, 1));
          if (params.id === "short") stream.end();
        },
      };
    },
  });
  return { served, left, client: createClient(routes, `${served.url}/`, { headers: { authorization: "Bearer t" } }) };
}

/** A server that is none of ours. */
async function stranger(t: TestContext, listener: RequestListener): Promise<string> {
  const server = createServer(listener).listen(0, "127.0.0.1");
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  await until(() => server.listening, "the other server");
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = [];
  for await (const item of items) found.push(item);
  return found;
}

const failed = (code: string, pattern: RegExp) => (error: unknown) => {
  assert.ok(error instanceof RbeesError, String(error));
  assert.deepEqual([error.code], [code]);
  assert.match(error.message, pattern);
  return true;
};

test("parameters, query, body and headers arrive as they were given, whatever characters they hold", async (t) => {
  const { client } = await start(t);
  const { seen } = await client.call("show", {
    params: { id: "a/b ?#é", part: "%2F" },
    query: { limit: 3, text: "x&y=z" },
    body: { n: 5 },
  });
  assert.deepEqual(seen, { id: "a/b ?#é", part: "%2F", limit: 3, text: "x&y=z", n: 5, authorization: "Bearer t" });
  const { seen: own } = await client.call(
    "show",
    { params: { id: "a", part: "b" }, body: { n: 1 } },
    { headers: { authorization: "mine" } },
  );
  assert.deepEqual(own, { id: "a", part: "b", n: 1, authorization: "mine" });
});

test("a route with several forms is asked for JSON, and one without content gives nothing", async (t) => {
  const { client } = await start(t);
  assert.deepEqual(await client.call("health", {}), { status: "OK" });
  assert.equal(await client.call("leave", { params: { id: "there" } }), undefined);
});

test("a refusal is thrown with its code, message, details, param and the time to come back", async (t) => {
  const { client } = await start(t);
  await assert.rejects(client.call("leave", { params: { id: "other" } }), (error: unknown) => {
    assert.ok(error instanceof RbeesError);
    const { code, message, details, param, retry_after_ms, exit } = error;
    assert.deepEqual([code, message, details, param, retry_after_ms, exit], ["QUEUE_FULL", "Come back.", { waiting: 3 }, "id", 1500, 3]);
    return true;
  });
});

test("events are read until the stream ends, and a refusal comes before the first of them", async (t) => {
  const { client } = await start(t);
  const events = await client.events("follow", { params: { id: "short" } });
  assert.deepEqual(await all(events), [{ id: "1", event: "token", data: '{"type":"token"}' }]);
  await assert.rejects(client.events("follow", { params: { id: "unknown" } }), failed("NOT_FOUND", /No such job/));
});

test("a reader that stops reading, or is aborted, leaves the server", async (t) => {
  const { client, left } = await start(t);
  for await (const event of await client.events("follow", { params: { id: "long" } })) {
    assert.equal(event.event, "token");
    break;
  }
  await until(() => left.streams === 1, "the reader left");
  const abort = new AbortController();
  const events = await client.events("follow", { params: { id: "long" } }, { signal: abort.signal });
  await events.next();
  abort.abort();
  await assert.rejects(events.next(), { name: "AbortError" });
  await until(() => left.streams === 2, "the aborted reader left");
});

test("a call that its caller aborts is an abort, not an unreachable server", async (t) => {
  const { client } = await start(t);
  await assert.rejects(client.call("health", {}, { signal: AbortSignal.abort() }), { name: "AbortError" });
});

test("nobody at the address is UNREACHABLE, with the address and the reason", async (t) => {
  const url = await stranger(t, () => {});
  const { port } = new URL(url);
  const gone = createServer().listen(0, "127.0.0.1");
  await until(() => gone.listening, "a free port");
  const free = (gone.address() as AddressInfo).port;
  await new Promise((resolve) => gone.close(resolve));
  assert.notEqual(String(free), port);
  await assert.rejects(
    createClient(routes, `http://127.0.0.1:${free}`).call("health", {}),
    failed("UNREACHABLE", new RegExp(`127.0.0.1:${free} \\(ECONNREFUSED\\)`)),
  );
});

test("a server that is no rbees program is UNREACHABLE, whether it refuses or answers something else", async (t) => {
  const refusing = await stranger(t, (_, response) => response.writeHead(502, { "content-type": "text/html" }).end("<h1>Bad gateway</h1>"));
  await assert.rejects(
    createClient(routes, refusing).call("health", {}),
    failed("UNREACHABLE", /answered 502, not as an rbees program would: <h1>Bad/),
  );
  const welcoming = await stranger(t, (_, response) => response.end("<h1>It works!</h1>"));
  await assert.rejects(createClient(routes, welcoming).call("health", {}), failed("UNREACHABLE", /not as an rbees program would/));
  const breaking = await stranger(t, (request, response) => {
    response.write('{"status":');
    setImmediate(() => request.socket.destroy());
  });
  await assert.rejects(createClient(routes, breaking).call("health", {}), failed("UNREACHABLE", /./));
});

test("a code that this version does not know, even one that every object has, is kept as INTERNAL with its message", async (t) => {
  for (const code of ["FROM_THE_FUTURE", "constructor", "toString"]) {
    const error = { code, message: "Something new.", type: "x", param: null, retriable: false, correlation_id: "c" };
    const url = await stranger(t, (_, response) => response.writeHead(418).end(JSON.stringify({ error })));
    await assert.rejects(createClient(routes, url).call("health", {}), failed("INTERNAL", /Something new/));
  }
});
