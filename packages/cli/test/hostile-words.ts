/** Arguments as an attacker, or a careless paste, would have them. */
import fc from "fast-check";

const NASTY = [
  "",
  " ",
  "'",
  "''",
  '"',
  "\\",
  "\\'",
  "\\\\''\\",
  "$(touch /tmp/pwned)",
  "`id`",
  "$" + "{HOME}",
  "$HOME",
  "; rm -rf ~",
  "&& id",
  "| id",
  "> /tmp/x",
  "a\nb",
  "\n",
  "\t",
  "\r",
  "-rf",
  "--",
  "--help",
  "*",
  "?",
  "[a-z]",
  "~",
  "~root",
  "!!",
  "!x",
  "#",
  "# no comment",
  "a=b",
  "=ls",
  "{a,b}",
  "%s%n",
  "^",
  "\u001b[31m",
  "Größe 状态 🐝",
  "\u202e",
];

const word = fc.oneof(
  fc.constantFrom(...NASTY),
  fc.string({ unit: "grapheme", maxLength: 40 }).map((text) => text.replaceAll("\0", "")),
  fc.string({ unit: fc.constantFrom("'", '"', "\\", "$", "`", "\n", " ", ";", "(", ")", "-", "a", "!", "é"), maxLength: 20 }),
);

export const hostileWords = fc.array(word, { minLength: 1, maxLength: 6 });
