/** A TCP proxy that makes a link bad: half-open, slow, late, down, reset. */
import { once } from "node:events";
import { connect, createServer, type Server, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";

export type LinkMode =
  | { readonly kind: "pass" }
  /** The cable is out: all is swallowed, in both directions, and nobody is told. Connections of that time stay dead. */
  | { readonly kind: "half-open" }
  | { readonly kind: "throttle"; readonly bytes_per_s: number }
  | { readonly kind: "delay"; readonly ms: number }
  /** New connections are reset at once; those that are open go on. */
  | { readonly kind: "down" };

const SLICE_MS = 50;

export class LinkProxy {
  readonly port: number;
  readonly #server: Server;
  readonly #pairs = new Set<Pair>();
  /** Where connections go from now on. */
  target_port: number;
  #mode: LinkMode = { kind: "pass" };

  private constructor(server: Server, port: number, target_port: number) {
    this.#server = server;
    this.port = port;
    this.target_port = target_port;
    server.on("connection", (socket) => this.#accept(socket));
  }

  static async start(target_port: number): Promise<LinkProxy> {
    const server = createServer({ allowHalfOpen: true, noDelay: true }).listen(0, "127.0.0.1");
    await once(server, "listening");
    return new LinkProxy(server, (server.address() as { port: number }).port, target_port);
  }

  get mode(): LinkMode {
    return this.#mode;
  }

  set mode(mode: LinkMode) {
    const healed = this.#mode.kind === "half-open" && mode.kind !== "half-open";
    this.#mode = mode;
    if (mode.kind === "half-open") for (const pair of this.#pairs) pair.dead = true;
    // What was sent meanwhile is lost: the first packet that comes through again is answered with a reset.
    if (healed) for (const pair of this.#pairs) if (pair.dead) pair.reset();
  }

  reset(): void {
    for (const pair of this.#pairs) pair.reset();
  }

  close(): void {
    this.#server.close();
    this.reset();
  }

  #accept(near: Socket): void {
    if (this.#mode.kind === "down") return void near.resetAndDestroy();
    const dead = this.#mode.kind === "half-open";
    const far = dead ? undefined : connect({ port: this.target_port, host: "127.0.0.1", allowHalfOpen: true, noDelay: true });
    const pair = new Pair(near, far, () => this.#mode);
    pair.dead = dead;
    this.#pairs.add(pair);
    pair.onGone(() => this.#pairs.delete(pair));
  }
}

/** One connection through the proxy. */
class Pair {
  /** Nothing comes through any more, not even that a side has closed. */
  dead = false;
  readonly #sockets: readonly Socket[];
  readonly #mode: () => LinkMode;
  #open: number;
  #gone = () => {};

  constructor(near: Socket, far: Socket | undefined, mode: () => LinkMode) {
    this.#mode = mode;
    this.#sockets = far === undefined ? [near] : [near, far];
    this.#open = this.#sockets.length;
    for (const socket of this.#sockets) {
      const other = this.#sockets.find((one) => one !== socket);
      socket.on("error", () => {
        if (!this.dead) other?.resetAndDestroy();
      });
      socket.on("close", () => {
        if (!this.dead) other?.destroy();
        this.#open -= 1;
        if (this.#open === 0) this.#gone();
      });
      this.#pump(socket, other).catch(() => {});
    }
  }

  onGone(listener: () => void): void {
    this.#gone = listener;
  }

  reset(): void {
    for (const socket of this.#sockets) socket.resetAndDestroy();
  }

  async #pump(from: Socket, to: Socket | undefined): Promise<void> {
    for await (const chunk of from) {
      for (let at = 0; at < (chunk as Buffer).length; ) {
        if (this.dead || to === undefined) break;
        const mode = this.#mode();
        const size = mode.kind === "throttle" ? Math.max(1, Math.round((mode.bytes_per_s * SLICE_MS) / 1000)) : (chunk as Buffer).length;
        if (mode.kind === "throttle") await sleep(SLICE_MS);
        if (mode.kind === "delay") await sleep(mode.ms);
        if (this.dead || to.destroyed) break;
        if (!to.write((chunk as Buffer).subarray(at, at + size))) await Promise.race([once(to, "drain"), once(to, "close")]);
        at += size;
      }
    }
    if (!this.dead) to?.end();
  }
}
