/**
 * Where a worker says that it is, and whether it may say so: the orchestrator goes there by itself, so an address is followed only if
 * the caller has it, or the operator named it. Whoever registers can't send the orchestrator elsewhere.
 */
import { lookup } from "node:dns/promises";
import { BlockList, isIP, isIPv6 } from "node:net";
import { RbeesError } from "@rbees/contracts/errors";
import type { RegisterWorker } from "@rbees/contracts/worker";
import { authority, isOwnAddress, plainAddress } from "@rbees/kit/network";

export interface Place {
  /** As the worker announced it. */
  readonly origin: string;
  readonly host: string;
  readonly port: number;
  /** What `host` meant when it registered: nobody can move it afterwards by changing a name. */
  readonly address: string;
  /** Undefined: it speaks in clear. */
  readonly tls: WorkerTls | undefined;
}

export interface WorkerTls {
  /** The name that its certificate must have; undefined where `host` is an address. */
  readonly servername: string | undefined;
  readonly ca: string[] | undefined;
}

export interface PlaceRules {
  /** A host that the operator named for this worker, wherever it calls from. */
  readonly approved: string | null;
  /** Whom its certificate may be from; undefined: the well-known authorities. */
  readonly ca: string[] | undefined;
  /** Workers on other machines may speak in clear. */
  readonly insecure_no_tls: boolean;
}

/** No worker is there: nowhere in particular, everybody, and what only the next machine or the cloud's own services have. */
const NO_PLACE = new BlockList();
for (const [network, bits] of [
  ["0.0.0.0", 8],
  ["169.254.0.0", 16],
  ["100.100.100.200", 32],
  ["192.0.0.192", 32],
  ["224.0.0.0", 3],
] as const) {
  NO_PLACE.addSubnet(network, bits, "ipv4");
}
for (const [network, bits] of [
  ["::", 128],
  ["fe80::", 10],
  ["fd00:ec2::254", 128],
  ["ff00::", 8],
] as const) {
  NO_PLACE.addSubnet(network, bits, "ipv6");
}

/** `caller`: the address from which it calls. */
export async function placeOf(
  { id, host, port, tls }: Pick<RegisterWorker, "id" | "host" | "port" | "tls">,
  caller: string,
  { approved, ca, insecure_no_tls }: PlaceRules,
): Promise<Place> {
  const found = await lookup(host, { all: true }).catch((error: NodeJS.ErrnoException) => {
    throw new RbeesError(
      "UNREACHABLE",
      `Worker ${id} is not registered: the orchestrator does not know the name ${host.slice(0, 253)} (${error.code}). A worker announces another address with --advertise-host (rbees-pool worker spawn --advertise).`,
    );
  });
  const addresses = found.map(({ address }) => plainAddress(address));
  const bad = addresses.find((address) => NO_PLACE.check(address, isIPv6(address) ? "ipv6" : "ipv4"));
  if (bad !== undefined) {
    throw new RbeesError(
      "FORBIDDEN",
      `Worker ${id} is not registered: ${bad} is no address of a worker (link-local, of the cloud, or of nobody).`,
    );
  }
  const address = host === approved ? addresses[0] : addresses.find((one) => one === caller || (isOwnAddress(one) && isOwnAddress(caller)));
  if (address === undefined) {
    throw new RbeesError(
      "FORBIDDEN",
      `Worker ${id} is not registered: it announced ${host.slice(0, 253)}, and called from ${caller}. A worker may announce an address that is not its own when it joins with a token that names it: rbees workers invite --address.`,
    );
  }
  if (!tls && !insecure_no_tls && !isOwnAddress(address)) {
    throw new RbeesError(
      "FORBIDDEN",
      `Worker ${id} is not registered: it speaks in clear, and prompts would be read on the way to ${address}. Give it a certificate (docs/tls.md), or start both with --insecure-no-tls if nobody on that network listens.`,
    );
  }
  return {
    origin: `${tls ? "https" : "http"}://${authority(host, port)}`,
    ...{ host, port, address },
    tls: tls ? { servername: isIP(host) === 0 ? host : undefined, ca } : undefined,
  };
}
