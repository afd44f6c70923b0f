/** What a job is in the words of OpenAI's API. What has none there is refused by name: left out, it would be ignored in silence. */
import { RbeesError } from "@rbees/contracts/errors";
import { told } from "../chat/thinking.ts";
import type { RunRequest } from "../engine.ts";

export function bodyOf(request: RunRequest, model: string, max_tokens: number | undefined): Record<string, unknown> {
  checkWords(request);
  const { prompt, messages, raw, temperature, top_p, top_k, min_p, seed } = request;
  const { frequency_penalty, presence_penalty, logit_bias } = request;
  return {
    model,
    ...(raw ? { prompt } : { messages: messages ?? [{ role: "user", content: prompt ?? "" }], ...talkOf(request) }),
    ...{ max_tokens, temperature, top_p, top_k, min_p, seed, frequency_penalty, presence_penalty, logit_bias },
    stream: true,
    stream_options: { include_usage: true },
  };
}

/** What only a chat has. */
function talkOf({ tools, tool_choice, parallel_tool_calls, json_schema, reasoning_effort }: RunRequest): Record<string, unknown> {
  const named = typeof tool_choice === "object" ? { type: "function", function: tool_choice } : tool_choice;
  return {
    ...(tools === undefined || tools.length === 0 ? {} : { tools, tool_choice: named, parallel_tool_calls }),
    ...(json_schema === undefined ? {} : { response_format: formatOf(json_schema) }),
    // Its template nobody can see from here: it gets all names for it, and the words that most of them know.
    ...(reasoning_effort === undefined ? {} : { chat_template_kwargs: told(reasoning_effort, "") }),
  };
}

function formatOf(schema: NonNullable<RunRequest["json_schema"]>) {
  return typeof schema === "boolean"
    ? { type: "json_object" }
    : { type: "json_schema", json_schema: { name: "answer", strict: true, schema } };
}

function checkWords({ json_schema, raw }: RunRequest): void {
  if (raw && json_schema !== undefined) throw without("json_schema", "together with raw; send messages");
}

function without(param: string, instead: string): RbeesError {
  const why = `${param}: the API of the server that this worker stands on has no word for it: ${instead}`;
  return new RbeesError("INVALID_REQUEST", why, { param });
}
