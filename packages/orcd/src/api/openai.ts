/** The OpenAI API: its requests become jobs like any other, their events its answers. */
import { invalidRequest, knownCode, RbeesError } from "@rbees/contracts/errors";
import type { FailedEvent } from "@rbees/contracts/events";
import {
  type ChatRequest,
  COMPLETIONS_MAX_TOKENS,
  type CompletionRequest,
  type JobHeaders,
  OPENAI_TEMPERATURE,
  type OpenaiModel,
} from "@rbees/contracts/openai";
import type { orcdRoutes } from "@rbees/contracts/routes";
import type { Handlers, Request } from "@rbees/kit/http";
import { type ActiveJob, type AskedJob, textSoFar } from "../active-job.ts";
import { finishReason, type OpenaiAnswer, OpenaiStream, usageOf } from "../openai-stream.ts";
import type { WorkerDirectory } from "../worker-directory.ts";
import { type AdmitPorts, type Admitted, admit, followOwn } from "./admit.ts";

type OpenaiRoutes = Pick<typeof orcdRoutes, "openaiModels" | "openaiModel" | "openaiChat" | "openaiCompletion">;

export interface OpenaiApiPorts extends AdmitPorts {
  readonly workers: WorkerDirectory;
  readonly v1_max_tokens_default: number;
}

/**
 * The headers of a stream wait so long for its first token: what ends before (a prompt that is too long, say) can still be told with
 * a status. Costs nobody anything, for there is nothing to read before.
 */
const STATUS_HOLD_MS = 200;

export function openaiHandlers(ports: OpenaiApiPorts): Handlers<OpenaiRoutes> {
  const { state } = ports.loop;
  const model = (id: string): OpenaiModel => {
    const since_ms = ports.workers.servedSince(state, id);
    return { id, object: "model", created: since_ms === undefined ? 0 : seconds(since_ms), owned_by: "rbees" };
  };
  return {
    openaiModels: () => ({ json: { object: "list", data: [...state.models].sort().map(model) } }),
    openaiModel({ params }) {
      if (!state.models.has(params.id))
        throw new RbeesError("MODEL_NOT_FOUND", `No worker has ever served "${params.id.slice(0, 256)}". GET /v1/models lists the models.`);
      return { json: model(params.id) };
    },
    async openaiChat(request) {
      const asked = chatJob(request.body, request.head, ports.v1_max_tokens_default);
      const { body } = request;
      const { job, headers } = await begin(ports, asked, request);
      if (asked.stream) return stream(ports, job, { headers, object: "chat.completion.chunk", usage: usageWanted(body) });
      const { text, ...answer } = await whole(ports, job, headers, request);
      const message = { role: "assistant", content: text, refusal: null } as const;
      const choice = { index: 0, message, logprobs: null, finish_reason: answer.finish_reason } as const;
      return { headers, json: { ...head(job), object: "chat.completion", choices: [choice], usage: answer.usage } };
    },
    async openaiCompletion(request) {
      const asked = completionJob(request.body, request.head);
      const { body } = request;
      const { job, headers } = await begin(ports, asked, request);
      if (asked.stream) return stream(ports, job, { headers, object: "text_completion", usage: usageWanted(body) });
      const { text, finish_reason, usage } = await whole(ports, job, headers, request);
      const choice = { index: 0, text, logprobs: null, finish_reason } as const;
      return { headers, json: { ...head(job), object: "text_completion", choices: [choice], usage } };
    },
  };
}

type Headers = Admitted["headers"] & { "x-request-id": string };
type Asking = Pick<Request<OpenaiRoutes["openaiChat"]>, "correlation_id" | "who" | "onLeave">;

async function begin(ports: OpenaiApiPorts, asked: AskedJob, asking: Asking): Promise<{ job: ActiveJob; headers: Headers }> {
  const { job, headers } = await admit(ports, asked, asking);
  return { job, headers: { ...headers, "x-request-id": asking.correlation_id } };
}

