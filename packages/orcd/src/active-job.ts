/** A job that has not ended, as the shell holds it: the request, its stream, what its attempts reported. */
import type { EndEvent } from "@rbees/contracts/events";
import type { SubmitJob } from "@rbees/contracts/job";
import type { JobStream } from "./job-stream.ts";

export interface ActiveJob {
  readonly id: string;
  readonly request: SubmitJob & { seed: number };
  readonly correlation_id: string;
  readonly submitted_at_ms: number;
  readonly stream: JobStream;
  /** Earlier lives of the orchestrator in which it was unfinished. */
  readonly lives: number;
  attempt: number;
  first_token_at_ms: number | null;
  /** Set by the worker's `end`, read when the job is settled. */
  end: EndEvent | undefined;
  /** Its end is decided and its row has the text: what still comes of an attempt is not sent any more. */
  decided: boolean;
  /** Why the last attempt was lost; the reason in the `migrated` event. */
  moved_because: string;
}

/** Event ids of a life begin here: they rise from one life of the orchestrator to the next. */
export function eventIdBase(lives: number): number {
  return lives * 1_000_000;
}

/** The tokens the client has been sent, or undefined when the stream does not hold all of them any more. */
export function sentTokens(job: ActiveJob): number[] | undefined {
  if (job.stream.first_id > eventIdBase(job.lives) + 1) return undefined;
  let tokens: number[] = [];
  for (const event of job.stream.events(["token", "restarted"])) {
    if (event.type === "restarted") tokens = [];
    else tokens.push(...(event["ids"] as number[]));
  }
  return tokens;
}

/** The answer so far. */
export function textSoFar(job: ActiveJob): string {
  let text = "";
  for (const event of job.stream.events(["token", "restarted"])) {
    if (event.type === "restarted") text = "";
    else text += event["t"] as string;
  }
  return text;
}
