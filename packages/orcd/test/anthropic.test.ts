/** Anthropic's Messages API, by its official client as it is: shapes, what a request becomes, what is refused, trouble. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, test } from "node:test";
import Anthropic, { type APIError } from "@anthropic-ai/sdk";
import { ANTHROPIC_FIELDS } from "@rbees/contracts/anthropic";
import { readEvents } from "@rbees/contracts/sse";
import { eventually, type Json } from "./harness.ts";
import { answers, startOpenai } from "./openai-harness.ts";

const { orcd, worker, post } = await startOpenai({ after }, { queue_jobs_max: 1, ping_ms: 50 }, { context_size: 1000 });
const clientOf = (maxRetries: number) => new Anthropic({ baseURL: orcd.url, apiKey: "none", maxRetries });
const client = clientOf(0);
const ASKED = { model: "fake", max_tokens: 100, messages: [{ role: "user" as const, content: "hi" }] };
const statusOf = async (job_id: string) => (await orcd.json(`/v2/tasks/${job_id}`)).status;

test("a message: what the worker is asked, and the answer's shape", async () => {
  const answer = client.messages
    .create(
      {
        model: "fake",
        max_tokens: 50,
        system: [
          { type: "text", text: "Be brief.", cache_control: { type: "ephemeral" } },
          { type: "text", text: "Be kind." },
        ],
        messages: [
          { role: "user", content: [{ type: "text", text: "one" }] },
          { role: "assistant", content: [{ type: "text", text: "two", citations: null }] },
          { role: "user", content: "three" },
        ],
        stop_sequences: ["END", "ÉND"],
        metadata: { user_id: "u-7" },
        service_tier: "auto",
        thinking: { type: "disabled" },
        tools: [],
        ...({ temperature: 0.5, top_p: 0.9, top_k: 40 } as object),
      },
      { headers: { "x-correlation-id": "corr-1", "x-rbees-priority": "batch" } },
    )
    .withResponse();
  const end = { stop: "ÉND", tokens_in: 30, tokens_cached: 20 };
  const attempt = await answers(worker, ["Hé", "llo ", '"世界"\n', "\\🐝"], "STOP_SEQUENCE", end);
  const { data, response, request_id } = await answer;
  const { job_id, attempt: _, ...asked } = attempt.body;
  assert.deepEqual(asked, {
    messages: [
      { role: "system", content: "Be brief.\nBe kind." },
      { role: "user", content: "one" },
      { role: "assistant", content: "two" },
      { role: "user", content: "three" },
    ],
    raw: false,
    separate_reasoning: true,
    max_tokens: 50,
    fit_context: true,
    temperature: 0.5,
    top_p: 0.9,
    top_k: 40,
    seed: asked.seed,
    stop: ["END", "ÉND"],
  });
  const { usage, ...said } = data;
  assert.deepEqual(said, {
    id: `msg_${job_id}`,
    type: "message",
    role: "assistant",
    model: "fake",
    content: [{ type: "text", text: 'Héllo "世界"\n\\🐝', citations: null }],
    stop_reason: "stop_sequence",
    stop_sequence: "ÉND",
    stop_details: null,
    container: null,
    diagnostics: null,
  });
  assert.deepEqual([usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens], [10, 20, 4]);
  assert.deepEqual(
    [request_id, response.headers.get("x-correlation-id"), response.headers.get("x-rbees-job-id")],
    ["corr-1", "corr-1", job_id],
  );
  const job = await orcd.json(`/v2/tasks/${job_id}`);
  assert.deepEqual([job.status, job.priority, job.metadata], ["succeeded", "batch", { user_id: "u-7" }]);
});

test("the client lists the models' ids from the list in OpenAI's form", async () => {
  const ids: string[] = [];
  for await (const { id } of client.models.list()) ids.push(id);
  assert.deepEqual(ids, ["fake"]);
  assert.equal((await client.models.retrieve("fake")).id, "fake");
});

test("a streamed message, as it stands on the wire, and as the client puts it together", async () => {
  const streaming = post("/v1/messages", { ...ASKED, stream: true });
  await answers(worker, ["a", 'q"\\', "\n世"], "MAX_TOKENS", { stop: "世", tokens_cached: 1 });
  const response = await streaming;
  assert.equal(response.headers.get("content-type"), "text/event-stream; charset=utf-8");
  const events: Json[] = [];
  for await (const { event, data } of readEvents(response.body as unknown as AsyncIterable<Uint8Array>)) {
    const said = JSON.parse(data);
    assert.equal(event, said.type);
    // One comes whenever nothing else does for a moment.
    if (event !== "ping") events.push(said);
  }
  const delta = (text: string) => ({ type: "content_block_delta", index: 0, delta: { type: "text_delta", text } });
  const [{ message }, ...rest] = events;
  const end = rest.at(-2);
  assert.deepEqual([message.content, message.stop_reason, message.usage.output_tokens], [[], null, 0]);
  assert.deepEqual(rest, [
    { type: "content_block_start", index: 0, content_block: { type: "text", text: "", citations: null } },
    delta("a"),
    delta('q"\\'),
    delta("\n世"),
    { type: "content_block_stop", index: 0 },
    {
      type: "message_delta",
      // Fewer than the 100 that were asked for: the context had no room for more.
      delta: { stop_reason: "model_context_window_exceeded", stop_sequence: "世", stop_details: null, container: null },
      usage: end.usage,
    },
    { type: "message_stop" },
  ]);
  assert.deepEqual([end.usage.input_tokens, end.usage.cache_read_input_tokens, end.usage.output_tokens], [2, 1, 3]);

  const stream = client.messages.stream({ ...ASKED, max_tokens: 2 });
  await answers(worker, ["Hé", "llo"], "MAX_TOKENS");
  const whole = await stream.finalMessage();
  assert.deepEqual([await stream.finalText(), whole.stop_reason, whole.usage.input_tokens], ["Héllo", "max_tokens", 3]);

  const silent = client.messages.stream(ASKED);
  await answers(worker, []);
  assert.deepEqual((await silent.finalMessage()).content, [], "nothing was said");
  const nothing = client.messages.create(ASKED);
  await answers(worker, []);
  assert.deepEqual([(await nothing).content, (await nothing).stop_reason], [[], "end_turn"]);
});

test("a length beyond the context is cut to it", async () => {
  const answer = client.messages.create({ ...ASKED, max_tokens: 20_000 });
  const { body } = await answers(worker, ["x"], "MAX_TOKENS");
  assert.ok(body.max_tokens < 1000, String(body.max_tokens));
  assert.equal((await answer).stop_reason, "model_context_window_exceeded");
});

test("silence is filled with events that the client skips", async () => {
  const streaming = post("/v1/messages", { ...ASKED, stream: true });
  const attempt = await worker.next();
  const reader = ((await streaming).body as ReadableStream<Uint8Array>).getReader();
  const { value } = await reader.read();
  assert.equal(Buffer.from(value as Uint8Array).toString(), 'event: ping\ndata: {"type":"ping"}\n\n');
  attempt.end();
  while (!(await reader.read()).done);
});

for (const stream of [true, false]) {
  test(`a client that leaves ends its job and frees the slot (stream: ${stream})`, async () => {
    const leave = new AbortController();
    const answer = client.messages.create({ ...ASKED, stream }, { signal: leave.signal });
    const attempt = await worker.next();
    attempt.started();
    attempt.tokens("one");
    if (stream) {
      for await (const event of (await answer) as AsyncIterable<Anthropic.RawMessageStreamEvent>)
        if (event.type === "content_block_delta") break;
    } else {
      leave.abort();
      await assert.rejects(answer, Anthropic.APIUserAbortError);
    }
    await attempt.closed;
    await eventually(async () => (await statusOf(attempt.body.job_id)) === "cancelled");
  });
}

test("errors are of the client's own classes, before a stream begins and in it", async () => {
  const failing = async (answer: Promise<unknown>, code: string, type: string, of: new (...args: never[]) => Error) => {
    await assert.rejects(answer, (error: APIError) => {
      assert.ok(error instanceof of, String(error));
      assert.deepEqual([error.type, error.errorCode], [type, code]);
      assert.ok((error.requestID ?? "") !== "");
      return true;
    });
  };
  await failing(client.messages.create({ ...ASKED, model: "gpt-99" }), "MODEL_NOT_FOUND", "not_found_error", Anthropic.NotFoundError);
  for (const stream of [false, true]) {
    const long = client.messages.create({ ...ASKED, stream });
    (await worker.next()).fail("CONTEXT_TOO_LARGE", false);
    await failing(long, "CONTEXT_TOO_LARGE", "invalid_request_error", Anthropic.BadRequestError);
    const broken = client.messages.create({ ...ASKED, stream });
    (await worker.next()).fail("INTERNAL", false);
    await failing(broken, "INTERNAL", "api_error", Anthropic.InternalServerError);
  }
  const huge = { ...ASKED, system: "x".repeat(9_000_000) };
  await failing(client.messages.create(huge), "PAYLOAD_TOO_LARGE", "request_too_large", Anthropic.ContentTooLargeError);
  const late = client.messages.stream(ASKED);
  const attempt = await worker.next();
  attempt.started();
  attempt.tokens("a");
  late.on("text", () => attempt.fail("INSUFFICIENT_MEMORY", false));
  await assert.rejects(late.finalMessage(), { type: "api_error", errorCode: "INSUFFICIENT_MEMORY" });
});

test("a full queue: told when to come back, and who tries again comes through; what can't help is not tried again", async () => {
  const first = client.messages.create(ASKED);
  const attempt = await worker.next();
  const second = client.messages.create(ASKED);
  await eventually(async () => (await orcd.json("/v2/tasks")).tasks[0].status === "queued");
  await assert.rejects(client.messages.create(ASKED), (error: APIError) => {
    assert.ok(error instanceof Anthropic.RateLimitError);
    assert.equal(error.type, "rate_limit_error");
    assert.ok(Number(error.headers?.get("retry-after")) >= 1);
    return true;
  });
  const patient = clientOf(3).messages.create(ASKED);
  attempt.end();
  await answers(worker, ["2"]);
  await Promise.all([first, second]);
  await answers(worker, ["3"]);
  assert.deepEqual((await patient).content, [{ type: "text", text: "3", citations: null }]);

  const before = (await orcd.json("/v2/tasks")).tasks.length;
  const hopeless = clientOf(3).messages.create(ASKED);
  (await worker.next()).fail("INTERNAL", false);
  await assert.rejects(hopeless, Anthropic.InternalServerError);
  assert.equal((await orcd.json("/v2/tasks")).tasks.length, before + 1);
});

test("what can't be honoured is refused by name, in Anthropic's form; the client's types know no field that the tables lack", async () => {
  const refusal = async (body: object): Promise<string> => {
    const answer = await post("/v1/messages", body);
    const { type, error } = (await answer.json()) as Json;
    assert.deepEqual([answer.status, type, error.type], [400, "error", "invalid_request_error"], error.message);
    return error.message;
  };
  const request = ANTHROPIC_FIELDS["POST /v1/messages"];
  const block = ANTHROPIC_FIELDS["Blocks of a `content` or of `system`"];
  for (const name of Object.keys(request.refused))
    assert.match(await refusal({ ...ASKED, [name]: [{ odd: true }] }), new RegExp(`${name}: is not supported`));
  const text = { type: "text", text: "t" };
  for (const name of Object.keys(block.refused))
    assert.match(await refusal({ ...ASKED, system: [{ ...text, [name]: [1] }] }), new RegExp(`system.0.${name}: is not supported`));
  assert.match(await refusal({ ...ASKED, nonsense: 1 }), /nonsense: unknown field/);
  assert.match(await refusal({ model: "fake", messages: [] }), /max_tokens: .*messages: /s);
  assert.match(await refusal({ ...ASKED, messages: [...ASKED.messages, { role: "assistant", content: "Well," }] }), /must not end with/);
  const picture = { type: "image", source: { type: "base64", media_type: "image/png", data: "secret" } };
  const told = await refusal({ ...ASKED, messages: [{ role: "user", content: [picture] }] });
  assert.match(told, /messages\.0\.content: must be a string, or an array of blocks: text, tool_use/);
  assert.doesNotMatch(told, /secret/);

  const optional = Object.keys({ ...request.supported, ...request.hints, ...request.refused }).filter((field) => !(field in ASKED));
  const nothing = post("/v1/messages", { ...ASKED, ...Object.fromEntries(optional.map((field) => [field, null])) });
  await answers(worker, ["x"]);
  assert.equal((await nothing).status, 200, "null everywhere");

  const source = readFileSync(new URL("resources/messages/messages.d.ts", import.meta.resolve("@anthropic-ai/sdk")), "utf8");
  const body = /export interface MessageCreateParamsBase \{\n(.*?)\n\}/s.exec(source)?.[1] ?? "";
  const known = [...body.matchAll(/^ {4}(\w+)\??:/gm)].map(([, name]) => name as string);
  assert.ok(known.length > 10, String(known));
  const ours: object = { ...request.supported, ...request.hints, ...request.refused };
  assert.deepEqual(
    known.filter((name) => !(name in ours)),
    [],
  );
});

test("a call whose arguments are no object has none, here and in Ollama's API", async () => {
  const called = async () => {
    const attempt = await worker.next();
    attempt.started();
    for (const [index, text] of ["null", "[1]", '{"a":', '{"a":1}'].entries())
      attempt.token("", { tool_calls: [{ index, id: `call_${index}`, name: "look", arguments: text }] });
    attempt.end();
  };
  const messages = [{ role: "user" as const, content: "hi" }];
  const [{ content }] = await Promise.all([client.messages.create({ model: "fake", max_tokens: 9, messages }), called()]);
  assert.deepEqual(
    content.map((block) => block.type === "tool_use" && block.input),
    [{}, {}, {}, { a: 1 }],
  );
  const [answer] = await Promise.all([post("/api/chat", { model: "fake", messages, stream: false }), called()]);
  const { message } = (await answer.json()) as Json;
  assert.deepEqual(
    message.tool_calls.map((call: Json) => call.function.arguments),
    [{}, {}, {}, { a: 1 }],
  );
});
