/** Follows a JSON value as it comes, character by character: where it ends, or that it is none. Line breaks inside strings are let pass. */

type Expected = "value" | "value or end" | "name" | "name or end" | "colon" | "comma or end";

const WORDS = ["true", "false", "null"];
const NUMBER = /^-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?$/;
const ESCAPES = '"\\/bfnrtu';

export class JsonScanner {
  readonly #open: ("{" | "[")[] = [];
  #expected: Expected = "value";
  #in_string = false;
  #string_is_name = false;
  #escaped = false;
  /** Hexadecimal digits that a \u still needs. */
  #hex = 0;
  /** A number or one of the words, as far as it has come. */
  #word = "";
  state: "open" | "done" | "bad" = "open";

  /** A scanner that stands behind the value of a member of an object: it is done when that object is. */
  static behindMember(): JsonScanner {
    const scanner = new JsonScanner();
    scanner.#open.push("{");
    scanner.#expected = "comma or end";
    return scanner;
  }

  get in_string(): boolean {
    return this.#in_string;
  }

  /** The next character. A value that is neither object, array nor string is not known to be done until something follows it. */
  push(char: string): "open" | "done" | "bad" {
    if (this.state === "open" && !this.#takes(char)) this.state = "bad";
    return this.state;
  }

  #takes(char: string): boolean {
    if (this.#in_string) return this.#inString(char);
    if (this.#word !== "" && /[-+.\w]/.test(char)) {
      this.#word += char;
      return true;
    }
    if (this.#word !== "") {
      if (!WORDS.includes(this.#word) && !NUMBER.test(this.#word)) return false;
      this.#word = "";
      this.#valueEnds();
    }
    return /\s/.test(char) || this.#outside(char);
  }

  #inString(char: string): boolean {
    if (this.#hex > 0) {
      this.#hex -= 1;
      return /[0-9a-fA-F]/.test(char);
    }
    if (this.#escaped) {
      this.#escaped = false;
      if (char === "u") this.#hex = 4;
      return ESCAPES.includes(char);
    }
    if (char === "\\") this.#escaped = true;
    else if (char === '"') {
      this.#in_string = false;
      if (this.#string_is_name) this.#expected = "colon";
      else this.#valueEnds();
    }
    return true;
  }

  #outside(char: string): boolean {
    const expected = this.#expected;
    const inside = this.#open.at(-1);
    if (char === "}" || char === "]") {
      const fits = (char === "}") === (inside === "{") && inside !== undefined;
      if (!fits || !["comma or end", "name or end", "value or end"].includes(expected)) return false;
      this.#open.pop();
      this.#valueEnds();
      return true;
    }
    if (expected === "colon") {
      this.#expected = "value";
      return char === ":";
    }
    if (expected === "comma or end") {
      this.#expected = inside === "{" ? "name" : "value";
      return char === ",";
    }
    if (char === '"') {
      this.#in_string = true;
      this.#string_is_name = expected === "name" || expected === "name or end";
      return true;
    }
    if (expected === "name" || expected === "name or end") return false;
    if (char === "{" || char === "[") {
      this.#open.push(char);
      this.#expected = char === "{" ? "name or end" : "value or end";
      return true;
    }
    this.#word = char;
    return /[-\dtfn]/.test(char);
  }

  #valueEnds(): void {
    this.#expected = "comma or end";
    if (this.#open.length === 0) this.state = "done";
  }
}

/** Where the object or array that begins at `from` ends. */
export function jsonEnd(text: string, from: number): number | "more" | "bad" {
  const scanner = new JsonScanner();
  for (let at = from; at < text.length; at += 1) {
    const state = scanner.push(text.charAt(at));
    if (state === "done") return at + 1;
    if (state === "bad") return "bad";
  }
  return "more";
}

/** A JSON text in whose strings line breaks and other control characters are written as JSON has them. */
export function escapedControl(char: string, in_string: boolean): string {
  return in_string && char.charCodeAt(0) < 0x20 ? JSON.stringify(char).slice(1, -1) : char;
}
