/** The orchestrator's Prometheus metrics; the names are fixed by the metrics contract. A job id is never a label. */
import type { State } from "@rbees/core/state";
import { PRIORITIES } from "@rbees/core/state";
import { Counter, createRegistry, Gauge, Histogram, type Registry } from "@rbees/kit/metrics";

export class OrcdMetrics {
  readonly registry: Registry = createRegistry();
  readonly enqueued = new Counter({
    name: "orchd_tasks_enqueued_total",
    help: "Jobs submitted, by outcome: accepted or the code of the refusal",
    labelNames: ["outcome"],
    registers: [this.registry],
  });
  readonly dispatched = new Counter({
    name: "orchd_tasks_dispatched_total",
    help: "Attempts that ended, by worker and outcome",
    labelNames: ["worker_id", "outcome"],
    registers: [this.registry],
  });
  readonly migrated = new Counter({
    name: "orchd_tasks_migrated_total",
    help: "Later attempts at an answer that had begun, by outcome: continued after the tokens sent, or restarted from the beginning",
    labelNames: ["outcome"],
    registers: [this.registry],
  });
  readonly ended = new Counter({
    name: "orchd_tasks_ended_total",
    help: "Jobs that ended, by status",
    labelNames: ["status"],
    registers: [this.registry],
  });
  readonly scheduling_latency = new Histogram({
    name: "orchd_scheduling_latency_ms",
    help: "Time the core took to decide over a submitted job, milliseconds",
    labelNames: ["algorithm"],
    buckets: [0.01, 0.05, 0.1, 0.5, 1, 5, 10, 50],
    registers: [this.registry],
  });
  readonly connections = new Gauge({
    name: "orchd_worker_connections_active",
    help: "Attempts in flight, by worker",
    labelNames: ["worker_id"],
    registers: [this.registry],
  });
  readonly time_to_first_token = new Histogram({
    name: "gen_ai_server_time_to_first_token_seconds",
    help: "From submission to the first token",
    labelNames: ["model"],
    buckets: [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30],
    registers: [this.registry],
  });

  /** The queue's depth is read when asked for, from the state itself. */
  watchQueue(state: State): void {
    new Gauge({
      name: "orchd_queue_depth",
      help: "Jobs that wait, by priority",
      labelNames: ["priority"],
      registers: [this.registry],
      collect() {
        for (const priority of PRIORITIES) {
          let waiting = 0;
          for (const queue of state.queues.values()) waiting += queue.returned[priority].size + queue.fresh[priority].size;
          this.set({ priority }, waiting);
        }
      },
    });
  }
}
