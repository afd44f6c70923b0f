/** Libraries that speak OpenAI's API, as they are: Vercel's AI SDK and LangChain. A chat, a stream, an abort, errors, another try. */
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { HumanMessage, SystemMessage } from "@langchain/core/messages";
import { ChatOpenAI } from "@langchain/openai";
import { APICallError, generateText, RetryError, streamText } from "ai";
import type { FakeAttempt } from "../../../test/support/fake-worker.ts";
import { eventually, type Json } from "./harness.ts";
import { answers, startOpenai } from "./openai-harness.ts";

const { orcd, worker } = await startOpenai({ after }, { queue_jobs_max: 1 });
const model = createOpenAICompatible({ name: "rbees", baseURL: `${orcd.url}/v1`, includeUsage: true })("fake");
const langchain = (maxRetries = 0) =>
  new ChatOpenAI({
    model: "fake",
    apiKey: "none",
    maxRetries,
    maxTokens: 50,
    temperature: 0.5,
    configuration: { baseURL: `${orcd.url}/v1` },
  });
const SAID = [new SystemMessage("Be brief."), new HumanMessage("hi")];
const MESSAGES = [
  { role: "system", content: "Be brief." },
  { role: "user", content: "hi" },
];

async function cancelled({ body, closed }: FakeAttempt): Promise<void> {
  await closed;
  await eventually(async () => (await orcd.json(`/v2/tasks/${body.job_id}`)).status === "cancelled");
}

test("AI SDK: a text, a streamed text, an abort", async () => {
  const asked = { model, system: "Be brief.", prompt: "hi", maxOutputTokens: 50, temperature: 0.5, stopSequences: ["END"], maxRetries: 0 };
  const whole = generateText(asked);
  const { body } = await answers(worker, ["Hé", "llo 🐝"], "MAX_TOKENS");
  assert.deepEqual([body.messages, body.max_tokens, body.temperature, body.stop], [MESSAGES, 50, 0.5, ["END"]]);
  const { text, finishReason, usage } = await whole;
  assert.deepEqual([text, finishReason, usage.inputTokens, usage.outputTokens], ["Héllo 🐝", "length", 3, 2]);

  const streaming = streamText(asked);
  const parts: string[] = [];
  const reading = (async () => {
    for await (const part of streaming.textStream) parts.push(part);
  })();
  await answers(worker, ["Hé", "llo 🐝"]);
  await reading;
  assert.deepEqual(parts, ["Hé", "llo 🐝"]);
  assert.deepEqual([await streaming.finishReason, (await streaming.usage).outputTokens], ["stop", 2]);

  const leave = new AbortController();
  const leaving = streamText({ ...asked, abortSignal: leave.signal, onAbort() {} });
  const attempt = await (async () => {
    const read = (async () => {
      for await (const _ of leaving.textStream) leave.abort();
    })();
    const begun = await worker.next();
    begun.started();
    begun.tokens("one");
    await read.catch(() => {});
    return begun;
  })();
  await cancelled(attempt);
});

test("AI SDK: errors are its own, with what was said; what can't help is not tried again, what can is", async () => {
  const asked = { prompt: "hi", maxRetries: 2 };
  const unknown = createOpenAICompatible({ name: "rbees", baseURL: `${orcd.url}/v1` })("gpt-99");
  await assert.rejects(generateText({ ...asked, model: unknown }), (error: unknown) => {
    assert.ok(APICallError.isInstance(error));
    assert.deepEqual([error.statusCode, error.isRetryable], [404, false]);
    assert.match(error.message, /gpt-99/);
    return true;
  });
  const failing = generateText({ ...asked, model });
  (await worker.next()).fail("CONTEXT_TOO_LARGE", false);
  await assert.rejects(failing, (error: unknown) => APICallError.isInstance(error) && error.statusCode === 400);

  const first = generateText({ ...asked, model });
  const attempt = await worker.next();
  const second = generateText({ ...asked, model });
  await eventually(async () => (await orcd.json("/v2/tasks")).tasks[0].status === "queued");
  await assert.rejects(generateText({ ...asked, model, maxRetries: 0 }), (error: unknown) => {
    const said = RetryError.isInstance(error) ? error.lastError : error;
    return APICallError.isInstance(said) && said.statusCode === 429 && said.isRetryable;
  });
  const patient = generateText({ ...asked, model });
  await eventually(async () => (await orcd.json("/v2/tasks")).tasks[0].status === "queued");
  attempt.end();
  await answers(worker, ["2"]);
  await Promise.all([first, second]);
  await answers(worker, ["3"]);
  assert.equal((await patient).text, "3");
});

test("AI SDK: a schema is refused by name where no engine can keep to one", async () => {
  const response_format = { responseFormat: { type: "json", schema: { type: "object" } } } as const;
  const prompt = [{ role: "user", content: [{ type: "text", text: "hi" }] }] as const;
  await assert.rejects(
    async () => model.doGenerate({ prompt: structuredClone(prompt) as never, ...response_format }),
    (error: unknown) => APICallError.isInstance(error) && /response_format \(json_schema\): the engine of no worker/.test(error.message),
  );
});

test("LangChain: a message, a streamed message, an abort, errors", async () => {
  const whole = langchain().invoke(SAID);
  const { body } = await answers(worker, ["Hé", "llo 🐝"]);
  assert.deepEqual([body.messages, body.max_tokens, body.temperature], [MESSAGES, 50, 0.5]);
  const { text, usage_metadata, response_metadata } = (await whole) as Json;
  assert.deepEqual([text, usage_metadata?.total_tokens, response_metadata["finish_reason"]], ["Héllo 🐝", 5, "stop"]);

  const streaming = langchain().stream(SAID);
  await answers(worker, ["Hé", "llo 🐝"], "MAX_TOKENS");
  let streamed = "";
  let tokens = 0;
  for await (const chunk of await streaming) {
    streamed += chunk.text;
    tokens = (chunk as Json).usage_metadata?.output_tokens ?? tokens;
  }
  assert.deepEqual([streamed, tokens], ["Héllo 🐝", 2]);

  const leave = new AbortController();
  const leaving = langchain().invoke(SAID, { signal: leave.signal });
  const attempt = await worker.next();
  attempt.started();
  leave.abort();
  await assert.rejects(leaving);
  await cancelled(attempt);

  const failing = langchain(2).invoke(SAID);
  (await worker.next()).fail("CONTEXT_TOO_LARGE", false);
  await assert.rejects(failing, { status: 400, code: "CONTEXT_TOO_LARGE" });
  // It does not look at x-should-retry, and tries again whatever ended with 5xx.
  const stubborn = langchain(1).invoke(SAID);
  (await worker.next()).fail("INTERNAL", false);
  await answers(worker, ["again"]);
  assert.equal((await stubborn).text, "again");
});
