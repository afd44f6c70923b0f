/** Who calls: whose request it is, whose jobs they may see, and what a token of an issuer makes of somebody. */
import { RbeesError } from "@rbees/contracts/errors";
import { ROLES_OVER_ALL, type Role } from "@rbees/contracts/key";
import { DEFAULT_TENANT } from "@rbees/contracts/tenant";
import type { Principal } from "@rbees/kit/http";
import type { Oidc } from "./oidc.ts";

/** Whose request it is, and whose jobs it may see. */
export interface Caller extends Principal {
  readonly key_id: string | null;
  readonly tenant: string;
  /** Those of its key or token; none where it has shown neither. */
  readonly roles: ReadonlySet<string>;
  /** It may see the jobs of all tenants, else of its own. */
  readonly everywhere: boolean;
}

/** A request, as far as it says who sent it. */
export interface Asked {
  readonly principal: Principal | undefined;
}

/** Undefined: nobody was asked. */
export type Authorized = Caller | undefined;

/** For tokens of an issuer, beside the keys. */
export interface TokenPorts {
  readonly oidc: Oidc;
  readonly isTenant: (name: string) => boolean;
}

export const NO_ROLES: ReadonlySet<string> = new Set();
/** Nobody was asked. */
const LOCAL: Caller = { key_id: null, tenant: DEFAULT_TENANT, roles: NO_ROLES, everywhere: true };
const SEE_ALL = ["operate", "audit"] as const satisfies readonly Role[];

/** Whose request it is, by what `authorize` gave; where nobody was asked, whoever is on this machine. */
export function callerOf({ principal }: Asked): Caller {
  return (principal as Caller | undefined) ?? LOCAL;
}

/** Somebody who was let in, but has no key: a worker. There is no such tenant. */
export function stranger(who: string): Caller {
  return { who, key_id: null, tenant: "", roles: NO_ROLES, everywhere: false };
}

/** Whom a token speaks for here, if they may do this; else throws the refusal. */
export async function ofToken(access: readonly string[], token: string, { oidc, isTenant }: TokenPorts): Promise<Authorized> {
  const { who, tenant, roles } = await oidc.subject(token);
  const needed = rolesFor(access);
  if (!needed.some((role) => roles.has(role))) {
    const has = roles.size === 0 ? "names no role" : `has the ${rolesOf([...roles])}`;
    throw new RbeesError(
      "FORBIDDEN",
      `Your token ${has}, and this needs ${needed.join(" or ")}. Whoever operates this orchestrator says in oidc_role_claim and oidc_roles where that stands.`,
    );
  }
  if (tenant === undefined && oidc.names_tenants && !seesAll(roles))
    throw new RbeesError("FORBIDDEN", "Your token names no tenant of this orchestrator (oidc_tenant_claim, oidc_tenants).");
  if (tenant !== undefined && ROLES_OVER_ALL.some((role) => roles.has(role))) {
    throw new RbeesError(
      "FORBIDDEN",
      `Your token names a tenant and has the role ${ROLES_OVER_ALL.join(", ")}, which is over all tenants: its issuer must leave one out.`,
    );
  }
  if (tenant !== undefined && !isTenant(tenant)) {
    throw new RbeesError(
      "FORBIDDEN",
      `Your token names the tenant ${tenant.slice(0, 64)}, and there is none here. \`rbees tenants create\` makes one; a token never does.`,
    );
  }
  return { who, key_id: null, tenant: tenant ?? DEFAULT_TENANT, roles, everywhere: tenant === undefined && seesAll(roles) };
}

/** A worker shows no key: what is for workers only is for none. */
export function rolesFor(access: readonly string[]): string[] {
  const roles = access.filter((role) => role !== "worker");
  if (roles.length > 0) return roles;
  throw new RbeesError("FORBIDDEN", "No key opens this: it is for workers, which join with a token (`rbees workers invite`).");
}

export function seesAll(roles: ReadonlySet<string>): boolean {
  return SEE_ALL.some((role) => roles.has(role));
}

export function rolesOf(roles: readonly string[]): string {
  return `role${roles.length > 1 ? "s" : ""} ${roles.join(", ")}`;
}
