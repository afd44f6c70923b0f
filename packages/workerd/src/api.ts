/** The worker's routes: who answers what. The work is done by `Attempts`. */
import type { workerdRoutes } from "@rbees/contracts/routes";
import type { WorkerHealth } from "@rbees/contracts/worker";
import type { Handlers } from "@rbees/kit/http";
import type { Attempts } from "./attempts.ts";
import type { WorkerMetrics } from "./metrics.ts";

export interface ApiParts {
  attempts: Attempts;
  metrics: WorkerMetrics;
  /** From memory, at once: health is asked while every slot generates. */
  health: () => WorkerHealth;
  /** Begins to drain; the process ends by itself. */
  shutdown: () => void;
}

export function workerdHandlers({ attempts, metrics, health, shutdown }: ApiParts): Handlers<typeof workerdRoutes> {
  return {
    async execute({ body, correlation_id }) {
      const attempt = await attempts.start(body, correlation_id);
      return { events: (stream) => attempt.attach(stream) };
    },
    async embed({ body, correlation_id }) {
      const attempt = await attempts.embed(body, correlation_id);
      return { events: (stream) => attempt.attach(stream) };
    },
    tokenize: async ({ body }) => ({ json: await attempts.tokenize(body) }),
    cancel: ({ body }) => ({ status: 202, json: { cancelled: attempts.cancel(body.job_id) } }),
    health: () => ({ json: health() }),
    metrics: async () => ({ text: await metrics.registry.metrics(), content_type: metrics.registry.contentType }),
    shutdown() {
      // The answer first, then the end.
      setImmediate(shutdown);
      return { status: 202, json: { status: "draining" } };
    },
  };
}
