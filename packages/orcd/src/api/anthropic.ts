/** Anthropic's Messages API: its requests become jobs like any other, their events its answers. */
import { ANTHROPIC_TEMPERATURE, type MessagesRequest } from "@rbees/contracts/anthropic";
import type { Message } from "@rbees/contracts/message";
import type { JobHeaders } from "@rbees/contracts/openai";
import type { orcdRoutes } from "@rbees/contracts/routes";
import type { Handlers } from "@rbees/kit/http";
import type { AskedJob } from "../active-job.ts";
import { ANTHROPIC_EVENTS, AnthropicStream, blocksOf, message } from "../anthropic-stream.ts";
import { admit } from "./admit.ts";
import { type DoorPorts, fromHeaders, needsOf, stopStrings, streamed, whole } from "./door.ts";
import { textSchema, toolsOf } from "./openai.ts";

export function anthropicHandlers(ports: DoorPorts): Handlers<Pick<typeof orcdRoutes, "anthropicMessages">> {
  return {
    async anthropicMessages(request) {
      const { max_tokens } = request.body;
      const begun = await admit(ports, messagesJob(request.body, request.head), request);
      const answer = { job: begun.job, max_tokens };
      if (request.body.stream === true) return streamed(ports, begun, (reader) => new AnthropicStream(reader, answer), ANTHROPIC_EVENTS);
      const { last, ...said } = await whole(ports, begun, request);
      return { headers: begun.headers, json: message(answer, blocksOf(said), last, said.tool_calls !== undefined) };
    },
  };
}

/** What stands before the conversation. */
export function turnsBefore(system: string | null | undefined): Message[] {
  return (system ?? "") === "" ? [] : [{ role: "system", content: system as string }];
}

/** How much is up to the model, unless it is not to think at all. */
const EFFORT_OF_THINKING = { disabled: "none", enabled: "medium", adaptive: undefined, between_tools: undefined } as const;

function messagesJob(body: MessagesRequest, head: JobHeaders): AskedJob {
  const { model, max_tokens, messages, system, temperature, top_p, top_k, stop_sequences, stream, metadata } = body;
  const { tools, tool_choice, thinking } = body;
  const json_schema = textSchema(body.output_config?.format?.schema, tool_choice?.choice);
  const user_id = metadata?.user_id ?? undefined;
  return {
    ...fromHeaders(head),
    model,
    messages: [...turnsBefore(system), ...messages],
    ...toolsOf({
      tools,
      tool_choice: tool_choice?.choice,
      parallel_tool_calls: tool_choice?.parallel === false ? false : undefined,
      reasoning_effort: EFFORT_OF_THINKING[thinking?.type ?? "adaptive"],
    }),
    json_schema,
    needs: needsOf({ json_schema: json_schema !== undefined && "output_config.format" }),
    raw: false,
    max_tokens,
    fit_context: true,
    temperature: temperature ?? ANTHROPIC_TEMPERATURE,
    top_p: top_p ?? undefined,
    top_k: top_k ?? undefined,
    stop: stopStrings(stop_sequences),
    stream: stream ?? false,
    metadata: user_id === undefined ? {} : { user_id },
  };
}
