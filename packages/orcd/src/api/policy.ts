/** The routes of rules: what is in force, and loading the file again. */
import type { orcdRoutes } from "@rbees/contracts/routes";
import type { Handlers } from "@rbees/kit/http";
import type { Policies } from "../policies.ts";

export function policyHandlers(policies: Policies): Handlers<Pick<typeof orcdRoutes, "showPolicy" | "reloadPolicy">> {
  return {
    showPolicy: () => ({ json: policies.view() }),
    reloadPolicy: async ({ who }) => ({ json: await policies.reload(who) }),
  };
}
