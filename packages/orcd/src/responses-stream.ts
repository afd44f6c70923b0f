/** A job's events as those of OpenAI's Responses API. */
import type { RbeesError } from "@rbees/contracts/errors";
import type { EndEvent } from "@rbees/contracts/events";
import { OPENAI_TEMPERATURE } from "@rbees/contracts/openai";
import type { OpenaiResponse, OutputMessage, ResponsesRequest } from "@rbees/contracts/responses";
import type { EventStream } from "@rbees/kit/event-stream";
import type { ActiveJob } from "./active-job.ts";
import { AnswerStream } from "./answer-stream.ts";
import { latin1Of, utf8Of } from "./latin1.ts";

export interface ResponsesAnswer {
  readonly job: Pick<ActiveJob, "id" | "correlation_id" | "submitted_at_ms">;
  /** What comes back of the request. */
  readonly asked: Omit<ResponsesRequest, "input">;
}

const DELTA = "response.output_text.delta";

type Status = OpenaiResponse["status"];

export class ResponsesStream extends AnswerStream {
  readonly #answer: ResponsesAnswer;
  #events = 0;
  /** What was said so far: the inside of a JSON string, as latin1. */
  #text = "";
  #in_message = false;

  constructor(to: EventStream, answer: ResponsesAnswer) {
    super(to);
    this.#answer = answer;
  }

  protected started(): string {
    if (this.#events > 0) return "";
    const response = responseOf(this.#answer, "in_progress", [], undefined);
    return this.#event("response.created", { response }) + this.#event("response.in_progress", { response });
  }

  protected token(text: string): string {
    const before = this.started() + this.#beginMessage();
    this.#text += text.slice(1, -1);
    const data = `{"type":"${DELTA}","sequence_number":${this.#events},"item_id":"${messageId(this.#answer)}","output_index":0,"content_index":0,"delta":${text},"logprobs":[]}`;
    this.#events += 1;
    return `${before}event: ${DELTA}\ndata: ${data}\n\n`;
  }

  get #part() {
    return { item_id: messageId(this.#answer), output_index: 0, content_index: 0 };
  }

  #beginMessage(): string {
    if (this.#in_message) return "";
    this.#in_message = true;
    const { content, ...item } = messageOf(this.#answer, "", "in_progress");
    return (
      this.#event("response.output_item.added", { output_index: 0, item: { ...item, content: [] } }) +
      this.#event("response.content_part.added", { ...this.#part, part: content[0] })
    );
  }

  protected ended(end: EndEvent): string {
    const status = statusOf(end);
    const text = JSON.parse(`"${utf8Of(this.#text)}"`) as string;
    const item = messageOf(this.#answer, text, status);
    const before = this.started() + this.#beginMessage();
    const done =
      this.#event("response.output_text.done", { ...this.#part, text, logprobs: [] }) +
      this.#event("response.content_part.done", { ...this.#part, part: item.content[0] }) +
      this.#event("response.output_item.done", { output_index: 0, item });
    return before + done + this.#event(`response.${status}`, { response: responseOf(this.#answer, status, [item], end) });
  }

  protected failed(error: RbeesError): string {
    const { code, message } = error;
    return this.#event("error", { code, message, param: null, ...error.body(this.#answer.job.correlation_id) });
  }

  #event(type: string, says: object): string {
    const data = latin1Of(JSON.stringify({ type, sequence_number: this.#events, ...says }));
    this.#events += 1;
    return `event: ${type}\ndata: ${data}\n\n`;
  }
}

function messageId({ job }: ResponsesAnswer): string {
  return `msg_${job.id}`;
}

export function statusOf({ stop_reason }: EndEvent): "completed" | "incomplete" {
  return stop_reason === "MAX_TOKENS" ? "incomplete" : "completed";
}

export function messageOf(answer: ResponsesAnswer, text: string, status: Status): OutputMessage {
  const content = [{ type: "output_text" as const, text, annotations: [], logprobs: [] }];
  return { id: messageId(answer), type: "message", role: "assistant", status, content };
}

/** The response, or what is known of it while there is no end. */
export function responseOf(
  { job, asked }: ResponsesAnswer,
  status: Status,
  output: OutputMessage[],
  end: EndEvent | undefined,
): OpenaiResponse {
  const { user, safety_identifier } = asked;
  return {
    id: `resp_${job.id}`,
    object: "response",
    created_at: Math.floor(job.submitted_at_ms / 1000),
    completed_at: status === "completed" ? Math.floor(Date.now() / 1000) : null,
    status,
    error: null,
    incomplete_details: status === "incomplete" ? { reason: "max_output_tokens" } : null,
    output,
    usage: end === undefined ? null : usageOf(end),
    model: asked.model,
    instructions: asked.instructions ?? null,
    max_output_tokens: asked.max_output_tokens ?? null,
    metadata: asked.metadata ?? {},
    temperature: asked.temperature ?? OPENAI_TEMPERATURE,
    top_p: asked.top_p ?? 1,
    text: { format: { type: "text" } },
    background: false,
    store: false,
    previous_response_id: null,
    parallel_tool_calls: asked.parallel_tool_calls ?? true,
    tool_choice: "auto",
    tools: [],
    reasoning: null,
    truncation: "disabled",
    service_tier: "default",
    ...(typeof user === "string" ? { user } : {}),
    ...(typeof safety_identifier === "string" ? { safety_identifier } : {}),
  };
}

function usageOf({ tokens_in, tokens_out, tokens_cached }: EndEvent): OpenaiResponse["usage"] {
  return {
    input_tokens: tokens_in,
    input_tokens_details: { cached_tokens: tokens_cached, cache_write_tokens: 0 },
    output_tokens: tokens_out,
    output_tokens_details: { reasoning_tokens: 0 },
    total_tokens: tokens_in + tokens_out,
  };
}
