/**
 * Grammars in GBNF, llama.cpp's notation, as people write them: read as llama.cpp reads them, so that what it would refuse, or what
 * would hang it, is refused before anything is asked of it.
 */

/** A grammar is written out in memory for each answer that it holds: `repetitions_max` as llama.cpp has it. */
export const GBNF_LIMITS = { grammar_chars_max: 262_144, rules_max: 5000, repetitions_max: 1999, depth_max: 100 } as const;

/** What a sequence is made of, `min` to `max` times (undefined: as often as it likes). */
export interface Item {
  readonly of:
    | { readonly kind: "text"; readonly text: string }
    | { readonly kind: "set"; readonly negated: boolean; readonly ranges: readonly (readonly [number, number])[] }
    | { readonly kind: "any" }
    | { readonly kind: "rule"; readonly name: string }
    | { readonly kind: "group"; readonly alternatives: Alternatives };
  readonly min: number;
  readonly max: number | undefined;
}
export type Alternatives = readonly (readonly Item[])[];
export type Grammar = ReadonlyMap<string, Alternatives>;

/** Why a text is no grammar. */
export class NoGrammar extends Error {}

/** The rules of a grammar; throws `NoGrammar` with the reason and the line. */
export function parseGbnf(text: string): Grammar {
  const { grammar_chars_max, rules_max } = GBNF_LIMITS;
  if (text.length > grammar_chars_max) throw new NoGrammar(`has ${text.length} characters, and ${grammar_chars_max} may be`);
  const grammar = readGbnf(text);
  if (grammar.size > rules_max) throw new NoGrammar(`has ${grammar.size} rules, and ${rules_max} may be`);
  if (!grammar.has("root")) throw new NoGrammar("has no rule named root");
  for (const [name, alternatives] of grammar) {
    for (const used of rulesIn(alternatives))
      if (!grammar.has(used)) throw new NoGrammar(`rule ${name} names ${used}, and there is no such rule`);
  }
  const recursive = leftRecursive(grammar);
  if (recursive !== undefined) throw new NoGrammar(`rule ${recursive} begins with itself (left recursion)`);
  if (endlessRules(grammar).has("root"))
    throw new NoGrammar("rule root never comes to an end: whatever it begins with leads back to itself");
  return grammar;
}

/** The rules of which no text is an end: each of their alternatives leads back to one of them. */
export function endlessRules(grammar: Grammar): ReadonlySet<string> {
  const endless = new Set(grammar.keys());
  const ends = ({ of, min }: Item): boolean => {
    if (min === 0) return true;
    if (of.kind === "rule") return !endless.has(of.name);
    return of.kind !== "group" || of.alternatives.some((sequence) => sequence.every(ends));
  };
  for (let before = -1; before !== endless.size; ) {
    before = endless.size;
    for (const name of [...endless].reverse()) if (grammar.get(name)?.some((sequence) => sequence.every(ends))) endless.delete(name);
  }
  return endless;
}

/** What is written there, without a look at what it means. */
export function readGbnf(text: string): Grammar {
  return new Reader(text).grammar();
}

function* rulesIn(alternatives: Alternatives): Generator<string> {
  for (const { of } of alternatives.flat()) {
    if (of.kind === "rule") yield of.name;
    else if (of.kind === "group") yield* rulesIn(of.alternatives);
  }
}

