/** Ports of this host: which are free. */
import { RbeesError } from "@rbees/contracts/errors";
import { listenFailure } from "@rbees/kit/listening";

const PORTS_TRIED_MAX = 200;
const UNPRIVILEGED_PORT_MIN = 1024;

/** Throws where nothing could listen, whoever has the port. */
export async function isPortFree(host: string, port: number): Promise<boolean> {
  const failure = await listenFailure({ host, port });
  if (failure === undefined) return true;
  const refusal = refusalOf(failure, host, port);
  if (refusal !== undefined) throw refusal;
  return false;
}

function refusalOf(error: NodeJS.ErrnoException, host: string, port: number): RbeesError | undefined {
  switch (error.code) {
    case "ENOTFOUND":
    case "EAI_AGAIN":
      return new RbeesError(
        "INVALID_REQUEST",
        `Nothing can listen on ${host}: this machine does not know that name. Give one of its addresses.`,
        {
          cause: error,
        },
      );
    case "EADDRNOTAVAIL":
      return new RbeesError("INVALID_REQUEST", `Nothing can listen on ${host}: it is no address of this machine. Give one of its own.`, {
        cause: error,
      });
    case "EACCES":
      // Windows says so of ports that it keeps for others: those are taken.
      if (port >= UNPRIVILEGED_PORT_MIN) return undefined;
      return new RbeesError("FORBIDDEN", `This user may not listen on port ${port}: choose one from ${UNPRIVILEGED_PORT_MIN} on.`, {
        cause: error,
      });
    default:
      return undefined;
  }
}

/** The first free port from `from` on that is not among `taken`. */
export async function nextFreePort(host: string, from: number, taken: ReadonlySet<number>): Promise<number> {
  for (let port = from; port < Math.min(65_536, from + PORTS_TRIED_MAX); port += 1) {
    if (!taken.has(port) && (await isPortFree(host, port))) return port;
  }
  throw new RbeesError("CONFLICT", `No port from ${from} to ${from + PORTS_TRIED_MAX - 1} is free on ${host}; choose one with --port.`);
}
