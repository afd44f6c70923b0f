/**
 * Which keys and tokens that may operate or audit were used lately, and from where. Nobody logs in here: a key comes with each request.
 * What a login is elsewhere is in the audit trail as the first use of such a key from an address in this life of the orchestrator, and as each
 * first one after it was idle. The entry is durable before the request goes on.
 */
import { type Authorized, type Caller, seesAll } from "./caller.ts";
import { coreNow } from "./clock.ts";
import type { OrcdConfig } from "./config.ts";
import { auditChange } from "./record.ts";
import type { Store } from "./store/port.ts";

type Limits = Pick<OrcdConfig, "key_idle_ms" | "key_uses_max">;

interface Use {
  last_ms: number;
  /** Its entry, while that is on its way. */
  writing: Promise<void> | undefined;
}

export class KeyUses {
  readonly #store: Pick<Store, "commit">;
  readonly #limits: Limits;
  readonly #now: () => number;
  /** By who and from where; the one whose entry is the oldest is first, and forgotten first. */
  readonly #uses = new Map<string, Use>();

  constructor(store: Pick<Store, "commit">, limits: Limits, now: () => number = coreNow) {
    this.#store = store;
    this.#limits = limits;
    this.#now = now;
  }

  /** Lets a caller through who was let in, when it is written that they came. */
  noted(authorized: Authorized | Promise<Authorized>, peer: () => string): Authorized | Promise<Authorized> {
    if (authorized instanceof Promise) return authorized.then((caller) => this.#noted(caller, peer));
    return this.#noted(authorized, peer);
  }

  #noted(caller: Authorized, peer: () => string): Authorized | Promise<Authorized> {
    if (caller === undefined || !seesAll(caller.roles)) return caller;
    const address = peer();
    const now_ms = this.#now();
    const by = `${caller.who} ${address}`;
    const known = this.#uses.get(by);
    if (known === undefined || now_ms - known.last_ms >= this.#limits.key_idle_ms) return this.#write(by, caller, address, now_ms);
    known.last_ms = now_ms;
    return known.writing === undefined ? caller : known.writing.then(() => caller);
  }

  async #write(by: string, { who, roles, ...caller }: Caller, address: string, now_ms: number): Promise<Authorized> {
    const use: Use = { last_ms: now_ms, writing: undefined };
    // Behind the others, if it was among them.
    this.#uses.delete(by);
    this.#uses.set(by, use);
    for (const oldest of this.#uses.keys()) {
      if (this.#uses.size <= this.#limits.key_uses_max) break;
      this.#uses.delete(oldest);
    }
    const fields = { roles: [...roles], tenant: caller.everywhere ? null : caller.tenant, address };
    use.writing = this.#store.commit([auditChange("key.used", fields, { now_ms: Date.now(), who })]);
    try {
      await use.writing;
    } catch (error) {
      if (this.#uses.get(by) === use) this.#uses.delete(by);
      throw error;
    }
    use.writing = undefined;
    return { who, roles, ...caller };
  }
}
