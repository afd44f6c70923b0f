/**
 * Regular expressions as rules for what stands between the quotes of a JSON string. What a grammar can't say (looking ahead or back,
 * references to groups, anchors in the middle) is refused. Where an expression allows control characters without naming them, they
 * are left out.
 */
import { literal, oneOf, type Rules } from "./rules.ts";

/** Why an expression can't be a rule. */
export class NoPattern extends Error {}

type Range = readonly [from: number, to: number];

const LAST = 0x10ffff;
const DIGITS: readonly Range[] = [[0x30, 0x39]];
const WORD: readonly Range[] = [...DIGITS, [0x41, 0x5a], [0x5f, 0x5f], [0x61, 0x7a]];
const SPACE: readonly Range[] = [
  [0x09, 0x0d],
  [0x20, 0x20],
  [0xa0, 0xa0],
];
const CLASSES: Readonly<Record<string, readonly Range[]>> = { d: DIGITS, w: WORD, s: SPACE };
const CONTROLS: Readonly<Record<string, number>> = { n: 0x0a, r: 0x0d, t: 0x09, f: 0x0c, v: 0x0b, "0": 0 };
const NEWLINES: readonly Range[] = [
  [0x0a, 0x0a],
  [0x0d, 0x0d],
  [0x2028, 0x2029],
];
/** What JSON writes as it is: no quote, no backslash, no control characters, no halves of characters. */
const PLAIN: readonly Range[] = [
  [0x20, 0x21],
  [0x23, 0x5b],
  [0x5d, 0x7e],
  [0x80, 0xd7ff],
  [0xe000, LAST],
];

/** The rule of the strings in which the expression is found; throws `NoPattern`. */
export function patternRule(source: string, rules: Rules): string {
  return new Reader(source, rules).whole();
}

class Reader {
  readonly #characters: readonly string[];
  readonly #rules: Rules;
  #at = 0;

  constructor(source: string, rules: Rules) {
    this.#characters = [...source];
    this.#rules = rules;
  }

