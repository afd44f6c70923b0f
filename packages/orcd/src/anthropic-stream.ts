/** A job's events as those of Anthropic's Messages API. */
import type { AnthropicMessage, AnthropicStop, AnthropicUsage } from "@rbees/contracts/anthropic";
import { ERROR_FORMS } from "@rbees/contracts/error-body";
import type { RbeesError } from "@rbees/contracts/errors";
import type { EndEvent } from "@rbees/contracts/events";
import type { ToolCallPiece } from "@rbees/contracts/tools";
import { EVENTS, type EventStream, type StreamForm } from "@rbees/kit/event-stream";
import type { ActiveJob, Said } from "./active-job.ts";
import { calledModel } from "./adapters.ts";
import { AnswerStream } from "./answer-stream.ts";
import { argumentsObject } from "./call-arguments.ts";
import { latin1Of } from "./latin1.ts";

/** That API fills silence with an event of its own. */
export const ANTHROPIC_EVENTS: StreamForm = { ...EVENTS, ping: event({ type: "ping" }) };

/** The prompt's tokens are known when the answer ends. */
const NOTHING_YET = { tokens_in: 0, tokens_cached: 0, tokens_out: 0 };

export interface AnthropicAnswer {
  readonly job: Pick<ActiveJob, "id" | "request" | "correlation_id">;
  /** As the client asked; the job's own may be smaller, for want of room in the context. */
  readonly max_tokens: number;
}

type Block = AnthropicMessage["content"][number];

export class AnthropicStream extends AnswerStream {
  readonly #answer: AnthropicAnswer;
  #begun = false;
  /** The blocks of content so far: there is none before something was said. */
  #blocks = 0;
  #in_block: Block["type"] | undefined;

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
    return this.#block("text", () => textBlock("")) + this.#delta("text_delta", "text", text);
  }

  protected reasoning(text: string): string {
    return this.#block("thinking", () => thinkingBlock("")) + this.#delta("thinking_delta", "thinking", text);
  }

  protected call({ id = "", name, arguments: more }: ToolCallPiece): string {
    // Each call is a block of its own, also next to another one.
    const begins = name === undefined ? "" : this.#stop() + this.#block("tool_use", () => callBlock(id, name, {}));
    return begins + (more === "" ? "" : this.#delta("input_json_delta", "partial_json", latin1Of(JSON.stringify(more))));
  }

  #delta(type: string, member: string, text: string): string {
    const delta = `{"type":"content_block_delta","index":${this.#blocks - 1},"delta":{"type":"${type}","${member}":${text}}}`;
    return `event: content_block_delta\ndata: ${delta}\n\n`;
  }

  /** Goes on with a block of this kind, or begins one. */
  #block(kind: Block["type"], empty: () => Block): string {
    if (this.#in_block === kind) return "";
    const before = this.started() + this.#stop();
    this.#in_block = kind;
    this.#blocks += 1;
    return before + event({ type: "content_block_start", index: this.#blocks - 1, content_block: empty() });
  }

  #stop(): string {
    if (this.#in_block === undefined) return "";
    this.#in_block = undefined;
    return event({ type: "content_block_stop", index: this.#blocks - 1 });
  }

  protected ended(end: EndEvent): string {
    const { stop_reason, stop_sequence, stop_details, container, usage } = message(this.#answer, [], end, this.called);
    const delta = { stop_reason, stop_sequence, stop_details, container };
    return `${this.started()}${this.#stop()}${event({ type: "message_delta", delta, usage })}${event({ type: "message_stop" })}`;
  }

  protected failed(error: RbeesError): string {
    return `event: error\ndata: ${latin1Of(JSON.stringify(ERROR_FORMS.anthropic.body(error, this.#answer.job.correlation_id)))}\n\n`;
  }
}

function textBlock(text: string): Block {
  return { type: "text", text, citations: null };
}

/** Nobody has signed it: it is not asked for when it comes back. */
function thinkingBlock(thinking: string): Block {
  return { type: "thinking", thinking, signature: "" };
}

function callBlock(id: string, name: string, input: Record<string, unknown>): Block {
  return { type: "tool_use", id, name, input, caller: { type: "direct" } };
}

/** An answer that is whole, as blocks. */
export function blocksOf({ text, reasoning = "", tool_calls = [] }: Said): Block[] {
  return [
    ...(reasoning === "" ? [] : [thinkingBlock(reasoning)]),
    ...(text === "" ? [] : [textBlock(text)]),
    ...tool_calls.map(({ id, function: called }) => callBlock(id, called.name, argumentsObject(called.arguments))),
  ];
}

/** The whole message, or what is known of it while there is no end. */
export function message(
  { job, max_tokens }: AnthropicAnswer,
  content: AnthropicMessage["content"],
  end: EndEvent | undefined,
  called = false,
): AnthropicMessage {
  return {
    id: `msg_${job.id}`,
    type: "message",
    role: "assistant",
    model: calledModel(job.request),
    content,
    stop_reason: end === undefined ? null : stopReason(end, max_tokens, called),
    stop_sequence: end?.stop ?? null,
    stop_details: null,
    container: null,
    diagnostics: null,
    usage: usageOf(end),
  };
}

function stopReason({ stop_reason, tokens_out }: EndEvent, max_tokens: number, called: boolean): AnthropicStop {
  if (stop_reason === "EOS") return called ? "tool_use" : "end_turn";
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
