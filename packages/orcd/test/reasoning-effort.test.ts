/** How long to think: each door has a word for it, and the worker is told where it says that its model can be. */
import assert from "node:assert/strict";
import { after, test } from "node:test";
import type { Json } from "./harness.ts";
import { answers, startOpenai } from "./openai-harness.ts";

const { orcd, worker, post } = await startOpenai({ after });
const thinker = await orcd.worker("w2", { model: "thinker", features: ["reasoning_effort"] });

const messages = [{ role: "user", content: "hi" }];
const DOORS: readonly [path: string, body: object, effort: string | undefined][] = [
  ["/v1/chat/completions", { messages, reasoning_effort: "none" }, "none"],
  ["/v1/chat/completions", { messages, reasoning_effort: "xhigh" }, "xhigh"],
  ["/v1/chat/completions", { messages, reasoning_effort: null }, undefined],
  ["/v1/chat/completions", { messages, chat_template_kwargs: { enable_thinking: false, reasoning_effort: "low" } }, "none"],
  ["/v1/chat/completions", { messages, chat_template_kwargs: { thinking: true } }, "medium"],
  ["/v1/chat/completions", { messages, chat_template_kwargs: { reasoning_effort: "high" }, reasoning_effort: "low" }, "low"],
  ["/v1/responses", { input: "hi", reasoning: { effort: "minimal" } }, "minimal"],
  ["/v1/responses", { input: "hi", reasoning: { summary: "auto" } }, undefined],
  ["/v1/messages", { messages, max_tokens: 5, thinking: { type: "disabled" } }, "none"],
  ["/v1/messages", { messages, max_tokens: 5, thinking: { type: "enabled", budget_tokens: 1024 } }, "medium"],
  ["/v1/messages", { messages, max_tokens: 5, thinking: { type: "adaptive" } }, undefined],
  ["/v1/messages", { messages, max_tokens: 5 }, undefined],
  ["/api/chat", { messages, stream: false, think: false }, "none"],
  ["/api/chat", { messages, stream: false, think: true }, "medium"],
  ["/api/chat", { messages, stream: false, think: "high" }, "high"],
  ["/api/generate", { prompt: "hi", stream: false, think: false }, "none"],
  ["/api/generate", { prompt: "hi", stream: false }, undefined],
  ["/v2/tasks", { prompt: "hi", reasoning_effort: "low" }, "low"],
];

test("a worker whose model can be told how long to think is told", async () => {
  for (const [path, body, effort] of DOORS) {
    const asking = post(path, { model: "thinker", ...body });
    assert.equal((await answers(thinker, ["x"])).body.reasoning_effort, effort, `${path} ${JSON.stringify(body)}`);
    assert.ok((await asking).ok, path);
  }
});

test("another one is not, and answers all the same", async () => {
  for (const [path, body] of DOORS) {
    const asking = post(path, { model: "fake", ...body });
    assert.equal("reasoning_effort" in (await answers(worker, ["x"])).body, false, path);
    assert.ok((await asking).ok, path);
  }
});

test("what is no such word is refused by name, and a model that can be told is said to think", async () => {
  const refused = await post("/v1/chat/completions", { model: "thinker", messages, reasoning_effort: "much" });
  assert.deepEqual([refused.status, ((await refused.json()) as Json).error.param], [400, "reasoning_effort"]);
  const unknown = await post("/v1/chat/completions", { model: "thinker", messages, chat_template_kwargs: { tone: "glad" } });
  assert.match(await unknown.text(), /chat_template_kwargs/);
  assert.equal(unknown.status, 400);
  const shown = async (model: string) => ((await (await post("/api/show", { model })).json()) as Json).capabilities;
  assert.deepEqual(await shown("thinker"), ["completion", "tools", "thinking"]);
  assert.deepEqual(await shown("fake"), ["completion", "tools"]);
});
