/** Answers taken apart, to the letter and however they are cut: calls in each syntax, thinking, what only looks like a call. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import { BARE_JSON, CALL_SYNTAXES, type CallSyntax } from "../src/chat/call-syntax.ts";
import type { Reading } from "../src/chat/reading.ts";
import { Speech } from "../src/chat/speech.ts";

const syntax = (name: string): CallSyntax => CALL_SYNTAXES.find((one) => one.name === name) ?? assert.fail(name);
const THINK = { open: "<think>", close: "</think>" };

function reading(more: Partial<Reading> = {}): Reading {
  const names = new Set(["look", "get_weather"]);
  return {
    syntax: syntax("hermes"),
    names,
    texts: new Map([["get_weather", new Set(["city"])]]),
    parallel: true,
    thinking: undefined,
    opened: false,
    apart: true,
    ...more,
  };
}

interface Heard {
  text: string;
  reasoning: string;
  calls: [id: string | undefined, name: string | undefined, args: string][];
  /** Pieces of arguments. */
  pieces: number;
}

function heard(how: Reading, parts: readonly string[], finish = true): Heard {
  const speech = new Speech(how, (index) => `id${index}`);
  const all: Heard = { text: "", reasoning: "", calls: [], pieces: 0 };
  const take = () => {
    const { text, reasoning, calls } = speech.take();
    all.text += text;
    all.reasoning += reasoning;
    for (const { index, id, name, arguments: args } of calls) {
      if (name !== undefined) all.calls[index] = [id, name, ""];
      const call = all.calls[index] ?? assert.fail("arguments before their call");
      call[2] += args;
      all.pieces += 1;
    }
  };
  for (const part of parts) {
    speech.push(part);
    take();
  }
  if (finish) speech.finish();
  take();
  return all;
}

/** The same however it is cut. */
function said(how: Reading, text: string): Omit<Heard, "pieces"> {
  const { pieces: _, ...whole } = heard(how, [text]);
  const { pieces, ...one_by_one } = heard(how, [...text]);
  assert.deepEqual(one_by_one, whole);
  return whole;
}

const WEATHER = '{"city": "Gent", "days": [1, 2], "note": "a } \\" ] </tool_call> b"}';
const LOOK = ["id0", "look", "{}"] as const;

describe("calls as the families write them", () => {
  for (const [name, text, before] of [
    ["hermes", `Let me see.\n<tool_call>\n{"name": "get_weather", "arguments": ${WEATHER}}\n</tool_call>`, "Let me see."],
    ["hermes", `<tool_call>{"arguments": ${WEATHER}, "name": "get_weather"}</tool_call>`, ""],
    ["hermes", `<tool_call>{"name": "get_weather", "arguments": ${JSON.stringify(WEATHER)}}`, ""],
    ["tool-calls", `<tool_calls>[{"name": "get_weather", "arguments": ${WEATHER}, "id": "x"}]</tool_calls>`, ""],
    ["functools", `ok functools[{"name": "get_weather", "arguments": ${WEATHER}}]`, "ok"],
    ["mistral", `[TOOL_CALLS][{"name": "get_weather", "arguments": ${WEATHER}, "id": "abcdefghi"}]`, ""],
    ["mistral", `[TOOL_CALLS] [{"name": "get_weather", "arguments": ${WEATHER}}]`, ""],
    ["mistral-named", `[TOOL_CALLS]get_weather[ARGS]${WEATHER}`, ""],
    ["mistral-named", `Hm.[TOOL_CALLS]get_weather[CALL_ID]abcdefghi[ARGS]${WEATHER}`, "Hm."],
    ["mistral-named", `[TOOL_CALLS]get_weather${WEATHER}`, ""],
    ["function-tag", `<function=get_weather>${WEATHER}</function>`, ""],
    ["functionary", `get_weather\n${WEATHER}`, ""],
    ["functionary", `all\nLet me see.>>>get_weather\n${WEATHER}`, "Let me see."],
    ["json", `{"name": "get_weather", "parameters": ${WEATHER}}`, ""],
    ["json", `<|python_tag|>{"type": "function", "name": "get_weather", "parameters": ${WEATHER}}`, ""],
    ["json", `\`\`\`json\n{"name": "get_weather", "arguments": ${WEATHER}}\n\`\`\``, ""],
  ] as const) {
    test(`${name}: ${text.slice(0, 30)}…`, () => {
      const how = reading({ syntax: syntax(name) });
      const { text: rest, calls } = said(how, text);
      assert.deepEqual([rest, calls], [before, [["id0", "get_weather", WEATHER]]]);
    });
  }

  for (const [name, text] of [
    ["hermes", '<tool_call>\n{"name": "look"}\n</tool_call>\n<tool_call>\n{"name": "get_weather", "arguments": {"a": 1}}\n</tool_call>'],
    ["mistral", '[TOOL_CALLS][{"name": "look", "arguments": {}}, {"name": "get_weather", "arguments": {"a": 1}}]'],
    ["mistral-named", '[TOOL_CALLS]look[ARGS]{}[TOOL_CALLS]get_weather[ARGS]{"a": 1}'],
    ["function-tag", '<function=look>{}</function>\n<function=get_weather>{"a": 1}</function>'],
    ["functionary", 'look\n{}>>>get_weather\n{"a": 1}'],
    ["json", '{"name": "look", "parameters": {}}; {"name": "get_weather", "parameters": {"a": 1}}'],
    ["json", '{"name": "look", "arguments": null}\n{"name": "get_weather", "arguments": {"a": 1}}'],
    ["json", '[{"name": "look", "arguments": {}}, {"name": "get_weather", "arguments": {"a": 1}}]'],
  ] as const) {
    test(`${name}: two calls, or only the first when one is wanted`, () => {
      const how = reading({ syntax: syntax(name) });
      assert.deepEqual(said(how, text), { text: "", reasoning: "", calls: [LOOK, ["id1", "get_weather", '{"a": 1}']] });
      assert.deepEqual(said({ ...how, parallel: false }, text), { text: "", reasoning: "", calls: [LOOK] });
    });
  }
});

