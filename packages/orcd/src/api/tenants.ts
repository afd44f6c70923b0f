/** The routes of tenants: list, make, show, change, end. */
import type { orcdRoutes } from "@rbees/contracts/routes";
import type { Handlers } from "@rbees/kit/http";
import type { Tenants } from "../tenants.ts";

type TenantRoutes = Pick<typeof orcdRoutes, "listTenants" | "createTenant" | "showTenant" | "setTenant" | "deleteTenant">;

export function tenantHandlers(tenants: Tenants): Handlers<TenantRoutes> {
  return {
    listTenants: () => ({ json: { tenants: tenants.list() } }),
    createTenant: async ({ body, who }) => ({ status: 201, json: await tenants.create(body, who) }),
    showTenant: ({ params }) => ({ json: tenants.show(params.id) }),
    setTenant: async ({ params, body, who }) => ({ json: await tenants.set(params.id, body, who) }),
    async deleteTenant({ params, who }) {
      await tenants.delete(params.id, who);
      return { none: true };
    },
  };
}
