/** The routes of jobs: submit, list, show, follow, explain, cancel. */
import { RbeesError } from "@rbees/contracts/errors";
import type { SubmitJob } from "@rbees/contracts/job";
import type { orcdRoutes } from "@rbees/contracts/routes";
import { explain } from "@rbees/core/explain";
import type { Handlers, Reply, Request } from "@rbees/kit/http";
import { type Asked, callerOf } from "../caller.ts";
import { coreNow } from "../clock.ts";
import { summary, view } from "../job-view.ts";
import { auditChange } from "../record.ts";
import { replayOf } from "../replay.ts";
import type { Store } from "../store/port.ts";
import type { JobTable } from "../store/schema.ts";
import type { WorkerDirectory } from "../worker-directory.ts";
import { type AdmitPorts, type Asker, admit, followOwn } from "./admit.ts";
import { needsOf, weighing } from "./door.ts";

type JobRoutes = Pick<
  typeof orcdRoutes,
  "submitJob" | "listJobs" | "showJob" | "followJob" | "explainJob" | "deleteJob" | "cancelJob" | "replayJob"
>;
type SubmitRoute = JobRoutes["submitJob"];
type Owned = Pick<JobTable, "id" | "tenant" | "key_id">;
type CancelRequest = Pick<Request<JobRoutes["cancelJob"]>, "params" | "who" | "principal">;

export interface JobApiPorts extends AdmitPorts {
  readonly store: Store;
  readonly workers: WorkerDirectory;
  readonly readers_per_job_max: number;
  /** How long the headers of a submitted job's stream may wait for its first event. */
  readonly start_hold_ms: number;
}

export function jobHandlers(ports: JobApiPorts): Handlers<JobRoutes> {
  const { loop, jobs, store } = ports;
  /** The job, if there is one that the caller may see; else the same refusal whether there is one or not. */
  const find = async (id: string, asker: Asked) => {
    const { tenant, everywhere } = callerOf(asker);
    const found = await store.showJob(id);
    if (found === undefined || !(everywhere || found.job.tenant === tenant))
      throw new RbeesError("NOT_FOUND", `There is no job ${id.slice(0, 64)}. GET /v2/tasks lists the jobs.`);
    return found;
  };
  /** Refuses what is another's, before anything is done. */
  const check = async (id: string, asker: Asked): Promise<void> => {
    const { tenant, everywhere } = callerOf(asker);
    if (!everywhere && jobs.get(id)?.tenant !== tenant) await find(id, asker);
  };
  /** Before others than those who asked get the text of a job: no entry, no text. Where nobody has a key, everybody is the same. */
  const disclose = async ({ id, tenant, key_id }: Owned, what: "text" | "events" | "replay", who: string | undefined): Promise<void> => {
    if ((who ?? null) === key_id) return;
    await store.commit([auditChange("content.read", { job_id: id, tenant, what }, { now_ms: Date.now(), who })]);
  };
  const cancel = async ({ params, who, principal }: CancelRequest): Promise<Reply<JobRoutes["cancelJob"]>> => {
    await check(params.id, { principal });
    const running = loop.state.jobs.has(params.id);
    await loop.ask({ type: "job.cancelled", job_id: params.id }, who).done;
    const { job } = await find(params.id, { principal });
    return { status: running ? 202 : 200, json: summary(job, loop.state, jobs.get(params.id)) };
  };
  return {
    submitJob: (request) => submit(ports, request.body, request, request.wants.events),
    async listJobs({ query, principal }) {
      const { tenant, everywhere } = callerOf({ principal });
      if (!everywhere && (query.tenant ?? tenant) !== tenant) return { json: { tasks: [] } };
      const rows = await store.listJobs({
        ...query,
        tenant: everywhere ? query.tenant : tenant,
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
    async showJob({ params, who, principal }) {
      const { job, attempts } = await find(params.id, { principal });
      if (job.content === "kept") await disclose(job, "text", who);
      return { json: view(job, attempts, loop.state, jobs.get(params.id)) };
    },
    async followJob({ params, headers, who, principal }) {
      await check(params.id, { principal });
      const after = lastEventId(headers["last-event-id"]);
      const stream = jobs.stream(params.id);
      if (stream === undefined) {
        await find(params.id, { principal });
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
      await disclose(jobs.get(params.id) ?? (await find(params.id, { principal })).job, "events", who);
      return { events: (reader) => stream.attach(reader, from ?? stream.first_id - 1) };
    },
    async explainJob({ params, principal }) {
      const found = explain(loop.state, params.id, coreNow());
      const { job } = await find(params.id, { principal });
      const { answer, policy, workers } = found ?? { answer: ended(job), policy: null, workers: [] };
      const rules = [...(jobs.get(params.id)?.rules ?? [])];
      return { json: { job_id: job.id, status: summary(job, loop.state, undefined).status, answer, policy, rules, workers } };
    },
    deleteJob: cancel,
    cancelJob: cancel,
    async replayJob({ params, who, principal, correlation_id }) {
      const { job } = await find(params.id, { principal });
      const { request, ...replay } = replayOf(job, ports.workers.serving(loop.state, job.model));
      await disclose(job, "replay", who);
      const admitted = await admit(ports, request, { correlation_id, who, principal, tenant: job.tenant });
      const { id } = admitted.job;
      const json = { job_id: id, replay_of: job.id, ...replay, events_url: `/v2/tasks/${id}/events` };
      return { status: 202, headers: admitted.headers, json };
    },
  };
}

async function submit(ports: JobApiPorts, body: SubmitJob, asker: Asker, wants_events: boolean): Promise<Reply<SubmitRoute>> {
  const { asked, fields } = weighing(body);
  const needs = needsOf({
    ...fields,
    grammar: body.grammar !== undefined && "grammar",
    json_schema: body.json_schema !== undefined && "json_schema",
    logprobs: body.logprobs !== undefined && "logprobs",
  });
  const { job, headers, position, eta_ms } = await admit(ports, { ...body, ...asked, needs }, asker);
  if (body.stream || wants_events) {
    // A job that starts at once says so within a moment: its headers leave with that, in one write instead of two.
    await job.stream.nextEvent(ports.start_hold_ms);
    return { events: (reader) => followOwn(ports, job, reader), headers };
  }
  return {
    status: 202,
    headers,
    json: {
      job_id: job.id,
      status: "queued",
      queue_position: position,
      events_url: `/v2/tasks/${job.id}/events`,
      ...(eta_ms === undefined ? {} : { eta_ms }),
    },
  };
}

function ended({ status, attempt, worker_id, error_message }: JobTable): string {
  const where = worker_id === null ? "" : ` Attempt ${attempt} ran on ${worker_id}.`;
  return `It has ended: ${status}.${where}${error_message === null ? "" : ` ${error_message}`}`;
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
