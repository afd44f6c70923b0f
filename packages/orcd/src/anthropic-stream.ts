/** A job's events as those of Anthropic's Messages API. */
import type { AnthropicMessage, AnthropicStop, AnthropicUsage } from "@rbees/contracts/anthropic";
import { ERROR_FORMS } from "@rbees/contracts/error-body";
import type { RbeesError } from "@rbees/contracts/errors";
import type { EndEvent } from "@rbees/contracts/events";
import { EVENTS, type EventStream, type StreamForm } from "@rbees/kit/event-stream";
import type { ActiveJob } from "./active-job.ts";
import { AnswerStream } from "./answer-stream.ts";
import { latin1Of } from "./latin1.ts";

/** That API fills silence with an event of its own. */
export const ANTHROPIC_EVENTS: StreamForm = { ...EVENTS, ping: event({ type: "ping" }) };

const DELTA = 'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":';
/** The prompt's tokens are known when the answer ends. */
const NOTHING_YET = { tokens_in: 0, tokens_cached: 0, tokens_out: 0 };

export interface AnthropicAnswer {
  readonly job: Pick<ActiveJob, "id" | "request" | "correlation_id">;
  /** As the client asked; the job's own may be smaller, for want of room in the context. */
  readonly max_tokens: number;
}

export class AnthropicStream extends AnswerStream {
  readonly #answer: AnthropicAnswer;
  #begun = false;
  /** The one block of content: there is none before its first text. */
  #in_block = false;

  constructor(to: EventStream, answer: AnthropicAnswer) {
    super(to);
    this.#answer = answer;
  }

  protected started(): string {
    if (this.#begun) return "";
    this.#begun = true;
    return event({ type: "message_start", message: message(this.#answer, [], undefined) });
  }

  protected token(text: string): string {
    return `${this.started()}${this.#block()}${DELTA}${text}}}\n\n`;
  }

  #block(): string {
    if (this.#in_block) return "";
    this.#in_block = true;
    return event({ type: "content_block_start", index: 0, content_block: textBlock("") });
  }

  protected ended(end: EndEvent): string {
    const { stop_reason, stop_sequence, stop_details, container, usage } = message(this.#answer, [], end);
    const delta = { stop_reason, stop_sequence, stop_details, container };
    const block_stop = this.#in_block ? event({ type: "content_block_stop", index: 0 }) : "";
    return `${this.started()}${block_stop}${event({ type: "message_delta", delta, usage })}${event({ type: "message_stop" })}`;
  }

  protected failed(error: RbeesError): string {
    return `event: error\ndata: ${latin1Of(JSON.stringify(ERROR_FORMS.anthropic.body(error, this.#answer.job.correlation_id)))}\n\n`;
  }
}

export function textBlock(text: string): AnthropicMessage["content"][number] {
  return { type: "text", text, citations: null };
}

/** The whole message, or what is known of it while there is no end. */
export function message(
  { job, max_tokens }: AnthropicAnswer,
  content: AnthropicMessage["content"],
  end: EndEvent | undefined,
): AnthropicMessage {
  return {
    id: `msg_${job.id}`,
    type: "message",
    role: "assistant",
    model: job.request.model,
    content,
    stop_reason: end === undefined ? null : stopReason(end, max_tokens),
    stop_sequence: end?.stop ?? null,
    stop_details: null,
    container: null,
    diagnostics: null,
    usage: usageOf(end),
  };
}

function stopReason({ stop_reason, tokens_out }: EndEvent, max_tokens: number): AnthropicStop {
  if (stop_reason === "EOS") return "end_turn";
  if (stop_reason === "STOP_SEQUENCE") return "stop_sequence";
  return tokens_out < max_tokens ? "model_context_window_exceeded" : "max_tokens";
}

function usageOf({
  tokens_in,
  tokens_cached,
  tokens_out,
}: Pick<EndEvent, "tokens_in" | "tokens_cached" | "tokens_out"> = NOTHING_YET): AnthropicUsage {
  return {
    input_tokens: tokens_in - tokens_cached,
    cache_read_input_tokens: tokens_cached,
    cache_creation_input_tokens: 0,
    cache_creation: null,
    output_tokens: tokens_out,
    output_tokens_details: null,
    server_tool_use: null,
    service_tier: null,
    inference_geo: null,
    speed: null,
  };
}

function event(says: Readonly<Record<string, unknown>> & { readonly type: string }): string {
  return `event: ${says.type}\ndata: ${latin1Of(JSON.stringify(says))}\n\n`;
}
