/** How a worker of this host is reached from this host, and how long it may take until then. */

import { authority } from "@rbees/kit/network";

export const READY_MS_MAX = 300_000;

export function addressOf({ host, port }: { host: string; port: number }): string {
  const reachable = host === "0.0.0.0" ? "127.0.0.1" : host === "::" ? "::1" : host;
  return `http://${authority(reachable, port)}`;
}
