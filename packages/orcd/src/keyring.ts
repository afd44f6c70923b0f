/**
 * The API keys: made, rotated, revoked in the store, each with its audit entry in the same transaction, and held in memory by their
 * public ids, so that a request's key costs one hash and no read. Of a secret only the SHA-256 is kept: it has 256 random bits, so
 * there is nothing to guess that a slower hash would protect.
 */
import { hash, randomBytes, timingSafeEqual } from "node:crypto";
import type { IncomingHttpHeaders } from "node:http";
import { RbeesError } from "@rbees/contracts/errors";
import { API_KEY, type CreateKey, ISSUED_TOKEN, type KeyView, type NewKey, type Role, type RotateKey } from "@rbees/contracts/key";
import type { LimitSettings } from "@rbees/contracts/limits";
import type { Access } from "@rbees/contracts/routes";
import { DEFAULT_TENANT } from "@rbees/contracts/tenant";
import type { AuditValue } from "@rbees/kit/audit-chain";
import { type Authorized, ofToken, rolesFor, rolesOf, seesAll, type TokenPorts } from "./caller.ts";
import { limitsOf, saidOf } from "./limits.ts";
import { auditChange } from "./record.ts";
import type { Change, Store } from "./store/port.ts";
import type { KeyTable } from "./store/schema.ts";

interface HeldKey {
  readonly row: KeyTable;
  readonly secret_sha256: Buffer;
  readonly roles: ReadonlySet<string>;
}

/** Sent with each 401, as HTTP asks. */
const CHALLENGE = { "www-authenticate": 'Bearer realm="rbees"' };
/** What an unknown id is compared with, so that it takes as long as a known one. */
const NOBODY = Buffer.alloc(32);
const ID_DIGITS = "0123456789abcdefghjkmnpqrstvwxyz";

export class Keyring {
  readonly #store: Store;
  readonly #tokens: TokenPorts | undefined;
  /** In the order of their making, those that are over among them. */
  readonly #keys: Map<string, HeldKey>;
  #told: (row: KeyTable) => void = () => {};

  private constructor(store: Store, rows: readonly KeyTable[], tokens: TokenPorts | undefined) {
    this.#store = store;
    this.#tokens = tokens;
    this.#keys = new Map(rows.map((row) => [row.id, held(row)]));
  }

  static async open(store: Store, tokens?: TokenPorts): Promise<Keyring> {
    return new Keyring(store, await store.listKeys(), tokens);
  }

