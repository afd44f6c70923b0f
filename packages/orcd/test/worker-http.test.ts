/** The connections to workers: what a worker's HTTP may look like, cut anywhere, and what becomes of everything else. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createServer, type RequestListener as Handler, type Server } from "node:http";
import { type AddressInfo, createServer as createTcpServer, type Socket } from "node:net";
import { type TestContext, test } from "node:test";
import fc from "fast-check";
import { Connections } from "../src/worker-http/connections.ts";
import { ProtocolError, ResponseReader } from "../src/worker-http/response.ts";
import { eventually } from "./harness.ts";

/** What a reader makes of the pieces; `closed`: the server closes its side after them. */
function readAll(pieces: readonly Buffer[], closed = false) {
  const seen = { status: 0, text: "", ends: 0, cut_off: false };
  const reader = new ResponseReader({
    onHead: (status) => {
      assert.equal(seen.status, 0, "one head a response");
      seen.status = status;
    },
    onText: (latin1) => {
      seen.text += latin1;
    },
    onEnd: () => {
      seen.ends += 1;
    },
  });
  reader.expect();
  // As a socket does it: one buffer for all reads, with what the last read left behind what this one brought.
  const shared = Buffer.alloc(70_000, "\r\n");
  for (const piece of pieces) {
    piece.copy(shared);
    reader.read(shared, piece.length);
  }
  if (closed) seen.cut_off = !reader.close();
  return { ...seen, keep_alive: reader.keep_alive, idle_ms: reader.idle_ms };
}

/** The bytes, cut before each of the positions. */
function cutAt(bytes: Buffer, positions: readonly number[]): Buffer[] {
  const edges = [0, ...[...new Set(positions)].sort((a, b) => a - b), bytes.length];
  return edges.slice(1).map((edge, i) => bytes.subarray(edges[i], edge));
}

const RESPONSES: readonly [name: string, text: string, expected: object, closed?: boolean][] = [
  [
    "chunked, with an extension, a trailer, and sizes in both cases",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nKeep-Alive: timeout=72\r\n\r\n5;why=so\r\nhello\r\n0a \r\n, \r\nworld\r\r\n00\r\nX: y\r\nZ:\r\n\r\n",
    { status: 200, text: "hello, \r\nworld\r", ends: 1, keep_alive: true, idle_ms: 72_000 },
  ],
  ["sized", "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy", { status: 503, text: "busy", ends: 1, keep_alive: true }],
  [
    "empty",
    "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    { status: 202, text: "", ends: 1, keep_alive: false },
  ],
  ["without a body", "HTTP/1.1 204 No Content\r\n\r\n", { status: 204, text: "", ends: 1, keep_alive: true }],
  [
    "after an interim answer",
    "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nok",
    { status: 200, text: "ok", ends: 1, keep_alive: true },
  ],
  [
    "until the end",
    "HTTP/1.0 200 OK\r\nServer: old\r\n\r\nall of it",
    { status: 200, text: "all of it", ends: 1, keep_alive: false, cut_off: false },
    true,
  ],
];

test("responses of every form are the same wherever the network cuts them", () => {
  for (const [name, text, expected, closed] of RESPONSES) {
    const bytes = Buffer.from(text, "latin1");
    for (let first = 0; first < bytes.length; first += 1) {
      for (const second of [first, first + 1, first + 7]) {
        const seen = readAll(
          cutAt(
            bytes,
            [first, Math.min(second, bytes.length)].filter((at) => at > 0),
          ),
          closed,
        );
        for (const [key, value] of Object.entries(expected)) {
          assert.deepEqual(seen[key as keyof typeof seen], value, `${name}, cut at ${first} and ${second}: ${key}`);
        }
      }
    }
    assert.equal(
      readAll(
        [...bytes].map((byte) => Buffer.from([byte])),
        closed,
      ).text,
      (expected as { text: string }).text,
      name,
    );
  }
});

test("any body in any chunks, cut anywhere, comes out as it went in", () => {
  const chunks = fc.array(fc.uint8Array({ minLength: 1, maxLength: 300 }), { maxLength: 12 });
  fc.assert(
    fc.property(chunks, fc.array(fc.nat(4000), { maxLength: 20 }), (bodies, cuts) => {
      const parts = bodies.flatMap((body) => [Buffer.from(`${body.length.toString(16)}\r\n`), Buffer.from(body), Buffer.from("\r\n")]);
      const bytes = Buffer.concat([
        Buffer.from("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"),
        ...parts,
        Buffer.from("0\r\n\r\n"),
      ]);
      const seen = readAll(
        cutAt(
          bytes,
          cuts.filter((at) => at > 0 && at < bytes.length),
        ),
      );
      assert.equal(seen.text, Buffer.concat(bodies).toString("latin1"));
      assert.equal(seen.ends, 1);
    }),
    { numRuns: 300 },
  );
});

