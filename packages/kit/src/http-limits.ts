/** What a server bears of its callers: how slow, how many, how involved. Settings of every program that serves. */
import type { Server } from "node:net";
import { RbeesError } from "@rbees/contracts/errors";
import { type ConfigOf, number } from "./config.ts";
import type { Log } from "./log.ts";
import { isLoopback, plainAddress } from "./network.ts";

export const httpLimits = {
  headers_bytes_max: number({ default: 16_384, min: 1024, max: 1_048_576, help: "Largest headers of a request, bytes together" }),
  headers_ms_max: number({
    default: 10_000,
    min: 10,
    help: "Longest wait for a connection's first byte, its handshake, and a request's headers",
  }),
  request_ms_max: number({ default: 60_000, min: 10, help: "Longest wait for a request to have arrived whole" }),
  connections_max: number({ default: 10_000, min: 1, help: "Connections that may be open at once" }),
  connections_per_address_max: number({ default: 1000, help: "Of those from one address, loopback excepted; 0: no limit" }),
  json_depth_max: number({ default: 64, min: 1, help: "How deep the arrays and objects of a body may be in each other" }),
  json_values_max: number({ default: 200_000, min: 1, help: "Values that a body may have" }),
} as const;

export type HttpLimits = ConfigOf<typeof httpLimits>;

export const HTTP_LIMITS = Object.fromEntries(Object.entries(httpLimits).map(([name, setting]) => [name, setting.default])) as HttpLimits;

/** As Node's servers take them. */
export function timeouts({ headers_ms_max, request_ms_max }: HttpLimits) {
  return {
    headersTimeout: Math.min(headers_ms_max, request_ms_max),
    requestTimeout: request_ms_max,
    // How often Node looks who is late.
    connectionsCheckingInterval: Math.min(1000, Math.max(10, Math.ceil(Math.min(headers_ms_max, request_ms_max) / 4))),
  };
}

const TOLD_AGAIN_MS = 60_000;

/** Connections beyond the limits are closed as they come. */
export function boundConnections(server: Server, limits: HttpLimits, log: Log): void {
  const addresses = new AddressCount(limits.connections_per_address_max);
  let told_at_ms = Number.NEGATIVE_INFINITY;
  const tell = (address: string | undefined, limit: keyof HttpLimits) => {
    if (performance.now() - told_at_ms < TOLD_AGAIN_MS) return;
    told_at_ms = performance.now();
    log.warn({ address, limit, max: limits[limit] }, "there are too many connections: more are closed as they come");
  };
  server.maxConnections = limits.connections_max;
  server.on("drop", (dropped) => tell(dropped?.remoteAddress, "connections_max"));
  server.prependListener("connection", (socket) => {
    const address = plainAddress(socket.remoteAddress ?? "");
    if (addresses.enter(address)) return void socket.once("close", () => addresses.leave(address));
    tell(address, "connections_per_address_max");
    socket.destroy();
  });
}

/** How many are open from each address. */
export class AddressCount {
  readonly #max: number;
  readonly #open = new Map<string, number>();

  constructor(max: number) {
    this.#max = max;
  }

  /** Whether one more may come; then it counts until it leaves. */
  enter(address: string): boolean {
    const open = this.#open.get(address) ?? 0;
    if (this.#max > 0 && open >= this.#max && !isLoopback(address)) return false;
    this.#open.set(address, open + 1);
    return true;
  }

  leave(address: string): void {
    const open = this.#open.get(address) ?? 0;
    if (open > 1) this.#open.set(address, open - 1);
    else this.#open.delete(address);
  }
}

/** Why a body, as it was parsed, is more than any request needs: what looks at it next may recurse, or keep a note of each of its parts. */
export function jsonExcess(body: unknown, { json_depth_max, json_values_max }: HttpLimits): RbeesError | undefined {
  let level = nested([body]);
  for (let depth = 1, values = 0; level.length > 0; depth++) {
    if (depth > json_depth_max)
      return new RbeesError("INVALID_REQUEST", `The body's arrays and objects are in each other more than ${json_depth_max} deep.`);
    const next: object[] = [];
    for (const one of level) {
      const inner: unknown[] = Array.isArray(one) ? one : Object.values(one);
      values += inner.length;
      if (values > json_values_max) return new RbeesError("PAYLOAD_TOO_LARGE", `The body has more than ${json_values_max} values.`);
      for (const found of nested(inner)) next.push(found);
    }
    level = next;
  }
  return undefined;
}

function nested(values: readonly unknown[]): object[] {
  return values.filter((value): value is object => typeof value === "object" && value !== null);
}