async function stream(
  ports: OpenaiApiPorts,
  job: ActiveJob,
  { headers, ...form }: { headers: Headers } & Pick<OpenaiAnswer, "object" | "usage">,
) {
  const until = performance.now() + STATUS_HOLD_MS;
  for (let left = STATUS_HOLD_MS; left > 0 && job.first_token_at_ms === null && job.stream.last === undefined; ) {
    await job.stream.nextEvent(left);
    left = until - performance.now();
  }
  if (job.stream.last?.type === "error" && job.first_token_at_ms === null) throw failure(job.stream.last, headers);
  const answer: OpenaiAnswer = { ...form, correlation_id: job.correlation_id, head: () => head(job) };
  return {
    events: (reader: ConstructorParameters<typeof OpenaiStream>[0]) => followOwn(ports, job, new OpenaiStream(reader, answer)),
    headers,
  };
}

/** The answer once it is complete; a client that leaves before ends its job, unless it said otherwise. */
async function whole(ports: OpenaiApiPorts, job: ActiveJob, headers: Headers, { onLeave }: Asking) {
  if (job.request.on_disconnect === "cancel") onLeave(() => void ports.loop.send({ type: "job.cancelled", job_id: job.id }));
  const last = await job.stream.lastEvent();
  if (last.type === "error") throw failure(last, headers);
  return { text: textSoFar(job), finish_reason: finishReason(last), usage: usageOf(last) };
}

function failure({ code, message }: FailedEvent, headers: Headers): RbeesError {
  return new RbeesError(knownCode(code), message, { headers });
}

/** What every answer and every chunk of one begins with. */
function head({ id, request, submitted_at_ms, model_digest }: ActiveJob) {
  return {
    id: `${request.raw ? "cmpl" : "chatcmpl"}-${id}`,
    created: seconds(submitted_at_ms),
    model: request.model,
    ...(model_digest === undefined ? {} : { system_fingerprint: `fp_${model_digest.replace(/^.*:/, "").slice(0, 16)}` }),
  };
}

function chatJob(body: ChatRequest, head: JobHeaders, max_tokens_default: number): AskedJob {
  const max_tokens = body.max_completion_tokens ?? body.max_tokens ?? undefined;
  return {
    ...generation(body, head),
    messages: body.messages,
    raw: false,
    max_tokens: max_tokens ?? max_tokens_default,
    fit_context: max_tokens === undefined,
    metadata: metadata({ ...body.metadata }, { user: body.user, safety_identifier: body.safety_identifier }),
  };
}

function completionJob(body: CompletionRequest, head: JobHeaders): AskedJob {
  const { prompt, max_tokens } = body;
  return {
    ...generation(body, head),
    prompt: typeof prompt === "string" ? prompt : prompt[0],
    raw: true,
    max_tokens: max_tokens ?? COMPLETIONS_MAX_TOKENS,
    fit_context: (max_tokens ?? undefined) === undefined,
    metadata: metadata({}, { user: body.user }),
  };
}

type Generation = Pick<ChatRequest, keyof ChatRequest & keyof CompletionRequest>;

function generation(body: Generation, head: JobHeaders) {
  const { model, temperature, top_p, top_k, min_p, seed, stop, stream } = body;
  const [prefer, avoid] = [head["x-rbees-prefer"] ?? [], head["x-rbees-avoid"] ?? []];
  return {
    openai: true,
    model,
    temperature: temperature ?? OPENAI_TEMPERATURE,
    top_p: top_p ?? undefined,
    top_k: top_k ?? undefined,
    min_p: min_p ?? undefined,
    // The lowest 32 bits, of a negative number too.
    seed: typeof seed === "number" ? Number(BigInt.asUintN(32, BigInt(seed))) : undefined,
    stop: typeof stop === "string" ? [stop] : (stop ?? []),
    stream: stream ?? false,
    priority: head["x-rbees-priority"],
    deadline_ms: head["x-rbees-deadline-ms"],
    placement: { pin: head["x-rbees-pin"], prefer, avoid, labels: {} },
    on_disconnect: head["x-rbees-on-disconnect"],
    on_worker_lost: "continue",
  } as const;
}

/** The job's metadata, with who asked beside it. */
function metadata(given: Record<string, string>, who: Record<string, string | null | undefined>): Record<string, string> {
  for (const [name, value] of Object.entries(who)) {
    if (value === undefined || value === null) continue;
    if ((given[name] ?? value) !== value) throw invalidRequest([{ field: name, problem: `differs from metadata.${name}` }]);
    given[name] = value;
  }
  return given;
}

function usageWanted({ stream_options }: Generation): boolean {
  return stream_options?.include_usage === true;
}

function seconds(at_ms: number): number {
  return Math.floor(at_ms / 1000);
}
