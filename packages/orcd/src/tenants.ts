/**
 * The tenants: made, changed, ended in the store, each with its audit entry in the same transaction, and told to the loop, which shares the
 * workers out between them. `default` is always there: it is the tenant of whoever has no other.
 */
import { RbeesError } from "@rbees/contracts/errors";
import { type CreateTenant, DEFAULT_TENANT, type SetTenant, type TenantView } from "@rbees/contracts/tenant";
import type { Event } from "@rbees/core/events";
import type { AuditValue } from "@rbees/kit/audit-chain";
import type { Keyring } from "./keyring.ts";
import { auditChange } from "./record.ts";
import type { Change, Store } from "./store/port.ts";
import type { TenantTable } from "./store/schema.ts";

/** What is kept of a tenant beside its name. */
type Settings = SetTenant;

interface Tenant {
  readonly row: TenantTable;
  readonly settings: Settings;
}

export interface TenantPorts {
  readonly store: Store;
  readonly keys: Keyring;
  readonly tell: (event: Omit<Extract<Event, { type: "tenant.set" }>, "now_ms">) => void;
}

export class Tenants {
  readonly #ports: TenantPorts;
  /** By name, those that were ended among them. */
  readonly #tenants: Map<string, Tenant>;

  private constructor(ports: TenantPorts, rows: readonly TenantTable[]) {
    this.#ports = ports;
    this.#tenants = new Map(rows.map((row) => [row.id, { row, settings: JSON.parse(row.settings) }]));
    for (const tenant of this.#tenants.values()) this.#tell(tenant);
  }

  static async open(ports: TenantPorts): Promise<Tenants> {
    return new Tenants(ports, await ports.store.listTenants());
  }

  list(): TenantView[] {
    const names = new Set([DEFAULT_TENANT, ...this.#tenants.keys()]);
    return [...names]
      .filter((name) => this.#isLive(name))
      .sort()
      .map((name) => this.#view(name));
  }

  show(name: string): TenantView {
    this.check(name);
    return this.#view(name);
  }

  /** `who` makes it: a key's id; undefined when nobody was asked. */
  async create({ name, ...settings }: CreateTenant, who: string | undefined): Promise<TenantView> {
    if (this.#isLive(name))
      throw new RbeesError("CONFLICT", `There is a tenant ${name} already; \`rbees tenants set ${name}\` changes it.`);
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

  /** Throws when there is no such tenant (any more). */
  check(name: string): void {
    if (!this.#isLive(name)) {
      const shown = name.slice(0, 64);
      throw new RbeesError(
        "NOT_FOUND",
        `There is no tenant ${shown}. \`rbees tenants list\` lists them, \`rbees tenants create\` makes one.`,
      );
    }
  }

  #isLive(name: string): boolean {
    const tenant = this.#tenants.get(name);
    return tenant === undefined ? name === DEFAULT_TENANT : tenant.row.deleted_at_ms === null;
  }

  #hold(row: TenantTable): Tenant {
    const tenant: Tenant = { row, settings: JSON.parse(row.settings) };
    this.#tenants.set(row.id, tenant);
    this.#tell(tenant);
    return tenant;
  }

  #tell({ row, settings }: Tenant): void {
    this.#ports.tell({ type: "tenant.set", tenant: row.id, weight: settings.weight ?? 1 });
  }

  #view(name: string): TenantView {
    const tenant = this.#tenants.get(name);
    return {
      name,
      weight: tenant?.settings.weight ?? 1,
      keys: this.#ports.keys.liveOf(name).length,
      created_at: tenant === undefined || name === DEFAULT_TENANT ? null : new Date(tenant.row.created_at_ms).toISOString(),
    };
  }
}

function entry(kind: string, who: string | undefined, tenant: string, settings: Settings): Change {
  const said = Object.entries(settings).flatMap(([name, value]): [string, AuditValue][] =>
    value === undefined ? [] : [[name, typeof value === "number" && !Number.isInteger(value) ? String(value) : value]],
  );
  return auditChange(kind, { tenant, ...Object.fromEntries(said) }, { now_ms: Date.now(), who });
}
