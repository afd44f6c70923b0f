/** The OpenAI API: its requests become jobs like any other, their events its answers. */
import { invalidRequest, RbeesError } from "@rbees/contracts/errors";
import {
  type ChatRequest,
  COMPLETIONS_MAX_TOKENS,
  type CompletionRequest,
  type JobHeaders,
  OPENAI_TEMPERATURE,
  type OpenaiModel,
} from "@rbees/contracts/openai";
import type { orcdRoutes } from "@rbees/contracts/routes";
import { canonicalModel } from "@rbees/contracts/sets";
import { mustCall, type Tool, type ToolChoice } from "@rbees/contracts/tools";
import type { Handlers } from "@rbees/kit/http";
import type { ActiveJob, AskedJob, Said } from "../active-job.ts";
import { calledModel, namedModel, namesFor } from "../adapters.ts";
import { callerOf } from "../caller.ts";
import { chatLogprobs, TextOffsets } from "../logprob-forms.ts";
import { Ends, finishReason, type OpenaiAnswer, OpenaiStream, usageOf } from "../openai-stream.ts";
import { admitChoices, type Choices, headersOf, streamedChoices, wholeChoices } from "./choices.ts";
import { ANY_OBJECT, type DoorPorts, effortOfThink, fromHeaders, kept, needsOf, seed32, stopStrings, weighing } from "./door.ts";

type OpenaiRoutes = Pick<typeof orcdRoutes, "openaiModels" | "openaiModel" | "openaiChat" | "openaiCompletion">;

export function openaiHandlers(ports: DoorPorts): Handlers<OpenaiRoutes> {
  const { state } = ports.loop;
  const model = (id: string): OpenaiModel => {
    const since_ms = ports.workers.servedSince(state, namedModel(state, id).model);
    return { id, object: "model", created: since_ms === undefined ? 0 : seconds(since_ms), owned_by: "rbees" };
  };
  return {
    openaiModels: (request) => ({ json: { object: "list", data: namesFor(state, callerOf(request)).map(model) } }),
    openaiModel({ params, principal }) {
      const id = canonicalModel(params.id);
      if (!namesFor(state, callerOf({ principal })).includes(id))
        throw new RbeesError("MODEL_NOT_FOUND", `No worker has ever served "${id.slice(0, 256)}". GET /v1/models lists the models.`);
      return { json: model(id) };
    },
    async openaiChat(request) {
      const { body, head } = request;
      const asked = chatJob(body, head, ports.v1_max_tokens_default);
      const n = body.n ?? 1;
      const choices = await admitChoices(ports, { prompts: [asked], n }, request);
      if (asked.stream) return stream(ports, choices, { object: "chat.completion.chunk", usage: usageWanted(body), n });
      const said = await wholeChoices(ports, choices, request);
      const json = {
        ...headOf(choices[0].job),
        object: "chat.completion" as const,
        choices: said.map(({ last, ...answer }, index) => ({
          index,
          message: messageOf(answer),
          logprobs: answer.logprobs === undefined ? null : chatLogprobs(answer.logprobs),
          finish_reason: finishReason(last, isCall(answer)),
        })),
        usage: usageOf(
          said.map(({ last }) => last),
          n,
        ),
      };
      return { headers: headersOf(choices), json };
    },
    async openaiCompletion(request) {
      const { body, head } = request;
      const n = body.n ?? 1;
      const choices = await admitChoices(ports, { prompts: completionJobs(body, head), n }, request);
      if (body.stream === true) return stream(ports, choices, { object: "text_completion", usage: usageWanted(body), n });
      const said = await wholeChoices(ports, choices, request);
      const json = {
        ...headOf(choices[0].job),
        object: "text_completion" as const,
        choices: said.map(({ text, logprobs, last }, index) => ({
          index,
          text,
          logprobs: logprobs === undefined ? null : new TextOffsets().form(logprobs),
          finish_reason: finishReason(last),
        })),
        usage: usageOf(
          said.map(({ last }) => last),
          n,
        ),
      };
      return { headers: headersOf(choices), json };
    },
  };
}

function stream(ports: DoorPorts, choices: Choices, { n, ...form }: Pick<OpenaiAnswer, "object" | "usage"> & { n: number }) {
  const { correlation_id } = choices[0].job;
  const ends = new Ends(choices.length, n);
  return streamedChoices(ports, choices, (index, to, endAll) => {
    const head = () => headOf(choices[0].job, choices[index]?.job);
    return new OpenaiStream(to, { ...form, index, ends, endAll, correlation_id, head });
  });
}

/** What every answer and every chunk of one begins with: by the first job, and the build of the model that the chunk comes from. */
function headOf({ id, request, submitted_at_ms, ...first }: ActiveJob, { model_digest }: Pick<ActiveJob, "model_digest"> = first) {
  return {
    id: `${request.raw ? "cmpl" : "chatcmpl"}-${id}`,
    created: seconds(submitted_at_ms),
    model: calledModel(request),
    ...(model_digest === undefined ? {} : { system_fingerprint: `fp_${model_digest.replace(/^.*:/, "").slice(0, 16)}` }),
  };
}

