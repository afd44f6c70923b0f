/** Bodies that popular programs send with the settings they come with: what of them OpenAI's API does not ask for is taken all the same. */
import assert from "node:assert/strict";
import { after, test } from "node:test";
import type { Json } from "./harness.ts";
import { answers, startOpenai } from "./openai-harness.ts";

const { orcd, worker, post } = await startOpenai({ after }, {}, { features: ["tools"] });
const caller = await orcd.worker("w2", { model: "calls", features: ["tools", "json_schema"] });
const weigher = await orcd.worker("w3", { model: "weighs", features: ["penalties", "repeat_penalty", "reasoning_effort"] });

test("Continue's autocomplete names more stop strings than OpenAI takes", async () => {
  const special = ["endoftext", "fim_prefix", "fim_middle", "fim_suffix", "fim_pad", "repo_name", "file_sep", "im_start", "im_end"];
  const stop = [...special.map((name) => `<|${name}|>`), "\n\n", "\r\n\r\n", "/src/", "#- coding: utf-8", "```"];
  const asking = post("/v1/completions", { model: "fake", prompt: "<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>", max_tokens: 9, stop });
  assert.deepEqual((await answers(worker, ["x"])).body.stop, stop);
  assert.equal((await asking).status, 200);
});

test("stop strings: up to 32 through other APIs' doors, up to 4 at /v2", async () => {
  const some = (count: number) => Array.from({ length: count }, (_, i) => `stop${i}`);
  const messages = [{ role: "user", content: "hi" }];
  for (const [path, more] of [
    ["/v1/chat/completions", (stop: string[]) => ({ messages, stop })],
    ["/v1/messages", (stop_sequences: string[]) => ({ messages, max_tokens: 5, stop_sequences })],
    ["/api/chat", (stop: string[]) => ({ messages, stream: false, options: { stop } })],
  ] as const) {
    const asking = post(path, { model: "fake", ...more(some(32)) });
    assert.equal((await answers(worker, ["x"])).body.stop.length, 32, path);
    assert.equal((await asking).status, 200, path);
    const refused = await post(path, { model: "fake", ...more(some(33)) });
    assert.equal(refused.status, 400, path);
    assert.match(await refused.text(), /at most 32 strings/);
  }
  const refused = await post("/v2/tasks", { model: "fake", prompt: "hi", stop: some(5) });
  assert.deepEqual([refused.status, ((await refused.json()) as Json).error.param], [400, "stop"]);
});

test("AutoGen and others name whoever speaks: chat templates have no place for it", async () => {
  const messages = [
    { role: "system", name: "rules", content: "Be brief." },
    { role: "user", name: "ann", content: "hi" },
    { role: "assistant", name: "helper", content: "ho" },
    { role: "user", name: "bob", content: "and now?" },
  ];
  const asking = post("/v1/chat/completions", { model: "fake", messages });
  const { body } = await answers(worker, ["x"]);
  assert.deepEqual(
    body.messages,
    messages.map(({ role, content }) => ({ role, content })),
  );
  assert.equal((await asking).status, 200);
  const refused = await post("/v2/tasks", { model: "fake", messages });
  assert.deepEqual([refused.status, ((await refused.json()) as Json).error.param], [400, "messages.0.name"], "nothing is left out at /v2");
});

test("Open WebUI sends calls back with the index that their pieces had", async () => {
  const call = { id: "call_1", type: "function", function: { name: "look", arguments: "{}" } };
  const asking = post("/v1/chat/completions", {
    model: "fake",
    tools: [{ type: "function", function: { name: "look", description: "", parameters: { type: "object", properties: {} } } }],
    messages: [
      { role: "user", content: "hi" },
      { role: "assistant", content: "", tool_calls: [{ index: 0, ...call }] },
      { role: "tool", tool_call_id: "call_1", content: "a bee" },
    ],
  });
  const { body } = await answers(worker, ["x"]);
  assert.deepEqual(body.messages?.[1]?.tool_calls, [call]);
  assert.equal((await asking).status, 200);
});

