/** The OpenAI API, by the official client as it is: shapes, what a request becomes, what is refused. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { OPENAI_FIELDS } from "@rbees/contracts/openai";
import { readEvents } from "@rbees/contracts/sse";
import OpenAI, { type APIError } from "openai";
import type { Json } from "./harness.ts";
import { answers, CHAT, readChat, startOpenai } from "./openai-harness.ts";

test("models are listed and shown; one that is not there is NotFoundError", async (t) => {
  const { client, orcd } = await startOpenai(t);
  await orcd.worker("w2", { model: "org/model:Q4" });
  const { data } = await client.models.list();
  assert.deepEqual(
    data.map(({ id, object, owned_by }) => [id, object, owned_by]),
    [
      ["fake", "model", "rbees"],
      ["org/model:Q4", "model", "rbees"],
    ],
  );
  assert.ok(Math.abs((data[0]?.created ?? 0) - Date.now() / 1000) < 60);
  assert.equal((await client.models.retrieve("org/model:Q4")).id, "org/model:Q4");
  await assert.rejects(client.models.retrieve("gpt-99"), OpenAI.NotFoundError);
});

test("a chat: what the worker is asked, and the answer's shape", async (t) => {
  const { client, orcd, worker } = await startOpenai(t, {}, { model_digest: `gguf-sample:${"0123456789abcdef".repeat(4)}` });
  const answer = client.chat.completions
    .create(
      {
        model: "fake",
        messages: [
          { role: "developer", content: "Be brief." },
          {
            role: "user",
            content: [
              { type: "text", text: "one" },
              { type: "text", text: "two" },
            ],
          },
          { role: "assistant", content: "three", refusal: null },
          { role: "user", content: "four" },
        ],
        max_completion_tokens: 50,
        temperature: 0.5,
        top_p: 0.9,
        seed: -1,
        stop: "END",
        user: "u-7",
        metadata: { team: "bees" },
        store: false,
        service_tier: "auto",
        parallel_tool_calls: true,
        n: 1,
        logit_bias: null,
        response_format: { type: "text" },
        ...({ top_k: 40, min_p: 0.05 } as object),
      },
      { headers: { "x-correlation-id": "corr-1" } },
    )
    .withResponse();
  const attempt = await answers(worker, ["Hé", "llo ", '"世界"\n', "\\🐝"], "STOP_SEQUENCE");
  const { data, response } = await answer;
  const { job_id, attempt: _, ...asked } = attempt.body;
  assert.deepEqual(asked, {
    messages: [
      { role: "system", content: "Be brief." },
      { role: "user", content: "one\ntwo" },
      { role: "assistant", content: "three" },
      { role: "user", content: "four" },
    ],
    raw: false,
    separate_reasoning: true,
    max_tokens: 50,
    fit_context: false,
    temperature: 0.5,
    top_p: 0.9,
    top_k: 40,
    min_p: 0.05,
    seed: 4_294_967_295,
    stop: ["END"],
  });
  assert.deepEqual(data, {
    id: `chatcmpl-${job_id}`,
    object: "chat.completion",
    created: data.created,
    model: "fake",
    system_fingerprint: "fp_0123456789abcdef",
    choices: [
      { index: 0, message: { role: "assistant", content: 'Héllo "世界"\n\\🐝', refusal: null }, logprobs: null, finish_reason: "stop" },
    ],
    usage: { prompt_tokens: 3, completion_tokens: 4, total_tokens: 7, prompt_tokens_details: { cached_tokens: 0 } },
  });
  assert.equal(response.headers.get("x-rbees-job-id"), job_id);
  assert.equal(response.headers.get("x-correlation-id"), "corr-1");
  assert.equal(response.headers.get("x-request-id"), "corr-1");
  assert.match(response.headers.get("x-rbees-routing") ?? "", /worker=w1/);
  const job = await orcd.json(`/v2/tasks/${job_id}`);
  assert.deepEqual([job.status, job.text, job.metadata], ["succeeded", 'Héllo "世界"\n\\🐝', { team: "bees", user: "u-7" }]);
  assert.equal((await orcd.get(`/v2/tasks/${job_id}/explain`)).status, 200);
});

test("a streamed chat: the role, the text, the reason, the usage, [DONE], as they stand on the wire", async (t) => {
  const { post, worker } = await startOpenai(t);
  const asked = { ...CHAT, stream: true, stream_options: { include_usage: true } };
  const response = post("/v1/chat/completions", asked);
  await answers(worker, ["a", 'q"\\', "\n世"], "MAX_TOKENS");
  const text = await (await response).text();
  const chunks = text.split("\n\n").slice(0, -1);
  assert.ok(chunks.every((chunk) => chunk.startsWith("data: ")));
  assert.equal(chunks.at(-1), "data: [DONE]");
  const said = chunks.slice(0, -1).map((chunk): Json => JSON.parse(chunk.slice(6)));
  const { id, created } = said[0];
  assert.match(id, /^chatcmpl-job_/);
  const head = { object: "chat.completion.chunk", id, created, model: "fake" };
  const chunk = (delta: object, finish_reason: string | null = null) => ({
    ...head,
    choices: [{ index: 0, delta, logprobs: null, finish_reason }],
    usage: null,
  });
  assert.deepEqual(said, [
    chunk({ role: "assistant", content: "" }),
    chunk({ content: "a" }),
    chunk({ content: 'q"\\' }),
    chunk({ content: "\n世" }),
    chunk({}, "length"),
    {
      ...head,
      choices: [],
      usage: { prompt_tokens: 3, completion_tokens: 3, total_tokens: 6, prompt_tokens_details: { cached_tokens: 0 } },
    },
  ]);
});

test("without include_usage no chunk speaks of it, and the client's own helper puts the answer together", async (t) => {
  const { client, worker } = await startOpenai(t);
  const runner = client.chat.completions.stream(CHAT);
  await answers(worker, ["Hé", "llo"]);
  const whole = await runner.finalChatCompletion();
  assert.deepEqual([whole.choices[0]?.message.content, whole.choices[0]?.finish_reason, whole.usage], ["Héllo", "stop", undefined]);
});

test("a completion: the prompt as it is, streamed and not", async (t) => {
  const { client, worker } = await startOpenai(t);
  const whole = client.completions.create({ model: "fake", prompt: ["Once"] });
  const attempt = await answers(worker, [" upon", " a"], "MAX_TOKENS");
  const { prompt, raw, max_tokens, temperature, fit_context } = attempt.body;
  assert.deepEqual([prompt, raw, max_tokens, temperature, fit_context], ["Once", true, 16, 1, true]);
  const { id, object, choices } = await whole;
  assert.equal(id, `cmpl-${attempt.body.job_id}`);
  assert.equal(object, "text_completion");
  assert.deepEqual(choices, [{ index: 0, text: " upon a", logprobs: null, finish_reason: "length" }]);

  const stream = client.completions.create({ model: "fake", prompt: "Once", stream: true, max_tokens: 9 });
  await answers(worker, [" upon", " a"]);
  const parts: unknown[] = [];
  for await (const { choices } of await stream) parts.push([choices[0]?.text, choices[0]?.finish_reason]);
  assert.deepEqual(parts, [
    [" upon", null],
    [" a", null],
    ["", "stop"],
  ]);
});

test("token events in another order of members, or escaped otherwise, say the same", async (t) => {
  const { client, worker } = await startOpenai(t);
  const stream = client.chat.completions.create({ ...CHAT, stream: true });
  const attempt = await worker.next();
  attempt.started();
  attempt.response.write('event: token\ndata: {"type":"token","i":0,"ids":[1],"t":"世\\"\\\\"}\n\n');
  attempt.response.write('event: token\ndata: {"type":"token","t":"\\u00e9\\\\\\"","i":1,"ids":[2]}\n\n');
  attempt.response.write('event: token\ndata: {"type":"token","t":"","i":2,"ids":[3]}\n\n');
  attempt.end();
  assert.equal((await readChat(await stream)).text, '世"\\é\\"');
});

test("no length given: the setting's, and never more than the context has room for", async (t) => {
  const { client, worker } = await startOpenai(t, { v1_max_tokens_default: 500 }, { context_size: 300 });
  const short = client.chat.completions.create(CHAT);
  const { body } = await answers(worker, ["x"]);
  assert.deepEqual([body.max_tokens, body.fit_context], [299, true]);
  await short;
  await assert.rejects(client.chat.completions.create({ ...CHAT, max_tokens: 301 }), (error: APIError) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.equal(error.code, "CONTEXT_TOO_LARGE");
    return true;
  });
});

test("what OpenAI's bodies have no field for comes in headers", async (t) => {
  const { client, orcd, post, worker } = await startOpenai(t);
  await orcd.worker("w2");
  const headers = { "x-rbees-priority": "batch", "x-rbees-deadline-ms": "60000", "x-rbees-prefer": "w2, w1", "x-rbees-avoid": "w2" };
  const answer = client.chat.completions.create(CHAT, { headers }).withResponse();
  const attempt = await answers(worker, ["x"]);
  assert.ok((attempt.body.time_left_ms ?? 0) > 50_000);
  const job = await orcd.json(`/v2/tasks/${(await answer).response.headers.get("x-rbees-job-id")}`);
  assert.deepEqual([job.priority, job.worker_id], ["batch", "w1"]);
  await assert.rejects(client.chat.completions.create(CHAT, { headers: { "x-rbees-pin": "nobody" } }), OpenAI.InternalServerError);
  const bad = await post("/v1/chat/completions", CHAT, {
    "x-rbees-priority": "urgent",
    "x-rbees-deadline-ms": "soon",
    "x-rbees-pin": "a b",
  });
  const { error } = (await bad.json()) as Json;
  assert.deepEqual([bad.status, error.param], [400, "x-rbees-priority"]);
  assert.equal(error.details.length, 3);
});

/** A value that asks for something, for fields that are refused. */
const ASKING: Readonly<Record<string, unknown>> = {
  service_tier: "flex",
  modalities: ["text", "audio"],
};

