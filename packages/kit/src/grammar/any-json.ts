/** JSON that no schema says anything of, as rules. */
import { literal, type Rules } from "./rules.ts";

/** The rules that all of JSON is made of. */
export class AnyJson {
  readonly space: string;
  readonly character: string;
  readonly string: string;
  readonly number: string;
  readonly integer: string;
  readonly value: string;
  readonly object: string;
  readonly array: string;

  constructor(rules: Rules) {
    this.space = rules.add('(" " | "\\n" [ \\t]{0,20})?');
    // Halves of characters are left out: two of them are one character, and a length would be miscounted.
    const escaped = '"\\\\" (["\\\\/bfnrt] | "u" ([0-9a-cA-Ce-fE-F] [0-9a-fA-F]{3} | [dD] [0-7] [0-9a-fA-F]{2}))';
    this.character = rules.add(`[^"\\\\\\x00-\\x1f\\x7f] | ${escaped}`);
    this.string = rules.add(`"\\"" ${this.character}* "\\""`);
    this.integer = rules.add('"-"? ("0" | [1-9] [0-9]{0,14})');
    this.number = rules.add(`${this.integer} ("." [0-9]{1,15})? ([eE] [-+]? [0-9]{1,2})?`);
    this.value = rules.reserve();
    this.object = rules.add(listRule(rules, this.space, ["{", "}"], `${this.string} ":" ${this.space} ${this.value}`, 0, undefined));
    this.array = rules.add(listRule(rules, this.space, ["[", "]"], this.value, 0, undefined));
    rules.define(this.value, `${this.object} | ${this.array} | ${this.string} | ${this.number} | "true" | "false" | "null"`);
  }
}

/** So many items, with commas between and something around. */
export function listRule(
  rules: Rules,
  space: string,
  [open, close]: readonly [string, string],
  item: string,
  min: number,
  max: number | undefined,
) {
  const [begin, end] = [`${literal(open)} ${space}`, `${space} ${literal(close)}`];
  if (max === 0) return `${begin} ${literal(close)}`;
  const more = rules.add(`"," ${space} ${item}`);
  const some = `${item} ${rules.repeat(more, Math.max(0, min - 1), max === undefined ? undefined : max - 1)}`.trim();
  return min === 0 ? `${begin} (${some} ${end} | ${literal(close)})` : `${begin} ${some} ${end}`;
}
