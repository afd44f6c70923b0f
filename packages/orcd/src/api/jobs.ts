/** The routes of jobs: submit, list, show, follow, explain, cancel. */
import { randomInt } from "node:crypto";
import { RbeesError } from "@rbees/contracts/errors";
import type { SubmitJob } from "@rbees/contracts/job";
import type { orcdRoutes } from "@rbees/contracts/routes";
import type { Decision } from "@rbees/core/events";
import { explain } from "@rbees/core/explain";
import type { Job, JobSpec, Limits } from "@rbees/core/state";
import type { EventStream } from "@rbees/kit/event-stream";
import type { Handlers, Reply } from "@rbees/kit/http";
import type { ActiveJob } from "../active-job.ts";
import { coreNow, coreTime } from "../clock.ts";
import { mintJobId } from "../job-id.ts";
import type { JobRegistry } from "../job-registry.ts";
import { summary, view } from "../job-view.ts";
import type { Loop } from "../loop.ts";
import type { OrcdMetrics } from "../metrics.ts";
import { promptBlocks, tokensOf } from "../prompt.ts";
import type { Store } from "../store/port.ts";
import type { JobTable } from "../store/schema.ts";

/** Whoever calls: callers are not told apart yet. */
const TENANT = "default";

type JobRoutes = Pick<typeof orcdRoutes, "submitJob" | "listJobs" | "showJob" | "followJob" | "explainJob" | "deleteJob" | "cancelJob">;

export interface JobApiPorts {
  readonly loop: Loop;
  readonly jobs: JobRegistry;
  readonly store: Store;
  readonly metrics: OrcdMetrics;
  readonly readers_per_job_max: number;
  /** How long the headers of a submitted job's stream may wait for its first event. */
  readonly start_hold_ms: number;
  readonly stopping: () => boolean;
}

export function jobHandlers(ports: JobApiPorts): Handlers<JobRoutes> {
  const { loop, jobs, store } = ports;
  const cancel = async ({ params }: { params: { id: string } }): Promise<Reply<(typeof orcdRoutes)["cancelJob"]>> => {
    const running = loop.state.jobs.has(params.id);
    await loop.send({ type: "job.cancelled", job_id: params.id }).done;
    const { job } = await find(store, params.id);
    return { status: running ? 202 : 200, json: summary(job, loop.state, jobs.get(params.id)) };
  };
  return {
    submitJob: (request) => submit(ports, request.body, request.correlation_id, request.wants.events),
    async listJobs({ query }) {
      const rows = await store.listJobs({
        ...query,
        limit: query.limit + 1,
        before_seq: query.cursor === undefined ? undefined : cursorSeq(query.cursor),
      });
      const page = rows.slice(0, query.limit);
      const last = page.at(-1);
      return {
        json: {
          tasks: page.map((row) => summary(row, loop.state, jobs.get(row.id))),
          ...(rows.length > query.limit && last !== undefined ? { next_cursor: String(last.seq) } : {}),
        },
      };
    },
    async showJob({ params }) {
      const { job, attempts } = await find(store, params.id);
      return { json: view(job, attempts, loop.state, jobs.get(params.id)) };
    },
    async followJob({ params, headers }) {
      const after = lastEventId(headers["last-event-id"]);
      const stream = jobs.stream(params.id);
      if (stream === undefined) {
        await find(store, params.id);
        throw gone(params.id);
      }
      const seen = after === undefined ? undefined : stream.seen(after);
      // None at all, or one that is not kept any more: everything there is.
      const from = seen === undefined || seen < stream.first_id - 1 ? undefined : seen;
      if (stream.first_id > stream.last_id && stream.last_id > 0) throw gone(params.id);
      if (from !== undefined && from > stream.last_id)
        throw new RbeesError("INVALID_REQUEST", `Last-Event-ID ${from} is beyond the job's last event, ${stream.last_id}.`);
      if (stream.readers >= ports.readers_per_job_max) {
        throw new RbeesError("RATE_LIMITED", `The job already has ${stream.readers} readers.`, { retry_after_ms: 1000 });
      }
      return { events: (reader) => stream.attach(reader, from ?? stream.first_id - 1) };
    },
    async explainJob({ params }) {
      const found = explain(loop.state, params.id, coreNow());
      const { job } = await find(store, params.id);
      const { answer, policy, workers } = found ?? { answer: ended(job), policy: null, workers: [] };
      return { json: { job_id: job.id, status: summary(job, loop.state, undefined).status, answer, policy, workers } };
    },
    deleteJob: cancel,
    cancelJob: cancel,
  };
}