  /** How many keys could be used now. */
  get live(): number {
    const now_ms = Date.now();
    return [...this.#keys.values()].filter(({ row }) => statusOf(row, now_ms) === "live").length;
  }

  /** Whose the key or token in these headers is, if it may do this; else throws the refusal. */
  authorize(access: Access, headers: IncomingHttpHeaders): Authorized | Promise<Authorized> {
    if (access === "everybody") return undefined;
    const given = keyIn(headers);
    if (given === undefined) {
      const or = this.#tokens === undefined ? "" : `, or a token of ${this.#tokens.oidc.issuer} as the bearer`;
      throw unauthorized(
        `A key is required: send it as \`Authorization: Bearer rbk_…\` or \`x-api-key: rbk_…\`${or}. Whoever operates this orchestrator makes one with \`rbees keys create\`.`,
      );
    }
    if (this.#tokens !== undefined && ISSUED_TOKEN.test(given)) return ofToken(access, given, this.#tokens);
    const [, id = "", secret = ""] = API_KEY.exec(given) ?? [];
    const key = this.#keys.get(id);
    const same = timingSafeEqual(hash("sha256", secret, "buffer"), key?.secret_sha256 ?? NOBODY);
    if (key === undefined || !same)
      throw unauthorized("This key is not known here. `rbees keys create` makes one, `rbees keys list` lists them.");
    const status = statusOf(key.row, Date.now());
    if (status !== "live") {
      const what = status === "expired" ? "has expired" : "was revoked";
      throw unauthorized(`The key ${id} ${what}. Whoever operates this orchestrator makes another with \`rbees keys create\`.`);
    }
    const needed = rolesFor(access);
    if (!needed.some((role) => key.roles.has(role))) {
      throw new RbeesError(
        "FORBIDDEN",
        `The key ${id} has ${rolesSentence(key.row)}, and this needs ${needed.join(" or ")}. \`rbees keys create NAME --role ${needed[0]}\` makes one that may.`,
      );
    }
    const { row, roles } = key;
    return { who: id, key_id: id, tenant: row.tenant ?? DEFAULT_TENANT, roles, everywhere: row.tenant === null && seesAll(roles) };
  }

  /** Under which name it was made; the same for good. */
  nameOf(id: string): string {
    return this.#keys.get(id)?.row.name ?? "";
  }

  /** The ids of a tenant's keys that could be used now. */
  liveOf(tenant: string): string[] {
    const now_ms = Date.now();
    return [...this.#keys.values()]
      .filter(({ row }) => (row.tenant ?? DEFAULT_TENANT) === tenant && statusOf(row, now_ms) === "live")
      .map(({ row }) => row.id);
  }

  list(): KeyView[] {
    return [...this.#keys.values()].reverse().map(({ row }) => view(row));
  }

  /** `who` makes it: a key's id; undefined when nobody was asked. */
  async create({ name, roles, tenant, expires_in_ms, ...limits }: CreateKey, who: string | undefined): Promise<NewKey> {
    const expires_at_ms = expires_in_ms === undefined ? null : Date.now() + expires_in_ms;
    const shared = { tenant: tenant ?? null, limits: JSON.stringify(limits) };
    const { row, key } = minted({ name, roles: [...new Set(roles)].join(","), ...shared, expires_at_ms });
    // Before it is durable: its tenant is not deleted while that is on its way. Nobody knows its secret yet.
    this.#hold(row);
    await this.#store.commit([{ table: "keys", insert: row }, entry("key.created", who, { ...facts(row) })]).catch((error) => {
      this.#keys.delete(row.id);
      throw error;
    });
    return { ...view(row), key };
  }

  /** A new key of the same kind; the old one ends now, or `overlap_ms` later. A key that ends at a set time is followed by one that ends then. */
  async rotate(id: string, { overlap_ms }: RotateKey, who: string | undefined): Promise<NewKey> {
    const old = this.#find(id);
    const now_ms = Date.now();
    if (statusOf(old, now_ms) !== "live")
      throw new RbeesError("CONFLICT", `The key ${id} is ${statusOf(old, now_ms)}; make a new one with \`rbees keys create\`.`);
    if (old.replaced_by !== null) throw this.#beingReplaced(old, old.replaced_by, now_ms);
    const { row, key } = minted(old);
    const until = Math.min(old.expires_at_ms ?? Number.POSITIVE_INFINITY, now_ms + overlap_ms);
    const ending = { replaced_by: row.id, ...(overlap_ms === 0 ? { revoked_at_ms: now_ms } : { expires_at_ms: until }) } as const;
    // Before it is durable: nobody else rotates it while that is on its way.
    this.#hold({ ...old, replaced_by: row.id });
    await this.#store
      .commit([
        { table: "keys", insert: row },
        { table: "keys", id, update: ending },
        entry("key.rotated", who, { ...facts(row), replaces: id, overlap_ms }),
      ])
      .catch((error) => {
        this.#hold({ ...this.#find(id), replaced_by: null });
        throw error;
      });
    this.#hold(row);
    // What it is by now: it may have been revoked meanwhile.
    this.#hold({ ...this.#find(id), ...ending });
    return { ...view(row), key };
  }

  /** Changes its limits; what is left out stays as it is. */
  async set(id: string, changed: LimitSettings, who: string | undefined): Promise<KeyView> {
    const row = this.#find(id);
    if (statusOf(row, Date.now()) !== "live")
      throw new RbeesError("CONFLICT", `The key ${id} is ${statusOf(row, Date.now())}; \`rbees keys list\` lists those that still work.`);
    const limits = JSON.stringify({ ...JSON.parse(row.limits), ...changed });
    this.#hold({ ...row, limits });
    await this.#store.commit([{ table: "keys", id, update: { limits } }, entry("key.changed", who, { key_id: id, ...saidOf(changed) })]);
    return view(this.#find(id));
  }

  async revoke(id: string, who: string | undefined): Promise<KeyView> {
    const row = this.#find(id);
    if (row.revoked_at_ms !== null) return view(row);
    const revoked = { ...row, revoked_at_ms: Date.now() };
    // Before the row is durable: nobody gets in with it while that is on its way.
    this.#hold(revoked);
    await this.#store.commit([
      { table: "keys", id, update: { revoked_at_ms: revoked.revoked_at_ms } },
      entry("key.revoked", who, { key_id: id, name: row.name }),
    ]);
    return view(revoked);
  }

  /** `told` hears of each key that works, now and whenever one is made or changed. */
  watch(told: (row: KeyTable) => void): void {
    this.#told = told;
    for (const { row } of this.#keys.values()) if (statusOf(row, Date.now()) === "live") told(row);
  }

  #hold(row: KeyTable): void {
    this.#keys.set(row.id, held(row));
    this.#told(row);
  }

  /** What follows a key that ends with an overlap would end with it, too. */
  #beingReplaced({ id, expires_at_ms }: KeyTable, by: string, now_ms: number): RbeesError {
    const next = this.#keys.get(by)?.row;
    const status = next === undefined ? "on its way" : statusOf(next, now_ms);
    const instead =
      status === "live" ? `rotate ${by} if another is needed` : `that one is ${status}; \`rbees keys create\` makes a new one`;
    return new RbeesError(
      "CONFLICT",
      `The key ${id} is being replaced by ${by} already, and ends ${iso(expires_at_ms) ?? "then"}: ${instead}. \`rbees keys revoke ${id}\` ends it at once.`,
    );
  }

