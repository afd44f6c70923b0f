/** A port that speaks TLS, and tells in plain HTTP whoever comes in clear: else they would see a connection that breaks. */
import { createServer } from "node:http";
import type { Server } from "node:https";
import type { Socket } from "node:net";

/** The first byte of a TLS connection says that a handshake follows. */
const HANDSHAKE = 22;
const FIRST_BYTE_MS_MAX = 10_000;
const ADVICE = "This port speaks TLS: use https:// in place of http://\n";

/** Gives what ends the connections that have not said anything yet. */
export function adviseThoseInClear(server: Server): () => void {
  const adviser = createServer((_, answer) => {
    answer.writeHead(400, { "content-type": "text/plain; charset=utf-8", connection: "close" }).end(ADVICE);
  });
  adviser.headersTimeout = FIRST_BYTE_MS_MAX;
  const takeTls = server.listeners("connection") as ((this: Server, socket: Socket) => void)[];
  const silent = new Set<Socket>();
  server.removeAllListeners("connection");
  server.on("connection", (socket: Socket) => {
    silent.add(socket);
    const drop = () => socket.destroy();
    socket.setTimeout(FIRST_BYTE_MS_MAX, drop);
    socket.on("error", drop);
    socket.once("close", () => silent.delete(socket));
    socket.once("data", (first: Buffer) => {
      silent.delete(socket);
      socket.off("error", drop);
      socket.setTimeout(0, drop);
      socket.off("timeout", drop);
      socket.pause();
      socket.unshift(first);
      if (first[0] === HANDSHAKE) for (const take of takeTls) take.call(server, socket);
      else adviser.emit("connection", socket);
      process.nextTick(() => socket.resume());
    });
  });
  return () => {
    for (const socket of silent) socket.destroy();
    adviser.closeAllConnections();
  };
}
