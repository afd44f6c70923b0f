/** A job's events as those of OpenAI's Responses API. */
import type { RbeesError } from "@rbees/contracts/errors";
import type { EndEvent } from "@rbees/contracts/events";
import type { OutputLogprob } from "@rbees/contracts/logprobs";
import { OPENAI_TEMPERATURE } from "@rbees/contracts/openai";
import { declaredAs, type OpenaiResponse, type OutputItem, type ResponsesRequest } from "@rbees/contracts/responses";
import type { Tool, ToolCallPiece } from "@rbees/contracts/tools";
import type { EventStream } from "@rbees/kit/event-stream";
import type { ActiveJob, Said } from "./active-job.ts";
import { AnswerStream } from "./answer-stream.ts";
import { latin1Of, utf8Of } from "./latin1.ts";
import { outputLogprobs } from "./logprob-forms.ts";

export interface ResponsesAnswer {
  readonly job: Pick<ActiveJob, "id" | "correlation_id" | "submitted_at_ms">;
  /** What comes back of the request. */
  readonly asked: Omit<ResponsesRequest, "input">;
}

type Status = OpenaiResponse["status"];
type Kind = OutputItem["type"];

/** What the pieces of an item are called, and what is in them. */
const DELTAS: Record<Kind, string> = {
  reasoning: "response.reasoning_text",
  message: "response.output_text",
  function_call: "response.function_call_arguments",
};

/** The item that is being said: its text is the inside of a JSON string, as latin1. */
interface Saying {
  readonly kind: Kind;
  readonly called: Pick<ToolCallPiece, "id" | "name">;
  text: string;
  logprobs: OutputLogprob[];
}

