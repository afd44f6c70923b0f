/** Grammars that people write: what llama.cpp would refuse is refused here, with the line. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { NoGrammar, parseGbnf } from "../src/grammar/gbnf.ts";

test("a grammar with comments, groups, sets, repetitions and rules over several lines is read", () => {
  const grammar = parseGbnf(`# a list
root ::= item ("," ws item)* # and so on
item ::= [a-z_] [^"\\x00-\\x1f]{2,3} | (
  "a" |
  "\\u00e4"
)+ .?
ws ::= [ \\t]{0,20}
`);
  assert.deepEqual([...grammar.keys()], ["root", "item", "ws"]);
  assert.equal(grammar.get("item")?.length, 2);
});

test("what is no grammar is refused with what is wrong and where", () => {
  const cases: [text: string, why: RegExp][] = [
    ["", /no rule named root/],
    ['item ::= "a"', /no rule named root/],
    ["root ::= item", /names item, and there is no such rule/],
    ['root ::= "a"\nitem := "b"', /line 2: expected ::=/],
    ['root ::= "a', /line 1: ends in the middle/],
    ["root ::= [a-", /ends in the middle/],
    ['root ::= ("a"', /expected \)/],
    ['root ::= "a" )', /did not expect "\)"/],
    ['root ::= * "a"', /did not expect "\*"/],
    ['root ::= "a"{,3}', /expected \{n\}/],
    ['root ::= "a"{3,2}', /ends before it begins/],
    ['root ::= "a"{5000}', /repeats more than 1999 times/],
    ['root ::= "\\q"', /\\q is no escape/],
    ["root ::= <think>", /names of tokens depend on the model/],
    ['root ::= a "x"\na ::= "y"? root', /begins with itself/],
    ["root ::= root", /begins with itself/],
    ['root ::= "(" list ")"\nlist ::= ("x" list){1,3} | "y" root', /root never comes to an end/],
    [`root ::= ${"(".repeat(200)}"a"${")".repeat(200)}`, /groups more than 100 deep/],
    ['root ::= "a"\n'.repeat(30_000), /has 390000 characters/],
  ];
  for (const [text, why] of cases)
    assert.throws(
      () => parseGbnf(text),
      (error: Error) => error instanceof NoGrammar && why.test(error.message),
      text.slice(0, 60),
    );
});

test("a rule may come to itself after a character", () => {
  parseGbnf('root ::= "(" root ")" | inner\ninner ::= "x" ("," inner)?');
});
