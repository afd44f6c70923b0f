/**
 * Text that people or tools wrote never becomes a special token: where some of it holds the name of one, the rendered conversation is
 * cut into what the template wrote and what they wrote, to be tokenised apart.
 */
import { RbeesError } from "@rbees/contracts/errors";
import type { Conversation } from "./render.ts";

export interface Piece {
  text: string;
  special: boolean;
}

export interface Tokenizer {
  tokenize(text: string, special: boolean, continues?: boolean): number[];
}

/** What stands around a tool's result in some templates, and is a token of its own in their vocabularies though not a special one. */
const RESULT_MARKS = /(?<=<)(?=\/?(?:tool_response|tool_call|think|tools)>)/;

/** Undefined when the conversation holds no name of a special token: then it is tokenised in one piece, exactly as llama.cpp does it. */
export function pieces(
  model: Tokenizer,
  conversation: Conversation,
  text: string,
  render: (conversation: Conversation) => string,
): Piece[] | undefined {
  const said = new Set<string>();
  collect(conversation, said);
  const results = conversation.messages.flatMap(({ role, content }) => (role === "tool" && content !== null ? [content] : []));
  const marks = new Set(results.filter((content) => RESULT_MARKS.test(content)));
  if (marks.size === 0 && !holdsSpecial(model, [...said].join("\n"))) return undefined;
  const texts: string[] = [];
  // Marks that nobody can have written: a new random part for each.
  const nonce = Math.random().toString(36).slice(2);
  const marked = replaced(conversation, (one) => {
    if (!marks.has(one) && !holdsSpecial(model, one)) return one;
    texts.push(one);
    return `rbees-text-${nonce}-${texts.length - 1}-mark`;
  });
  return aligned(render(marked).split(new RegExp(`rbees-text-${nonce}-(\\d+)-mark`)), texts, text);
}

/** Whether the tokenizer would make a special token of something in the text. */
function holdsSpecial(model: Tokenizer, text: string): boolean {
  const plain = model.tokenize(text, false);
  const special = model.tokenize(text, true);
  return plain.length !== special.length || plain.some((token, i) => token !== special[i]);
}

/** Every string in it, the names of members too. */
function collect(value: unknown, into: Set<string>): void {
  if (typeof value === "string") into.add(value);
  else if (typeof value === "object" && value !== null) {
    for (const [name, inner] of Object.entries(value)) {
      if (!Array.isArray(value)) into.add(name);
      collect(inner, into);
    }
  }
}

function replaced<T>(value: T, by: (text: string) => string): T {
  if (typeof value === "string") return by(value) as T;
  if (Array.isArray(value)) return value.map((inner) => replaced(inner, by)) as T;
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([name, inner]) => [by(name), replaced(inner, by)])) as T;
}

const inJson = (text: string) => JSON.stringify(text).slice(1, -1);
/** How templates write a text: as it is, without blanks at its ends, inside JSON. */
const FORMS: readonly ((text: string) => string)[] = [
  (text) => text,
  inJson,
  (text) => text.trim(),
  (text) => text.trimStart(),
  (text) => text.trimEnd(),
  (text) => inJson(text.trim()),
];

/** `parts`: by turns what the template wrote, and the number of a text. */
function aligned(parts: readonly string[], texts: readonly string[], rendered: string): Piece[] {
  const found: Piece[] = [];
  let at = 0;
  for (const [i, part] of parts.entries()) {
    if (i % 2 === 0) {
      if (!rendered.startsWith(part, at)) throw rewritten();
      found.push({ text: part, special: true });
      at += part.length;
      continue;
    }
    const next = parts[i + 1] ?? "";
    const form = FORMS.map((write) => write(texts[Number(part)] ?? "")).find(
      (text) => rendered.startsWith(text, at) && rendered.startsWith(next, at + text.length),
    );
    if (form === undefined) throw rewritten();
    for (const text of form.split(RESULT_MARKS)) found.push({ text, special: false });
    at += form.length;
  }
  if (at !== rendered.length) throw rewritten();
  return found.filter(({ text }) => text !== "");
}

function rewritten(): RbeesError {
  return new RbeesError(
    "INVALID_REQUEST",
    "A message or a tool holds the name of a special token, and the model's chat template rewrites it, so the two can't be told apart. Remove it.",
    { param: "messages" },
  );
}