for (const [path, place, good] of [
  ["/v1/chat/completions", "POST /v1/chat/completions", CHAT],
  ["/v1/completions", "POST /v1/completions", { model: "fake", prompt: "hi" }],
] as const) {
  test(`${path}: every field that can't be honoured is refused by its own name, with null it is accepted`, async (t) => {
    const { post, worker } = await startOpenai(t);
    const { supported, hints, refused } = OPENAI_FIELDS[place];
    for (const field of Object.keys(refused)) {
      const answer = await post(path, { ...good, [field]: ASKING[field] ?? [{ type: "function" }] });
      const { error } = (await answer.json()) as Json;
      assert.deepEqual([answer.status, error.type, error.param], [400, "invalid_request_error", field]);
      assert.match(error.message, /is not supported/);
    }
    const optional = Object.keys({ ...supported, ...hints, ...refused }).filter((field) => !(field in good));
    const nothing = post(path, { ...good, ...Object.fromEntries(optional.map((field) => [field, null])) });
    await answers(worker, ["x"]);
    assert.equal((await nothing).status, 200, "null everywhere");
  });

  test(`${path}: every field that the official client's types know is in the table`, () => {
    const types = { chat: "chat/completions/completions.d.ts", text: "completions.d.ts" }[path === "/v1/completions" ? "text" : "chat"];
    const source = readFileSync(new URL(`resources/${types}`, import.meta.resolve("openai")), "utf8");
    const body = /export interface (?:Chat)?CompletionCreateParamsBase \{\n(.*?)\n\}/s.exec(source)?.[1] ?? "";
    const known = [...body.matchAll(/^ {4}(\w+)\??:/gm)].map(([, name]) => name as string);
    assert.ok(known.length > 10, String(known));
    const { supported, hints, refused } = OPENAI_FIELDS[place];
    const ours: object = { ...supported, ...hints, ...refused };
    assert.deepEqual(
      known.filter((name) => !(name in ours)),
      [],
    );
  });
}

