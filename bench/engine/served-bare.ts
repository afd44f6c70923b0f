/**
 * Bare llama.cpp as a worker would have it, a process of its own: the same loop in a child process, each step's tokens written to it by a
 * pipe, and given out over HTTP to a client for each stream. It admits, counts, reads, stops and measures nothing. So it is the least that a
 * worker costs whose engine may crash without it: what is left of the distance to bare llama.cpp is the worker's own.
 */
import { fork } from "node:child_process";
import { once } from "node:events";
import { createServer, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import type { Readable } from "node:stream";
import { fileURLToPath } from "node:url";
import { type BareAnswer, type BareOrder, type ServedStep, STEPS_FD } from "./messages.ts";

const clients = new Map<string, ServerResponse>();

const engine = fork(fileURLToPath(new URL("bare-llama.ts", import.meta.url)), [], {
  execArgv: [],
  stdio: ["ignore", "ignore", "inherit", "ipc", "pipe"],
});
const server = createServer((request, response) => {
  clients.set((request.url ?? "").slice(1), response);
  response.writeHead(200, { "content-type": "text/event-stream" }).flushHeaders();
}).listen(0, "127.0.0.1");

let begun = "";
(engine.stdio[STEPS_FD] as Readable).setEncoding("utf8").on("data", (text: string) => {
  const lines = (begun + text).split("\n");
  begun = lines.pop() ?? "";
  for (const line of lines) {
    const { i, ids } = JSON.parse(line) as ServedStep;
    for (const [stream, id] of ids.entries())
      clients.get(String(stream))?.write(`event: token\ndata: ${JSON.stringify({ type: "token", t: " word", i, ids: [id] })}\n\n`);
  }
});

engine.on("message", async (answer: BareAnswer) => {
  if ("decoded" in answer) {
    for (const client of clients.values()) client.end();
    clients.clear();
  }
  if (!server.listening) await once(server, "listening");
  process.send?.("loaded" in answer ? { loaded: { ...answer.loaded, port: (server.address() as AddressInfo).port } } : answer);
});
engine.on("exit", () => process.exit(1));
process.on("message", (order: BareOrder) => engine.send(order));
process.on("disconnect", () => {
  engine.kill("SIGKILL");
  process.exit(0);
});
