/**
 * A conversation that ends with the assistant's own words asks for more of them: the answer goes on in the same turn, as with llama.cpp's
 * server and with Ollama. Templates have no place for that; the words stand behind the prompt for an answer.
 */
import type { Message } from "@rbees/contracts/message";
import { endsOpened } from "./reading.ts";
import type { Thinking } from "./template-facts.ts";

export interface Begun {
  /** What was said before the turn that goes on. */
  readonly before: readonly Message[];
  readonly turn: Message;
}

/** Undefined where there is nothing to go on with: the answer is a turn of its own. */
export function begunTurn(messages: readonly Message[]): Begun | undefined {
  const turn = messages.at(-1);
  if (turn?.role !== "assistant" || turn.tool_calls !== undefined || turn.content === "" || messages.length < 2) return undefined;
  return { before: messages.slice(0, -1), turn };
}

export interface BegunPart {
  readonly text: string;
  readonly special: boolean;
}

/** The turn behind a prompt for an answer. One that has begun to speak has thought: where the prompt opens thinking, that is closed. */
export function begunParts({ turn }: Begun, prompt: string, thinking: Thinking | undefined): BegunPart[] {
  const words = { text: turn.content, special: false };
  if (thinking === undefined || !endsOpened(prompt, thinking)) return [words];
  return [{ text: turn.reasoning_content ?? "", special: false }, { text: `\n${thinking.close}\n\n`, special: true }, words];
}
