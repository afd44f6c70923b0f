/** The bodies that cross the wire: defaults, refusals, and what a refusal must not say. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import type { z } from "zod";
import { MessagesRequest } from "../src/anthropic.ts";
import { type FieldProblem, fieldProblems } from "../src/error-body.ts";
import { invalidRequest } from "../src/errors.ts";
import { isLast, JobEvent } from "../src/events.ts";
import { ListJobs, SubmitJob, WIRE_LIMITS } from "../src/job.ts";
import { ChatRequest } from "../src/openai.ts";
import { ResponsesRequest } from "../src/responses.ts";
import { Beat, Execute, RegisterWorker } from "../src/worker.ts";

function problems(schema: z.ZodType, value: unknown): FieldProblem[] {
  const parsed = schema.safeParse(value);
  return parsed.success ? [] : fieldProblems(parsed.error);
}

const fields = (schema: z.ZodType, value: unknown) => problems(schema, value).map(({ field }) => field);
const job = { model: "demo", prompt: "Say hi." };

test("a job has a prompt or messages, and says so beside whatever else is wrong", () => {
  const messages = [
    {
      role: "user",
      content: [
        { type: "text", text: "a" },
        { type: "text", text: "b" },
      ],
    },
  ];
  assert.deepEqual(SubmitJob.parse({ model: "demo", messages }).messages, [{ role: "user", content: "a\nb" }]);
  assert.deepEqual(fields(SubmitJob, { ...job, messages }), ["prompt"]);
  assert.deepEqual(fields(SubmitJob, { max_tokens: 0 }), ["model", "max_tokens", "prompt"]);
  assert.deepEqual(fields(SubmitJob, { model: "demo", messages, raw: true }), ["raw"]);
  assert.deepEqual(fields(SubmitJob, { model: "demo", messages: [] }), ["messages"]);
  assert.deepEqual(fields(SubmitJob, { model: "demo", messages: [{ role: "robot", content: "x" }] }), ["messages.0.role"]);
  assert.deepEqual(fields(SubmitJob, null), ["(body)"]);
});

const tool = (name: string, parameters?: object) => ({
  type: "function",
  function: { name, ...(parameters === undefined ? {} : { parameters }) },
});
const call = (id: string) => ({ id, type: "function", function: { name: "look", arguments: "{}" } });

test("a conversation may hold calls and their results, and nothing else of them in other turns", () => {
  const messages = [
    { role: "user", content: "hi" },
    { role: "assistant", content: null, tool_calls: [call("c1")] },
    { role: "tool", content: "rain", tool_call_id: "c1", name: "look" },
  ];
  assert.deepEqual(SubmitJob.parse({ model: "demo", messages, tools: [tool("look")] }).messages, [
    { role: "user", content: "hi" },
    { role: "assistant", content: "", tool_calls: [call("c1")] },
    { role: "tool", content: "rain", tool_call_id: "c1", name: "look" },
  ]);
  const wrong = [
    { role: "user", content: "x", tool_calls: [call("c1")] },
    { role: "user", content: "x", tool_call_id: "c1" },
    { role: "tool", content: "x" },
    { role: "assistant", tool_calls: [] },
    { role: "user", content: "x", reasoning_content: "hm" },
  ];
  assert.deepEqual(fields(SubmitJob, { model: "demo", messages: wrong }), [
    "messages.0.tool_calls",
    "messages.1.tool_call_id",
    "messages.2.tool_call_id",
    "messages.3.content",
    "messages.4.reasoning_content",
  ]);
});

test("tools have names that differ, schemas that are not too deep, and a choice among them", () => {
  const deep = (levels: number): object => (levels === 0 ? {} : { properties: deep(levels - 1) });
  assert.deepEqual(fields(SubmitJob, { ...job, tools: [tool("a", deep(63)), tool("b")], tool_choice: "none" }), []);
  assert.deepEqual(fields(SubmitJob, { ...job, tools: [tool("a", deep(65))] }), ["tools.0.function.parameters"]);
  for (const [schema, asked, bad] of [
    [ChatRequest, { messages: [] }, tool("a", deep(65))],
    [ResponsesRequest, { input: "" }, { type: "function", name: "a", parameters: deep(65) }],
    [MessagesRequest, { messages: [], max_tokens: 0 }, { name: "a", input_schema: deep(65) }],
  ] as const)
    assert.ok(fields(schema, { model: "demo", ...asked, tools: [bad], tool_choice: "auto" }).some((field) => field.startsWith("tools.0.")));
  assert.deepEqual(fields(SubmitJob, { ...job, tools: [tool("a"), tool("a")] }), ["tools"]);
  assert.deepEqual(fields(SubmitJob, { ...job, tools: [tool("no spaces")] }), ["tools.0.function.name"]);
  assert.ok(fields(SubmitJob, { ...job, tool_choice: "required" }).includes("tool_choice"));
  assert.ok(fields(SubmitJob, { ...job, tools: [tool("a")], tool_choice: { name: "b" } }).includes("tool_choice"));
  assert.deepEqual(fields(SubmitJob, { ...job, tools: [tool("a")], raw: true }), ["tools"]);
});

test("a job needs a model and a prompt; everything else has the contract's default", () => {
  assert.deepEqual(SubmitJob.parse(job), {
    ...job,
    raw: false,
    max_tokens: 100,
    temperature: 0.7,
    stop: [],
    priority: "interactive",
    on_disconnect: "continue",
    on_worker_lost: "continue",
    stream: false,
    metadata: {},
  });
  assert.deepEqual(SubmitJob.parse({ ...job, placement: { pin: "w1" } }).placement, { pin: "w1", prefer: [], avoid: [], labels: {} });
});

test("all problems of a job are told at once, each with its field", () => {
  const bad = {
    prompt: "",
    max_tokens: 0,
    temperature: 3,
    top_p: 0,
    seed: -1,
    stop: ["a", "b", "c", "d", "e"],
    priority: "urgent",
    deadline_ms: 0,
    placement: { pin: "no spaces", nearby: true },
    stream: "yes",
    shout: 1,
  };
  assert.deepEqual(fields(SubmitJob, bad).sort(), [
    "deadline_ms",
    "max_tokens",
    "model",
    "placement.nearby",
    "placement.pin",
    "priority",
    "prompt",
    "seed",
    "shout",
    "stop",
    "stream",
    "temperature",
    "top_p",
  ]);
});

test("unknown fields are refused by name, in the job and in its placement", () => {
  assert.deepEqual(problems(SubmitJob, { ...job, maxTokens: 5, placement: { pinned: "w1" } }), [
    { field: "placement.pinned", problem: "unknown field" },
    { field: "maxTokens", problem: "unknown field" },
  ]);
});

test("a refusal never echoes the prompt, wherever it was put", () => {
  const secret = "my medical history";
  fc.assert(
    fc.property(
      fc.constantFrom("model", "priority", "temperature", "stop", "placement", "metadata", "seed", "on_disconnect", "max_tokens"),
      (field) => {
        const error = invalidRequest(
          problems(SubmitJob, { prompt: secret, [field]: field === "model" ? `${secret}!` : secret, temperature: 9 }),
        );
        assert.doesNotMatch(JSON.stringify(error.body("c")), /medical/);
      },
    ),
  );
  assert.doesNotMatch(JSON.stringify(problems(SubmitJob, { model: "demo", prompt: [secret] })), /medical/);
  assert.doesNotMatch(JSON.stringify(problems(SubmitJob, secret)), /medical/);
  assert.doesNotMatch(
    JSON.stringify(problems(Execute, { job_id: "j", prompt: secret, messages: [{ role: "user", content: secret }] })),
    /medical/,
  );
});

test("the limits of the wire are the ones that are told", () => {
  const metadata = (keys: number) => Object.fromEntries(Array.from({ length: keys }, (_, i) => [`k${i}`, "v"]));
  assert.deepEqual(fields(SubmitJob, { ...job, metadata: metadata(WIRE_LIMITS.metadata_keys_max) }), []);
  assert.deepEqual(fields(SubmitJob, { ...job, metadata: metadata(WIRE_LIMITS.metadata_keys_max + 1) }), ["metadata"]);
  assert.deepEqual(fields(SubmitJob, { ...job, max_tokens: WIRE_LIMITS.max_tokens_max }), []);
  assert.deepEqual(fields(SubmitJob, { ...job, max_tokens: WIRE_LIMITS.max_tokens_max + 1 }), ["max_tokens"]);
  assert.deepEqual(fields(SubmitJob, { ...job, stop: ["x".repeat(WIRE_LIMITS.stop_string_chars_max + 1)] }), ["stop.0"]);
});

test("model names and worker ids hold nothing that would have to be quoted in a shell, a URL or a log", () => {
  for (const model of ["demo", "hf:org/repo@main", "TheBloke/Llama-2-7B-GGUF", "qwen2.5:0.5b"])
    assert.deepEqual(fields(SubmitJob, { ...job, model }), []);
  for (const model of ["", " demo", "-rf", "a b", "a;b", "a'b", "a\nb", "x".repeat(257)])
    assert.deepEqual(fields(SubmitJob, { ...job, model }), ["model"]);
  for (const id of ["", "a b", "a/b", "../x", "x".repeat(129)]) assert.deepEqual(fields(RegisterWorker, { ...worker, id }), ["id"]);
});

const worker = { id: "w1", host: "127.0.0.1", port: 8001, model: "demo" };

test("id, host, port and model are enough to register, and fields of a later version are tolerated", () => {
  assert.deepEqual(RegisterWorker.parse({ ...worker, from_the_future: true }), {
    ...worker,
    backend: "cpu",
    device: "",
    slots: 1,
    labels: {},
    features: [],
    version: "",
    protocol: 0,
    protocol_min: 0,
    epoch: 0,
    tls: false,
  });
  assert.equal(Beat.parse({ slots_busy: 0, memory_bytes: 0, tokens_per_second: 0, new: 1 }).draining, false);
});

test("an attempt has a prompt, messages or a prompt of tokens: two or none are refused at the prompt", () => {
  const messages = [{ role: "user", content: "hi" }];
  const base = { job_id: "j1", max_tokens: 5 };
  assert.deepEqual(Execute.parse({ ...base, prompt: "hi" }).attempt, 1);
  assert.deepEqual(fields(Execute, { ...base, messages }), []);
  assert.deepEqual(fields(Execute, { ...base, token_prompt: [1, 2] }), []);
  for (const wrong of [base, { ...base, prompt: "hi", messages }, { ...base, prompt: "hi", token_prompt: [1] }]) {
    assert.deepEqual(problems(Execute, wrong), [{ field: "prompt", problem: "give one of prompt, messages and token_prompt" }]);
  }
});

test("an attempt refuses what it does not know, also in where it continues from", () => {
  const base = { job_id: "j1", prompt: "hi" };
  assert.deepEqual(fields(Execute, { ...base, continue_from: { tokens: [1, 2], text: "a" } }), ["continue_from.text"]);
  assert.deepEqual(fields(Execute, { ...base, max_token: 5 }), ["max_token"]);
  assert.deepEqual(fields(Execute, { ...base, continue_from: { tokens: [-1] } }), ["continue_from.tokens.0"]);
});

test("the list's limit is read from text and bounded", () => {
  assert.equal(ListJobs.parse({}).limit, 50);
  assert.equal(ListJobs.parse({ limit: "200" }).limit, 200);
  for (const limit of ["0", "201", "1.5", "many"]) assert.deepEqual(fields(ListJobs, { limit }), ["limit"]);
});

test("exactly end and error close a stream", () => {
  const types = JobEvent.options.map((option) => option.shape.type.value);
  assert.deepEqual(types.filter((type) => isLast({ type })).sort(), ["end", "error"]);
});
