/** A port that speaks TLS, and tells in plain HTTP whoever comes in clear: else they would see a connection that breaks. */
import { createServer } from "node:http";
import type { Server } from "node:https";
import type { Socket } from "node:net";

/** The first byte of a TLS connection says that a handshake follows. */
const HANDSHAKE = 22;
const ADVICE = "This port speaks TLS: use https:// in place of http://\n";

/**
 * Whoever says nothing for `ms_max`, or has not said all of it so long after the first byte, is let go: Node's own limit for a handshake
 * begins anew with each byte. Gives what ends the connections that have not come further.
 */
export function adviseThoseInClear(server: Server, ms_max: number): () => void {
  const adviser = createServer((_, answer) => {
    answer.writeHead(400, { "content-type": "text/plain; charset=utf-8", connection: "close" }).end(ADVICE);
  });
  const takeTls = server.listeners("connection") as ((this: Server, socket: Socket) => void)[];
  /** Those that are not through, by where they come from, with what ends them. */
  const early = new Map<string, { socket: Socket; late: NodeJS.Timeout }>();
  const through = (peer: string) => {
    clearTimeout(early.get(peer)?.late);
    early.delete(peer);
  };
  server.removeAllListeners("connection");
  server.on("secureConnection", (secure) => through(peerOf(secure)));
  server.on("connection", (socket: Socket) => {
    const peer = peerOf(socket);
    const drop = () => socket.destroy();
    const wait = () => {
      clearTimeout(early.get(peer)?.late);
      early.set(peer, { socket, late: setTimeout(drop, ms_max) });
    };
    wait();
    socket.on("error", drop);
    socket.once("close", () => through(peer));
    socket.once("data", (first: Buffer) => {
      wait();
      socket.off("error", drop);
      socket.pause();
      socket.unshift(first);
      if (first[0] === HANDSHAKE) for (const take of takeTls) take.call(server, socket);
      else adviser.emit("connection", socket);
      process.nextTick(() => socket.resume());
    });
  });
  return () => {
    for (const { socket } of early.values()) socket.destroy();
    adviser.closeAllConnections();
  };
}

function peerOf({ remoteAddress, remotePort }: Socket): string {
  return `${remoteAddress} ${remotePort}`;
}