function messageOf({ text, reasoning, tool_calls }: Said) {
  return {
    role: "assistant" as const,
    content: text === "" && tool_calls !== undefined ? null : text,
    refusal: null,
    ...(reasoning === undefined ? {} : { reasoning_content: reasoning }),
    ...(tool_calls === undefined ? {} : { tool_calls }),
  };
}

function isCall({ tool_calls = [] }: Said): boolean {
  return tool_calls.length > 0;
}

function chatJob(body: ChatRequest, head: JobHeaders, max_tokens_default: number): AskedJob {
  const asked_for = body.max_completion_tokens ?? body.max_tokens ?? 0;
  const max_tokens = asked_for > 0 ? asked_for : undefined;
  const json_schema = textSchema(schemaOf(body.response_format), body.tool_choice);
  return {
    ...generation(body, head),
    json_schema,
    needs: needsOf({
      ...weighing(body).fields,
      json_schema: json_schema !== undefined && "response_format",
      logprobs: body.logprobs === true && "logprobs",
    }),
    logprobs: body.logprobs === true ? (body.top_logprobs ?? 0) : undefined,
    messages: body.messages,
    ...toolsOf({ ...body, reasoning_effort: effortOf(body) }),
    raw: false,
    max_tokens: max_tokens ?? max_tokens_default,
    fit_context: max_tokens === undefined,
    metadata: metadata({ ...body.metadata }, { user: body.user, safety_identifier: body.safety_identifier }),
  };
}

/** One for each prompt. */
function completionJobs(body: CompletionRequest, head: JobHeaders): AskedJob[] {
  const { max_tokens } = body;
  const logprobs = body.logprobs ?? undefined;
  const fields = { ...weighing(body).fields, logprobs: logprobs !== undefined && "logprobs" } as const;
  const asked = {
    ...generation(body, head),
    logprobs,
    raw: true,
    max_tokens: max_tokens ?? COMPLETIONS_MAX_TOKENS,
    fit_context: (max_tokens ?? undefined) === undefined,
    metadata: metadata({}, { user: body.user }),
  };
  return body.prompt.map((prompt) =>
    typeof prompt === "string"
      ? { ...asked, prompt, needs: needsOf(fields) }
      : { ...asked, token_prompt: prompt, needs: needsOf({ ...fields, token_prompts: "prompt" }) },
  );
}

/** Not to think at all is what counts: whoever says so may have to say an effort beside it. */
function effortOf({ reasoning_effort, think, chat_template_kwargs: told }: ChatRequest): AskedJob["reasoning_effort"] | null {
  const said = (reasoning_effort || effortOfThink(think)) ?? undefined;
  const thinks = told?.enable_thinking ?? told?.thinking;
  return said ?? (thinks === false ? "none" : (told?.reasoning_effort ?? (thinks === true ? "medium" : undefined)));
}

/** What a conversation may ask for, as a job has it; thinking is told apart, as all these APIs have it. */
export function toolsOf({
  tools,
  tool_choice,
  parallel_tool_calls,
  reasoning_effort,
}: Partial<Pick<ChatRequest, "tools" | "tool_choice" | "parallel_tool_calls">> & {
  readonly reasoning_effort?: AskedJob["reasoning_effort"] | null;
}) {
  const some = (tools ?? []).length > 0;
  return {
    separate_reasoning: true,
    ...(reasoning_effort ? { reasoning_effort } : {}),
    ...(some ? { tools: tools as Tool[] } : {}),
    ...(some && tool_choice ? { tool_choice } : {}),
    ...(some && typeof parallel_tool_calls === "boolean" ? { parallel_tool_calls } : {}),
  };
}

/** What the text of an answer is held to: one that has to be a call has no text. */
export function textSchema(schema: AskedJob["json_schema"], tool_choice: ToolChoice | null | undefined): AskedJob["json_schema"] {
  return mustCall(tool_choice ?? undefined) ? undefined : schema;
}

function schemaOf(format: ChatRequest["response_format"]): AskedJob["json_schema"] {
  if (format?.type === "json_object") return ANY_OBJECT;
  return format?.type === "json_schema" ? (format.json_schema.schema ?? ANY_OBJECT) : undefined;
}

type Generation = Pick<ChatRequest, Exclude<keyof ChatRequest & keyof CompletionRequest, "logprobs">>;

function generation(body: Generation, head: JobHeaders) {
  const { model, temperature, min_p, seed, stop, stream } = body;
  return {
    ...fromHeaders(head),
    ...weighing(body).asked,
    ...kept(body),
    model,
    temperature: temperature ?? OPENAI_TEMPERATURE,
    min_p: min_p ?? undefined,
    seed: seed32(seed),
    stop: stopStrings(stop),
    stream: stream ?? false,
  };
}

/** The job's metadata, with who asked beside it. */
export function metadata(given: Record<string, string>, who: Record<string, string | null | undefined>): Record<string, string> {
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
