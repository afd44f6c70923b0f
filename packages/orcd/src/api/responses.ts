/** OpenAI's Responses API, without state: its requests become jobs like any other, their events its answers. */
import { type JobHeaders, OPENAI_TEMPERATURE } from "@rbees/contracts/openai";
import { flatTools, logprobsAsked, type ResponsesRequest } from "@rbees/contracts/responses";
import type { orcdRoutes } from "@rbees/contracts/routes";
import type { Handlers } from "@rbees/kit/http";
import type { AskedJob } from "../active-job.ts";
import { itemsOf, ResponsesStream, responseOf, statusOf } from "../responses-stream.ts";
import { admit } from "./admit.ts";
import { ANY_OBJECT, type DoorPorts, fromHeaders, kept, needsOf, streamed, whole } from "./door.ts";
import { metadata, textSchema, toolsOf } from "./openai.ts";

export function responsesHandlers(ports: DoorPorts): Handlers<Pick<typeof orcdRoutes, "openaiResponse">> {
  return {
    async openaiResponse(request) {
      const { input, ...asked } = request.body;
      const begun = await admit(ports, responseJob(request.body, request.head, ports.v1_max_tokens_default), request);
      const answer = { job: begun.job, asked };
      if (asked.stream === true) return streamed(ports, begun, (reader) => new ResponsesStream(reader, answer));
      const { last, ...said } = await whole(ports, begun, request);
      const status = statusOf(last);
      return { headers: begun.headers, json: responseOf(answer, status, itemsOf(answer, said, status), last) };
    },
  };
}

function responseJob(body: ResponsesRequest, head: JobHeaders, max_tokens_default: number): AskedJob {
  const { model, input, instructions, temperature, stream, user, safety_identifier } = body;
  const max_tokens = body.max_output_tokens ?? undefined;
  const before = (instructions ?? "") === "" ? [] : [{ role: "system" as const, content: instructions as string }];
  const format = body.text?.format;
  const logprobs = logprobsAsked(body);
  const schema = format?.type === "json_object" ? ANY_OBJECT : format?.type === "json_schema" ? (format.schema ?? ANY_OBJECT) : undefined;
  const json_schema = textSchema(schema, body.tool_choice);
  return {
    ...fromHeaders(head),
    json_schema,
    needs: needsOf({ json_schema: json_schema !== undefined && "text.format", logprobs: logprobs !== undefined && "include" }),
    logprobs,
    model,
    messages: [...before, ...(typeof input === "string" ? [{ role: "user" as const, content: input }] : input)],
    ...toolsOf({ ...body, tools: flatTools(body.tools ?? []), reasoning_effort: body.reasoning?.effort }),
    raw: false,
    max_tokens: max_tokens ?? max_tokens_default,
    fit_context: max_tokens === undefined,
    temperature: temperature ?? OPENAI_TEMPERATURE,
    ...kept(body),
    stop: [],
    stream: stream ?? false,
    metadata: metadata({ ...body.metadata }, { user, safety_identifier }),
  };
}
