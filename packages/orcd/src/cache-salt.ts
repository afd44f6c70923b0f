/**
 * Whose computed beginnings of prompts spare whose. Workers keep them, and a prompt that begins as another one did answers sooner and says
 * so (`tokens_cached`): over tenants, that would tell one how another's prompts begin. So each tenant has a salt of its own.
 */
import { hash } from "node:crypto";
import { DEFAULT_TENANT } from "@rbees/contracts/tenant";

/** Undefined for the tenant `default`, and for everybody where prefixes are shared. */
export function cacheSalt(tenant: string, prefixes_shared: boolean): string | undefined {
  return prefixes_shared || tenant === DEFAULT_TENANT ? undefined : hash("sha256", `rbees prefixes of ${tenant}`, "hex").slice(0, 32);
}
