/** The templates of many families, with tools and results, against reference renderings (`models/fixtures/templates`): both renderers. */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import type { Message } from "@rbees/contracts/message";
import type { Tool } from "@rbees/contracts/tools";
import { conversationOf } from "../src/chat/conversation.ts";
import { type Conversation, type Renderer, render, rendered } from "../src/chat/render.ts";
import { type CallForm, templateFacts } from "../src/chat/template-facts.ts";
import { libraryFolder } from "../src/libllama/library.ts";
import { type NativeRenderers, nativeRenderer } from "../src/llama/renderer.ts";

const folder = fileURLToPath(new URL("../../../models/fixtures/templates/", import.meta.url));
const read = (name: string) => readFileSync(join(folder, name), "utf8");

interface Given extends Message {
  /** The id of a call that the turn has. */
  call?: string;
}
interface Row {
  template: string;
  conversation: string;
  form: CallForm;
  text?: string;
}
const conversations: Record<string, { messages: Given[]; tools?: true }> = JSON.parse(read("conversations.json"));
const values: { tools: Tool[]; arguments: object } = JSON.parse(read("values.json"));
const rows = read("renderings.ndjson")
  .trimEnd()
  .split("\n")
  .map((line) => JSON.parse(line) as Row);
const families = [...new Set(rows.map(({ template }) => template))];

const native = nativeRenderer(createRequire(import.meta.url)(join(libraryFolder(), "llama-addon.node")) as NativeRenderers);
assert.ok(native !== undefined);
const model = (template: string, is_native: boolean): Renderer => ({
  bos_text: "<|bos|>",
  eos_text: "<|eos|>",
  chat_template: read(`${template}.jinja`),
  ...(is_native ? { render_native: native } : {}),
});

/** Python writes a blank behind colons and commas. */
const GIVEN_TEXT = JSON.stringify(values.arguments).replaceAll('":', '": ').replaceAll(',"', ', "');
/** Templates write today's. */
const withoutDates = (text: string | undefined) =>
  text?.replace(/\d{1,2} [A-Z][a-z]{2,8} 20\d\d|20\d\d-\d\d-\d\d|[A-Z][a-z]{2,8} \d{1,2}, 20\d\d/g, "DATE");

/** A conversation as the reference gave it to the template. */
function asGiven({ conversation, form }: Row): Conversation {
  const { messages, tools } = conversations[conversation] ?? assert.fail(conversation);
  const turns = messages.map(({ call, ...message }) => {
    if (call === undefined) return message;
    const called = { name: "get_weather", arguments: form.arguments === "object" ? values.arguments : GIVEN_TEXT };
    return { ...message, content: form.no_content, tool_calls: [{ id: call, type: "function", function: called }] };
  });
  return { messages: turns, ...(tools === true ? { tools: values.tools } : {}) };
}

const SAFE = "`safe` makes Python escape what is added to it as HTML, quotes in the middle of JSON too; neither renderer does";
const JS_ONLY = "@huggingface/jinja lacks what the template uses";
/** Template → conversations (`*`: all) → why what comes out is not the reference. Each entry must still be so. */
const DEPARTURES: Readonly<Record<"native" | "javascript", Readonly<Record<string, Readonly<Record<string, string>>>>>> = {
  native: { "functionary-3.1": { tools: SAFE, result: SAFE, answered: SAFE } },
  javascript: {
    "functionary-3.1": {
      tools: SAFE,
      result: SAFE,
      answered: SAFE,
      basic: `${JS_ONLY}: filters of none`,
      talk: `${JS_ONLY}: filters of none`,
    },
    "functionary-3.2": {
      tools: `${JS_ONLY}: loops over pairs`,
      result: `${JS_ONLY}: loops over pairs`,
      answered: `${JS_ONLY}: loops over pairs`,
    },
    "hermes-2-pro": { "*": `${JS_ONLY}: loops over what is undefined` },
    "hermes-3": { "*": `${JS_ONLY}: loops over what is undefined` },
    "seed-oss": { "*": `${JS_ONLY}: numbers as keys` },
  },
};

test("there are templates of at least 20 families, and each has its renderings", () => {
  const files = readdirSync(folder).flatMap((name) => (name.endsWith(".jinja") ? [name.slice(0, -".jinja".length)] : []));
  assert.ok(files.length >= 20);
  assert.deepEqual(files.sort(), [...families].sort());
  assert.equal(rows.length, files.length * Object.keys(conversations).length);
});

for (const renderer of ["native", "javascript"] as const) {
  describe(`the ${renderer} renderer`, () => {
    for (const template of families) {
      test(template, () => {
        const departs = DEPARTURES[renderer][template] ?? {};
        for (const row of rows.filter((one) => one.template === template)) {
          const conversation = asGiven(row);
          const { bos_text: bos_token, eos_text: eos_token, chat_template } = model(template, true);
          // What the other one does where it fails would hide that it does.
          const text =
            renderer === "javascript"
              ? rendered(model(template, false), conversation)
              : nativeText(chat_template, { ...conversation, add_generation_prompt: true, bos_token, eos_token });
          const why = departs[row.conversation] ?? departs["*"];
          if (why === undefined) assert.equal(withoutDates(text), withoutDates(row.text), row.conversation);
          else assert.notEqual(withoutDates(text), withoutDates(row.text), `${row.conversation} is as it should be: ${why}`);
        }
      });
    }
  });
}