test("Open WebUI, connected as to Ollama: a call's index stands beside the function, and its id may be null", async () => {
  const called = (id: string | null) => ({ index: 0, id, function: { name: "look", arguments: { at: "a hive" } } });
  for (const id of ["36vrwsjux", null]) {
    const asking = post("/api/chat", {
      ...{ model: "fake", stream: true },
      tools: [{ type: "function", function: { name: "look", description: "\n  Looks\n", parameters: { properties: {}, type: "object" } } }],
      messages: [
        { role: "user", content: "hi" },
        { role: "assistant", content: "", tool_calls: [called(id)] },
        { role: "tool", content: "a bee", ...(id === null ? {} : { tool_call_id: id }) },
      ],
    });
    const { body } = await answers(worker, ["x"]);
    const [call] = body.messages?.[1]?.tool_calls ?? [];
    assert.deepEqual(call?.function, { name: "look", arguments: '{"at":"a hive"}' });
    assert.equal(body.messages?.[2]?.tool_call_id, call?.id);
    assert.equal((await asking).status, 200);
  }
});

test("a base URL with /v1 too much, or without it, is told as that", async () => {
  for (const [path, said] of [
    ["/models", /There is no GET \/models\. OpenAI's API is under \/v1/],
    ["/chat/completions", /OpenAI's API is under \/v1/],
    ["/v1/api/version", /Ollama's API is under \/api: its URL has no \/v1/],
    ["/v1/nonsense", /GET \/openapi\.json lists what there is/],
  ] as const) {
    const missing = await fetch(orcd.url + path);
    assert.equal(missing.status, 404, path);
    assert.match(await missing.text(), said);
  }
});

/** As they are when each slider is set to Custom and left there, on the page for all models. */
const SLIDERS = {
  ...{ seed: 0, temperature: 0.8, top_k: 40, top_p: 0.9, min_p: 0, frequency_penalty: 1.1, presence_penalty: 0 },
  ...{ mirostat: 0, mirostat_eta: 0.1, mirostat_tau: 5, repeat_last_n: 64, tfs_z: 1, repeat_penalty: 1.1 },
  ...{ use_mmap: true, use_mlock: true, num_keep: 24, num_ctx: 2048, num_batch: 512, num_thread: 2, num_gpu: 0 },
};

test("Open WebUI's sliders, connected as to OpenAI: options of Ollama stand beside OpenAI's", async () => {
  const messages = [{ role: "user", content: "hi" }];
  const ask = (more: object) => post("/v1/chat/completions", { stream: true, model: "weighs", messages, ...more });
  const asking = ask({ ...SLIDERS, max_tokens: 128, logit_bias: "", reasoning_effort: "", think: "", keep_alive: "5m", format: "" });
  const { body } = await answers(weigher, ["x"]);
  assert.deepEqual([body.repeat_penalty, body.repeat_last_n, body.top_k, body.frequency_penalty], [1.1, 64, 40, 1.1]);
  assert.deepEqual([body.max_tokens, body.logit_bias, body.reasoning_effort], [128, undefined, undefined]);
  assert.equal((await asking).status, 200);
  for (const [said, effort] of [
    [{ think: true }, "medium"],
    [{ think: "high" }, "high"],
    [{ think: false }, "none"],
    [{ think: false, reasoning_effort: "low" }, "low"],
  ] as const) {
    const thinking = ask(said);
    assert.equal((await answers(weigher, ["x"])).body.reasoning_effort, effort);
    assert.equal((await thinking).status, 200);
  }
  for (const [field, value, why] of [
    ["mirostat", 2, /there is no such sampler/],
    ["format", "json", /response_format/],
    ["max_tokens", 0, /1 or more/],
    ["think", "much", /true, false, high, medium or low/],
    ["logit_bias", "5:100", /numbers of tokens/],
  ] as const) {
    const refused = await ask({ [field]: value });
    const { error } = (await refused.json()) as Json;
    assert.deepEqual([refused.status, error.param], [400, field]);
    assert.match(error.message, why);
  }
});

test("Open WebUI's sliders, connected as to Ollama: options of OpenAI's stand among Ollama's", async () => {
  const ask = (options: object, more: object = {}) =>
    post("/api/chat", { model: "weighs", messages: [{ role: "user", content: "hi" }], stream: true, options, ...more });
  const asking = ask({ ...SLIDERS, num_predict: 128, logit_bias: "", reasoning_effort: "high" }, { keep_alive: "5m", think: "" });
  const { body } = await answers(weigher, ["x"]);
  assert.deepEqual([body.repeat_penalty, body.max_tokens, body.reasoning_effort], [1.1, 128, "high"]);
  assert.equal((await asking).status, 200);
  for (const [options, more, why] of [
    [{ logit_bias: "5:100, 413:-100" }, {}, /options.logit_bias: .*\/v1\/chat\/completions/],
    [{}, { think: "max" }, /think: must be true, false, high, medium or low/],
  ] as const) {
    const refused = await ask(options, more);
    assert.equal(refused.status, 400);
    assert.match(await refused.text(), why);
  }
});

test("num_predict is the most there may be, as with Ollama: more than the context holds is no reason to refuse", async () => {
  const short = await orcd.worker("w4", { model: "short", context_size: 2048 });
  const asking = post("/api/chat", { model: "short", messages: [{ role: "user", content: "hi" }], options: { num_predict: 131_072 } });
  const { body } = await answers(short, ["x"]);
  assert.equal(body.fit_context, true);
  assert.ok(body.max_tokens <= 2048, "no job takes more of a queue or a limit than a context holds");
  assert.equal((await asking).status, 200);
});

test("what stands at the end of a slider, or below it, has its meaning: all tokens, the likeliest alone, as long as it gets", async () => {
  const messages = [{ role: "user", content: "hi" }];
  const doors: [path: string, asked: (said: object) => object][] = [
    ["/v1/chat/completions", (said) => ({ messages, ...said })],
    ["/api/chat", (said) => ({ messages, stream: false, options: said })],
  ];
  for (const [path, asked] of doors) {
    for (const [said, top_k, top_p] of [
      [{ top_k: 0, top_p: 1 }, undefined, 1],
      [{ top_k: -1, top_p: 1 }, undefined, 1],
      [{ top_k: 5, top_p: 0 }, 1, undefined],
    ] as const) {
      const asking = post(path, { model: "fake", ...asked(said) });
      const { body } = await answers(worker, ["x"]);
      assert.deepEqual([body.top_k, body.top_p], [top_k, top_p], `${path} ${JSON.stringify(said)}`);
      assert.equal((await asking).status, 200);
    }
  }
  for (const max_tokens of [-1, -2]) {
    const asking = post("/v1/chat/completions", { model: "fake", messages, max_tokens });
    const { body } = await answers(worker, ["x"]);
    assert.deepEqual([body.max_tokens, body.fit_context], [2048, true]);
    assert.equal((await asking).status, 200);
  }
});

test("Continue's edits say what the answer may look like", async () => {
  const messages = [{ role: "user", content: "Rename it." }];
  for (const content of ["let a;", [{ type: "text", text: "let a;" }]]) {
    const asking = post("/v1/chat/completions", { model: "fake", messages, max_tokens: 4096, prediction: { type: "content", content } });
    assert.deepEqual((await answers(worker, ["let b;"])).body.messages, messages);
    assert.equal((await asking).status, 200);
  }
  const refused = await post("/v1/chat/completions", { model: "fake", messages, prediction: { type: "other", content: "" } });
  assert.deepEqual([refused.status, ((await refused.json()) as Json).error.param], [400, "prediction.type"]);
});

test("Zed's agent: parts of text in every turn, also in the results of calls", async () => {
  const part = (text: string) => [{ type: "text", text }];
  const asking = post("/v1/chat/completions", {
    ...{ model: "fake", stream: true, stream_options: { include_usage: true }, temperature: 1, stop: [], tool_choice: "auto" },
    ...{ max_completion_tokens: 64, parallel_tool_calls: false, prompt_cache_key: "a-thread" },
    tools: [{ type: "function", function: { name: "look", description: "Looks.", parameters: { type: "object", properties: {} } } }],
    messages: [
      { role: "system", content: part("Be brief.") },
      { role: "user", content: part("hi") },
      { role: "assistant", content: null, tool_calls: [{ id: "call_1", type: "function", function: { name: "look", arguments: "{}" } }] },
      { role: "tool", tool_call_id: "call_1", content: part("a bee") },
    ],
  });
  const { body } = await answers(worker, ["x"]);
  assert.deepEqual(
    body.messages?.map(({ role, content }) => [role, content]),
    [
      ["system", "Be brief."],
      ["user", "hi"],
      ["assistant", ""],
      ["tool", "a bee"],
    ],
  );
  assert.match(await (await asking).text(), /\[DONE\]/);
});

test("Claude Code: a long description, a system message amid the conversation, and thoughts that are all to be kept", async () => {
  const edits = [{ type: "clear_thinking_20251015", keep: "all" }];
  const part = (text: string) => [{ type: "text", text, cache_control: { type: "ephemeral" } }];
  const description = "d".repeat(20_000);
  const asked = {
    ...{ model: "fake", max_tokens: 64, stream: true, thinking: { type: "adaptive" }, output_config: { effort: "high" } },
    ...{ metadata: { user_id: "{}" }, system: part("Be brief."), context_management: { edits } },
    tools: [{ name: "look", description, input_schema: { type: "object", properties: {} } }],
    messages: [
      { role: "user", content: part("hi") },
      { role: "system", content: "It is Friday." },
    ],
  };
  const asking = post("/v1/messages?beta=true", asked);
  const { body } = await answers(worker, ["x"]);
  assert.deepEqual(
    body.messages?.map(({ role, content }) => [role, content]),
    [
      ["system", "Be brief."],
      ["user", "hi"],
      ["system", "It is Friday."],
    ],
  );
  assert.equal(body.tools?.[0]?.function.description, description);
  assert.match(await (await asking).text(), /message_stop/);
  for (const edit of [{ type: "clear_tool_uses_20250919" }, { ...edits[0], keep: { type: "thinking_turns", value: 1 } }]) {
    const refused = await post("/v1/messages", { ...asked, context_management: { edits: [edit] } });
    assert.equal(refused.status, 400);
    assert.match(await refused.text(), /context_management: is not supported/);
  }
});

const CODEX = {
  ...{ model: "fake", tool_choice: "auto", parallel_tool_calls: true, store: false, include: ["reasoning.encrypted_content"] },
  ...{ reasoning: { effort: "medium", summary: "auto" }, prompt_cache_key: "a-thread", client_metadata: { session_id: "a-thread" } },
  tools: [
    { type: "function", name: "exec_command", description: "Runs.", strict: false, parameters: { type: "object", properties: {} } },
    {
      ...{ type: "namespace", name: "agents", description: "Sub-agents." },
      tools: [
        { type: "function", name: "close", description: "Closes one.", strict: false, parameters: { type: "object", properties: {} } },
        { type: "function", name: "open", strict: false, parameters: { type: "object", properties: {} } },
      ],
    },
  ],
};

test("Codex: functions in a namespace are the model's by their whole name, and apart in the answer", async () => {
  const input = [
    { type: "message", id: "msg_1", role: "user", content: [{ type: "input_text", text: "hi" }] },
    { type: "function_call", id: "fc_1", namespace: "agents", name: "open", arguments: "{}", call_id: "call_1" },
    { type: "function_call_output", id: "fco_1", call_id: "call_1", output: "one" },
  ];
  for (const stream of [false, true]) {
    const asking = post("/v1/responses", { ...CODEX, stream, input });
    const running = await worker.next();
    assert.deepEqual(
      running.body.tools?.map(({ function: { name, description } }) => [name, description]),
      [
        ["exec_command", "Runs."],
        ["agents.close", "Sub-agents.\nCloses one."],
        ["agents.open", undefined],
      ],
    );
    assert.equal(running.body.messages?.[1]?.tool_calls?.[0]?.function.name, "agents.open");
    running.started();
    running.token("", { tool_calls: [{ index: 0, id: "call_2", name: "agents.close", arguments: "{}" }] });
    running.end("EOS");
    const answered = await asking;
    const text = await answered.text();
    const done = stream ? JSON.parse(text.slice(text.lastIndexOf("data: ") + 6)).response : JSON.parse(text);
    const { name, namespace, arguments: said } = done.output[0];
    assert.deepEqual([answered.status, namespace, name, said], [200, "agents", "close", "{}"]);
    assert.deepEqual(
      done.tools[1].tools.map((tool: Json) => tool.name),
      ["close", "open"],
    );
  }
});

test("Codex: what the model would not be told is refused", async () => {
  const search = { type: "web_search", external_web_access: true };
  const twice = { type: "function", name: "agents.open", parameters: {} };
  for (const [asked, param] of [
    [{ tools: [...CODEX.tools, search] }, "tools.2.type"],
    [{ tools: [...CODEX.tools, twice] }, "tools"],
  ] as const) {
    const refused = await post("/v1/responses", { ...CODEX, ...asked, input: "hi" });
    assert.deepEqual([refused.status, ((await refused.json()) as Json).error.param], [400, param]);
  }
});

test("LiteLLM says no type of what it sends to Ollama; a page of another site is not believed so", async () => {
  const body = JSON.stringify({ model: "fake", messages: [{ role: "user", content: "hi", images: [] }], options: {}, stream: false });
  const send = (path: string, headers: Record<string, string>) =>
    fetch(orcd.url + path, { method: "POST", headers, body: new TextEncoder().encode(body) });
  const asking = send("/api/chat", {});
  await answers(worker, ["x"]);
  assert.equal((await asking).status, 200);
  for (const [path, headers] of [
    ["/api/chat", { origin: "http://elsewhere.example" }],
    ["/api/chat", { "content-type": "text/plain" }],
    ["/v1/chat/completions", {}],
  ] as [string, Record<string, string>][]) {
    const refused = await send(path, headers);
    assert.equal(refused.status, 400, path);
    assert.match(await refused.text(), /content-type: application\/json/);
  }
});

test("Instructor asks for a call, and for a schema of the text that there is not then", async () => {
  const schema = { type: "object", properties: { name: { type: "string" } }, required: ["name"], additionalProperties: false };
  const messages = [{ role: "user", content: "hi" }];
  const named = { type: "function", name: "City" };
  const doors: [path: string, must: object, may: object, field: string][] = [
    [
      "/v1/responses",
      {
        input: "hi",
        text: { format: { type: "json_schema", name: "City", schema } },
        tools: [{ ...named, parameters: schema }],
        tool_choice: named,
      },
      { tool_choice: "auto" },
      "text.format",
    ],
    [
      "/v1/chat/completions",
      {
        ...{ messages, tool_choice: "required", response_format: { type: "json_object" } },
        tools: [{ type: "function", function: { name: "City", parameters: schema } }],
      },
      { tool_choice: "auto" },
      "response_format",
    ],
    [
      "/v1/messages",
      {
        ...{ messages, max_tokens: 9, tool_choice: { type: "any" }, output_config: { format: { type: "json_schema", schema } } },
        tools: [{ name: "City", input_schema: schema }],
      },
      { tool_choice: { type: "auto" } },
      "output_config.format",
    ],
  ];
  for (const [path, must, may, field] of doors) {
    const asking = post(path, { model: "calls", ...must });
    const attempt = await answers(caller, ['{"name":"City","arguments":{"name":"Ghent"}}']);
    assert.equal(attempt.body.json_schema, undefined, path);
    assert.equal((await asking).status, 200, path);
    const refused = await post(path, { model: "calls", ...must, ...may });
    assert.equal(refused.status, 400, path);
    assert.match(await refused.text(), new RegExp(`${field}: can't be kept to beside tools`));
  }
});

test("Anthropic's runner of tools is told in its own words that no threads are kept here", async () => {
  const asked = { model: "fake", max_tokens: 9, messages: [{ role: "user", content: "hi" }] };
  const refused = await post("/v1/messages", { ...asked, thread: { type: "create" } });
  const { error } = (await refused.json()) as Json;
  assert.deepEqual([refused.status, error.details.error_code, error.details.unsupported], [400, "thread_unsupported_request", ["thread"]]);
  assert.match(error.message, /thread: is not supported: .*send the whole conversation/);
  const other = await post("/v1/messages", { ...asked, mcp_servers: [{}] });
  assert.deepEqual(((await other.json()) as Json).error.details, { error_code: "INVALID_REQUEST" });
});