/** A rule that may come to itself without a character before it. */
function leftRecursive(grammar: Grammar): string | undefined {
  const empty = mayBeEmpty(grammar);
  const isEmpty = (item: Item): boolean => item.min === 0 || emptyItem(item, empty);
  const first = (alternatives: Alternatives): string[] =>
    alternatives.flatMap((sequence) => {
      const until = sequence.findIndex((item) => !isEmpty(item));
      return sequence
        .slice(0, until < 0 ? sequence.length : until + 1)
        .flatMap(({ of }) => (of.kind === "rule" ? [of.name] : of.kind === "group" ? first(of.alternatives) : []));
    });
  const edges = new Map([...grammar].map(([name, alternatives]) => [name, first(alternatives)]));
  const done = new Set<string>();
  for (const start of grammar.keys()) {
    // Depth first, with a stack of its own: a chain of rules may be long.
    const path: { name: string; left: string[] }[] = [{ name: start, left: [...(edges.get(start) ?? [])] }];
    const on_path = new Set([start]);
    while (path.length > 0) {
      const top = path.at(-1) as { name: string; left: string[] };
      const next = top.left.pop();
      if (next === undefined) {
        done.add(top.name);
        on_path.delete(top.name);
        path.pop();
      } else if (on_path.has(next)) return next;
      else if (!done.has(next)) {
        on_path.add(next);
        path.push({ name: next, left: [...(edges.get(next) ?? [])] });
      }
    }
  }
  return undefined;
}

function mayBeEmpty(grammar: Grammar): ReadonlySet<string> {
  const empty = new Set<string>();
  for (let before = -1; before !== empty.size; ) {
    before = empty.size;
    for (const [name, alternatives] of grammar) {
      if (alternatives.some((sequence) => sequence.every((item) => item.min === 0 || emptyItem(item, empty)))) empty.add(name);
    }
  }
  return empty;
}

function emptyItem({ of }: Item, empty: ReadonlySet<string>): boolean {
  if (of.kind === "rule") return empty.has(of.name);
  if (of.kind === "group") return of.alternatives.some((sequence) => sequence.every((item) => item.min === 0 || emptyItem(item, empty)));
  return of.kind === "text" && of.text === "";
}

const ESCAPES: Readonly<Record<string, string>> = { n: "\n", r: "\r", t: "\t", "\\": "\\", '"': '"', "[": "[", "]": "]" };
const HEX: Readonly<Record<string, number>> = { x: 2, u: 4, U: 8 };

class Reader {
  readonly #text: string;
  #at = 0;

  constructor(text: string) {
    this.#text = text;
  }

