/** The text that a request is known by, whether it has a prompt or a conversation. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Message } from "@rbees/contracts/message";
import { contentText, exactText, promptBlocks, tokensOfPrompt } from "../src/prompt.ts";

const user = (content: string): Message => ({ role: "user", content });
const assistant = (content: string): Message => ({ role: "assistant", content });
const blocks = (messages: Message[]) => promptBlocks({ model: "m", raw: false }, contentText({ messages }), { block_tokens: 4 });

test("a prompt is its own text", () => {
  assert.deepEqual([exactText({ prompt: "hi" }), contentText({ prompt: "hi" })], ["hi", "hi"]);
});

test("no two conversations have the same exact text, however they are cut", () => {
  const cut: Message[][] = [
    [user("ab")],
    [user("a"), user("b")],
    [user("a"), assistant("b")],
    [user("a"), user("b"), user("")],
    [user("ab"), assistant("")],
    [user('a"},{"role":"user","content":"b')],
  ];
  assert.equal(new Set(cut.map((messages) => exactText({ messages }))).size, cut.length);
});

test("tools, their choice and calls are part of what was asked, and tools that the model is shown of what it reads", () => {
  const tools = [{ type: "function" as const, function: { name: "look" } }];
  const called: Message = { ...assistant(""), tool_calls: [{ id: "c", type: "function", function: { name: "look", arguments: "{}" } }] };
  const asked = [
    { prompt: "hi" },
    { prompt: "hi", tools },
    { prompt: "hi", tools, tool_choice: "none" as const },
    { prompt: "hi", tools, parallel_tool_calls: false },
    { messages: [user("hi")], tools },
    { messages: [user("hi"), called], tools },
  ];
  assert.equal(new Set(asked.map(exactText)).size, asked.length);
  assert.deepEqual(asked.map(contentText), [
    "hi",
    '[{"name":"look"}]hi',
    "hi",
    '[{"name":"look"}]hi',
    '[{"name":"look"}]uhi',
    '[{"name":"look"}]uhialook{}',
  ]);
});

test("a conversation that goes on begins with the blocks that it had, and one of other roles does not", () => {
  const said = [user("What do bees do all day long?"), assistant("They dance, and tell each other where.")];
  const longer = blocks([...said, user("And at night, when it is dark?")]);
  const before = blocks(said);
  assert.ok(before.length >= 3 && longer.length > before.length);
  assert.deepEqual(longer.slice(0, before.length), before);
  assert.notEqual(blocks([assistant("What do bees do all day long?")])[0], before[0]);
});

test("a conversation has no more content than a token each for its turns, and what was said", () => {
  const messages = Array.from({ length: 100 }, () => user(""));
  assert.equal(contentText({ messages }).length, 100);
});

test("a prompt of tokens: its length is certain, equal beginnings are equal blocks, and no other request has its exact text", () => {
  const tokens = Array.from({ length: 9 }, (_, i) => 70_000 + i);
  const of = (token_prompt: number[]) => promptBlocks({ model: "m", raw: true }, contentText({ token_prompt }), { block_tokens: 4 });
  const before = of(tokens);
  assert.equal(before.length, 2);
  assert.deepEqual(of([...tokens.slice(0, 8), 1, 2, 3, 4]).slice(0, 2), before);
  const other = of([...tokens.slice(0, 7), 1]);
  assert.deepEqual([other[0] === before[0], other[1] === before[1]], [true, false]);
  const asked = { token_prompt: tokens };
  assert.deepEqual(tokensOfPrompt(asked, contentText(asked)), { prompt_tokens: 9, prompt_tokens_min: 9 });
  const texts = [asked, { token_prompt: [...tokens, 1] }, { prompt: String(tokens) }, { prompt: JSON.stringify(tokens) }].map(exactText);
  assert.equal(new Set(texts).size, texts.length);
});