async function submit(
  ports: JobApiPorts,
  body: SubmitJob,
  correlation_id: string,
  wants_events: boolean,
): Promise<Reply<(typeof orcdRoutes)["submitJob"]>> {
  const { loop, jobs, metrics } = ports;
  if (ports.stopping())
    throw new RbeesError("SHUTTING_DOWN", "The orchestrator is stopping; try again in a moment.", { retry_after_ms: 2000 });
  const now_ms = Date.now();
  const id = mintJobId(now_ms);
  const request = { ...body, seed: body.seed ?? randomInt(0, 2 ** 32) };
  const job = jobs.add({ id, request, correlation_id, submitted_at_ms: now_ms, attempt: 0, first_token_at_ms: null });
  const began = performance.now();
  const { decisions, done } = loop.send({ type: "job.submitted", spec: jobSpec(id, request, now_ms, loop.state.limits) });
  metrics.scheduling_latency.observe({ algorithm: loop.state.limits.policy }, performance.now() - began);
  await done;
  const verdict = decisions.find(
    (decision): decision is Extract<Decision, { type: "accept" | "refuse" }> => decision.type === "accept" || decision.type === "refuse",
  );
  metrics.enqueued.inc({ outcome: verdict?.type === "refuse" ? verdict.code : "accepted" });
  if (verdict?.type === "refuse") {
    const { code, message, retry_after_ms } = verdict;
    throw new RbeesError(code, message, retry_after_ms === undefined ? {} : { retry_after_ms });
  }
  const events_url = `/v2/tasks/${id}/events`;
  const headers = {
    location: `/v2/tasks/${id}`,
    "x-rbees-job-id": id,
    "x-rbees-routing": routingHeader(loop.state.jobs.get(id), verdict?.position ?? 0),
  };
  if (body.stream || wants_events) {
    // A job that starts at once says so within a moment: its headers leave with that, in one write instead of two.
    await job.stream.nextEvent(ports.start_hold_ms);
    return { events: (reader) => followOwn(ports, job, reader), headers };
  }
  return {
    status: 202,
    headers,
    json: {
      job_id: id,
      status: "queued",
      queue_position: verdict?.position ?? 0,
      events_url,
      ...(verdict?.eta_ms === undefined ? {} : { eta_ms: verdict.eta_ms }),
    },
  };
}

/** The stream on the connection that submitted the job: when it breaks, `on_disconnect` says what becomes of the job. */
function followOwn({ loop }: JobApiPorts, job: ActiveJob, reader: EventStream): void {
  job.stream.attach(reader, job.stream.first_id - 1);
  if (job.request.on_disconnect === "cancel") reader.onClose(() => void loop.send({ type: "job.cancelled", job_id: job.id }));
}

export function jobSpec(id: string, request: SubmitJob, submitted_at_ms: number, { prefix_block_tokens }: Limits): JobSpec {
  const { model, prompt, priority, max_tokens, deadline_ms, placement } = request;
  const bytes = Buffer.byteLength(prompt, "utf8");
  return {
    id,
    tenant: TENANT,
    model,
    priority,
    submitted_at_ms: coreTime(submitted_at_ms),
    bytes,
    max_tokens,
    ...tokensOf(bytes),
    prefix: promptBlocks(request, prefix_block_tokens),
    deadline_at_ms: deadline_ms === undefined ? null : coreTime(submitted_at_ms + deadline_ms),
    pin: placement?.pin ?? null,
    prefer: placement?.prefer ?? [],
    avoid: placement?.avoid ?? [],
    labels: placement?.labels ?? {},
    fails_if_lost: request.on_worker_lost === "fail",
  };
}

/** How it was placed, for whoever reads the answer's head: `worker=w1; policy=eta; score=…; cached_tokens=…; compared=3`, or `queued; position=4`. */
function routingHeader(job: Job | undefined, position: number): string {
  if (job?.routing === undefined) return `queued; position=${position}`;
  const { worker_id, routing } = job;
  const { policy, cached_tokens, compared } = routing;
  const score = compared.find((other) => other.worker_id === worker_id)?.score;
  const scored = score === undefined ? "" : `; score=${Number(score.toPrecision(4))}; compared=${compared.length}`;
  return `worker=${worker_id}; policy=${policy}; cached_tokens=${cached_tokens}${scored}`;
}

function ended({ status, attempt, worker_id, error_message }: JobTable): string {
  const where = worker_id === null ? "" : ` Attempt ${attempt} ran on ${worker_id}.`;
  return `It has ended: ${status}.${where}${error_message === null ? "" : ` ${error_message}`}`;
}

async function find(store: Store, id: string) {
  const found = await store.showJob(id);
  if (found === undefined) throw new RbeesError("NOT_FOUND", `There is no job ${id.slice(0, 64)}. GET /v2/tasks lists the jobs.`);
  return found;
}

function gone(id: string): RbeesError {
  return new RbeesError("GONE", `The events of job ${id} are not kept any more. GET /v2/tasks/${id} has its whole text.`);
}

function lastEventId(header: string | string[] | undefined): number | undefined {
  if (header === undefined || header === "") return undefined;
  if (typeof header !== "string" || !/^\d{1,15}$/.test(header))
    throw new RbeesError("INVALID_REQUEST", "Last-Event-ID must be a number this server sent as an id.", { param: "last-event-id" });
  return Number(header);
}

function cursorSeq(cursor: string): number {
  if (!/^\d{1,15}$/.test(cursor))
    throw new RbeesError("INVALID_REQUEST", "cursor must be a next_cursor from an earlier answer.", { param: "cursor" });
  return Number(cursor);
}