test("tagged: each argument between tags, text as text, the rest as JSON where it is some", () => {
  const how = reading({ syntax: syntax("tagged") });
  const value = 'Gent "x"\n  </p> \\ 🐝\n';
  const call = `<function=get_weather>\n<parameter=city>\n${value}\n</parameter>\n<parameter=days>\n3\n</parameter>\n<parameter=units>\n["a"]\n</parameter>\n<parameter=note>\nno JSON\n</parameter>\n</function>`;
  const args = `{"city": ${JSON.stringify(value)}, "days": 3, "units": ["a"], "note": "no JSON"}`;
  for (const text of [`Hm.\n\n<tool_call>\n${call}\n</tool_call>`, `Hm.${call}`])
    assert.deepEqual(said(how, text), { text: "Hm.", reasoning: "", calls: [["id0", "get_weather", args]] });
  const two =
    "<tool_call>\n<function=look>\n</function>\n</tool_call>\n<tool_call>\n<function=get_weather>\n<parameter=city>7</parameter></function></tool_call>";
  assert.deepEqual(said(how, two).calls, [LOOK, ["id1", "get_weather", '{"city": "7"}']]);
  for (const text of ["<function=delete_all></function>", "<tool_call>{}", "<tool_call>\n<func", "a <function=look"])
    assert.deepEqual(said(how, text), { text, reasoning: "", calls: [] });
  assert.deepEqual(said(how, "<function=look>junk</function>").calls, [LOOK]);
  assert.deepEqual(said(how, "<function=get_weather><parameter=city>\nGe").calls, [["id0", "get_weather", '{"city": "Ge']]);
});

test("arguments come in pieces, as they are written; text before a call comes at once", () => {
  const parts = [
    "Let ",
    "me ",
    "see.",
    "\n",
    "<tool_",
    "call>",
    '{"name": "get_',
    'weather", "arguments": {',
    '"city"',
    ': "Ge',
    'nt"',
    "}}",
    "</tool_call>",
  ];
  const speech = new Speech(reading(), () => "id");
  const steps = parts.map((part) => {
    speech.push(part);
    const { text, calls } = speech.take();
    return text + calls.map((call) => `${call.name ?? ""}|${call.arguments}`).join("");
  });
  assert.deepEqual(steps, ["Let", " me", " see.", "", "", "", "", "get_weather|{", '|"city"', '|: "Ge', '|nt"', "|}", ""]);
});

test("what only looks like a call is the text that it was", () => {
  const hermes = [
    '<tool_call>{"name": "delete_all", "arguments": {}}</tool_call>',
    '<tool_call>{"nome": "look"}</tool_call>',
    '<tool_call>{"name": "look", "arguments": [1]}</tool_call>',
    "a < b, and <tool_box> is none",
    'Use <tool_call> like this: <tool_call>{"name": ',
    "<tool_call>",
    "ends with <tool_",
    " \n two  blanks \n",
  ];
  for (const text of hermes) assert.deepEqual(said(reading(), text), { text, reasoning: "", calls: [] });
  const bare = [
    '{"answer": 42}',
    '{"name": "Bob"}',
    "[1, 2]",
    "[link](x)",
    "{",
    "```js\nlet a\n```",
    "``",
    '{"name": "look", "arguments"',
    '[{"name": "Bob"}]',
  ];
  for (const text of bare) assert.deepEqual(said(reading({ syntax: BARE_JSON }), text), { text, reasoning: "", calls: [] });
  const named = ["[TOOL_CALLS]", "[TOOL_CALLS]delete_all[ARGS]{}", "[TOOL_CALLS]look", "[TOOL_CALLS]look[ARGS]no"];
  for (const text of named) assert.deepEqual(said(reading({ syntax: syntax("mistral-named") }), text), { text, reasoning: "", calls: [] });
});

