/** The beginning of a call, up to its arguments: read anew with each token until it is clear what it is. */
import type { CallSyntax } from "./call-syntax.ts";
import { escapedControl, JsonScanner, jsonEnd } from "./json-scanner.ts";

export type CallHead =
  /** It may still become a call. */
  | "more"
  /** It is none. */
  | "bad"
  /** The arguments, an object, begin at `at`. `object`: they are a member of one, which ends after them. */
  | { readonly name: string; readonly at: number; readonly object: boolean; readonly array: boolean }
  /** The arguments begin there, each between tags. */
  | { readonly name: string; readonly tags_at: number; readonly array: false }
  /** A call that is over at `end`. */
  | { readonly name: string; readonly text: string; readonly end: number; readonly array: boolean }
  /** No call: text begins at `text_at`. */
  | { readonly text_at: number };

const NAME = /^\s*([A-Za-z0-9_.-]{1,64})/;
/** What a call may begin with: other JSON is known to be none at once, and not waited for. */
const FIRST_MEMBERS: ReadonlySet<string> = new Set(["name", "arguments", "parameters", "type", "id"]);
/** Marks between a name and its arguments are not longer. */
const BETWEEN_CHARS_MAX = 160;

/** `in_array`: it is a further one of an array that has begun. */
export function callHead(text: string, syntax: CallSyntax, names: ReadonlySet<string>, in_array: boolean): CallHead {
  const first = text.trimStart().charAt(0);
  if (first === "") return "more";
  if (syntax.form === "tagged") return taggedHead(text, names);
  if (first === "{" || first === "[") return objectHead(text, names, in_array);
  return syntax.between.length === 0 || in_array ? "bad" : namedHead(text, syntax, names);
}

function namedHead(text: string, { between, text_name }: CallSyntax, names: ReadonlySet<string>): CallHead {
  const found = NAME.exec(text);
  if (found === null) return "bad";
  const [before, name = ""] = found;
  const rest = text.slice(before.length);
  if (rest === "") return "more";
  const mark = between.map((pattern) => pattern.exec(rest)?.[0]).find((match) => match !== undefined);
  if (mark === undefined) return rest.length < BETWEEN_CHARS_MAX && /^(\[|\s*$)/.test(rest) ? "more" : "bad";
  const at = before.length + mark.length;
  if (name === text_name) return { text_at: at };
  if (!names.has(name)) return "bad";
  const args = text.slice(at);
  const blank = args.length - args.trimStart().length;
  if (blank === args.length) return "more";
  return args.charAt(blank) === "{" ? { name, at: at + blank, object: false, array: false } : "bad";
}

const TAG = /^\s*(?:<function=)?([A-Za-z0-9_.-]{1,64})>/;
const TAG_BEGUN = /^\s*(?:<(?:f(?:u(?:n(?:c(?:t(?:i(?:o(?:n(?:=)?)?)?)?)?)?)?)?)?)?$|^\s*(?:<function=)?[A-Za-z0-9_.-]{1,64}$/;

function taggedHead(text: string, names: ReadonlySet<string>): CallHead {
  const [tag, name] = TAG.exec(text) ?? [];
  if (tag === undefined || name === undefined) return TAG_BEGUN.test(text) ? "more" : "bad";
  return names.has(name) ? { name, tags_at: tag.length, array: false } : "bad";
}

/** What JSON text has at a place: where it goes on, or why not. */
class Cursor {
  readonly text: string;
  at: number;

  constructor(text: string, at = 0) {
    this.text = text;
    this.at = at;
  }

  /** The next character that is no blank; empty at the end. */
  next(): string {
    while (/\s/.test(this.text.charAt(this.at))) this.at += 1;
    return this.text.charAt(this.at);
  }

  /** What the string that begins here says. */
  string(): { text: string } | "more" | "bad" {
    const scanner = new JsonScanner();
    let written = "";
    for (let at = this.at; at < this.text.length; at += 1) {
      const char = this.text.charAt(at);
      written += escapedControl(char, scanner.in_string);
      const state = scanner.push(char);
      if (state === "bad") return "bad";
      if (state === "open") continue;
      this.at = at + 1;
      return { text: JSON.parse(written) as string };
    }
    return "more";
  }
}

function objectHead(text: string, names: ReadonlySet<string>, in_array: boolean): CallHead {
  const cursor = new Cursor(text);
  let array = in_array;
  if (cursor.next() === "[") {
    if (in_array) return "bad";
    array = true;
    cursor.at += 1;
  }
  if (cursor.next() !== "{") return cursor.next() === "" ? "more" : "bad";
  cursor.at += 1;
  let name: string | undefined;
  let args: string | undefined;
  for (let members = 0; ; members += 1) {
    const next = cursor.next();
    if (next === "") return "more";
    if (next === "}") {
      cursor.at += 1;
      return name === undefined ? "bad" : { name, text: args ?? "{}", end: cursor.at, array };
    }
    if (members > 0) {
      if (next !== ",") return "bad";
      cursor.at += 1;
      if (cursor.next() === "") return "more";
    }
    const member = cursor.next() === '"' ? cursor.string() : "bad";
    if (member === "bad") return "bad";
    if (member === "more" || cursor.next() === "") return "more";
    if (cursor.next() !== ":" || (members === 0 && !FIRST_MEMBERS.has(member.text))) return "bad";
    cursor.at += 1;
    const begin = cursor.next();
    if (begin === "") return "more";
    const is_arguments = member.text === "arguments" || member.text === "parameters";
    if (is_arguments && begin === "{" && name !== undefined) return { name, at: cursor.at, object: true, array };
    const value = valueAt(cursor, begin);
    if (value === "more" || value === "bad") return value;
    if (member.text === "name") {
      if (begin !== '"' || !names.has(value.text)) return "bad";
      name = value.text;
    } else if (is_arguments) {
      args = argumentsIn(value.text);
      if (args === undefined) return "bad";
    }
  }
}

/** A whole value, which the cursor then stands behind: of a string what it says, of others how they are written. */
function valueAt(cursor: Cursor, begin: string): { text: string } | "more" | "bad" {
  if (begin === '"') return cursor.string();
  const from = cursor.at;
  if (begin !== "{" && begin !== "[") {
    const word = /^[-+.\w]+/.exec(cursor.text.slice(from))?.[0];
    if (word === undefined) return "bad";
    cursor.at += word.length;
    return cursor.at === cursor.text.length ? "more" : { text: word };
  }
  const end = jsonEnd(cursor.text, from);
  if (typeof end !== "number") return end;
  cursor.at = end;
  return { text: cursor.text.slice(from, end) };
}

/** Arguments that came whole; some models write them as a string. Undefined when they are no object. */
function argumentsIn(text: string): string | undefined {
  const given = text.trim();
  if (given === "null" || given === "") return "{}";
  if (!given.startsWith("{") || jsonEnd(given, 0) !== given.length) return undefined;
  const scanner = new JsonScanner();
  let written = "";
  for (const char of given) {
    written += escapedControl(char, scanner.in_string);
    scanner.push(char);
  }
  return written;
}
