/** The route by which the command line tells of what it does on a pool's machine. */
import type { orcdRoutes } from "@rbees/contracts/routes";
import type { Handlers } from "@rbees/kit/http";
import { auditChange } from "../record.ts";
import type { Store } from "../store/port.ts";

export function actHandlers(store: Pick<Store, "commit">): Handlers<Pick<typeof orcdRoutes, "recordAct">> {
  return {
    async recordAct({ body: { act, pool, about, state }, who }) {
      await store.commit([auditChange(`pool.${act}`, { pool, about, state }, { now_ms: Date.now(), who })]);
      return { none: true };
    },
  };
}