test("whatever is no answer to a request is a protocol error, at once", () => {
  const head = "HTTP/1.1 200 OK\r\n";
  const chunked = `${head}transfer-encoding: chunked\r\n\r\n`;
  const wrong: readonly [text: string, says: RegExp][] = [
    ["SSH-2.0-OpenSSH_9.2\r\n\r\n", /does not begin like HTTP/],
    ["HTTP/2 200\r\n\r\n", /does not begin like HTTP/],
    ["HTTP/1.1 101 Switching Protocols\r\n\r\n", /another protocol/],
    [`${head}no colon\r\n\r\n`, /a header without a name/],
    [`${head}content-length: -1\r\n\r\n`, /no number/],
    [`${head}content-length: 1\r\ncontent-length: 2\r\n\r\n`, /no number/],
    [`${head}content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n`, /two lengths/],
    [`${head}transfer-encoding: gzip, chunked\r\n\r\n`, /transfer-encoding gzip/],
    [`${chunked}xyz\r\n`, /a chunk without a size/],
    [`${chunked}\r\n`, /a chunk without a size/],
    [`${chunked}-5\r\nhello\r\n`, /a chunk without a size/],
    [`${chunked}5\nhello\r\n`, /a chunk without a size/],
    [`${chunked}123456789\r\n`, /too large/],
    [`${chunked}3\r\nhello\r\n`, /longer than its size/],
    [`${chunked}3;${"x".repeat(2000)}`, /size line of more than/],
    [`${chunked}0\r\n${"x: y\r\n".repeat(4000)}`, /trailers of more than/],
    [`${head}x: ${"y".repeat(20_000)}`, /head of more than/],
    [`${head}content-length: 2\r\n\r\nok, and more`, /nobody has asked for/],
    [`${chunked}0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n`, /nobody has asked for/],
  ];
  for (const [text, says] of wrong) {
    for (const pieces of [
      [Buffer.from(text)],
      cutAt(Buffer.from(text), [text.length >> 1]),
      [...Buffer.from(text)].map((byte) => Buffer.from([byte])),
    ]) {
      assert.throws(
        () => readAll(pieces),
        (error) => error instanceof ProtocolError && says.test(error.message),
        JSON.stringify(text.slice(0, 80)),
      );
    }
  }
  assert.equal(readAll([Buffer.from(`${chunked}5\r\nhel`)], true).cut_off, true);
});

async function serve(context: TestContext, server: Server): Promise<number> {
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  context.after(() => {
    server.closeAllConnections();
    server.close();
  });
  return (server.address() as AddressInfo).port;
}

const LIMITS = { connect_ms_max: 2000, attempt_silence_ms_max: 2000 };

/** Posts, and says how it went. */
function post(connections: Connections, json = "{}"): { answer: Promise<string>; breakOff: () => void } {
  let breakOff = () => {};
  const answer = new Promise<string>((resolve) => {
    let text = "";
    breakOff = connections.post("/execute", { "x-one": "1" }, json, {
      onHead: (status) => {
        text = `${status} `;
      },
      onText: (latin1) => {
        text += Buffer.from(latin1, "latin1").toString("utf8");
      },
      onEnd: () => resolve(text),
      onFailure: (reason) => resolve(`${text}failed: ${reason}`),
    });
  });
  return { answer, breakOff };
}

function connectionsTo(context: TestContext, port: number, limits = LIMITS): Connections {
  const connections = new Connections({ host: "127.0.0.1", address: "127.0.0.1", port }, limits);
  context.after(() => connections.close());
  return connections;
}

const echo: Handler = (request, response) => {
  const parts: Buffer[] = [];
  request.on("data", (part: Buffer) => parts.push(part));
  request.on("end", () => {
    response.write(`${request.method} ${request.url} ${request.headers["x-one"]} `);
    response.end(Buffer.concat(parts));
  });
};

test("one connection carries one request after the other; requests at once have one each", async (t) => {
  const server = createServer(echo);
  let accepted = 0;
  server.on("connection", () => (accepted += 1));
  const connections = connectionsTo(t, await serve(t, server));
  const body = JSON.stringify({ prompt: "Hé 世界 🐝" });
  for (let i = 0; i < 5; i += 1) assert.equal(await post(connections, body).answer, `200 POST /execute 1 ${body}`);
  assert.equal(accepted, 1);
  const at_once = await Promise.all(Array.from({ length: 4 }, (_, i) => post(connections, `{"i":${i}}`).answer));
  assert.deepEqual(
    at_once,
    [0, 1, 2, 3].map((i) => `200 POST /execute 1 {"i":${i}}`),
  );
  assert.equal(accepted, 4);
});

