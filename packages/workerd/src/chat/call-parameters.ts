/** Arguments that a model writes one by one between tags, as they come: turned into the JSON object that they stand for. */

/** Names of those arguments of a function whose values are text: what looks like a number there is none. */
export type TextArguments = ReadonlySet<string>;

const OPEN = /^<parameter=([^>\n]{1,256})>/;
const CLOSE = "</parameter>";
const END = "</function>";

export interface Parsed {
  /** More of the JSON. */
  readonly written: string;
  /** What was not taken. */
  readonly rest: string;
  /** `bad`: what follows is no argument, nor the end. */
  readonly state: "open" | "done" | "bad";
}

export class CallParameters {
  readonly #texts: TextArguments;
  #count = 0;
  /** The argument whose value comes; undefined between two. */
  #value: { readonly is_text: boolean; begun: boolean } | undefined;

  constructor(texts: TextArguments) {
    this.#texts = texts;
  }

  parse(text: string): Parsed {
    let written = "";
    for (let rest = text; ; ) {
      const step = this.#value === undefined ? this.#between(rest) : this.#inValue(rest, this.#value);
      written += step.written;
      rest = step.rest;
      if (step.state !== "on") return { written, rest, state: step.state };
    }
  }

  #between(text: string): Omit<Parsed, "state"> & { state: Parsed["state"] | "on" } {
    const said = text.trimStart();
    const first = this.#count === 0;
    if (said.startsWith(END)) return { written: first ? "{}" : "}", rest: said.slice(END.length), state: "done" };
    const [tag, name] = OPEN.exec(said) ?? [];
    if (tag !== undefined && name !== undefined) {
      this.#count += 1;
      this.#value = { is_text: this.#texts.has(name), begun: false };
      const before = `${first ? "{" : ", "}${JSON.stringify(name)}: ${this.#value.is_text ? '"' : ""}`;
      return { written: before, rest: said.slice(tag.length), state: "on" };
    }
    const may_become = END.startsWith(said) || "<parameter=".startsWith(said) || /^<parameter=[^>\n]{0,256}$/.test(said);
    if (may_become) return { written: "", rest: said, state: "open" };
    return { written: first ? "{}" : "}", rest: said, state: "bad" };
  }

  /** A value stands on lines of its own: the breaks at its ends are no part of it. */
  #inValue(text: string, value: { is_text: boolean; begun: boolean }): Omit<Parsed, "state"> & { state: "open" | "on" } {
    if (text === "") return { written: "", rest: "", state: "open" };
    const from = !value.begun && value.is_text && text.startsWith("\n") ? 1 : 0;
    const at = text.indexOf(CLOSE);
    if (at >= 0) {
      this.#value = undefined;
      const said = text.slice(from, at);
      const rest = text.slice(at + CLOSE.length);
      const whole = said.endsWith("\n") ? said.slice(0, -1) : said;
      return { written: value.is_text ? `${escaped(whole)}"` : asJson(said.trim()), rest, state: "on" };
    }
    if (!value.is_text) return { written: "", rest: text, state: "open" };
    const certain = certainLength(text);
    if (certain <= from) return { written: "", rest: text, state: "open" };
    value.begun = true;
    return { written: escaped(text.slice(from, certain)), rest: text.slice(certain), state: "open" };
  }
}

/** How much of it is a value for certain: without a break at its end and what may become the tag behind it, nor half a character. */
function certainLength(text: string): number {
  let at = text.length;
  for (let kept = Math.min(CLOSE.length - 1, at); kept > 0; kept -= 1) {
    if (!CLOSE.startsWith(text.slice(-kept))) continue;
    at -= kept;
    break;
  }
  if (text.charAt(at - 1) === "\n") at -= 1;
  const last = text.charCodeAt(at - 1);
  return last >= 0xd800 && last <= 0xdbff ? at - 1 : at;
}

function escaped(text: string): string {
  return JSON.stringify(text).slice(1, -1);
}

function asJson(text: string): string {
  try {
    JSON.parse(text);
    return text;
  } catch {
    return JSON.stringify(text);
  }
}
