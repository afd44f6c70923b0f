/** How the text of an answer is read: which calls of functions are looked for in it, and what in it is thinking. */

import type { Tool } from "@rbees/contracts/tools";
import type { TextArguments } from "./call-parameters.ts";
import type { CallSyntax } from "./call-syntax.ts";
import { marksOf } from "./call-syntax.ts";
import type { Thinking } from "./template-facts.ts";

export interface Reading {
  /** How calls are written; undefined: none are looked for. */
  readonly syntax: CallSyntax | undefined;
  /** Functions that may be called: what calls another is text. */
  readonly names: ReadonlySet<string>;
  /** Of each, the arguments that are text. */
  readonly texts: ReadonlyMap<string, TextArguments>;
  /** false: the answer ends with its first call. */
  readonly parallel: boolean;
  readonly thinking: Thinking | undefined;
  /** The prompt ends with the mark that opens it. */
  readonly opened: boolean;
  /** Thinking is no part of the text. */
  readonly apart: boolean;
}

/** The arguments of a function that its schema says are text. */
export function textArguments({ function: { parameters = {} } }: Tool): TextArguments {
  const { properties } = parameters as { properties?: unknown };
  const entries = typeof properties === "object" && properties !== null ? Object.entries(properties) : [];
  return new Set(entries.flatMap(([name, schema]) => ((schema as { type?: unknown } | null)?.type === "string" ? [name] : [])));
}

/** Marks in the answer that may be special tokens, which have no text otherwise. */
export function marksIn({ syntax, thinking }: Reading): string[] {
  return [...(syntax === undefined ? [] : marksOf(syntax)), ...(thinking === undefined ? [] : [thinking.open, thinking.close])];
}

/** Whether a prompt ends inside thinking: only blanks after the mark that opens it. */
export function endsOpened(prompt: string, { open }: Thinking): boolean {
  return prompt.trimEnd().endsWith(open);
}