test("an unknown field, wrong values and contradictions: all of them named in one answer, and no prompt in it", async (t) => {
  const { client, post } = await startOpenai(t);
  const refusal = async (more: object) => {
    const answer = await post("/v1/chat/completions", { ...CHAT, ...more });
    const text = await answer.text();
    assert.equal(answer.status, 400, text);
    assert.doesNotMatch(text, /secret/);
    return (JSON.parse(text) as Json).error.details.map(({ field }: Json) => field);
  };
  assert.deepEqual(await refusal({ colour: "red" }), ["colour"]);
  assert.deepEqual(await refusal({ n: 0, temperature: 9, stop: Array.from({ length: 33 }, () => "a"), max_tokens: 0 }), [
    "temperature",
    "stop",
    "n",
    "max_tokens",
  ]);
  assert.deepEqual(await refusal({ max_tokens: 5, max_completion_tokens: 6 }), ["max_tokens"]);
  assert.deepEqual(await refusal({ stream_options: { include_usage: true } }), ["stream_options"]);
  assert.deepEqual(await refusal({ user: "a", metadata: { user: "b" } }), ["user"]);
  assert.deepEqual(await refusal({ messages: [] }), ["messages"]);
  const picture = [
    { type: "text", text: "secret" },
    { type: "image_url", image_url: { url: "data:secret" } },
  ];
  assert.deepEqual(await refusal({ messages: [{ role: "user", content: picture }] }), ["messages.0.content"]);
  assert.deepEqual(await refusal({ messages: [{ role: "tool", content: "secret" }] }), ["messages.0.tool_call_id"]);
  const tool = { type: "function", function: { name: "look" } };
  assert.deepEqual(await refusal({ tools: [tool, tool] }), ["tools"]);
  assert.deepEqual(await refusal({ tools: [{ type: "custom", custom: { name: "look" } }] }), [
    "tools.0.type",
    "tools.0.function",
    "tools.0.custom",
  ]);
  const other = { type: "function", function: { name: "other" } };
  assert.deepEqual(await refusal({ tools: [tool], tool_choice: other }), ["tool_choice"]);
  const odd = { type: "function", function: { name: "odd", parameters: { properties: { a: { not: {} } } } } };
  assert.deepEqual(await refusal({ tools: [odd], tool_choice: "required" }), ["tools"]);
  const prompts = await post("/v1/completions", { model: "fake", prompt: ["secret", 7] });
  const mixed = await prompts.text();
  assert.deepEqual([prompts.status, (JSON.parse(mixed) as Json).error.param], [400, "prompt"]);
  assert.doesNotMatch(mixed, /secret/);
  await assert.rejects(client.chat.completions.create({ ...CHAT, n: 9 }), (error: APIError) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.deepEqual([error.param, error.type, error.code], ["n", "invalid_request_error", "INVALID_REQUEST"]);
    return true;
  });
});

test("silence is filled with comments, which clients skip", async (t) => {
  const { post, worker } = await startOpenai(t, { ping_ms: 50 });
  const response = await post("/v1/chat/completions", { ...CHAT, stream: true });
  const attempt = await worker.next();
  const reader = (response.body as ReadableStream<Uint8Array>).getReader();
  const { value } = await reader.read();
  assert.equal(Buffer.from(value as Uint8Array).toString(), ": ping\n\n");
  attempt.started();
  attempt.tokens("x");
  attempt.end();
  const rest: string[] = [];
  const body = {
    async *[Symbol.asyncIterator]() {
      for (let part = await reader.read(); !part.done; part = await reader.read()) yield part.value;
    },
  };
  for await (const { data } of readEvents(body)) rest.push(data);
  assert.equal(rest.at(-1), "[DONE]");
});
