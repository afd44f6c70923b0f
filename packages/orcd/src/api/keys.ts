/** The routes of API keys: list, make, rotate, revoke. */
import type { orcdRoutes } from "@rbees/contracts/routes";
import type { Handlers } from "@rbees/kit/http";
import type { Keyring } from "../keyring.ts";
import type { Tenants } from "../tenants.ts";

type KeyRoutes = Pick<typeof orcdRoutes, "listKeys" | "createKey" | "setKey" | "rotateKey" | "revokeKey">;

/** For answers with a secret that is shown this once: nobody in between may keep it. */
export const ONCE = { "cache-control": "no-store" };

export function keyHandlers(keys: Keyring, tenants: Tenants): Handlers<KeyRoutes> {
  return {
    listKeys: () => ({ json: { keys: keys.list() } }),
    async createKey({ body, who }) {
      if (body.tenant !== undefined) tenants.check(body.tenant);
      return { status: 201, json: await keys.create(body, who), headers: ONCE };
    },
    setKey: async ({ params, body, who }) => ({ json: await keys.set(params.id, body, who) }),
    rotateKey: async ({ params, body, who }) => ({ status: 201, json: await keys.rotate(params.id, body, who), headers: ONCE }),
    revokeKey: async ({ params, who }) => ({ json: await keys.revoke(params.id, who) }),
  };
}
