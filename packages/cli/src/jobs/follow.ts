/** Reading a job's events to their end over as many connections as it takes: resumes after the last id that was read. */
import { setTimeout as sleep } from "node:timers/promises";
import { ERRORS, type ErrorCode, RbeesError } from "@rbees/contracts/errors";
import { type EndEvent, type FailedEvent, JobEvent } from "@rbees/contracts/events";
import type { JobView } from "@rbees/contracts/job";
import type { Orchestrator } from "../orchestrator.ts";

export interface FollowOptions {
  signal: AbortSignal;
  /** Called for each event but the last, in order, none twice. */
  onEvent: (event: JobEvent) => void;
  /** Called before a wait for the next try. */
  onBroken: (tries: number) => void;
  /** Called with the stored text, when the events themselves are not kept any more. */
  onStored: (job: JobView) => void;
  /** Connections in a row that may bring nothing. */
  tries_max?: number;
  first_wait_ms?: number;
}

const WAIT_MS_MAX = 5000;
const POLL_MS = 1000;

/** The job's `end` or `error`. Throws when the job is unknown, and UNREACHABLE when no try helped. */
export async function followJob(orchestrator: Orchestrator, job_id: string, options: FollowOptions): Promise<EndEvent | FailedEvent> {
  const { signal, tries_max = 8, first_wait_ms = 200 } = options;
  let last_id: string | undefined;
  for (let tries = 0; ; tries += 1) {
    let connected = last_id !== undefined || tries > 0;
    try {
      const headers: Record<string, string> = last_id === undefined ? {} : { "last-event-id": last_id };
      const events = await orchestrator.events("followJob", { params: { id: job_id } }, { headers, signal });
      connected = true;
      for await (const { id, data } of events) {
        last_id = id ?? last_id;
        tries = 0;
        const event = JobEvent.safeParse(JSON.parse(data)).data;
        // A name of a later version: the rest of the stream still means what it did.
        if (event === undefined) continue;
        if (event.type === "error" && event.code === "LAGGED") break;
        if (event.type === "end" || event.type === "error") return event;
        options.onEvent(event);
      }
    } catch (error) {
      if (signal.aborted) throw error;
      if (error instanceof RbeesError && error.code === "GONE") return await readStored(orchestrator, job_id, options);
      if (error instanceof RbeesError && (!connected || !ERRORS[error.code].retriable)) throw error;
      if (tries + 1 >= tries_max) throw new RbeesError("UNREACHABLE", unreachable(job_id, tries + 1, orchestrator.url), { cause: error });
    }
    if (tries + 1 >= tries_max) throw new RbeesError("UNREACHABLE", unreachable(job_id, tries + 1, orchestrator.url));
    options.onBroken(tries + 1);
    await sleep(Math.min(WAIT_MS_MAX, first_wait_ms * 2 ** tries), undefined, { signal });
  }
}

function unreachable(job_id: string, tries: number, url: string): string {
  return `The connection to ${url} broke and ${tries} tries did not bring it back; the job may go on: rbees jobs follow ${job_id}`;
}

/** A job whose events are gone has its text and outcome in the record; one that still runs is asked again until it ends. */
async function readStored(orchestrator: Orchestrator, job_id: string, options: FollowOptions): Promise<EndEvent | FailedEvent> {
  for (;;) {
    const job = await orchestrator.call("showJob", { params: { id: job_id } }, { signal: options.signal });
    options.onStored(job);
    const last = lastEventOf(job);
    if (last !== undefined) return last;
    await sleep(POLL_MS, undefined, { signal: options.signal });
  }
}

function lastEventOf(job: JobView): EndEvent | FailedEvent | undefined {
  if (job.status === "queued" || job.status === "running") return undefined;
  if (job.status === "succeeded") {
    const usage = job.usage ?? { tokens_in: 0, tokens_out: 0, tokens_cached: 0 };
    return { type: "end", stop_reason: job.stop_reason ?? "EOS", ...usage, timings: job.timings ?? { prefill_ms: 0, decode_ms: 0 } };
  }
  const code: ErrorCode = job.status === "cancelled" ? "CANCELLED" : "ENGINE_FAILED";
  return { type: "error", ...(job.error ?? { code, message: `${ERRORS[code].title}.`, retriable: false }) };
}
