/** What becomes of a request once its prompt is tokens: what does not go together, or not into the context, is refused. */
import { RbeesError } from "@rbees/contracts/errors";
import type { RunRequest } from "../engine.ts";

/** With no more tokens than there is room for, if that is what was asked for. */
export function fitting(
  asked: RunRequest,
  tokens: readonly number[],
  { context_size, vocab_size }: { context_size: number; vocab_size: number },
): RunRequest {
  if (tokens.length === 0) throw new RbeesError("INVALID_REQUEST", "prompt: has no tokens", { param: "prompt" });
  const unknown = asked.token_prompt?.find((token) => token >= vocab_size);
  if (unknown !== undefined)
    throw new RbeesError("INVALID_REQUEST", `prompt: ${notInVocabulary(unknown, vocab_size)}`, { param: "prompt" });
  const request = fitted(asked, context_size - tokens.length);
  checkContinued(request, vocab_size);
  const { max_tokens } = request;
  if (tokens.length + max_tokens <= context_size) return request;
  throw new RbeesError("CONTEXT_TOO_LARGE", tooLong(request, tokens.length, context_size), {
    param: "prompt",
    details: { tokens_in: tokens.length, max_tokens, context_size },
  });
}

/** Whoever wrote three words into a chat may not know that their program offers dozens of tools beside them. */
function tooLong({ max_tokens, tools = [], tool_choice }: RunRequest, tokens_in: number, context_size: number): string {
  const held = `a slot of this worker holds ${context_size}`;
  if (tokens_in < context_size)
    return `The prompt has ${tokens_in} tokens and max_tokens is ${max_tokens}: together ${tokens_in + max_tokens}, but ${held}. Shorten the prompt or lower max_tokens.`;
  const shown = tool_choice === "none" ? 0 : tools.length;
  if (shown === 0) return `The prompt has ${tokens_in} tokens, but ${held}, prompt and answer together. Shorten the prompt.`;
  return `The prompt has ${tokens_in} tokens with the descriptions of its tools (${shown}), but ${held}, prompt and answer together. Offer fewer tools or shorten the prompt.`;
}

function notInVocabulary(token: number, vocab_size: number): string {
  return `token ${token} is not in the model's vocabulary of ${vocab_size}`;
}

/** One token at least, so that a prompt that is too long is refused. */
function fitted(request: RunRequest, room: number): RunRequest {
  if (!request.fit_context || request.max_tokens <= room) return request;
  return { ...request, max_tokens: Math.max(1, room) };
}

function checkContinued({ continue_tokens, max_tokens }: RunRequest, vocab_size: number): void {
  const unknown = continue_tokens.find((token) => token >= vocab_size);
  const problem =
    unknown !== undefined
      ? notInVocabulary(unknown, vocab_size)
      : continue_tokens.length > max_tokens
        ? `has ${continue_tokens.length} tokens, more than max_tokens (${max_tokens})`
        : undefined;
  if (problem !== undefined) {
    throw new RbeesError("INVALID_REQUEST", `continue_from.tokens: ${problem}`, { param: "continue_from.tokens" });
  }
}
