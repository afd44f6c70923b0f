/**
 * Takes an answer's text apart as it comes: thinking, text, and calls of functions with their arguments as they grow. Marks are never
 * given out, and nothing is that could still become one. What looked like a call and is none comes out as the text that it was. The
 * result does not depend on how the text was cut.
 */
import type { ToolCallPiece } from "@rbees/contracts/tools";
import { callHead } from "./call-head.ts";
import { CallParameters, type TextArguments } from "./call-parameters.ts";
import { escapedControl, JsonScanner } from "./json-scanner.ts";
import type { Reading } from "./reading.ts";

export interface Said {
  reasoning: string;
  text: string;
  calls: ToolCallPiece[];
}

/** What may be a call is not waited for longer than this, unless something else is said. */
const HEAD_CHARS_MAX = 65_536;
const NO_TEXTS: TextArguments = new Set();
const FENCE = /^```(?:json)?\s*(?=[[{])/;
const FENCE_BEGUN = /^`{1,3}(?:j(?:s(?:on?)?)?)?\s*$/;

/** Where the answer stands. `members` is what follows the arguments inside their call's object, `broken` are arguments that are no JSON. */
type State = "begin" | "thinking" | "text" | "head" | "arguments" | "tags" | "broken" | "members" | "after" | "over";

export class Speech {
  readonly #reading: Reading;
  readonly #id_of: (index: number) => string;
  readonly #head_chars_max: number;
  /** What is not certain yet. */
  #rest = "";
  #state: State;
  #said: Said = { reasoning: "", text: "", calls: [] };
  /** The marks before a call that is not certain, as they were written. */
  #marks = "";
  #scanner = new JsonScanner();
  #tags = new CallParameters(NO_TEXTS);
  #thought = false;
  /** Blanks are dropped until something else comes: after thinking, and after a call. */
  #blanks = true;
  #in_object = false;
  #in_array = false;
  #calls = 0;
  #final = false;

  constructor(reading: Reading, id_of: (index: number) => string, head_chars_max = HEAD_CHARS_MAX) {
    this.#reading = reading;
    this.#id_of = id_of;
    this.#head_chars_max = head_chars_max;
    this.#state = reading.opened ? "thinking" : "begin";
    this.#blanks = reading.opened;
    if (!reading.opened && reading.syntax?.opened === true) this.#state = "head";
  }

  /** All that came has been given out, or never will be. */
  get settled(): boolean {
    return this.#rest === "" && (this.#state !== "head" || this.#marks === "");
  }

  /** The one call that was wanted is complete. */
  get over(): boolean {
    return this.#state === "over";
  }

  push(text: string): void {
    this.#rest += text;
    this.#go();
  }

  /** Nothing more comes: what was not certain is text. */
  finish(): void {
    this.#final = true;
    this.#go();
    // Marks with nothing behind them.
    if (this.#state === "head") {
      this.#say(this.#marks, "text");
      this.#marks = "";
      this.#to("text", "");
    }
    this.#final = false;
  }

  /** What has been said since the last time. */
  take(): Said {
    const said = this.#said;
    this.#said = { reasoning: "", text: "", calls: [] };
    return said;
  }

  #go(): void {
    while (this.#rest !== "" && this.#step()) {}
  }