export class ResponsesStream extends AnswerStream {
  readonly #answer: ResponsesAnswer;
  #events = 0;
  /** The items that are complete. */
  readonly #items: OutputItem[] = [];
  #saying: Saying | undefined;

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
    return this.#begin("message") + this.#delta(text);
  }

  protected reasoning(text: string): string {
    return this.#begin("reasoning") + this.#delta(text);
  }

  protected call({ id, name, arguments: more }: ToolCallPiece): string {
    const begins = name === undefined ? "" : this.#begin("function_call", { id, name });
    return begins + (more === "" ? "" : this.#delta(latin1Of(JSON.stringify(more))));
  }

  get #at() {
    return this.#items.length;
  }

  #delta(text: string): string {
    const saying = this.#saying as Saying;
    saying.text += text.slice(1, -1);
    const { kind, called } = saying;
    const type = `${DELTAS[kind]}.delta`;
    const part = kind === "function_call" ? "" : ',"content_index":0';
    const logprobs = kind === "message" ? `,"logprobs":${this.#logprobs(saying)}` : "";
    const place = `"item_id":"${itemId(this.#answer, kind, called)}","output_index":${this.#at}${part}`;
    const data = `{"type":"${type}","sequence_number":${this.#events},${place},"delta":${text}${logprobs}}`;
    this.#events += 1;
    return `event: ${type}\ndata: ${data}\n\n`;
  }

  /** What was not said yet of how likely tokens were, as JSON; it goes with the text that follows, or with its end. */
  #logprobs({ logprobs }: Saying): string {
    const entries = this.takeLogprobs();
    if (entries.length === 0) return "[]";
    const more = outputLogprobs(entries);
    logprobs.push(...more);
    return latin1Of(JSON.stringify(more));
  }

  /** Goes on with an item of this kind, or begins one; each call is one of its own. */
  #begin(kind: Kind, called: Saying["called"] = {}): string {
    if (this.#saying?.kind === kind && kind !== "function_call") return "";
    const before = this.started() + this.#done("completed");
    this.#saying = { kind, called, text: "", logprobs: [] };
    const item = itemOf(this.#answer, kind, "", "in_progress", called);
    const added = this.#event("response.output_item.added", {
      output_index: this.#at,
      item: "content" in item ? { ...item, content: [] } : item,
    });
    if (!("content" in item)) return before + added;
    return before + added + this.#event("response.content_part.added", { ...this.#part(item), content_index: 0, part: item.content[0] });
  }

  #part({ id }: OutputItem) {
    return { item_id: id, output_index: this.#at };
  }

  /** Ends the item that is being said, if one is. */
  #done(status: Status): string {
    if (this.#saying === undefined) return "";
    const { kind, called, text: written, logprobs } = this.#saying;
    if (kind === "message") this.#logprobs(this.#saying);
    const text = JSON.parse(`"${utf8Of(written)}"`) as string;
    const item = itemOf(this.#answer, kind, text, status, called, logprobs);
    const type = `${DELTAS[kind]}.done`;
    const said =
      "content" in item
        ? this.#event(type, { ...this.#part(item), content_index: 0, text, ...(kind === "message" ? { logprobs } : {}) }) +
          this.#event("response.content_part.done", { ...this.#part(item), content_index: 0, part: item.content[0] })
        : this.#event(type, { ...this.#part(item), arguments: text });
    const done = said + this.#event("response.output_item.done", { output_index: this.#at, item });
    this.#items.push(item);
    this.#saying = undefined;
    return done;
  }

  protected ended(end: EndEvent): string {
    const status = statusOf(end);
    // An answer that says nothing is an empty message.
    const before = this.started() + (this.#saying === undefined && this.#at === 0 ? this.#begin("message") : "") + this.#done(status);
    return before + this.#event(`response.${status}`, { response: responseOf(this.#answer, status, this.#items, end) });
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

const ID_PREFIX: Record<Kind, string> = { reasoning: "rs", message: "msg", function_call: "fc" };

function itemId({ job }: ResponsesAnswer, kind: Kind, { id }: Saying["called"]): string {
  return `${ID_PREFIX[kind]}_${job.id}${id === undefined ? "" : `_${id}`}`;
}

export function statusOf({ stop_reason }: EndEvent): "completed" | "incomplete" {
  return stop_reason === "MAX_TOKENS" ? "incomplete" : "completed";
}

function itemOf(
  answer: ResponsesAnswer,
  kind: Kind,
  text: string,
  status: Status,
  called: Saying["called"],
  logprobs: OutputLogprob[] = [],
): OutputItem {
  const id = itemId(answer, kind, called);
  switch (kind) {
    case "message":
      return { id, type: kind, role: "assistant", status, content: [{ type: "output_text", text, annotations: [], logprobs }] };
    case "reasoning":
      return { id, type: kind, status, summary: [], content: [{ type: "reasoning_text", text }] };
    case "function_call":
      return {
        ...{ id, type: kind, status, call_id: called.id ?? "" },
        ...declaredAs(answer.asked.tools ?? [], called.name ?? ""),
        arguments: text,
      };
  }
}

/** An answer that is whole, as items. */
export function itemsOf(
  answer: ResponsesAnswer,
  { text, reasoning = "", tool_calls = [], logprobs = [] }: Said,
  status: Status,
): OutputItem[] {
  const says_more = reasoning !== "" || tool_calls.length > 0;
  const last = tool_calls.length > 0 ? "function_call" : text !== "" || !says_more ? "message" : "reasoning";
  const state = (kind: Kind) => (kind === last ? status : "completed");
  return [
    ...(reasoning === "" ? [] : [itemOf(answer, "reasoning", reasoning, state("reasoning"), {})]),
    ...(text === "" && says_more ? [] : [itemOf(answer, "message", text, state("message"), {}, outputLogprobs(logprobs))]),
    ...tool_calls.map(({ id, function: called }, at) =>
      itemOf(answer, "function_call", called.arguments, at === tool_calls.length - 1 ? status : "completed", { id, name: called.name }),
    ),
  ];
}

/** The response, or what is known of it while there is no end. */
export function responseOf(
  { job, asked }: ResponsesAnswer,
  status: Status,
  output: readonly OutputItem[],
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
    output: [...output],
    usage: end === undefined ? null : usageOf(end),
    model: asked.model,
    instructions: asked.instructions ?? null,
    max_output_tokens: asked.max_output_tokens ?? null,
    metadata: asked.metadata ?? {},
    temperature: asked.temperature ?? OPENAI_TEMPERATURE,
    top_p: asked.top_p ?? 1,
    text: { format: asked.text?.format ?? { type: "text" } },
    background: false,
    store: false,
    previous_response_id: null,
    parallel_tool_calls: asked.parallel_tool_calls ?? true,
    tool_choice:
      typeof asked.tool_choice === "object" && asked.tool_choice !== null
        ? { type: "function", ...asked.tool_choice }
        : (asked.tool_choice ?? "auto"),
    tools: (asked.tools ?? []).map((tool) =>
      tool.type === "function" ? functionOf(tool) : { ...tool, description: tool.description ?? "", tools: tool.tools.map(functionOf) },
    ),
    reasoning: null,
    truncation: "disabled",
    ...(typeof asked.top_logprobs === "number" ? { top_logprobs: asked.top_logprobs } : {}),
    service_tier: "default",
    ...(typeof user === "string" ? { user } : {}),
    ...(typeof safety_identifier === "string" ? { safety_identifier } : {}),
  };
}

function functionOf({ type, function: { name, description, parameters } }: Tool) {
  return { type, name, description: description ?? null, parameters: parameters ?? null, strict: false as const };
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
