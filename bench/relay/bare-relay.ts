/**
 * The reference: the least a relay in Node has to do. node:http takes the request, undici passes it on, every chunk that
 * comes back is written out; who reads slowly slows the upstream, who leaves ends it. No parsing, no state, no record.
 */
import { createServer, type ServerResponse } from "node:http";
import { createRequire } from "node:module";
import type { AddressInfo } from "node:net";

interface Controller {
  pause(): void;
  resume(): void;
  abort(reason: Error): void;
}

/** Its own types are the orchestrator's dependency, not the repository's; this is the part that is used. */
interface Undici {
  Pool: new (
    origin: string,
    options: object,
  ) => {
    dispatch(request: object, handler: object): boolean;
  };
}

// The same undici as the orchestrator's.
const { Pool } = createRequire(new URL("../../packages/orcd/package.json", import.meta.url))("undici") as Undici;
const upstream = new Pool(process.argv[2] as string, { connections: null, pipelining: 1, keepAliveTimeout: 30_000 });

const server = createServer((request, response) => {
  const parts: Buffer[] = [];
  request.on("data", (part: Buffer) => parts.push(part));
  request.on("end", () => relay(request.url ?? "/", Buffer.concat(parts), response));
});

function relay(path: string, body: Buffer, response: ServerResponse): void {
  let controller: Controller | undefined;
  let over = false;
  response.on("drain", () => controller?.resume());
  response.on("close", () => {
    if (!over) controller?.abort(new Error("the client left"));
  });
  upstream.dispatch(
    { path, method: "POST", headers: { "content-type": "application/json" }, body },
    {
      onRequestStart(given: Controller) {
        controller = given;
      },
      onResponseStart(_: Controller, status: number, headers: Record<string, string>) {
        response.writeHead(status, { "content-type": headers["content-type"] ?? "text/plain" });
        response.flushHeaders();
      },
      onResponseData(given: Controller, chunk: Buffer) {
        if (!response.write(chunk)) given.pause();
      },
      onResponseEnd() {
        over = true;
        response.end();
      },
      onResponseError(_: Controller, error: Error) {
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