  #find(id: string): KeyTable {
    const key = this.#keys.get(id);
    if (key === undefined)
      throw new RbeesError(
        "NOT_FOUND",
        `There is no key ${id.slice(0, 64)}. \`rbees keys list\` lists the ids; a key's is the part after rbk_.`,
      );
    return key.row;
  }
}

function held(row: KeyTable): HeldKey {
  return { row, secret_sha256: Buffer.from(row.secret_sha256, "hex"), roles: new Set(row.roles.split(",")) };
}

function minted(like: Pick<KeyTable, "name" | "roles" | "tenant" | "limits" | "expires_at_ms">): { row: KeyTable; key: string } {
  const { id, secret } = publicIdAndSecret();
  const { name, roles, tenant, limits, expires_at_ms } = like;
  const row = {
    id,
    name,
    roles,
    tenant,
    limits,
    secret_sha256: hash("sha256", secret, "hex"),
    created_at_ms: Date.now(),
    expires_at_ms,
    revoked_at_ms: null,
    replaced_by: null,
  };
  return { row, key: `rbk_${id}_${secret}` };
}

/** What keys and join tokens are made of: 60 random bits to call it by, 256 to keep. */
export function publicIdAndSecret(): { id: string; secret: string } {
  return {
    id: Array.from(randomBytes(12), (byte) => ID_DIGITS[byte & 31]).join(""),
    secret: randomBytes(32).toString("base64url"),
  };
}

/** `Authorization: Bearer` first, since that is what clients of every API send. */
export function keyIn(headers: IncomingHttpHeaders): string | undefined {
  const { authorization, "x-api-key": plain } = headers;
  const bearer = /^Bearer +(\S+) *$/i.exec(authorization ?? "")?.[1];
  return bearer ?? (typeof plain === "string" && plain !== "" ? plain : undefined);
}

export function unauthorized(message: string): RbeesError {
  return new RbeesError("UNAUTHORIZED", message, { headers: CHALLENGE });
}

function rolesSentence({ roles }: KeyTable): string {
  return `the ${rolesOf(roles.split(","))}`;
}

function statusOf({ revoked_at_ms, expires_at_ms }: KeyTable, now_ms: number): KeyView["status"] {
  if (revoked_at_ms !== null) return "revoked";
  return expires_at_ms !== null && expires_at_ms <= now_ms ? "expired" : "live";
}

function view(row: KeyTable): KeyView {
  const { id, name, tenant, created_at_ms, expires_at_ms, revoked_at_ms } = row;
  return {
    key_id: id,
    name,
    roles: row.roles.split(",") as Role[],
    tenant,
    limits: limitsOf(JSON.parse(row.limits)),
    status: statusOf(row, Date.now()),
    created_at: new Date(created_at_ms).toISOString(),
    expires_at: iso(expires_at_ms),
    revoked_at: iso(revoked_at_ms),
  };
}

function iso(at_ms: number | null): string | null {
  return at_ms === null ? null : new Date(at_ms).toISOString();
}

function facts({ id, name, roles, tenant, limits, expires_at_ms }: KeyTable): Record<string, AuditValue> {
  return { key_id: id, name, roles: roles.split(","), tenant, ...saidOf(JSON.parse(limits)), expires_at: iso(expires_at_ms) };
}

function entry(kind: string, who: string | undefined, fields: Record<string, AuditValue>): Change {
  return auditChange(kind, fields, { now_ms: Date.now(), who });
}
