/** The rules of a grammar in GBNF, llama.cpp's notation, as they are put together. */

/** llama.cpp writes a repetition out, and refuses one of 2,000 and more: longer ones are made of blocks. */
const BLOCK = 100;

export class Rules {
  readonly #bodies = new Map<string, string>();
  readonly #names = new Map<string, string>();
  #next = 1;

  /** A name for a rule whose body comes later: rules may refer to themselves. */
  reserve(): string {
    return `r${this.#next++}`;
  }

  define(name: string, body: string): string {
    this.#bodies.set(name, body);
    return name;
  }

  /** The name of the rule with that body. */
  add(body: string): string {
    const known = this.#names.get(body);
    if (known !== undefined) return known;
    const name = this.define(this.reserve(), body);
    this.#names.set(body, name);
    return name;
  }

  /** From `min` to `max` times what `item` names; undefined: as often as it likes. */
  repeat(item: string, min: number, max: number | undefined): string {
    const least = this.#times(item, min);
    if (max === undefined) return `${least} ${item}*`.trim();
    return `${least} ${this.#upTo(item, max - min)}`.trim();
  }

  text(root: string): string {
    return [`root ::= ${root}`, ...[...this.#bodies].map(([name, body]) => `${name} ::= ${body}`)].join("\n");
  }

  #times(item: string, times: number): string {
    if (times === 0) return "";
    const blocks = Math.floor(times / BLOCK);
    const rest = times % BLOCK;
    const block = blocks === 0 ? "" : counted(this.add(counted(item, BLOCK)), blocks);
    return `${block} ${rest === 0 ? "" : counted(item, rest)}`.trim();
  }

  #upTo(item: string, times: number): string {
    if (times === 0) return "";
    if (times < BLOCK) return this.add(`${item}{0,${times}}`);
    return this.add(`${this.#upTo(item, BLOCK - 1)} | ${this.add(counted(item, BLOCK))} ${this.#upTo(item, times - BLOCK)}`);
  }
}

function counted(item: string, times: number): string {
  return times === 1 ? item : `${item}{${times}}`;
}

/** A text as GBNF writes it. */
export function literal(text: string): string {
  let written = "";
  for (const character of text) {
    const code = character.codePointAt(0) ?? 0;
    if (character === '"' || character === "\\") written += `\\${character}`;
    else if (code < 0x20 || code === 0x7f) written += `\\x${code.toString(16).padStart(2, "0")}`;
    else written += character;
  }
  return `"${written}"`;
}

/** Alternatives as one item. */
export function oneOf(alternatives: readonly string[]): string {
  return alternatives.length === 1 ? (alternatives[0] ?? "") : `(${alternatives.map((one) => (one === "" ? '""' : one)).join(" | ")})`;
}
