/** What the doors of other APIs share: their requests become jobs like any other, whose answer is waited for or streamed. */
import { knownCode, RbeesError } from "@rbees/contracts/errors";
import type { EndEvent, FailedEvent } from "@rbees/contracts/events";
import type { Think } from "@rbees/contracts/llama-options";
import type { JobHeaders } from "@rbees/contracts/openai";
import { FEATURES, type Feature, type ReasoningEffort } from "@rbees/contracts/sets";
import { EVENTS, type EventStream, type StreamForm } from "@rbees/kit/event-stream";
import type { Request } from "@rbees/kit/http";
import { type ActiveJob, type AskedJob, type Said, saidSoFar } from "../active-job.ts";
import type { AnswerStream } from "../answer-stream.ts";
import type { WorkerDirectory } from "../worker-directory.ts";
import { type AdmitPorts, type Admitted, type Asker, followOwn } from "./admit.ts";

export interface DoorPorts extends AdmitPorts {
  readonly workers: WorkerDirectory;
  /**
   * The headers of a stream wait so long for its first token: what ends before (a prompt that is too long, say) can still be told with
   * a status. Costs nobody anything, for there is nothing to read before.
   */
  readonly status_hold_ms: number;
  readonly v1_max_tokens_default: number;
  /** Answers that one request may ask for. */
  readonly v1_choices_max: number;
}

export type Begun = Pick<Admitted, "job" | "headers"> & {
  /** What its prompt is called, if its request has several. */
  readonly prompt?: string | undefined;
};

export type Asking = Asker & Pick<Request<never>, "onLeave">;

/** The answer as it is made; a client that leaves ends its job, unless it said otherwise. */
export async function streamed(
  ports: DoorPorts,
  { job, headers }: Begun,
  into: (reader: EventStream) => AnswerStream,
  form: StreamForm = EVENTS,
) {
  await beginning(ports, [{ job, headers }]);
  return { events: (reader: EventStream) => follow(ports, job, reader, into(reader)), headers, form };
}

const STOPPED = {
  type: "error",
  code: "SHUTTING_DOWN",
  message: "The orchestrator was stopped in the middle of this answer. Send the request again once it is back.",
};

/** Passes the job's events on; whose answer can't be resumed is told why it ends when the orchestrator does. */
export function follow(ports: AdmitPorts, job: ActiveJob, reader: EventStream, answer: AnswerStream): void {
  reader.onServerClose(() => answer.writeText(`event: error\ndata: ${JSON.stringify(STOPPED)}\n\n`));
  followOwn(ports, job, answer);
}

/** Waits a little for the first tokens; throws what one of the jobs has failed with before its own. */
export async function beginning({ status_hold_ms }: DoorPorts, begun: readonly Begun[]): Promise<void> {
  const until = performance.now() + status_hold_ms;
  for (const one of begun) {
    const { job } = one;
    for (let left = until - performance.now(); left > 0 && job.first_token_at_ms === null && job.stream.last === undefined; ) {
      await job.stream.nextEvent(left);
      left = until - performance.now();
    }
    if (job.stream.last?.type === "error" && job.first_token_at_ms === null) throw failure(job.stream.last, one);
  }
}

/** The answer once it is complete; a client that leaves before ends its job, unless it said otherwise. */
export async function whole(ports: AdmitPorts, begun: Begun, { onLeave }: Asking): Promise<Said & { last: EndEvent }> {
  const { id, request } = begun.job;
  if (request.on_disconnect === "cancel") onLeave(() => void ports.loop.send({ type: "job.cancelled", job_id: id }));
  return await answerOf(begun);
}

/** The same, whoever leaves. */
export async function answerOf(begun: Begun): Promise<Said & { last: EndEvent }> {
  const { job } = begun;
  const last = await job.stream.lastEvent();
  if (last.type === "error") throw failure(last, begun);
  return { ...saidSoFar(job), last };
}

function failure({ code, message }: FailedEvent, { headers, prompt }: Begun): RbeesError {
  return ofPrompt(new RbeesError(knownCode(code), message, { headers }), prompt);
}

/** How a worker begins that says what is wrong with one. */
const PROMPT = "prompt: ";

