/**
 * The tenants: made, changed, ended in the store, each with its audit entry in the same transaction, and told to the loop, which shares the
 * workers out between them. `default` is always there: it is the tenant of whoever has no other.
 */
import { isDeepStrictEqual } from "node:util";
import { RbeesError } from "@rbees/contracts/errors";
import { areaName } from "@rbees/contracts/regions";
import { type CreateTenant, DEFAULT_TENANT, type SetTenant, type TenantView } from "@rbees/contracts/tenant";
import type { Event } from "@rbees/core/events";
import { dayOf, NO_LIMITS, type QuotaLimits } from "@rbees/core/quota";
import { coreNow } from "./clock.ts";
import type { Keyring } from "./keyring.ts";
import { limitsOf, saidOf } from "./limits.ts";
import { auditChange } from "./record.ts";
import type { Change, Store } from "./store/port.ts";
import type { TenantTable, UsageTable } from "./store/schema.ts";

/** What is kept of a tenant beside its name. */
type Settings = SetTenant;

interface Tenant {
  readonly row: TenantTable;
  readonly settings: Settings;
}

type Told = Extract<Event, { type: "tenant.set" | "quota.set" }>;

export interface TenantPorts {
  readonly store: Store;
  readonly keys: Keyring;
  /** The limits of tenants of which nothing else was said. */
  readonly limits: QuotaLimits;
  /** How long the prompts and answers of other tenants are kept. */
  readonly content_keep_ms: number;
  /** Everybody has a key: what each tenant and key uses is counted. */
  readonly asks_keys: boolean;
  readonly tell: (event: Told extends infer Each ? (Each extends Told ? Omit<Each, "now_ms"> : never) : never) => void;
  /** Tokens that were used and are reserved today. */
  readonly tokensToday: (tenant: string) => number;
}

export class Tenants {
  readonly #ports: TenantPorts;
  /** By name, those that were ended among them. */
  readonly #tenants: Map<string, Tenant>;