  whole(): string {
    const branches = [this.#branch(true)];
    while (this.#take("|")) branches.push(this.#branch(true));
    if (this.#peek !== undefined) throw new NoPattern(`has a ${this.#peek} that nothing opens`);
    return oneOf(branches);
  }

  get #peek(): string | undefined {
    return this.#characters[this.#at];
  }

  #take(character: string): boolean {
    if (this.#peek !== character) return false;
    this.#at += 1;
    return true;
  }

  #next(): string {
    const character = this.#characters[this.#at++];
    if (character === undefined) throw new NoPattern("ends too early");
    return character;
  }

  /** `outermost`: it may be anchored, and where it is not there may be anything before or after. */
  #branch(outermost: boolean): string {
    const anything = `${this.#set([[0, LAST]])}*`;
    const parts = !outermost || this.#take("^") ? [] : [anything];
    let closed = false;
    while (this.#peek !== undefined && this.#peek !== "|" && this.#peek !== ")") {
      if (closed) throw new NoPattern("has a $ in the middle");
      if (outermost && this.#take("$")) closed = true;
      else parts.push(this.#repeated());
    }
    if (outermost && !closed) parts.push(anything);
    return parts.join(" ");
  }

  #repeated(): string {
    const atom = this.#atom();
    const [min, max] = this.#quantifier();
    if (min === 1 && max === 1) return atom;
    // Whether as much or as little as possible is taken makes no difference to what is allowed.
    this.#take("?");
    return this.#rules.repeat(this.#rules.add(atom), min, max) || '""';
  }

  #quantifier(): [number, number | undefined] {
    if (this.#take("*")) return [0, undefined];
    if (this.#take("+")) return [1, undefined];
    if (this.#take("?")) return [0, 1];
    const counts = /^\{(\d{1,5})(?:(,)(\d{1,5})?)?\}/.exec(this.#characters.slice(this.#at, this.#at + 14).join(""));
    if (counts === null) return [1, 1];
    this.#at += counts[0].length;
    const min = Number(counts[1]);
    const max = counts[2] === undefined ? min : counts[3] === undefined ? undefined : Number(counts[3]);
    if (max !== undefined && max < min) throw new NoPattern(`repeats ${counts[0]}, of which the end is before the beginning`);
    return [min, max];
  }

  #atom(): string {
    const character = this.#next();
    switch (character) {
      case "(":
        return this.#group();
      case "[":
        return this.#bracket();
      case ".":
        return this.#set(without(NEWLINES));
      case "\\":
        return this.#set(this.#escape());
      case "^":
      case "$":
        throw new NoPattern(`has a ${character} in the middle`);
      case "*":
      case "+":
      case "?":
        throw new NoPattern(`has a ${character} with nothing before it`);
      default: {
        const code = character.codePointAt(0) ?? 0;
        return this.#set([[code, code]], true);
      }
    }
  }

  #group(): string {
    if (this.#take("?") && !this.#take(":")) {
      if (this.#peek !== "<" || ["=", "!"].includes(this.#characters[this.#at + 1] ?? "")) throw new NoPattern("looks ahead or back");
      while (this.#next() !== ">");
    }
    const branches = [this.#branch(false)];
    while (this.#take("|")) branches.push(this.#branch(false));
    if (!this.#take(")")) throw new NoPattern("has a ( that nothing closes");
    return this.#rules.add(oneOf(branches) || '""');
  }

  #bracket(): string {
    const negated = this.#take("^");
    const ranges: Range[] = [];
    while (!this.#take("]")) {
      const from = this.#member();
      const [one] = from;
      const is_range = this.#peek === "-" && this.#characters[this.#at + 1] !== "]" && from.length === 1 && one?.[0] === one?.[1];
      if (!is_range || one === undefined) ranges.push(...from);
      else {
        this.#at += 1;
        const [to] = this.#member();
        if (to === undefined || to[0] !== to[1] || to[0] < one[0]) throw new NoPattern("has a range whose end is before its beginning");
        ranges.push([one[0], to[0]]);
      }
    }
    return this.#set(negated ? without(ranges) : ranges, !negated);
  }

  #member(): readonly Range[] {
    const character = this.#next();
    if (character === "\\") return this.#escape();
    const code = character.codePointAt(0) ?? 0;
    return [[code, code]];
  }

  #escape(): readonly Range[] {
    const character = this.#next();
    const of_class = CLASSES[character];
    if (of_class !== undefined) return of_class;
    const other = CLASSES[character.toLowerCase()];
    if (other !== undefined) return without(other);
    const control = CONTROLS[character];
    if (control !== undefined) return [[control, control]];
    const hex = character === "x" ? 2 : character === "u" ? 4 : 0;
    if (hex > 0) {
      const written = this.#characters.slice(this.#at, this.#at + hex).join("");
      if (!/^[0-9a-fA-F]+$/.test(written) || written.length < hex) throw new NoPattern(`has \\${character} without ${hex} digits`);
      this.#at += hex;
      const code = Number.parseInt(written, 16);
      return [[code, code]];
    }
    if (/[a-zA-Z0-9]/.test(character)) throw new NoPattern(`has \\${character}, which has no rule`);
    const code = character.codePointAt(0) ?? 0;
    return [[code, code]];
  }

  /** One character of these, as JSON writes it. `named`: control characters too. */
  #set(ranges: readonly Range[], named = false): string {
    const has = (code: number) => ranges.some(([from, to]) => from <= code && code <= to);
    const plain = common(ranges, PLAIN);
    const escaped = [0x22, 0x5c, ...(named ? [0x08, 0x09, 0x0a, 0x0c, 0x0d] : [])].filter(has);
    const alternatives = escaped.map((code) => literal(JSON.stringify(String.fromCodePoint(code)).slice(1, -1)));
    if (plain.length > 0) alternatives.unshift(`[${plain.map(range).join("")}]`);
    if (alternatives.length === 0) throw new NoPattern("has a set of characters that JSON can't write");
    return alternatives.length === 1 ? (alternatives[0] ?? "") : this.#rules.add(oneOf(alternatives));
  }
}

function range([from, to]: Range): string {
  return from === to ? written(from) : `${written(from)}-${written(to)}`;
}

function written(code: number): string {
  if (code > 0xffff) return `\\U${code.toString(16).padStart(8, "0")}`;
  return code > 0x7e || !/[a-zA-Z0-9]/.test(String.fromCodePoint(code))
    ? `\\u${code.toString(16).padStart(4, "0")}`
    : String.fromCodePoint(code);
}

/** All characters but these. */
function without(ranges: readonly Range[]): Range[] {
  const left: Range[] = [];
  let from = 0;
  for (const [low, high] of [...ranges].sort((a, b) => a[0] - b[0])) {
    if (low > from) left.push([from, low - 1]);
    from = Math.max(from, high + 1);
  }
  if (from <= LAST) left.push([from, LAST]);
  return left;
}

function common(some: readonly Range[], others: readonly Range[]): Range[] {
  return some.flatMap(([a, b]) =>
    others.flatMap(([c, d]): Range[] => (Math.max(a, c) <= Math.min(b, d) ? [[Math.max(a, c), Math.min(b, d)]] : [])),
  );
}
