/** What the orchestrator can say of a prompt without the model: about how many tokens it has, and which beginning it shares with others. */
import type { EmbedInput } from "@rbees/contracts/embed";
import type { SubmitJob } from "@rbees/contracts/job";
import type { Block } from "@rbees/core/prefix-index";

/** UTF-8 bytes a token stands for in running text. */
const BYTES_PER_TOKEN = 4;
/** Tokens of more bytes are rare in any vocabulary (runs of blanks), and no text consists of them. */
const BYTES_PER_TOKEN_MAX = 32;
/** So many blocks are compared; what comes after makes no difference to the choice of a worker. */
const BLOCKS_MAX = 256;
/** FNV-1a, on UTF-16 units. */
const FNV_OFFSET = 0x811c9dc5;
const FNV_PRIME = 0x01000193;

/** What a request asks with: a prompt or its tokens, or a conversation and the tools that it may call, or inputs whose vectors it wants. */
type Asked = Pick<SubmitJob, "prompt" | "messages" | "tools" | "tool_choice" | "parallel_tool_calls"> & {
  readonly token_prompt?: readonly number[];
  readonly inputs?: readonly EmbedInput[];
};

/** No two different requests have the same, so its hash stands for what was asked in the audit trail. */
export function exactText({ prompt, token_prompt, messages, inputs, tools, tool_choice, parallel_tool_calls }: Asked): string {
  if (inputs !== undefined) return JSON.stringify(inputs);
  if (token_prompt !== undefined) return JSON.stringify({ token_prompt });
  if (tools !== undefined) return JSON.stringify([messages ?? prompt, tools, tool_choice, parallel_tool_calls]);
  return messages === undefined ? (prompt ?? "") : JSON.stringify(messages);
}

/** Whether the model is shown tools, and so may call them. */
export function showsTools({ tools = [], tool_choice }: Pick<Asked, "tools" | "tool_choice">): boolean {
  return tools.length > 0 && tool_choice !== "none";
}

/** What the model reads and goes on from, without what its template adds (nothing for vectors, which share no beginning); a conversation that goes on has it as its beginning. */
export function contentText({ prompt, token_prompt, messages, tools = [], tool_choice }: Asked): string {
  if (token_prompt !== undefined) return tokenText(token_prompt);
  // Most templates show the tools before anything else.
  let content = !showsTools({ tools, tool_choice }) ? "" : JSON.stringify(tools.map((tool) => tool.function));
  if (messages === undefined) return content + (prompt ?? "");
  // A letter for the role: less than the template needs for it, so that lengths stay on the safe side.
  for (const { role, content: text, tool_calls = [] } of messages) {
    content += `${role.charAt(0)}${text}`;
    for (const call of tool_calls) content += `${call.function.name}${call.function.arguments}`;
  }
  return content;
}

/** Each token has the length that one is taken to have, so that equal blocks are of equal tokens. */
function tokenText(tokens: readonly number[]): string {
  return tokens.map((token) => String.fromCharCode(token >>> 16, token & 0xffff).padStart(BYTES_PER_TOKEN, "\0")).join("");
}

/** Of a request whose content is known: exactly, where it says its tokens. */
export function tokensOfPrompt({ token_prompt }: Asked, content: string): ReturnType<typeof tokensOf> {
  if (token_prompt === undefined) return tokensOf(Buffer.byteLength(content, "utf8"));
  return { prompt_tokens: token_prompt.length, prompt_tokens_min: token_prompt.length };
}

/** An estimate, and a number that a prompt of so many UTF-8 bytes has for certain: the worker counts. */
export function tokensOf(bytes: number): { prompt_tokens: number; prompt_tokens_min: number } {
  return { prompt_tokens: Math.ceil(bytes / BYTES_PER_TOKEN), prompt_tokens_min: Math.ceil(bytes / BYTES_PER_TOKEN_MAX) };
}

/** The same of inputs: the sum of all, and the longest that one has for certain; that may be cut if need be is no hindrance. */
export function tokensOfInputs(inputs: readonly EmbedInput[], truncate: boolean): ReturnType<typeof tokensOf> {
  const counts = inputs.map(tokensOfInput);
  return {
    prompt_tokens: counts.reduce((sum, { prompt_tokens }) => sum + prompt_tokens, 0),
    prompt_tokens_min: truncate ? 1 : counts.reduce((most, { prompt_tokens_min }) => Math.max(most, prompt_tokens_min), 1),
  };
}

/** The input that has the most tokens for certain, by the name of its field. */
export function longestInput(inputs: readonly EmbedInput[]): string {
  let longest = 0;
  const least = inputs.map((input) => tokensOfInput(input).prompt_tokens_min);
  for (const [i, tokens] of least.entries()) if (tokens > (least[longest] ?? 0)) longest = i;
  return inputs.length > 1 ? `input[${longest}]` : "input";
}

function tokensOfInput(input: EmbedInput): ReturnType<typeof tokensOf> {
  if (typeof input === "string") return tokensOf(Buffer.byteLength(input, "utf8"));
  return { prompt_tokens: input.length, prompt_tokens_min: input.length };
}

/**
 * The blocks of a prompt's content (`contentText`), of `block_tokens` tokens each, whole ones only: each is a hash of all the text up to its end, with what else decides
 * over the tokens (the model, its adapter, and whether the chat template is left out) or keeps requests apart (the salt), so that equal
 * blocks mean equal beginnings that may be used.
 */
export function promptBlocks(
  { model, lora, raw }: Pick<SubmitJob, "model" | "lora" | "raw">,
  content: string,
  { block_tokens, salt = "" }: { block_tokens: number; salt?: string | undefined },
): Block[] {
  const chars = block_tokens * BYTES_PER_TOKEN;
  const whole = Math.min(BLOCKS_MAX, Math.floor(content.length / chars));
  if (whole === 0) return [];
  const blocks: Block[] = [];
  const computed = `${model} ${raw} ${lora ?? ""} ${salt}`;
  let hash = hashed(computed, 0, computed.length, FNV_OFFSET);
  for (let at = 0; at < whole; at += 1) {
    hash = hashed(content, at * chars, (at + 1) * chars, hash);
    // A small integer: a table of those is the fastest to look things up in.
    blocks.push(hash >>> 2);
  }
  return blocks;
}

function hashed(text: string, from: number, end: number, seed: number): number {
  let hash = seed;
  for (let at = from; at < end; at += 1) hash = Math.imul(hash ^ text.charCodeAt(at), FNV_PRIME);
  return hash;
}