function nativeText(template: string, given: Record<string, unknown>): string | undefined {
  try {
    return native?.(template, given);
  } catch {
    return undefined;
  }
}

/** How each writes calls, as its template says. */
const SYNTAX: Readonly<Record<string, readonly string[]>> = {
  hermes: ["bielik-3", "granite-4.0", "hermes-2-pro", "hermes-3", "mimo", "qwen2.5", "qwen3", "qwq"],
  json: ["llama-3.1", "llama-3.2", "llama-3.3"],
  mistral: ["mistral-nemo"],
  "mistral-named": ["devstral", "ministral-3", "mistral-small-3.2"],
  "function-tag": ["functionary-3.1"],
  functionary: ["functionary-3.2"],
  "tool-calls": ["minimax-m1"],
  toolcall: ["nemotron-nano-2"],
  tagged: ["qwen3-coder"],
};
const THINKING = [
  "bielik-3",
  "deepseek-3.1",
  "deepseek-r1-llama",
  "deepseek-r1-qwen",
  "glm-4.6",
  "granite-3.3",
  "ministral-3",
  "nemotron-nano-2",
];
THINKING.push("qwen3", "qwq", "seed-oss", "smollm3");

test("what a template can do is found out by trying it", () => {
  const found = new Map(families.map((template) => [template, templateFacts(model(template, true))]));
  const withThe = (what: (template: string) => boolean) => families.filter(what).sort();
  for (const [name, templates] of Object.entries(SYNTAX))
    assert.deepEqual(
      withThe((template) => found.get(template)?.syntax?.name === name),
      [...templates].sort(),
      name,
    );
  assert.deepEqual(
    withThe((template) => found.get(template)?.thinking !== undefined),
    THINKING.sort(),
  );
  assert.deepEqual(
    withThe((template) => found.get(template)?.one_call_a_turn === true),
    SYNTAX["json"],
  );
  assert.deepEqual(
    withThe((template) => found.get(template)?.system === false),
    ["gemma-2"],
  );
});

test("a conversation of ours becomes the reference where the template shows tools, and words that hold all of it where not", () => {
  for (const row of rows) {
    const renderer = model(row.template, true);
    const { messages, tools } = conversations[row.conversation] ?? assert.fail();
    const facts = templateFacts(renderer);
    const ours = messages.map(({ call, ...message }): Message => {
      if (call === undefined) return message;
      return { ...message, tool_calls: [{ id: call, type: "function", function: { name: "get_weather", arguments: GIVEN_TEXT } }] };
    });
    if (row.text === undefined) continue;
    const text = render(renderer, conversationOf(ours, tools === true ? values.tools : [], facts));
    const what = `${row.template} ${row.conversation}`;
    if (tools === undefined || facts.syntax !== undefined) {
      if (DEPARTURES.native[row.template]?.[row.conversation] === undefined) assert.equal(withoutDates(text), withoutDates(row.text), what);
      continue;
    }
    const said = messages.map(({ content, role }) => (role === "system" && !facts.system ? "" : content));
    for (const part of ["get_weather", "open_door", ...said]) assert.ok(text.includes(part), `${what}: ${part}`);
    if (row.conversation !== "tools") assert.match(text, /\{"name":"get_weather","arguments":\{"city":"Gent"/, what);
  }
});

test("no system message is dropped without a word, wherever it stands", () => {
  const system = (content: string): Message => ({ role: "system", content });
  const user = (content: string): Message => ({ role: "user", content });
  const assistant = (content: string): Message => ({ role: "assistant", content });
  const talks: Message[][] = [
    [system("needle 1"), system("needle 2"), user("needle 3")],
    [system("needle 1"), user("needle 2"), system("needle 3")],
    [system("needle 1"), user("needle 2"), system("needle 3"), user("needle 4")],
    [user("needle 1"), system("needle 2"), assistant("needle 3"), user("needle 4")],
    [system("needle 1"), user("needle 2"), assistant("needle 3"), system("needle 4"), user("needle 5")],
  ];
  const refused = new Set<string>();
  for (const family of families) {
    const renderer = model(family, true);
    for (const [at, messages] of talks.entries()) {
      const text = rendered(renderer, conversationOf(messages, [], templateFacts(renderer)));
      if (text === undefined) refused.add(family);
      else for (const { content } of messages) assert.equal(text.split(content).length, 2, `${family}: talk ${at}, ${content}`);
    }
  }
  assert.deepEqual([...refused], ["gemma-2"], "those that take none");
});
