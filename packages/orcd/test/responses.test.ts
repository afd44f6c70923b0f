/** OpenAI's Responses API, by the official client as it is: shapes, events, what a request becomes, what is refused, trouble. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, test } from "node:test";
import { RESPONSES_FIELDS } from "@rbees/contracts/responses";
import { readEvents } from "@rbees/contracts/sse";
import OpenAI, { type APIError } from "openai";
import { eventually, type Json } from "./harness.ts";
import { answers, startOpenai } from "./openai-harness.ts";

const { client, orcd, worker, post } = await startOpenai({ after });
const ASKED = { model: "fake", input: "hi" };
const statusOf = async (job_id: string) => (await orcd.json(`/v2/tasks/${job_id}`)).status;

test("a response: what the worker is asked, the answer's shape, and the answer as part of the next input", async () => {
  const answer = client.responses.create({
    model: "fake",
    instructions: "Be brief.",
    input: [
      { role: "developer", content: "Be kind." },
      { type: "message", role: "user", content: [{ type: "input_text", text: "one" }] },
    ],
    max_output_tokens: 50,
    temperature: 0.5,
    top_p: 0.9,
    text: { format: { type: "text" } },
    store: false,
    include: ["reasoning.encrypted_content"],
    metadata: { team: "bees" },
    user: "u-7",
    truncation: "disabled",
  });
  const attempt = await answers(worker, ["Hé", "llo ", '"世界"\n', "\\🐝"]);
  const { output_text, ...data } = await answer;
  const { job_id, attempt: _, ...asked } = attempt.body;
  const messages = [
    { role: "system", content: "Be brief." },
    { role: "system", content: "Be kind." },
    { role: "user", content: "one" },
  ];
  assert.deepEqual(asked, {
    messages,
    raw: false,
    separate_reasoning: true,
    max_tokens: 50,
    fit_context: false,
    temperature: 0.5,
    top_p: 0.9,
    seed: asked.seed,
    stop: [],
  });
  const text = 'Héllo "世界"\n\\🐝';
  assert.equal(output_text, text);
  const item = {
    id: `msg_${job_id}`,
    type: "message",
    role: "assistant",
    status: "completed",
    content: [{ type: "output_text", text, annotations: [], logprobs: [] }],
  };
  const { completed_at, created_at } = data;
  assert.ok(Math.abs(created_at - Date.now() / 1000) < 60 && Number(completed_at) >= created_at);
  assert.deepEqual(data as Json, {
    ...{ id: `resp_${job_id}`, object: "response", created_at, completed_at, status: "completed", error: null, incomplete_details: null },
    output: [item],
    usage: {
      input_tokens: 3,
      input_tokens_details: { cached_tokens: 0, cache_write_tokens: 0 },
      output_tokens: 4,
      output_tokens_details: { reasoning_tokens: 0 },
      total_tokens: 7,
    },
    ...{ model: "fake", instructions: "Be brief.", max_output_tokens: 50, metadata: { team: "bees" }, temperature: 0.5, top_p: 0.9 },
    ...{ text: { format: { type: "text" } }, background: false, store: false, previous_response_id: null, parallel_tool_calls: true },
    ...{ tool_choice: "auto", tools: [], reasoning: null, truncation: "disabled", service_tier: "default", user: "u-7" },
  });
  const job = await orcd.json(`/v2/tasks/${job_id}`);
  assert.deepEqual([job.status, job.metadata], ["succeeded", { team: "bees", user: "u-7" }]);

  const said = data.output as OpenAI.Responses.ResponseInputItem[];
  const next = client.responses.create({ model: "fake", input: [...said, { role: "user", content: "two" }] });
  const { body } = await answers(worker, ["x"]);
  assert.deepEqual(body.messages, [
    { role: "assistant", content: text },
    { role: "user", content: "two" },
  ]);
  assert.deepEqual([body.max_tokens, body.fit_context, body.temperature], [2048, true, 1]);
  await next;
});

test("a streamed response, event by event, as it stands on the wire", async () => {
  const streaming = post("/v1/responses", { ...ASKED, stream: true, stream_options: { include_obfuscation: false } });
  const { body } = await answers(worker, ["a", 'q"\\', "\n世"], "MAX_TOKENS");
  const events: Json[] = [];
  for await (const { event, data } of readEvents((await streaming).body as unknown as AsyncIterable<Uint8Array>)) {
    events.push(JSON.parse(data));
    assert.deepEqual([event, events.length - 1], [events.at(-1).type, events.at(-1).sequence_number]);
  }
  const at = { item_id: `msg_${body.job_id}`, output_index: 0, content_index: 0 };
  const part = (text: string) => ({ type: "output_text", text, annotations: [], logprobs: [] });
  const item = { id: at.item_id, type: "message", role: "assistant" };
  const text = 'aq"\\\n世';
  const whole = { ...item, status: "incomplete", content: [part(text)] };
  const [{ response: created }, { response: begun }, ...rest] = events.map(({ sequence_number: _, ...event }) => event);
  assert.deepEqual([created.status, created.output, created.usage], ["in_progress", [], null]);
  assert.deepEqual(begun, created);
  const { response } = rest.pop();
  assert.deepEqual(rest, [
    { type: "response.output_item.added", output_index: 0, item: { ...item, status: "in_progress", content: [] } },
    { type: "response.content_part.added", ...at, part: part("") },
    ...["a", 'q"\\', "\n世"].map((delta) => ({ type: "response.output_text.delta", ...at, delta, logprobs: [] })),
    { type: "response.output_text.done", ...at, text, logprobs: [] },
    { type: "response.content_part.done", ...at, part: part(text) },
    { type: "response.output_item.done", output_index: 0, item: whole },
  ]);
  assert.deepEqual(response, {
    ...created,
    status: "incomplete",
    incomplete_details: { reason: "max_output_tokens" },
    output: [whole],
    usage: response.usage,
  });
  assert.deepEqual([events.at(-1).type, response.usage.total_tokens], ["response.incomplete", 6]);
});

test("the client's own helper puts a stream together, also one that says nothing", async () => {
  for (const texts of [["Hé", "llo"], []]) {
    const stream = client.responses.stream(ASKED);
    const deltas: string[] = [];
    stream.on("response.output_text.delta", ({ delta }) => deltas.push(delta));
    await answers(worker, texts);
    const { output_text, status, usage } = await stream.finalResponse();
    assert.deepEqual([output_text, status, usage?.output_tokens, deltas], [texts.join(""), "completed", texts.length, texts]);
  }
});

for (const stream of [true, false]) {
  test(`a client that leaves ends its job; what fails has a status before a stream begins (stream: ${stream})`, async () => {
    const leave = new AbortController();
    const answer = client.responses.create({ ...ASKED, stream }, { signal: leave.signal });
    const attempt = await worker.next();
    attempt.started();
    attempt.tokens("one");
    if (stream) {
      for await (const event of (await answer) as AsyncIterable<Json>) if (event.type === "response.output_text.delta") break;
    } else {
      leave.abort();
      await assert.rejects(answer, OpenAI.APIUserAbortError);
    }
    await attempt.closed;
    await eventually(async () => (await statusOf(attempt.body.job_id)) === "cancelled");

    const failing = client.responses.create({ ...ASKED, stream });
    (await worker.next()).fail("CONTEXT_TOO_LARGE", false);
    await assert.rejects(failing, (error: APIError) => error instanceof OpenAI.BadRequestError && error.code === "CONTEXT_TOO_LARGE");
  });
}

test("what fails in a stream is an error event, of which the client makes an error", async () => {
  const streaming = client.responses.create({ ...ASKED, stream: true });
  const attempt = await worker.next();
  attempt.started();
  attempt.tokens("one");
  await assert.rejects(
    async () => {
      for await (const { type } of await streaming) if (type === "response.output_text.delta") attempt.fail("INSUFFICIENT_MEMORY", false);
    },
    (error: APIError) => error instanceof OpenAI.APIError && error.code === "INSUFFICIENT_MEMORY",
  );
  await assert.rejects(client.responses.create({ ...ASKED, model: "gpt-99" }), OpenAI.NotFoundError);
});

test("what can't be honoured is refused by name; the client's types know no field that the tables lack", async () => {
  const refusal = async (body: object) => {
    const answer = await post("/v1/responses", body);
    const { error } = (await answer.json()) as Json;
    assert.deepEqual([answer.status, error.type], [400, "invalid_request_error"], error.message);
    return error.details.map(({ field, problem }: Json) => `${field}: ${problem}`).join("\n");
  };
  const { supported, hints, refused } = RESPONSES_FIELDS["POST /v1/responses"];
  for (const name of [...Object.keys(refused), "store", "service_tier", "truncation"])
    assert.match(await refusal({ ...ASKED, [name]: ["odd"] }), new RegExp(`^${name}: is not supported`));
  await assert.rejects(
    client.responses.create({ ...ASKED, previous_response_id: "resp_1" }),
    (error: APIError) => error instanceof OpenAI.BadRequestError && error.param === "previous_response_id",
  );
  assert.match(await refusal({ ...ASKED, store: true }), /^store: /);
  for (const name of Object.keys(RESPONSES_FIELDS["`text`"].refused))
    assert.match(await refusal({ ...ASKED, text: { [name]: "odd" } }), new RegExp(`^text.${name}: is not supported`));
  assert.match(await refusal({ ...ASKED, seed: 1 }), /^seed: unknown field/);
  assert.match(await refusal({ model: "fake" }), /^input: must be a string/);
  const call = { type: "computer_call_output", call_id: "c", output: "secret" };
  const picture = { role: "user", content: [{ type: "input_image", image_url: "secret" }] };
  for (const item of [call, picture]) assert.doesNotMatch(await refusal({ model: "fake", input: [item] }), /secret/);

  const optional = Object.keys({ ...supported, ...hints, ...refused }).filter((field) => !(field in ASKED));
  const nothing = post("/v1/responses", { ...ASKED, ...Object.fromEntries(optional.map((field) => [field, null])) });
  await answers(worker, ["x"]);
  assert.equal((await nothing).status, 200, "null everywhere");

  const source = readFileSync(new URL("resources/responses/responses.d.ts", import.meta.resolve("openai")), "utf8");
  const body = /export interface ResponseCreateParamsBase \{\n(.*?)\n\}/s.exec(source)?.[1] ?? "";
  const known = [...body.matchAll(/^ {4}(\w+)\??:/gm)].map(([, name]) => name as string);
  assert.ok(known.length > 20, String(known));
  const ours: object = { ...supported, ...hints, ...refused };
  assert.deepEqual(
    known.filter((name) => !(name in ours)),
    [],
  );
});