  private constructor(ports: TenantPorts, rows: readonly TenantTable[], usage: readonly UsageTable[]) {
    this.#ports = ports;
    this.#tenants = new Map(rows.map((row) => [row.id, { row, settings: JSON.parse(row.settings) }]));
    const used = new Map(usage.map(({ level, id, tokens }) => [`${level} ${id}`, tokens]));
    for (const name of new Set([DEFAULT_TENANT, ...this.#tenants.keys()])) this.#tell(name, used.get(`tenant ${name}`));
    // Keys change what they may, but what they have used is read once.
    ports.keys.watch(({ id, tenant, limits }) => {
      const used_today = used.get(`key ${id}`);
      used.delete(`key ${id}`);
      ports.tell({
        type: "quota.set",
        level: "key",
        id,
        tenant: tenant ?? DEFAULT_TENANT,
        limits: limitsOf(JSON.parse(limits)),
        used_today,
      });
    });
  }

  static async open(ports: TenantPorts): Promise<Tenants> {
    const { store } = ports;
    return new Tenants(ports, await store.listTenants(), await store.usageOf(dayOf(coreNow())));
  }

  list(): TenantView[] {
    const names = new Set([DEFAULT_TENANT, ...this.#tenants.keys()]);
    return [...names]
      .filter((name) => this.has(name))
      .sort()
      .map((name) => this.#view(name));
  }

  show(name: string): TenantView {
    this.check(name);
    return this.#view(name);
  }

  /** `who` makes it: a key's id; undefined when nobody was asked. */
  async create({ name, ...settings }: CreateTenant, who: string | undefined): Promise<TenantView> {
    if (this.has(name)) throw new RbeesError("CONFLICT", `There is a tenant ${name} already; \`rbees tenants set ${name}\` changes it.`);
    if (this.#tenants.has(name))
      throw new RbeesError("CONFLICT", `There was a tenant ${name} once, and its jobs are still in the record: choose another name.`);
    const tenant = this.#hold({ id: name, settings: JSON.stringify(settings), created_at_ms: Date.now(), deleted_at_ms: null });
    await this.#ports.store.commit([{ table: "tenants", insert: tenant.row }, entry("tenant.created", who, name, settings)]);
    return this.#view(name);
  }

  async set(name: string, changed: SetTenant, who: string | undefined): Promise<TenantView> {
    this.check(name);
    const known = this.#tenants.get(name);
    const settings = JSON.stringify({ ...known?.settings, ...changed });
    // Nobody has ever said anything of the tenant that is always there.
    const row = known?.row ?? { id: name, created_at_ms: Date.now(), deleted_at_ms: null };
    const tenant = this.#hold({ ...row, settings });
    const change: Change =
      known === undefined ? { table: "tenants", insert: tenant.row } : { table: "tenants", id: name, update: { settings } };
    await this.#ports.store.commit([change, entry("tenant.changed", who, name, changed)]);
    return this.#view(name);
  }

  async delete(name: string, who: string | undefined): Promise<void> {
    this.check(name);
    if (name === DEFAULT_TENANT)
      throw new RbeesError("CONFLICT", `The tenant ${name} is always there: it is that of whoever has no other.`);
    const keys = this.#ports.keys.liveOf(name);
    if (keys.length > 0) {
      const listed = keys.join(", ");
      throw new RbeesError("CONFLICT", `Keys of the tenant ${name} still work: ${listed}. End them first (\`rbees keys revoke ID\`).`);
    }
    const deleted_at_ms = Date.now();
    this.#hold({ ...(this.#tenants.get(name) as Tenant).row, deleted_at_ms });
    await this.#ports.store.commit([{ table: "tenants", id: name, update: { deleted_at_ms } }, entry("tenant.deleted", who, name, {})]);
  }

  /** How long prompts and answers are kept: of those who said nothing, and of each that said something. */
  contentKept(): { keep_ms: number; of_tenant: Record<string, number> } {
    const said = [...this.#tenants].flatMap(([name, { settings }]) => {
      const keep_ms = settings.content_keep_ms ?? undefined;
      return keep_ms === undefined ? [] : [[name, keep_ms] as const];
    });
    return { keep_ms: this.#ports.content_keep_ms, of_tenant: Object.fromEntries(said) };
  }

  /** Throws when there is no such tenant (any more). */
  check(name: string): void {
    if (!this.has(name)) {
      const shown = name.slice(0, 64);
      throw new RbeesError(
        "NOT_FOUND",
        `There is no tenant ${shown}. \`rbees tenants list\` lists them, \`rbees tenants create\` makes one.`,
      );
    }
  }

  /** Whether there is one of this name (still). */
  has(name: string): boolean {
    const tenant = this.#tenants.get(name);
    return tenant === undefined ? name === DEFAULT_TENANT : tenant.row.deleted_at_ms === null;
  }

  #hold(row: TenantTable): Tenant {
    const tenant: Tenant = { row, settings: JSON.parse(row.settings) };
    this.#tenants.set(row.id, tenant);
    this.#tell(row.id);
    return tenant;
  }

  #tell(tenant: string, used_today?: number): void {
    const { tell, asks_keys } = this.#ports;
    const limits = this.#limits(tenant);
    tell({ type: "tenant.set", tenant, weight: this.#tenants.get(tenant)?.settings.weight ?? 1, residency: this.#residency(tenant) });
    // Where nobody is asked and nothing is limited, nothing is counted either.
    const counts = asks_keys || this.#tenants.has(tenant) || !isDeepStrictEqual(limits, NO_LIMITS);
    if (counts) tell({ type: "quota.set", level: "tenant", id: tenant, tenant, limits, used_today });
  }

  #residency(tenant: string): string | null {
    const said = this.#tenants.get(tenant)?.settings.residency;
    return said === undefined || said === null ? null : areaName(said);
  }

  #limits(tenant: string) {
    return limitsOf(this.#tenants.get(tenant)?.settings ?? {}, this.#ports.limits);
  }

  #view(name: string): TenantView {
    const tenant = this.#tenants.get(name);
    return {
      name,
      weight: tenant?.settings.weight ?? 1,
      residency: this.#residency(name),
      limits: this.#limits(name),
      content_keep_ms: tenant?.settings.content_keep_ms ?? this.#ports.content_keep_ms,
      tokens_today: this.#ports.tokensToday(name),
      keys: this.#ports.keys.liveOf(name).length,
      created_at: tenant === undefined || name === DEFAULT_TENANT ? null : new Date(tenant.row.created_at_ms).toISOString(),
    };
  }
}

function entry(kind: string, who: string | undefined, tenant: string, settings: Settings): Change {
  return auditChange(kind, { tenant, ...saidOf(settings) }, { now_ms: Date.now(), who });
}