/** What is wrong with a prompt is told with its name, if it has one. */
export function ofPrompt(error: RbeesError, prompt: string | undefined): RbeesError {
  const { code, message, param, headers, details } = error;
  const of_prompt = code === "CONTEXT_TOO_LARGE" || param === "prompt" || message.startsWith(PROMPT);
  if (prompt === undefined || !of_prompt) return error;
  return new RbeesError(code, `${prompt}: ${message.replace(PROMPT, "")}`, {
    param: prompt,
    details,
    ...(headers === undefined ? {} : { headers }),
  });
}

/** What the headers say of a job, whose connection is all that its client has of it. */
export function fromHeaders(head: JobHeaders) {
  return {
    openai: true,
    priority: head["x-rbees-priority"],
    deadline_ms: head["x-rbees-deadline-ms"],
    placement: { pin: head["x-rbees-pin"], prefer: head["x-rbees-prefer"] ?? [], avoid: head["x-rbees-avoid"] ?? [], labels: {} },
    on_disconnect: head["x-rbees-on-disconnect"],
    on_worker_lost: "continue",
  } as const;
}

/** What a worker must be able to do for a job: each feature with the field that asks for it, if one does. */
export function needsOf(fields: Partial<Record<Feature, string | false>>): NonNullable<AskedJob["needs"]> {
  return FEATURES.flatMap((feature) => {
    const field = fields[feature];
    return field === undefined || field === false ? [] : [{ feature, field }];
  });
}

type Weighing = Pick<AskedJob, "frequency_penalty" | "presence_penalty" | "repeat_penalty" | "repeat_last_n" | "logit_bias">;

/** The fields that weigh tokens, undefined where they ask for nothing, and what a worker must be able to do for them. */
export function weighing(
  body: { [Name in Exclude<keyof Weighing, "logit_bias">]?: Weighing[Name] | null } & {
    readonly logit_bias?: Weighing["logit_bias"] | "" | null;
  },
) {
  const { frequency_penalty, presence_penalty, repeat_penalty, repeat_last_n } = body;
  const logit_bias = body.logit_bias || undefined;
  const repeats = (repeat_penalty ?? 1) !== 1 && repeat_last_n !== 0;
  const asked: Weighing = {
    frequency_penalty: frequency_penalty || undefined,
    presence_penalty: presence_penalty || undefined,
    repeat_penalty: repeats ? (repeat_penalty ?? undefined) : undefined,
    repeat_last_n: repeats ? (repeat_last_n ?? undefined) : undefined,
    logit_bias: Object.keys(logit_bias ?? {}).length > 0 ? (logit_bias ?? {}) : undefined,
  };
  const penalties = (["frequency_penalty", "presence_penalty"] as const).find((field) => asked[field] !== undefined);
  const fields = {
    penalties: penalties ?? false,
    repeat_penalty: repeats && "repeat_penalty",
    logit_bias: asked.logit_bias !== undefined && "logit_bias",
  } as const;
  return { asked, fields };
}

interface Kept {
  readonly top_k?: number | null | undefined;
  readonly top_p?: number | null | undefined;
}

/** From which of the likeliest tokens is drawn: no number is all of them, and no probability leaves the first alone. */
export function kept({ top_k, top_p }: Kept): Pick<AskedJob, "top_k" | "top_p"> {
  if (top_p === 0) return { top_k: 1, top_p: undefined };
  return { top_k: (top_k ?? 0) > 0 ? (top_k as number) : undefined, top_p: top_p ?? undefined };
}

/** How long a model is to think, in the word that Ollama has for it. */
export function effortOfThink(think: Think | null | undefined): ReasoningEffort | undefined {
  if (typeof think === "boolean") return think ? "medium" : "none";
  return think || undefined;
}

/** The schema of any JSON object. */
export const ANY_OBJECT = { type: "object" };

/** The lowest 32 bits, of a negative number too; undefined when none was given. */
export function seed32(seed: number | null | undefined): number | undefined {
  return typeof seed === "number" ? Number(BigInt.asUintN(32, BigInt(seed))) : undefined;
}

export function stopStrings(stop: string | string[] | null | undefined): string[] {
  return typeof stop === "string" ? [stop] : (stop ?? []);
}
