/** Whether a server could listen on an address, and why it could not. */
import { createServer } from "node:net";
import { RbeesError } from "@rbees/contracts/errors";

export interface Listening {
  readonly host: string;
  /** 0: any that is free. */
  readonly port: number;
}

/** What listening there would fail with now; undefined: it would not. */
export function listenFailure(at: Listening): Promise<NodeJS.ErrnoException | undefined> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once("error", resolve);
    server.listen({ ...at, exclusive: true }, () => server.close(() => resolve(undefined)));
  });
}

/** Throws what listening there would throw now; for programs with long work to do before they listen. */
export async function assertListenable(at: Listening): Promise<void> {
  const failure = await listenFailure(at);
  if (failure !== undefined) throw listenError(failure, at);
}

/** A failed `listen`, in a sentence that says what to do. */
export function listenError(error: unknown, { host, port }: Listening): unknown {
  const { code } = error as NodeJS.ErrnoException;
  if (code === "EADDRINUSE")
    return new RbeesError("CONFLICT", `${host}:${port} is taken by another program. Choose another port, or stop that program.`, {
      cause: error,
    });
  if (code === "EACCES") return new RbeesError("FORBIDDEN", `Not allowed to listen on ${host}:${port}.`, { cause: error });
  if (code === "EADDRNOTAVAIL") return new RbeesError("INVALID_REQUEST", `${host} is no address of this machine.`, { cause: error });
  return error;
}
