/**
 * How a model is told how long to think. There is no one way: Qwen's, GLM's and SmolLM's templates ask whether `enable_thinking`, those of
 * DeepSeek and Granite whether `thinking`, and those of gpt-oss and Mistral for the `reasoning_effort` itself, of which most know three.
 */
import type { Feature, ReasoningEffort } from "@rbees/contracts/sets";
import { type Conversation, type Renderer, rendered } from "./render.ts";

type Told = Pick<Conversation, "enable_thinking" | "thinking" | "reasoning_effort">;

const NEAREST = { none: "low", minimal: "low", low: "low", medium: "medium", high: "high", xhigh: "high" } as const;

export function told(effort: ReasoningEffort, chat_template: string): Told {
  const thinks = effort !== "none";
  // A template that knows the word says it between quotes.
  const known = new RegExp(`["']${effort}["']`).test(chat_template);
  return { enable_thinking: thinks, thinking: thinks, reasoning_effort: known ? effort : NEAREST[effort] };
}

/** What a worker says that it can do, if telling makes a difference to this template. */
export function thinkingFeature(model: Renderer): Feature[] {
  const messages = [{ role: "user", content: "hi" }];
  const [shortest, longest] = (["none", "high"] as const).map((effort) =>
    rendered(model, { messages, ...told(effort, model.chat_template) }),
  );
  return shortest !== undefined && longest !== undefined && shortest !== longest ? ["reasoning_effort"] : [];
}
