/**
 * The reference: the least a relay in Node has to do. node:http takes the request, undici passes it on, every chunk that
 * comes back is written out; who reads slowly slows the upstream, who leaves ends it. No parsing, no state, no record.
 */
import { createServer, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { type Dispatcher, Pool } from "undici";

const upstream = new Pool(process.argv[2] as string, { connections: null, pipelining: 1, keepAliveTimeout: 30_000 });

const server = createServer((request, response) => {
  const parts: Buffer[] = [];
  request.on("data", (part: Buffer) => parts.push(part));
  request.on("end", () => relay(request.url ?? "/", Buffer.concat(parts), response));
});

function relay(path: string, body: Buffer, response: ServerResponse): void {
  let controller: Dispatcher.DispatchController | undefined;
  let over = false;
  response.on("drain", () => controller?.resume());
  response.on("close", () => {
    if (!over) controller?.abort(new Error("the client left"));
  });
  upstream.dispatch(
    { path, method: "POST", headers: { "content-type": "application/json" }, body },
    {
      onRequestStart(given) {
        controller = given;
      },
      onResponseStart(_, status, headers) {
        response.writeHead(status, { "content-type": String(headers["content-type"] ?? "text/plain") });
        response.flushHeaders();
      },
      onResponseData(given, chunk) {
        if (!response.write(chunk)) given.pause();
      },
      onResponseEnd() {
        over = true;
        response.end();
      },
      onResponseError(_, error) {
        over = true;
        if (response.headersSent) response.destroy(error);
        else response.writeHead(502).end();
      },
    },
  );
}

server.listen({ host: "127.0.0.1", port: 0, backlog: 4096 }, () => {
  process.stdout.write(`listening ${(server.address() as AddressInfo).port}\n`);
});
