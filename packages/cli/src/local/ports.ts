/** Ports of this host: which are free. */
import { createServer } from "node:net";
import { RbeesError } from "@rbees/contracts/errors";

const PORTS_TRIED_MAX = 200;

export function isPortFree(host: string, port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once("error", () => resolve(false));
    server.listen({ host, port, exclusive: true }, () => server.close(() => resolve(true)));
  });
}

/** The first free port from `from` on that is not among `taken`. */
export async function nextFreePort(host: string, from: number, taken: ReadonlySet<number>): Promise<number> {
  for (let port = from; port < Math.min(65_536, from + PORTS_TRIED_MAX); port += 1) {
    if (!taken.has(port) && (await isPortFree(host, port))) return port;
  }
  throw new RbeesError("CONFLICT", `No port from ${from} to ${from + PORTS_TRIED_MAX - 1} is free on ${host}; choose one with --port.`);
}
