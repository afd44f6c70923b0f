/** Addresses: which of them only this machine can reach, and how they stand in a URL. */

import { networkInterfaces } from "node:os";

export function isLoopback(host: string): boolean {
  return host === "localhost" || host === "::1" || /^127\.\d+\.\d+\.\d+$/.test(host);
}

/** An address of this machine, whichever: what goes there does not leave it. */
export function isOwnAddress(host: string): boolean {
  if (isLoopback(host)) return true;
  return Object.values(networkInterfaces()).some((all) => all?.some(({ address }) => address === host));
}

/** Whether others than this machine could read what is sent to this address. */
export function isInClear(url: string): boolean {
  const { protocol, hostname } = new URL(url);
  return protocol === "http:" && !isOwnAddress(hostname.replace(/^\[(.*)\]$/, "$1"));
}

/** An IPv4 address as such, also when it came in IPv6's clothes. */
export function plainAddress(address: string): string {
  return /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address)?.[1] ?? address;
}

/** `host:port` as a URL and a `Host` header have it: an IPv6 address in brackets. */
export function authority(host: string, port: number): string {
  return `${host.includes(":") ? `[${host}]` : host}:${port}`;
}

/** An address by which this machine reaches what listens on that one: on all of them, the one of its own. */
export function reachable(host: string): string {
  return host === "0.0.0.0" ? "127.0.0.1" : host === "::" ? "::1" : host;
}