  /** One step; false when it needs more text. */
  #step(): boolean {
    switch (this.#state) {
      case "begin":
        return this.#begin();
      case "thinking":
        return this.#think();
      case "text":
        return this.#talk();
      case "head":
        return this.#head();
      case "arguments":
        return this.#arguments();
      case "tags":
        return this.#arguedByTags();
      case "broken":
        return this.#broken();
      case "members":
        return this.#members();
      case "after":
        return this.#after();
      case "over":
        this.#rest = "";
        return false;
    }
  }

  #begin(): boolean {
    const { syntax, thinking } = this.#reading;
    const said = this.#rest.trimStart();
    if (said === "" && !this.#final) return false;
    const blanks = this.#rest.slice(0, this.#rest.length - said.length);
    if (thinking !== undefined && !this.#thought) {
      if (said.startsWith(thinking.open)) {
        this.#say(blanks + thinking.open, "mark");
        return this.#to("thinking", said.slice(thinking.open.length));
      }
      if (thinking.open.startsWith(said) && !this.#final) return false;
    }
    if (syntax?.bare === true) {
      const fence = FENCE.exec(said)?.[0];
      if (fence !== undefined || /^[[{]/.test(said)) {
        this.#marks = blanks + (fence ?? "");
        return this.#to("head", said.slice(fence?.length ?? 0));
      }
      if (FENCE_BEGUN.test(said) && !this.#final) return false;
    }
    return this.#to("text", this.#thought && this.#reading.apart ? said : this.#rest);
  }

  #think(): boolean {
    const close = this.#reading.thinking?.close ?? "";
    const at = this.#rest.indexOf(close);
    if (at >= 0) {
      this.#say(this.#reading.apart ? this.#rest.slice(0, at).trimEnd() : this.#rest.slice(0, at), "thinking");
      this.#say(close, "mark");
      this.#thought = true;
      return this.#to("begin", this.#rest.slice(at + close.length));
    }
    const certain = this.#certain([close]);
    this.#say(this.#rest.slice(0, certain), "thinking");
    this.#rest = this.#rest.slice(certain);
    return false;
  }

  #talk(): boolean {
    const openers = this.#reading.syntax?.openers ?? [];
    const found = openers.map((mark) => ({ mark, at: this.#rest.indexOf(mark) })).filter(({ at }) => at >= 0);
    const first = found.sort((a, b) => a.at - b.at)[0];
    if (first !== undefined) {
      const text = this.#rest.slice(0, first.at).trimEnd();
      const after = first.at + first.mark.length;
      this.#marks = this.#rest.slice(text.length, after);
      this.#say(text, "text");
      return this.#to("head", this.#rest.slice(after));
    }
    const certain = openers.length === 0 ? this.#rest.length : this.#certain(openers);
    this.#say(this.#rest.slice(0, certain), "text");
    this.#rest = this.#rest.slice(certain);
    return false;
  }

  #head(): boolean {
    const { syntax, names } = this.#reading;
    const found = syntax === undefined ? "bad" : callHead(this.#rest, syntax, names, this.#in_array);
    if (found === "more" && !this.#final && this.#rest.length <= this.#head_chars_max) return false;
    if (found === "more" || found === "bad") {
      // After the marks the text is looked at again: a call may follow what was none.
      this.#say(this.#marks, "text");
      this.#marks = "";
      this.#in_array = false;
      return this.#to("text", this.#rest);
    }
    this.#marks = "";
    if ("text_at" in found) return this.#to("text", this.#rest.slice(found.text_at));
    const index = this.#calls;
    this.#calls += 1;
    this.#in_array = found.array;
    const whole = "text" in found;
    this.#said.calls.push({ index, id: this.#id_of(index), name: found.name, arguments: whole ? found.text : "" });
    if (whole) return this.#complete(this.#rest.slice(found.end));
    if ("tags_at" in found) {
      this.#tags = new CallParameters(this.#reading.texts.get(found.name) ?? NO_TEXTS);
      return this.#to("tags", this.#rest.slice(found.tags_at));
    }
    this.#in_object = found.object;
    this.#scanner = new JsonScanner();
    return this.#to("arguments", this.#rest.slice(found.at));
  }

  #arguments(): boolean {
    let written = "";
    for (let at = 0; at < this.#rest.length; at += 1) {
      const char = this.#rest.charAt(at);
      const escaped = escapedControl(char, this.#scanner.in_string);
      const state = this.#scanner.push(char);
      if (state === "bad") {
        this.#argue(written);
        return this.#to("broken", this.#rest.slice(at));
      }
      written += escaped;
      if (state === "open") continue;
      this.#argue(written);
      const rest = this.#rest.slice(at + 1);
      if (!this.#in_object) return this.#complete(rest);
      this.#scanner = JsonScanner.behindMember();
      return this.#to("members", rest);
    }
    this.#argue(written);
    this.#rest = "";
    return false;
  }

  #arguedByTags(): boolean {
    const { written, rest, state } = this.#tags.parse(this.#rest);
    this.#argue(written);
    if (state !== "open") return this.#complete(rest);
    this.#rest = rest;
    return false;
  }

  /** Some of them have been sent: the rest follows as it was written. */
  #broken(): boolean {
    const closers = this.#reading.syntax?.closers ?? [];
    const at = Math.min(...closers.map((mark) => this.#rest.indexOf(mark)).filter((found) => found >= 0), this.#rest.length);
    if (at < this.#rest.length) {
      this.#argue(this.#rest.slice(0, at).trimEnd());
      return this.#complete(this.#rest.slice(at));
    }
    const certain = this.#certain(closers);
    this.#argue(this.#rest.slice(0, certain));
    this.#rest = this.#rest.slice(certain);
    return false;
  }

  #members(): boolean {
    for (let at = 0; at < this.#rest.length; at += 1) {
      const state = this.#scanner.push(this.#rest.charAt(at));
      if (state === "open") continue;
      return this.#complete(this.#rest.slice(state === "done" ? at + 1 : at));
    }
    this.#rest = "";
    return false;
  }

  #complete(rest: string): boolean {
    return this.#to(this.#reading.parallel ? "after" : "over", rest);
  }

  #after(): boolean {
    const { openers = [], closers = [], bare = false } = this.#reading.syntax ?? {};
    const said = this.#rest.trimStart();
    const marks = [...closers, ...(this.#in_array ? [",", "]"] : []), ...(bare ? ["```"] : [])];
    if (said === "") {
      this.#rest = "";
      return false;
    }
    const mark = [...marks, ...openers].find((one) => said.startsWith(one));
    if (mark !== undefined) {
      const rest = said.slice(mark.length);
      if (mark === "]") this.#in_array = false;
      if (mark !== "," && !openers.includes(mark)) return this.#to("after", rest);
      this.#marks = mark;
      return this.#to("head", rest);
    }
    if (bare && said.startsWith("{")) {
      this.#marks = "";
      return this.#to("head", said);
    }
    if (!this.#final && [...marks, ...openers].some((one) => one.startsWith(said))) return false;
    this.#in_array = false;
    return this.#to("text", said);
  }

  /** How much of what is left can't become one of the marks, nor be the blanks before one. */
  #certain(marks: readonly string[]): number {
    if (this.#final) return this.#rest.length;
    const longest = Math.max(0, ...marks.map(({ length }) => length));
    let at = this.#rest.length;
    for (let kept = Math.min(longest - 1, at); kept > 0; kept -= 1) {
      const end = this.#rest.slice(-kept);
      if (!marks.some((mark) => mark.startsWith(end))) continue;
      at -= kept;
      break;
    }
    return this.#rest.slice(0, at).trimEnd().length;
  }

  #to(state: State, rest: string): true {
    this.#state = state;
    this.#rest = rest;
    if (state === "thinking") this.#blanks = true;
    return true;
  }

  #say(text: string, what: "text" | "thinking" | "mark"): void {
    if (what === "text" || !this.#reading.apart) {
      this.#said.text += text;
      return;
    }
    if (what === "mark") return;
    const from = this.#blanks ? text.trimStart() : text;
    if (from !== "") this.#blanks = false;
    this.#said.reasoning += from;
  }

  #argue(text: string): void {
    if (text === "") return;
    const last = this.#said.calls.at(-1);
    if (last === undefined) this.#said.calls.push({ index: this.#calls - 1, arguments: text });
    else last.arguments += text;
  }
}
