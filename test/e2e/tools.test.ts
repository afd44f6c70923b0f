/** A whole round with a tool, through the unmodified clients and the real programs: the model calls, is told the result, and answers. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { after, test } from "node:test";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import Anthropic from "@anthropic-ai/sdk";
import { HumanMessage, ToolMessage } from "@langchain/core/messages";
import { ChatOpenAI } from "@langchain/openai";
import { generateText, jsonSchema, stepCountIs, streamText, tool } from "ai";
import { Ollama } from "ollama";
import OpenAI from "openai";
import { CALL, CALLING, WEATHER_TOOL } from "../../models/fixtures/calling.ts";
import { writeScriptedModel } from "../../models/fixtures/scripted.ts";
import { eventually, getJson, type Json, startOrcd, startWorkerd, temporaryFolder } from "../support/cluster.ts";

const folder = temporaryFolder({ after }, "tools");
const orcd = await startOrcd({ after }, join(folder, "data"));
for (const kind of ["hermes", "thinking"] as const) {
  const path = join(folder, `${kind}.gguf`);
  writeScriptedModel(path, CALLING[kind]);
  await startWorkerd({ after }, path, orcd.url, ["--model-name", kind, "--worker-id", kind]);
}
await eventually(async () => (await getJson(`${orcd.url}/v2/workers`)).workers.length === 2);

const QUESTION = "Do I need an umbrella?";
const GIVEN = JSON.parse(CALL.arguments);
const { name, description, parameters } = WEATHER_TOOL.function;
function rain(called: unknown[], given: unknown): string {
  called.push(given);
  return "rain";
}
const baseURL = `${orcd.url}/v1`;
const openai = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 });
const anthropic = new Anthropic({ baseURL: orcd.url, apiKey: "none", maxRetries: 0 });

test("OpenAI: its own runner of tools comes to the answer, and a stream has the arguments in pieces", async () => {
  const called: unknown[] = [];
  const runner = openai.chat.completions.runTools({
    model: "hermes",
    messages: [{ role: "user", content: QUESTION }],
    temperature: 0,
    tools: [
      {
        type: "function",
        function: {
          name,
          description,
          parameters: { ...parameters, required: [...parameters.required] },
          parse: JSON.parse,
          function: (given: object) => rain(called, given),
        },
      },
    ],
  });
  assert.equal(await runner.finalContent(), CALL.answer);
  assert.deepEqual(called, [GIVEN]);

  const pieces: string[] = [];
  const stream = await openai.chat.completions.create({
    model: "hermes",
    messages: [{ role: "user", content: QUESTION }],
    temperature: 0,
    stream: true,
    tools: [WEATHER_TOOL as unknown as OpenAI.ChatCompletionFunctionTool],
  });
  let text = "";
  let finish: string | null | undefined;
  for await (const { choices } of stream) {
    text += choices[0]?.delta.content ?? "";
    finish = choices[0]?.finish_reason ?? finish;
    for (const call of choices[0]?.delta.tool_calls ?? []) pieces.push(call.function?.arguments ?? "");
  }
  assert.deepEqual([text, finish, pieces.join("")], ["Let me look.", "tool_calls", CALL.arguments]);
  assert.ok(pieces.length > 3);
  const refused = { model: "hermes", messages: [{ role: "user" as const, content: "hi" }], tool_choice: "required" as const };
  await assert.rejects(openai.chat.completions.create(refused), OpenAI.BadRequestError);
});

test("a client that says that a function has to be called gets a call of it, at each of the doors that can say so", async () => {
  const door = { type: "object" as const, properties: { which: { enum: ["front", "back"] } }, required: ["which"] };
  const messages = [{ role: "user" as const, content: QUESTION }];
  const asked = { model: "hermes", messages, temperature: 0 };
  const opened = (args: unknown) => assert.ok(["front", "back"].includes((args as Json).which), JSON.stringify(args));
  const { choices } = await openai.chat.completions.create({
    ...asked,
    max_completion_tokens: 500,
    tools: [
      WEATHER_TOOL as unknown as OpenAI.ChatCompletionFunctionTool,
      { type: "function", function: { name: "open_door", parameters: door } },
    ],
    tool_choice: { type: "function", function: { name: "open_door" } },
  });
  const call = choices[0]?.message.tool_calls?.[0];
  assert.ok(call?.type === "function" && call.function.name === "open_door" && choices[0]?.message.content === null);
  opened(JSON.parse(call.function.arguments));
  const tools = [{ name: "open_door", input_schema: door }];
  const { content, stop_reason } = await anthropic.messages.create({
    ...asked,
    max_tokens: 500,
    tools,
    tool_choice: { type: "any" },
  } as never);
  assert.deepEqual([content.map(({ type }) => type), stop_reason], [["tool_use"], "tool_use"]);
  opened((content[0] as Json).input);
});

test("OpenAI: the same over /v1/responses", async () => {
  const tools = [{ type: "function" as const, name, description, parameters, strict: false }] as unknown as OpenAI.Responses.FunctionTool[];
  const asked = { model: "hermes", temperature: 0, tools };
  const first = await openai.responses.create({ ...asked, input: QUESTION });
  const [said, call] = first.output;
  assert.ok(said?.type === "message" && call?.type === "function_call");
  assert.deepEqual([first.output_text, call.name, call.arguments, first.status], ["Let me look.", name, CALL.arguments, "completed"]);
  const input: OpenAI.Responses.ResponseInput = [
    { role: "user", content: QUESTION },
    ...(first.output as OpenAI.Responses.ResponseInputItem[]),
    { type: "function_call_output", call_id: call.call_id, output: "rain" },
  ];
  assert.equal((await openai.responses.create({ ...asked, input })).output_text, CALL.answer);

  const types: string[] = [];
  const stream = openai.responses.stream({ ...asked, input: QUESTION });
  for await (const event of stream) types.push(event.type);
  const whole = await stream.finalResponse();
  const streamed = whole.output[1];
  assert.ok(streamed?.type === "function_call");
  assert.equal(streamed.arguments, CALL.arguments);
  assert.ok(types.filter((type) => type === "response.function_call_arguments.delta").length > 3);
  assert.deepEqual(types.slice(-3), ["response.function_call_arguments.done", "response.output_item.done", "response.completed"]);
});

test("Anthropic: tool_use, tool_result, an answer; whole and streamed", async () => {
  const tools = [{ name, description, input_schema: { ...parameters, required: [...parameters.required] } }];
  const asked = { model: "hermes", max_tokens: 200, tools, ...({ temperature: 0 } as object) };
  const stream = anthropic.messages.stream({ ...asked, messages: [{ role: "user", content: QUESTION }] });
  let partial = "";
  stream.on("inputJson", (json) => {
    partial += json;
  });
  const streamed = await stream.finalMessage();
  const first = await anthropic.messages.create({ ...asked, messages: [{ role: "user", content: QUESTION }] });
  for (const { content, stop_reason } of [streamed, first]) {
    assert.deepEqual(
      content.map((block) => (block.type === "text" ? block.text : block.type === "tool_use" ? [block.name, block.input] : block.type)),
      ["Let me look.", [name, GIVEN]],
    );
    assert.equal(stop_reason, "tool_use");
  }
  assert.equal(partial, CALL.arguments);
  const call = first.content[1];
  assert.ok(call?.type === "tool_use");
  const second = await anthropic.messages.create({
    ...asked,
    messages: [
      { role: "user", content: QUESTION },
      { role: "assistant", content: first.content },
      { role: "user", content: [{ type: "tool_result", tool_use_id: call.id, content: "rain" }] },
    ],
  });
  assert.deepEqual([second.content[0], second.stop_reason], [{ type: "text", text: CALL.answer, citations: null }, "end_turn"]);
});

test("Ollama: a call, its result, an answer; whole and streamed", async () => {
  const ollama = new Ollama({ host: orcd.url });
  const tools = [{ type: "function", function: { name, description, parameters: { ...parameters, required: [...parameters.required] } } }];
  const asked = { model: "hermes", tools, options: { temperature: 0 } };
  const question = { role: "user", content: QUESTION };
  const { message } = await ollama.chat({ ...asked, messages: [question] });
  assert.deepEqual(
    [message.content, message.tool_calls?.[0]?.function.name, message.tool_calls?.[0]?.function.arguments],
    ["Let me look.", name, GIVEN],
  );
  const messages = [question, message, { role: "tool", content: "rain", tool_name: name }];
  assert.equal((await ollama.chat({ ...asked, messages })).message.content, CALL.answer);
  let text = "";
  const calls: unknown[] = [];
  for await (const part of await ollama.chat({ ...asked, messages: [question], stream: true })) {
    text += part.message.content;
    calls.push(...(part.message.tool_calls ?? []).map((call) => call.function.arguments));
  }
  assert.deepEqual([text, calls], ["Let me look.", [GIVEN]]);
});

test("AI SDK: it calls the tool itself and comes to the answer, whole and streamed", async () => {
  const provider = createOpenAICompatible({ name: "rbees", baseURL });
  const called: unknown[] = [];
  const asked = {
    model: provider("hermes"),
    prompt: QUESTION,
    temperature: 0,
    maxRetries: 0,
    stopWhen: stepCountIs(3),
    tools: {
      [name]: tool({ description, inputSchema: jsonSchema(parameters as never), execute: async (given) => rain(called, given) }),
    },
  };
  const { text, steps } = await generateText(asked);
  assert.deepEqual([text, steps.map(({ finishReason }) => finishReason)], [CALL.answer, ["tool-calls", "stop"]]);
  assert.equal(await streamText(asked).text, CALL.answer);
  assert.deepEqual(called, [GIVEN, GIVEN]);
});

test("LangChain: a call, its result, an answer", async () => {
  const model = new ChatOpenAI({ model: "hermes", apiKey: "none", maxRetries: 0, temperature: 0, configuration: { baseURL } }).bindTools([
    WEATHER_TOOL as never,
  ]);
  const question = new HumanMessage(QUESTION);
  const first = await model.invoke([question]);
  const [call] = first.tool_calls ?? [];
  assert.deepEqual([call?.name, call?.args], [name, GIVEN]);
  const second = await model.invoke([question, first, new ToolMessage({ content: "rain", tool_call_id: call?.id ?? "" })]);
  assert.equal(second.text, CALL.answer);
  let chunks: Json;
  for await (const chunk of await model.stream([question])) chunks = chunks === undefined ? chunk : chunks.concat(chunk);
  assert.deepEqual(chunks.tool_calls?.[0]?.args, GIVEN);
});

test("thinking comes apart from the text at every door", async () => {
  const messages = [{ role: "user" as const, content: QUESTION }];
  const tools = [WEATHER_TOOL as unknown as OpenAI.ChatCompletionFunctionTool];
  const chat = await openai.chat.completions.create({ model: "thinking", messages, tools, temperature: 0 });
  const message = chat.choices[0]?.message as Json;
  assert.deepEqual([message.reasoning_content, message.content, message.tool_calls?.length], ["Rain? Ask.", "Let me look", 1]);

  const provider = createOpenAICompatible({ name: "rbees", baseURL });
  const { reasoningText, text } = await generateText({
    model: provider("thinking"),
    prompt: QUESTION,
    temperature: 0,
    maxRetries: 0,
    maxOutputTokens: 9,
  });
  assert.deepEqual([reasoningText, text], ["Rain? Ask.", "Let me look"]);

  const stream = openai.responses.stream({ model: "thinking", input: QUESTION, temperature: 0, max_output_tokens: 9 });
  const response = await stream.finalResponse();
  assert.deepEqual(
    response.output.map(({ type }) => type),
    ["reasoning", "message"],
  );
  assert.equal(response.output_text, "Let me look");

  const blocks = (
    await anthropic.messages.stream({ model: "thinking", max_tokens: 9, messages, ...({ temperature: 0 } as object) }).finalMessage()
  ).content;
  assert.deepEqual(
    blocks.map((block) => (block.type === "thinking" ? block.thinking : block.type)),
    ["Rain? Ask.", "text"],
  );

  const ollama = new Ollama({ host: orcd.url });
  const asked = { model: "thinking", messages, options: { temperature: 0, num_predict: 9 } };
  assert.equal((await ollama.chat({ ...asked, think: true })).message.thinking, "Rain? Ask.");
  assert.equal((await ollama.chat({ ...asked, think: false })).message.thinking, undefined);

  const { tasks } = await getJson(`${orcd.url}/v2/tasks?model=thinking`);
  const job = await getJson(`${orcd.url}/v2/tasks/${tasks.at(-1).job_id}`);
  assert.deepEqual(
    [job.reasoning, job.text, job.tool_calls[0].function],
    ["Rain? Ask.", "Let me look", { name, arguments: CALL.arguments }],
  );
});
