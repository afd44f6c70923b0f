/** The engine that stands on another server: what that server may do wrong, and what a job hears of it. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { after, test } from "node:test";
import { ask, folder, health, post, startWorker, testConfig } from "./support.ts";

type Act = (request: IncomingMessage, response: ServerResponse, body: Record<string, unknown>) => void;

const servers: Server[] = [];
after(() => {
  for (const server of servers) server.close().closeAllConnections();
});

/** A server that lists one model and answers a chat as it is told. */
async function upstream(act: Act, model: object = { id: "m", max_model_len: 512 }): Promise<string> {
  const server = createServer(async (request, response) => {
    if (request.method === "GET") return void response.end(JSON.stringify({ object: "list", data: [model] }));
    let text = "";
    for await (const chunk of request) text += chunk;
    act(request, response, JSON.parse(text));
  });
  servers.push(server);
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`;
}

const chunk = (content: string, more: object = {}) =>
  `data: ${JSON.stringify({ choices: [{ index: 0, delta: { content }, finish_reason: null, ...more }] })}\n\n`;
const worker = (url: string, more: Record<string, string | number | true> = {}) =>
  startWorker({ model: "m", engine: "openai", engine_url: url, ...more });
const HI = { job_id: "j", prompt: "hi", max_tokens: 16 };

test("what is asked: messages or the raw prompt, sampling, the key; the context is the server's", async () => {
  const asked: { path: string | undefined; key: string | undefined; body: Record<string, unknown> }[] = [];
  const url = await upstream(({ url: path, headers }, response, body) => {
    asked.push({ path, key: headers.authorization, body });
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.end(`${chunk("yes", { finish_reason: "stop" })}data: [DONE]\n\n`);
  });
  const key_file = join(folder, "engine.key");
  writeFileSync(key_file, "sk-secret\n", { mode: 0o600 });
  const one = await worker(url, { engine_key_file: key_file });
  assert.equal((await health(one)).context_size, 512);
  const { end, text } = await ask(one, { ...HI, top_k: 5, seed: 7, temperature: 0.5 });
  assert.deepEqual([text, end?.stop_reason, end?.tokens_in, end?.tokens_out], ["yes", "EOS", 1, 1]);
  await ask(one, { ...HI, raw: true });
  assert.deepEqual(asked[0], {
    path: "/v1/chat/completions",
    key: "Bearer sk-secret",
    body: {
      model: "m",
      messages: [{ role: "user", content: "hi" }],
      ...{ max_tokens: 16, temperature: 0.5, top_k: 5, seed: 7, stream: true, stream_options: { include_usage: true } },
    },
  });
  assert.deepEqual([asked[1]?.path, asked[1]?.body["prompt"], asked[1]?.body["messages"]], ["/v1/completions", "hi", undefined]);
});

test("an answer that may be as long as the context is: the server says how long that is, and max_tokens is kept all the same", async () => {
  const asked: unknown[] = [];
  const url = await upstream((_, response, body) => {
    asked.push(body["max_tokens"]);
    response.writeHead(200, { "content-type": "text/event-stream" });
    for (let i = 0; i < 600; i += 1) response.write(chunk(`${i} `));
    response.end("data: [DONE]\n\n");
  });
  const one = await worker(url);
  const { end, text } = await ask(one, { ...HI, max_tokens: 500, fit_context: true });
  assert.deepEqual([end?.stop_reason, end?.tokens_out, text.trimEnd().split(" ").length], ["MAX_TOKENS", 500, 500]);
  for (const more of [{ max_tokens: 400, fit_context: true }, { max_tokens: 500 }, { max_tokens: 500, fit_context: true, raw: true }])
    await ask(one, { ...HI, ...more });
  assert.deepEqual(asked, [undefined, 400, 500, 478]);
});

test("a connection that the server closes just when something is asked on it is no reason to fail", async () => {
  let asked = 0;
  const url = await upstream((request, response) => {
    asked += 1;
    if (asked === 2 || asked > 3) return void request.socket.destroy();
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.end(`${chunk("yes", { finish_reason: "stop" })}data: [DONE]\n\n`);
  });
  const one = await worker(url);
  for (let i = 0; i < 2; i += 1) assert.equal((await ask(one, HI)).text, "yes");
  assert.equal(asked, 3);
  const gone = await post(one, "/execute", HI);
  assert.deepEqual([gone.status, asked], [500, 5], "twice, and no more");
  assert.match(await gone.text(), /ENGINE_FAILED.*does not answer/);
});

test("characters that come in pieces, a chunk without choices, usage after the end", async () => {
  const url = await upstream((_, response) => {
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.write(chunk("", { delta: { role: "assistant" } }));
    const bytes = Buffer.from(`: ping\n\n${chunk("世界")}${chunk("🐝", { finish_reason: "length" })}`);
    for (const byte of bytes) response.write(Buffer.of(byte));
    const usage = { prompt_tokens: 9, completion_tokens: 4, prompt_tokens_details: { cached_tokens: 8 } };
    response.end(`data: ${JSON.stringify({ choices: [], usage })}\n\ndata: [DONE]\n\n`);
  });
  const { text, end } = await ask(await worker(url), HI);
  assert.equal(text, "世界🐝");
  assert.deepEqual([end?.stop_reason, end?.tokens_in, end?.tokens_out, end?.tokens_cached], ["MAX_TOKENS", 9, 4, 8]);
});

test("refusals before the first token have their meaning; nothing is left of them", async () => {
  let status = 429;
  let message = "";
  const url = await upstream((_, response) => void response.writeHead(status).end(JSON.stringify({ error: { message } })));
  const one = await worker(url);
  for (const [is, said, as, code, says] of [
    [429, "slow down", 503, "ALL_SLOTS_BUSY", /takes no more requests now \(429\): slow down/],
    [503, "", 503, "ALL_SLOTS_BUSY", /\(503\)/],
    [400, "maximum context length is 512", 400, "CONTEXT_TOO_LARGE", /does not take the request: maximum context length/],
    [400, "top_k: no", 400, "INVALID_REQUEST", /does not take the request: top_k: no/],
    [401, "", 500, "ENGINE_FAILED", /asks for a key: name a file with it, --engine-key-file/],
    [500, "boom", 500, "ENGINE_FAILED", /failed \(500\): boom/],
  ] as const) {
    [status, message] = [is, said];
    const answer = await post(one, "/execute", HI);
    const { error } = (await answer.json()) as { error: { code: string; message: string } };
    assert.equal(error.code, code);
    assert.match(error.message, says);
    assert.equal(answer.status, as);
    assert.equal((await health(one)).slots_busy, 0);
  }
});

test("a stream that breaks, says nonsense or ends without an end fails the attempt; what came before it is kept", async () => {
  let act: (response: ServerResponse) => void = () => {};
  const url = await upstream((_, response) => {
    response.writeHead(200, { "content-type": "text/event-stream" });
    // Once it has left: a connection that is destroyed takes along what was still to be written.
    response.write(chunk("be"), () => act(response));
  });
  const one = await worker(url);
  for (const [does, says] of [
    [(response: ServerResponse) => void response.socket?.end(), /broke/],
    [(response: ServerResponse) => void response.end("data: {no json\n\n"), /broke/],
    [(response: ServerResponse) => void response.end(), /ended without saying why/],
    [
      (response: ServerResponse) => void response.end(`data: ${JSON.stringify({ error: { message: "out of memory" } })}\n\n`),
      /out of memory/,
    ],
  ] as const) {
    act = does;
    const { text, error: failed } = await ask(one, HI);
    assert.equal(text, "be");
    assert.equal(failed?.code, "ENGINE_FAILED");
    assert.match(failed?.message ?? "", says);
    assert.equal((await health(one)).slots_busy, 0);
  }
});

test("settings that don't fit are told together; a context that nobody says must be given", async () => {
  await assert.rejects(
    startWorker({ model: "m", engine: "openai", deterministic: true, backend: "cuda" }),
    /engine-url: is required[\s\S]*backend: the server[\s\S]*deterministic: can't be promised/,
  );
  assert.equal(testConfig({ model: "m" }).engine_url, "");
  await assert.rejects(startWorker({ model: "m", engine_url: "http://127.0.0.1:9/v1" }), /engine-url: is for --engine openai alone/);
  await assert.rejects(worker(await upstream(() => {}, { id: "m" })), /does not say how long the context of "m" is: say so with --ctx/);
});

test("what another attempt has begun can't be gone on with, and that is refused by name", async () => {
  const one = await worker(await upstream(() => {}));
  const answer = await post(one, "/execute", { ...HI, continue_from: { tokens: [0, 0] } });
  assert.equal(answer.status, 400);
  assert.match(await answer.text(), /can't go on in the middle of an answer/);
});

const SCHEMA = { type: "object", properties: { a: { type: "integer" } }, required: ["a"], additionalProperties: false };
const event = (delta: object, more: object = {}) =>
  `data: ${JSON.stringify({ choices: [{ index: 0, delta, finish_reason: null, ...more }] })}\n\n`;

test("what a server can do is known by the owner that it names, or said; the rest is refused by name and not asked for", async () => {
  const asked: Record<string, unknown>[] = [];
  const act: Act = (_, response, body) => {
    asked.push(body);
    response.writeHead(200, { "content-type": "text/event-stream" }).end(`${chunk("{}", { finish_reason: "stop" })}data: [DONE]\n\n`);
  };
  const features = async (owned_by: string, more: Record<string, string> = {}) => {
    const one = await worker(await upstream(act, { id: "m", max_model_len: 512, owned_by }), more);
    return { one, features: (await health(one)).features };
  };
  const { one: vllm, features: of_vllm } = await features("vllm");
  assert.deepEqual(of_vllm, ["json_schema", "logit_bias", "penalties", "reasoning_effort"]);
  assert.deepEqual((await features("somebody")).features, []);
  assert.deepEqual((await features("vllm", { engine_features: "tools,embeddings" })).features, ["tools", "embeddings"]);
  assert.deepEqual((await features("vllm", { engine_features: "none" })).features, []);
  await assert.rejects(
    startWorker({ model: "m", engine: "openai", engine_url: "http://127.0.0.1:9/v1", engine_features: "tools,grammar,magic" }),
    /engine-features: "grammar", "magic" can't be had of such a server; it is auto, none, or some of json_schema,/,
  );
  const weighed = { frequency_penalty: 1, presence_penalty: -1, logit_bias: { "7": 5 } };
  await ask(vllm, { ...HI, ...weighed, json_schema: SCHEMA });
  const { response_format, ...body } = asked.at(-1) ?? assert.fail();
  assert.deepEqual(response_format, { type: "json_schema", json_schema: { name: "answer", strict: true, schema: SCHEMA } });
  for (const [name, value] of Object.entries(weighed)) assert.deepEqual(body[name], value);
  await ask(vllm, { ...HI, reasoning_effort: "none" });
  assert.deepEqual(asked.at(-1)?.["chat_template_kwargs"], { enable_thinking: false, thinking: false, reasoning_effort: "low" });
  await ask(vllm, { ...HI, cache_salt: "of-one-tenant" });
  assert.equal(asked.at(-1)?.["cache_salt"], "of-one-tenant");
  await ask((await features("somebody")).one, { ...HI, cache_salt: "of-one-tenant" });
  assert.equal(asked.at(-1)?.["cache_salt"], undefined);
  const before = asked.length;
  for (const [more, why] of [
    [{ grammar: 'root ::= "a"' }, /grammar: the engine of this worker can't/],
    [{ repeat_penalty: 1.2 }, /repeat_penalty: the engine of this worker has none/],
    [{ json_schema: SCHEMA, raw: true }, /json_schema: .*together with raw/],
    [{ logprobs: 1 }, /logprobs: the engine of this worker has none/],
  ] as const) {
    const answer = await post(vllm, "/execute", { ...HI, ...more });
    assert.equal(answer.status, 400);
    assert.match(await answer.text(), why);
  }
  assert.equal(asked.length, before);
});

test("calls as vLLM streams them, thinking under either name; what waits with a text that may be a stop string is not lost", async () => {
  const asked: Record<string, unknown>[] = [];
  const tool = { type: "function", function: { name: "look", parameters: { type: "object" } } };
  const url = await upstream((_, response, body) => {
    asked.push(body);
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.write(event({ role: "assistant", content: "" }) + event({ reasoning_content: "hm" }) + event({ reasoning: "m" }));
    response.write(event({ content: "Let me lo" }));
    const call = (index: number, more: object) => event({ tool_calls: [{ index, ...more }] });
    response.write(call(0, { id: "c-1", type: "function", function: { name: "look", arguments: "" } }));
    response.write(call(0, { function: { arguments: '{"a":' } }) + call(0, { function: { arguments: "1}" } }));
    response.write(call(1, { id: "c-2", type: "function", function: { name: "look", arguments: "{}" } }));
    response.write(event({}, { finish_reason: "tool_calls" }));
    response.end(`data: ${JSON.stringify({ choices: [], usage: { prompt_tokens: 5, completion_tokens: 21 } })}\n\ndata: [DONE]\n\n`);
  });
  const one = await worker(url, { engine_features: "tools" });
  const say = async (more: Record<string, unknown>) => {
    const { tokens, text, end } = await ask(one, {
      ...HI,
      prompt: undefined,
      messages: [{ role: "user", content: "hi" }],
      tools: [tool],
      ...more,
    });
    const pieces = tokens.flatMap(({ tool_calls = [] }) => tool_calls);
    const whole = [0, 1].map((at) => pieces.filter(({ index }) => index === at));
    return {
      thought: tokens.map(({ reasoning = "" }) => reasoning).join(""),
      text,
      calls: whole.map((all) => [all[0]?.id, all[0]?.name, all.map((piece) => piece.arguments).join("")]),
      end: [end?.stop_reason, end?.tokens_in, end?.tokens_out],
    };
  };
  const calls = [
    ["c-1", "look", '{"a":1}'],
    ["c-2", "look", "{}"],
  ];
  const said = { text: "Let me lo", calls, end: ["EOS", 5, 21] };
  assert.deepEqual(await say({ separate_reasoning: true, parallel_tool_calls: true }), { thought: "hmm", ...said });
  assert.deepEqual(await say({ stop: ["look"] }), { thought: "", ...said });
  assert.deepEqual(asked[0]?.["tools"], [tool]);
  assert.deepEqual([asked[0]?.["parallel_tool_calls"], asked[1]?.["response_format"]], [true, undefined]);
  // To hold an answer to a call it has to hold it to a schema.
  const must = await post(one, "/execute", { ...HI, tools: [tool], tool_choice: "required" });
  assert.match(await must.text(), /tool_choice: the engine of this worker can't hold answers to one/);
  const able = await worker(url, { engine_features: "tools,json_schema" });
  await ask(able, { ...HI, tools: [tool], tool_choice: { name: "look" } });
  assert.deepEqual(asked.at(-1)?.["tool_choice"], { type: "function", function: { name: "look" } });
});

test("vectors come some at a time, one long; what is refused is heard at once, what breaks ends the job", async () => {
  const batches: number[] = [];
  let breaks = false;
  const url = await upstream((request, response, { input }) => {
    const inputs = input as string[];
    assert.equal(request.url, "/v1/embeddings");
    batches.push(inputs.length);
    if (inputs[0] === "bad") return void response.writeHead(400).end(JSON.stringify({ error: { message: "input is too long" } }));
    if (breaks && batches.length > 1) return void response.writeHead(500).end();
    const data = inputs.map((text, index) => ({ index, embedding: [Number(text), 0, 0, 4] })).reverse();
    response.end(JSON.stringify({ data, usage: { prompt_tokens: inputs.length } }));
  });
  const one = await worker(url, { engine_features: "embeddings" });
  const inputs = Array.from({ length: 40 }, () => "3");
  const embed = async (body: object) => await (await post(one, "/embed", { job_id: "e", ...body })).text();
  const text = await embed({ inputs });
  const vectors = [...text.matchAll(/"i":(\d+),"v":"([^"]+)"/g)].map(
    ([, i, v]) => [Number(i), new Float32Array(Uint8Array.from(Buffer.from(v ?? "", "base64")).buffer)] as const,
  );
  assert.deepEqual(
    vectors.map(([i]) => i),
    inputs.map((_, i) => i),
  );
  for (const [, vector] of vectors)
    assert.deepEqual(
      [...vector].map((value) => Math.round(value * 100)),
      [60, 0, 0, 80],
    );
  assert.deepEqual([batches, /"stop_reason":"EMBEDDED".*"tokens_in":40/.test(text)], [[32, 8], true]);
  assert.match(await embed({ inputs: ["bad"] }), /INVALID_REQUEST.*input is too long/);
  assert.match(await embed({ inputs: ["1"], truncate: true }), /truncate: .*has no word for it/);
  assert.equal((await health(one)).slots_busy, 0);
  [breaks, batches.length] = [true, 0];
  assert.match(await embed({ inputs }), /event: error\ndata: .*ENGINE_FAILED/);
  assert.equal((await health(one)).slots_busy, 0);
});
