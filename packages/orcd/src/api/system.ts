/** The routes about the orchestrator itself: health, metrics, its description. */
import { openApi } from "@rbees/contracts/openapi";
import { orcdAccess, orcdRoutes } from "@rbees/contracts/routes";
import type { Handlers } from "@rbees/kit/http";
import { VERSION } from "@rbees/kit/version";
import type { Loop } from "../loop.ts";
import type { OrcdMetrics } from "../metrics.ts";

type SystemRoutes = Pick<typeof orcdRoutes, "root" | "health" | "metrics" | "openapi">;

let described: ReturnType<typeof openApi> | undefined;

/** Made when it is first asked for: it is a seventh of what a start costs, and most lives never need it. */
function description() {
  described ??= openApi(orcdRoutes, { title: "rbees orchestrator", version: VERSION }, orcdAccess);
  return described;
}

export function systemHandlers(loop: Loop, metrics: OrcdMetrics, keys_required: boolean): Handlers<SystemRoutes> {
  const started = performance.now();
  return {
    root: () => ({ text: "rbees-orcd is running. GET /openapi.json describes its API.\n" }),
    health({ wants }) {
      if (!wants.json) return { text: "OK" };
      const { workers, queued } = loop.state;
      const uptime_seconds = Math.round(performance.now() - started) / 1000;
      return { json: { status: "OK", version: VERSION, uptime_seconds, workers: workers.size, queue_depth: queued, keys_required } };
    },
    async metrics() {
      return { text: await metrics.registry.metrics(), content_type: metrics.registry.contentType };
    },
    openapi: () => ({ json: description() }),
  };
}
