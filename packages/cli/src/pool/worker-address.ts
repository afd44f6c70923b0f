/** How a worker of this host is reached from this host, and how long it may take until then. */

import { authority, reachable } from "@rbees/kit/network";

export const READY_MS_MAX = 300_000;

export function addressOf({ host, port, tls = false }: { host: string; port: number; tls?: boolean }): string {
  return `${tls ? "https" : "http"}://${authority(reachable(host), port)}`;
}