  grammar(): Grammar {
    const grammar = new Map<string, Alternatives>();
    this.#space(true);
    while (this.#at < this.#text.length) {
      const name = this.#name();
      this.#space(false);
      if (!this.#take("::=")) throw this.#wrong(`expected ::= after ${name}`);
      this.#space(true);
      grammar.set(name, this.#alternatives(false, 0));
      if (this.#at < this.#text.length && !/[\r\n]/.test(this.#peek)) throw this.#wrong(`did not expect ${JSON.stringify(this.#peek)}`);
      this.#space(true);
    }
    return grammar;
  }

  get #peek(): string {
    return this.#text.charAt(this.#at);
  }

  #take(text: string): boolean {
    if (!this.#text.startsWith(text, this.#at)) return false;
    this.#at += text.length;
    return true;
  }

  #wrong(what: string): NoGrammar {
    return new NoGrammar(`line ${this.#text.slice(0, this.#at).split("\n").length}: ${what}`);
  }

  /** Blanks and comments, and line ends where a rule may go on after one. */
  #space(lines: boolean): void {
    for (;;) {
      const character = this.#peek;
      if (character === "#") while (this.#at < this.#text.length && !/[\r\n]/.test(this.#peek)) this.#at += 1;
      else if (character === " " || character === "\t" || (lines && (character === "\n" || character === "\r"))) this.#at += 1;
      else return;
    }
  }

  #name(): string {
    const found = /^[a-zA-Z0-9-]+/.exec(this.#text.slice(this.#at, this.#at + 256))?.[0];
    if (found === undefined) throw this.#wrong("expected the name of a rule");
    this.#at += found.length;
    return found;
  }

  #alternatives(nested: boolean, depth: number): Alternatives {
    if (depth > GBNF_LIMITS.depth_max) throw this.#wrong(`has groups more than ${GBNF_LIMITS.depth_max} deep`);
    const alternatives = [this.#sequence(nested, depth)];
    while (this.#take("|")) {
      this.#space(true);
      alternatives.push(this.#sequence(nested, depth));
    }
    return alternatives;
  }

  #sequence(nested: boolean, depth: number): Item[] {
    const items: Item[] = [];
    for (;;) {
      const of = this.#atom(depth);
      if (of === undefined) return items;
      this.#space(nested);
      let item: Item = { of, min: 1, max: 1 };
      for (let bounds = this.#bounds(nested); bounds !== undefined; bounds = this.#bounds(nested)) {
        const whole: Item = item.min === 1 && item.max === 1 ? item : { of: { kind: "group", alternatives: [[item]] }, min: 1, max: 1 };
        item = { of: whole.of, ...bounds };
      }
      items.push(item);
    }
  }

  #bounds(nested: boolean): Pick<Item, "min" | "max"> | undefined {
    const simple = { "*": [0, undefined], "+": [1, undefined], "?": [0, 1] } as const;
    const character = this.#peek;
    if (character === "*" || character === "+" || character === "?") {
      this.#at += 1;
      this.#space(nested);
      const [min, max] = simple[character];
      return { min, max };
    }
    if (character !== "{") return undefined;
    const counts = /^\{\s*(\d{1,9})\s*(?:(,)\s*(\d{1,9})?\s*)?\}/.exec(this.#text.slice(this.#at, this.#at + 64));
    if (counts === null) throw this.#wrong("expected {n}, {n,} or {n,m}");
    this.#at += counts[0].length;
    this.#space(nested);
    const min = Number(counts[1]);
    const max = counts[2] === undefined ? min : counts[3] === undefined ? undefined : Number(counts[3]);
    const { repetitions_max } = GBNF_LIMITS;
    if ((max ?? min) > repetitions_max) throw this.#wrong(`${counts[0]} repeats more than ${repetitions_max} times`);
    if (max !== undefined && max < min) throw this.#wrong(`${counts[0]} ends before it begins`);
    return { min, max };
  }

  #atom(depth: number): Item["of"] | undefined {
    const character = this.#peek;
    if (character === '"') return this.#literal();
    if (character === "[") return this.#set();
    if (character === "<" || character === "!") throw this.#wrong("names of tokens depend on the model: use text");
    if (this.#take(".")) return { kind: "any" };
    if (/[a-zA-Z0-9-]/.test(character)) return { kind: "rule", name: this.#name() };
    if (!this.#take("(")) return undefined;
    this.#space(true);
    const alternatives = this.#alternatives(true, depth + 1);
    if (!this.#take(")")) throw this.#wrong("expected )");
    return { kind: "group", alternatives };
  }

  #literal(): Item["of"] {
    this.#at += 1;
    let text = "";
    while (!this.#take('"')) text += String.fromCodePoint(this.#character());
    return { kind: "text", text };
  }

  #set(): Item["of"] {
    this.#at += 1;
    const negated = this.#take("^");
    const ranges: [number, number][] = [];
    while (!this.#take("]")) {
      const from = this.#character();
      const is_range = this.#peek === "-" && this.#text.charAt(this.#at + 1) !== "]";
      if (is_range) this.#at += 1;
      ranges.push([from, is_range ? this.#character() : from]);
    }
    return { kind: "set", negated, ranges };
  }

  #character(): number {
    const code = this.#text.codePointAt(this.#at);
    if (code === undefined) throw this.#wrong("ends in the middle");
    if (code !== 0x5c) {
      this.#at += code > 0xffff ? 2 : 1;
      return code;
    }
    const name = this.#text.charAt(this.#at + 1);
    const escaped = ESCAPES[name];
    this.#at += 2;
    if (escaped !== undefined) return escaped.charCodeAt(0);
    const length = HEX[name] ?? 0;
    const digits = this.#text.slice(this.#at, this.#at + length);
    if (length === 0 || !/^[0-9a-fA-F]+$/.test(digits) || digits.length < length) throw this.#wrong(`\\${name} is no escape`);
    this.#at += length;
    const value = Number.parseInt(digits, 16);
    if (value > 0x10ffff) throw this.#wrong(`\\${name}${digits} is no character`);
    return value;
  }
}
