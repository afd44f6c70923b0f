/** Addresses of this host, by where they lead. */
import { createSocket } from "node:dgram";
import { lookup } from "node:dns/promises";
import { RbeesError } from "@rbees/contracts/errors";

/** The host in an http address, without the brackets of IPv6. */
export function hostOf(url: string): string {
  return new URL(url).hostname.replace(/^\[(.*)\]$/, "$1");
}

/** The address from which this host would talk to that one. Nothing is sent. */
export async function addressTowards(host: string): Promise<string> {
  const { address, family } = await lookup(host).catch((error: NodeJS.ErrnoException) => {
    throw new RbeesError("UNREACHABLE", `This host does not know the name ${host} (${error.code}): give the address itself.`, {
      cause: error,
    });
  });
  const socket = createSocket(family === 6 ? "udp6" : "udp4");
  try {
    return await new Promise<string>((resolve, reject) => {
      socket.once("error", reject);
      // The port does not matter: the system chooses the way by the address.
      socket.connect(9, address, () => resolve(socket.address().address));
    });
  } catch (error) {
    throw new RbeesError("UNREACHABLE", `There is no way from this host to ${host} (${(error as NodeJS.ErrnoException).code}).`, {
      cause: error,
    });
  } finally {
    socket.close();
  }
}