test("a connection is not used again when the server closes it, nor for as long as the server might", async (t) => {
  const closing = createServer((_request, response) => response.writeHead(200, { connection: "close" }).end("bye"));
  const connections = connectionsTo(t, await serve(t, closing));
  assert.equal(await post(connections).answer, "200 bye");
  assert.equal(await post(connections).answer, "200 bye");

  const impatient = createServer({ keepAliveTimeout: 1000 }, echo);
  const sockets = new Set<unknown>();
  impatient.on("connection", (socket) => sockets.add(socket).size && socket.on("close", () => sockets.delete(socket)));
  const others = connectionsTo(t, await serve(t, impatient));
  assert.match(await post(others).answer, /^200 /);
  // Given up by this side before the server's second is over, so that no request can cross the server's goodbye.
  await eventually(() => sockets.size === 0, 3000);
  assert.match(await post(others).answer, /^200 /);
});

test("a worker's machine is asked whether it is there when nothing has come from it for a while", {
  skip: process.platform !== "linux",
}, async (t) => {
  const port = await serve(
    t,
    createServer(() => {}),
  );
  post(connectionsTo(t, port));
  // As the kernel shows it: the connection to that port, its timer of keep-alive (02), and when that rings, in hundredths of a second.
  const row = new RegExp(` 0100007F:${port.toString(16).toUpperCase().padStart(4, "0")} 01 \\S+ 02:(\\S+) `);
  const rings_in = () => Number.parseInt(row.exec(readFileSync("/proc/net/tcp", "utf8"))?.[1] ?? "FFFF", 16);
  await eventually(() => rings_in() <= 500);
});

test("what breaks off a request: nobody there, silence, a cut answer, another protocol, the caller", async (t) => {
  const free = createTcpServer().listen(0, "127.0.0.1");
  await once(free, "listening");
  const { port } = free.address() as AddressInfo;
  free.close();
  await once(free, "close");
  assert.equal(await post(connectionsTo(t, port)).answer, "failed: nothing listens at its address");

  const seen = { asked: 0, closed: 0 };
  const silent = createServer((request) => {
    seen.asked += 1;
    request.socket.on("close", () => {
      seen.closed += 1;
    });
  });
  const silent_port = await serve(t, silent);
  const short = connectionsTo(t, silent_port, { ...LIMITS, attempt_silence_ms_max: 100 });
  assert.equal(await post(short).answer, "failed: it fell silent");
  const { answer, breakOff } = post(connectionsTo(t, silent_port));
  await eventually(() => seen.asked === 2);
  breakOff();
  assert.equal(await answer, "failed: the connection broke");
  await eventually(() => seen.closed === 2);

  const cut = createServer((_request, response) => {
    response.write("half");
    response.socket?.end();
  });
  assert.equal(await post(connectionsTo(t, await serve(t, cut))).answer, "200 halffailed: the connection broke");

  const other = createTcpServer((socket) => socket.on("error", () => {}).write("220 mail.example.org ESMTP\r\n\r\n")).listen(
    0,
    "127.0.0.1",
  );
  await once(other, "listening");
  t.after(() => other.close());
  const mail = connectionsTo(t, (other.address() as AddressInfo).port);
  assert.equal(await post(mail).answer, "failed: it sent what does not begin like HTTP/1.1");
});

test("whoever breaks off too late does not touch the next request on that connection", async (t) => {
  const waiting: (() => void)[] = [];
  const server = createServer((request, response) => {
    request.resume();
    waiting.push(() => response.end("done"));
  });
  const connections = connectionsTo(t, await serve(t, server));
  const first = post(connections);
  await eventually(() => waiting.length === 1);
  waiting[0]?.();
  assert.equal(await first.answer, "200 done");
  const second = post(connections);
  await eventually(() => waiting.length === 2);
  first.breakOff();
  waiting[1]?.();
  assert.equal(await second.answer, "200 done");
});

test("a connection that has just ended is not used again, also in the moment before it is gone", async (t) => {
  const asked: { end: () => void; socket: Socket }[] = [];
  const server = createServer((request, response) => {
    request.resume();
    asked.push({ end: () => response.end("done"), socket: request.socket });
  });
  const connections = connectionsTo(t, await serve(t, server));
  const [one, other] = [post(connections), post(connections)];
  await eventually(() => asked.length === 2);
  asked[0]?.end();
  assert.equal(await Promise.race([one.answer, other.answer]), "200 done");
  // Both are closed by the server, the idle one first: whoever hears that the other broke asks again at once.
  const again = Promise.any(
    [one, other].map(async ({ answer }) => {
      assert.match(await answer, /failed/);
      return post(connections).answer;
    }),
  );
  for (const { socket } of asked) socket.end();
  await eventually(() => asked.length === 3);
  asked[2]?.end();
  assert.equal(await again, "200 done");
});
