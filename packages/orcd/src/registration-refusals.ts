/**
 * What the log says of workers that were refused. A worker tries again until it is let in, so the same refusal is said once, and then
 * only every `SAID_AGAIN_MS`; and whoever makes up names and reasons can't fill the log.
 */
import type { RbeesError } from "@rbees/contracts/errors";
import type { Refusal } from "@rbees/kit/http";
import type { Log } from "@rbees/kit/log";
import { authority } from "@rbees/kit/network";

/** How long the same refusal is not said again. */
export const SAID_AGAIN_MS = 10 * 60_000;
/** Different refusals that are said within that time. */
export const REFUSALS_MAX = 200;

const ID_CHARS_MAX = 128;
const HOST_CHARS_MAX = 253;
const REASON_CHARS_MAX = 1_000;

interface Said {
  readonly at_ms: number;
  /** How often it came since, without being said. */
  unsaid: number;
}

export class RegistrationRefusals {
  readonly #log: Log;
  readonly #now: () => number;
  readonly #said = new Map<string, Said>();
  #full = false;

  constructor(log: Log, now: () => number = () => performance.now()) {
    this.#log = log;
    this.#now = now;
  }

  note({ error, peer, body, headers }: Refusal): void {
    const now_ms = this.#now();
    const what = { ...announced(body, headers["x-rbees-worker"]), from: peer, code: error.code, reason: reasonOf(error) };
    const key = JSON.stringify(what);
    const before = this.#said.get(key);
    if (before !== undefined && now_ms - before.at_ms < SAID_AGAIN_MS) {
      before.unsaid++;
      return;
    }
    if (before === undefined && !this.#hasRoom(now_ms)) return;
    this.#said.set(key, { at_ms: now_ms, unsaid: 0 });
    this.#log.warn(before === undefined ? what : { ...what, times_since: before.unsaid + 1 }, "a worker was refused");
  }

  #hasRoom(now_ms: number): boolean {
    if (this.#said.size < REFUSALS_MAX) return true;
    for (const [key, { at_ms }] of this.#said) if (now_ms - at_ms >= SAID_AGAIN_MS) this.#said.delete(key);
    const has_room = this.#said.size < REFUSALS_MAX;
    if (!has_room && !this.#full) {
      this.#log.warn({ refusals_max: REFUSALS_MAX }, "more workers are refused than are said here");
    }
    this.#full = !has_room;
    return has_room;
  }
}

/** Who it said that it is. It was refused: nothing of that need be so, or be there. */
function announced(body: unknown, named: unknown): { worker_id: string | null; address: string | null } {
  const { id = named, host, port } = (typeof body === "object" && body !== null ? body : {}) as Record<string, unknown>;
  return {
    worker_id: typeof id === "string" ? id.slice(0, ID_CHARS_MAX) : null,
    address: typeof host === "string" && typeof port === "number" ? authority(host.slice(0, HOST_CHARS_MAX), port) : null,
  };
}

function reasonOf({ message }: RbeesError): string {
  return message.length > REASON_CHARS_MAX ? `${message.slice(0, REASON_CHARS_MAX)}…` : message;
}