test("a call after one that was none is found, and text after a call is text", () => {
  const text = '<tool_call>nonsense <tool_call>{"name": "look"}</tool_call>\n\nDone.';
  assert.deepEqual(said(reading(), text), { text: "<tool_call>nonsenseDone.", reasoning: "", calls: [LOOK] });
});

test("arguments that end too early, or are no JSON after they have begun, come as they were written", () => {
  const cut = '<tool_call>{"name": "look", "arguments": {"a": "b';
  assert.deepEqual(said(reading(), cut).calls, [["id0", "look", '{"a": "b']]);
  const broken = '<tool_call>{"name": "look", "arguments": {"a": b"c"}}</tool_call> Hm.';
  assert.deepEqual(said(reading(), broken), { text: "Hm.", reasoning: "", calls: [["id0", "look", '{"a": b"c"}}']] });
  const lines = '<tool_call>{"name": "look", "arguments": {"a": "b\nc"}}</tool_call>';
  assert.deepEqual(said(reading(), lines).calls, [["id0", "look", '{"a": "b\\nc"}']]);
});

test("thinking is told apart, from a mark or from the prompt's; a call in it is none", () => {
  const how = reading({ thinking: THINK });
  const thought = 'Hm, <tool_call>{"name": "look"}</tool_call>?';
  assert.deepEqual(said(how, `<think>\n${thought}\n</think>\n\nYes.`), { text: "Yes.", reasoning: thought, calls: [] });
  assert.deepEqual(said({ ...how, opened: true }, `${thought}\n</think>\n\nYes.`), { text: "Yes.", reasoning: thought, calls: [] });
  assert.deepEqual(said(how, '<think>\n\n</think>\n\n<tool_call>{"name": "look"}</tool_call>'), { text: "", reasoning: "", calls: [LOOK] });
  assert.deepEqual(said(how, "No <think> here"), { text: "No <think> here", reasoning: "", calls: [] });
  assert.deepEqual(said({ ...how, syntax: undefined }, "<think>a <b> c"), { text: "", reasoning: "a <b> c", calls: [] });
  assert.deepEqual(said({ ...how, syntax: BARE_JSON, opened: true }, 'a</think>{"name": "look"}'), {
    text: "",
    reasoning: "a",
    calls: [LOOK],
  });
});

test("thinking that is not told apart is text with its marks, and a call in it is none all the same", () => {
  const how = reading({ thinking: THINK, apart: false });
  const text = '<think>\n<tool_call>{"name": "look"}</tool_call>\n</think>\n\n';
  assert.deepEqual(said(how, `${text}<tool_call>{"name": "look"}</tool_call>`), { text: text.trimEnd(), reasoning: "", calls: [LOOK] });
  assert.equal(said(how, `${text}Yes.`).text, `${text}Yes.`);
});

test("any text, cut in any way, comes out the same; and where all is settled nothing was kept back", () => {
  const bits = fc.constantFrom(
    "<tool_call>",
    "</tool_call>",
    "<think>",
    "</think>",
    '{"name": "look"',
    ', "arguments": ',
    "{",
    "}",
    '"',
    "[",
    "]",
    "\n",
    " ",
    "a",
    "<",
    ",",
    ":",
    "1",
  );
  const texts = fc.array(bits, { maxLength: 24 }).map((some) => some.join(""));
  const syntaxes = fc.constantFrom(...CALL_SYNTAXES, undefined);
  fc.assert(
    fc.property(
      texts,
      syntaxes,
      fc.boolean(),
      fc.boolean(),
      fc.array(fc.nat(9), { minLength: 1, maxLength: 8 }),
      (text, how, opened, apart, cuts) => {
        const read = reading({ syntax: how, thinking: THINK, opened, apart });
        const parts: string[] = [];
        for (let at = 0, i = 0; at < text.length; i += 1) {
          const length = 1 + (cuts[i % cuts.length] ?? 0);
          parts.push(text.slice(at, at + length));
          at += length;
        }
        const { pieces: _, ...whole } = heard(read, [text]);
        const { pieces, ...cut } = heard(read, parts);
        assert.deepEqual(cut, whole);
      },
    ),
    { numRuns: 300 },
  );
});
