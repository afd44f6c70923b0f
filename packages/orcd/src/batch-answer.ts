/** One request of a batch, asked through the same handlers as a client's own: its answer, as a line of the output file or the error file. */
import { EmbeddingsRequest } from "@rbees/contracts/embed";
import { fieldProblems } from "@rbees/contracts/error-body";
import { type ErrorCode, invalidRequest, RbeesError } from "@rbees/contracts/errors";
import { ChatRequest, CompletionRequest, JobHeaders } from "@rbees/contracts/openai";
import type { orcdRoutes } from "@rbees/contracts/routes";
import type { BATCH_ENDPOINTS } from "@rbees/contracts/sets";
import type { Handlers, Reply } from "@rbees/kit/http";
import { HTTP_LIMITS, jsonExcess } from "@rbees/kit/http-limits";
import type { z } from "zod";
import type { Caller } from "./caller.ts";

export type BatchEndpoint = (typeof BATCH_ENDPOINTS)[number];
export type AskedHandlers = Pick<Handlers<typeof orcdRoutes>, "openaiChat" | "openaiCompletion" | "openaiEmbeddings">;

export interface LineAnswer {
  readonly status_code: number;
  readonly request_id: string;
  readonly body: unknown;
  /** Why there is no answer; undefined when there is one. */
  readonly refused: RbeesError | undefined;
}

/** Refusals that are of the moment: the line is asked again later. */
const LATER: ReadonlySet<ErrorCode> = new Set([
  "RATE_LIMITED",
  "QUEUE_FULL",
  "QUOTA_EXCEEDED",
  "NO_WORKER",
  "SHUTTING_DOWN",
  "DROPPED",
  "QUEUE_TIMEOUT",
]);

export function comesLater({ refused }: LineAnswer): boolean {
  return refused !== undefined && LATER.has(refused.code);
}

const SCHEMAS: Readonly<Record<BatchEndpoint, z.ZodType>> = {
  "/v1/chat/completions": ChatRequest,
  "/v1/completions": CompletionRequest,
  "/v1/embeddings": EmbeddingsRequest,
};
const HANDLERS = {
  "/v1/chat/completions": "openaiChat",
  "/v1/completions": "openaiCompletion",
  "/v1/embeddings": "openaiEmbeddings",
} as const satisfies Record<BatchEndpoint, keyof AskedHandlers>;

/** Of batch priority; a job whose orchestrator went is asked anew, so none is kept beyond that. */
const HEADERS = JobHeaders.parse({ "x-rbees-priority": "batch" });

export interface AskedLine {
  readonly endpoint: BatchEndpoint;
  readonly body: unknown;
  /** Whose batch it is. */
  readonly caller: Caller;
  readonly request_id: string;
  /** Is given what ends the job. */
  readonly onStarted: (cancel: () => void) => void;
}

export async function answerLine(
  handlers: AskedHandlers,
  { endpoint, body, caller, request_id, onStarted }: AskedLine,
): Promise<LineAnswer> {
  try {
    const excess = jsonExcess(body, HTTP_LIMITS);
    if (excess !== undefined) throw excess;
    const asked = SCHEMAS[endpoint].safeParse(body);
    if (!asked.success) throw invalidRequest(fieldProblems(asked.error));
    if ((asked.data as { stream?: unknown }).stream === true) {
      throw new RbeesError("INVALID_REQUEST", "stream: a line of a batch has nobody who would read it; leave it out", { param: "stream" });
    }
    const request = {
      ...{ body: asked.data, head: HEADERS, params: {}, query: undefined, headers: {}, peer: "" },
      ...{ correlation_id: request_id, who: caller.who, principal: caller, wants: { json: true, events: false }, onLeave: onStarted },
    };
    const handler = handlers[HANDLERS[endpoint]] as unknown as (request: unknown) => Promise<Reply>;
    const reply = await handler(request);
    if (!("json" in reply)) throw new Error("a line of a batch was answered with a stream");
    return { status_code: 200, request_id, body: reply.json, refused: undefined };
  } catch (error) {
    const refused = error instanceof RbeesError ? error : new RbeesError("INTERNAL", "This is a bug in rbees.", { cause: error });
    return { status_code: refused.status, request_id, body: refused.body(request_id), refused };
  }
}

/** A line of the output file or the error file, without its end. */
export function outputLine(id: string, custom_id: string, { status_code, request_id, body }: LineAnswer): string {
  return JSON.stringify({ id, custom_id, response: { status_code, request_id, body }, error: null });
}

/** The line of one that was never answered, because its batch ended before. */
export function unansweredLine(id: string, custom_id: string, status: "expired" | "cancelled"): string {
  const message =
    status === "expired"
      ? "This request had no answer when the batch's time was over."
      : "This request had no answer when the batch was cancelled.";
  return JSON.stringify({ id, custom_id, response: null, error: { code: `batch_${status}`, message } });
}
