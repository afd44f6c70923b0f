/** Ollama's API, by its official client as it is: shapes, what a request becomes, what is refused. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { type TestContext, test } from "node:test";
import { OLLAMA_FIELDS } from "@rbees/contracts/ollama";
import { Ollama } from "ollama";
import type { Json } from "./harness.ts";
import { answers, startOpenai } from "./openai-harness.ts";

const CHAT = { model: "fake", messages: [{ role: "user", content: "hi" }] };

async function startOllama(t: TestContext) {
  const harness = await startOpenai(t, {}, { model_digest: `gguf-sample:${"ab".repeat(32)}`, model_bytes: 1234, context_size: 4096 });
  return { ...harness, client: new Ollama({ host: harness.orcd.url }) };
}

test("models are listed and shown; the version is told", async (t) => {
  const { client, post } = await startOllama(t);
  const { models } = await client.list();
  assert.deepEqual(
    models.map(({ name, model, size, details }) => [name, model, size, details.format]),
    [["fake", "fake", 1234, "gguf"]],
  );
  assert.ok(Math.abs(new Date(models[0]?.modified_at ?? 0).getTime() - Date.now()) < 60_000);
  const shown = (await client.show({ model: "fake:latest" })) as unknown as Json;
  assert.deepEqual([shown.capabilities, shown.model_info["rbees.context_length"]], [["completion", "tools"], 4096]);
  assert.equal(shown.model_info[`${shown.model_info["general.architecture"]}.context_length`], 4096);
  const running = (await client.ps()).models[0] as unknown as Json;
  assert.deepEqual([running.name, running.size, running.size_vram, running.context_length], ["fake", 1234, 0, 4096]);
  assert.ok(new Date(running.expires_at).getTime() > Date.now());
  const [major, minor] = (await client.version()).version.split(".").map(Number);
  assert.deepEqual([major, (minor as number) > 6], [0, true], "Copilot in VS Code turns away what is older than 0.6.4");
  for (const [asked, where] of [
    [() => client.pull({ model: "fake" }), /There is no POST \/api\/pull\. .*rbees-pool models download NAME/],
    [() => client.delete({ model: "fake" }), /There is no DELETE \/api\/delete\. .*rbees-pool models delete NAME/],
    [() => client.copy({ source: "fake", destination: "other" }), /rbees-pool models register NAME FILE/],
    [() => client.create({ model: "other", from: "fake" }), /rbees-pool models register NAME FILE/],
    [() => client.push({ model: "fake" }), /Models are not given out/],
  ] as const)
    await assert.rejects(asked, { name: "ResponseError", status_code: 404, error: where });
  const blob = await post("/api/blobs/sha256:00", {});
  assert.match(((await blob.json()) as Json).error, /rbees-pool models register NAME FILE/);
  await assert.rejects(client.show({ model: "gpt-99" }), { name: "ResponseError", status_code: 404, error: /model "gpt-99" not found/ });
});

test("Ollama's own command line finds what it asks for first: that somebody is there, and the model by either name", async (t) => {
  const { orcd, post } = await startOllama(t);
  assert.equal((await fetch(orcd.url, { method: "HEAD" })).status, 200);
  assert.match(await (await fetch(orcd.url)).text(), /running/);
  const asked = { system: "", template: "", verbose: false, options: null };
  for (const names of [
    { model: "", name: "fake" },
    { model: "fake", name: "" },
  ]) {
    assert.equal((await post("/api/show", { ...names, ...asked })).status, 200);
  }
  const nobody = await post("/api/show", { model: "", name: "" });
  assert.match(((await nobody.json()) as Json).error, /model: is required/);
  assert.match(((await (await post("/api/show", { model: "not a name" })).json()) as Json).error, /must be a model name/);
});

test("a known model answers to its other name, on every door", async (t) => {
  const { orcd, client } = await startOllama(t);
  const worker = await orcd.worker("w2", { model: "qwen" });
  assert.equal((await client.show({ model: "qwen:latest" })).details.format, "gguf");
  assert.equal(((await (await fetch(`${orcd.url}/v1/models/qwen`)).json()) as Json).id, "qwen-0.5b");
  const doors: [string, object][] = [
    ["/api/chat", { ...CHAT, model: "qwen:latest", stream: false }],
    ["/v1/chat/completions", { ...CHAT, model: "qwen" }],
    ["/v2/tasks", { prompt: "hi", model: "qwen" }],
  ];
  for (const [path, body] of doors) {
    const asked = fetch(orcd.url + path, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
    });
    await answers(worker, ["yes"]);
    assert.ok((await asked).ok, path);
  }
  assert.deepEqual(
    ((await (await fetch(`${orcd.url}/v2/tasks`)).json()) as Json).tasks.map(({ model }: Json) => model),
    ["qwen-0.5b", "qwen-0.5b", "qwen-0.5b"],
  );
});

test("a chat: what the worker is asked, and the answer's shape", async (t) => {
  const { client, worker } = await startOllama(t);
  const answer = client.chat({
    model: "fake:latest",
    messages: [{ role: "system", content: "Be brief." }, ...CHAT.messages],
    keep_alive: "5m",
    options: { temperature: 0.5, seed: -1, stop: ["END"], num_predict: 50, num_ctx: 2048, min_p: 0.05 },
  });
  const attempt = await answers(worker, ["Hé", "llo ", '"世界"\n', "\\🐝"], "MAX_TOKENS");
  const { job_id: _job, attempt: _attempt, ...asked } = attempt.body;
  assert.deepEqual(asked, {
    messages: [
      { role: "system", content: "Be brief." },
      { role: "user", content: "hi" },
    ],
    raw: false,
    separate_reasoning: true,
    max_tokens: 50,
    fit_context: true,
    temperature: 0.5,
    top_p: 0.9,
    top_k: 40,
    min_p: 0.05,
    seed: 4_294_967_295,
    stop: ["END"],
  });
  const said = await answer;
  assert.deepEqual([said.message, said.done, said.done_reason], [{ role: "assistant", content: 'Héllo "世界"\n\\🐝' }, true, "length"]);
  assert.equal(said.eval_count, 4);
  for (const figure of [said.total_duration, said.prompt_eval_count, said.prompt_eval_duration, said.eval_duration])
    assert.ok(Number.isFinite(figure) && figure >= 0, String(figure));
});

test("a chat in lines: each piece when it is made, the counts in the last", async (t) => {
  const { client, orcd, worker } = await startOllama(t);
  const streaming = client.chat({ ...CHAT, stream: true });
  const attempt = await worker.next();
  attempt.started();
  attempt.tokens("Hé");
  const pieces: string[] = [];
  for await (const line of await streaming) {
    pieces.push(line.message.content);
    if (pieces.length === 1) {
      assert.deepEqual([line.model, line.done], ["fake", false]);
      attempt.tokens('llo "世界"\n');
      attempt.end();
    }
    if (line.done) assert.deepEqual([line.done_reason, line.eval_count], ["stop", 2]);
  }
  assert.deepEqual(pieces, ["Hé", 'llo "世界"\n', ""]);

  const raw = fetch(`${orcd.url}/api/chat`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(CHAT),
  });
  await answers(worker, ["one"]);
  const response = await raw;
  assert.equal(response.headers.get("content-type"), "application/x-ndjson");
  assert.match(response.headers.get("x-rbees-job-id") ?? "", /./);
  assert.equal((await response.text()).trimEnd().split("\n").length, 2, "lines are the default");
});

test("a prompt: a user's turn, with a system message before it, or as it is", async (t) => {
  const { client, worker } = await startOllama(t);
  const turns = [
    { request: { prompt: "hi" }, becomes: { prompt: "hi", raw: false } },
    { request: { prompt: "hi", raw: true }, becomes: { prompt: "hi", raw: true } },
    {
      request: { prompt: "hi", system: "Be brief." },
      becomes: {
        messages: [
          { role: "system", content: "Be brief." },
          { role: "user", content: "hi" },
        ],
        raw: false,
      },
    },
  ];
  for (const { request, becomes } of turns) {
    const answer = client.generate({ model: "fake", ...request });
    const { body } = await answers(worker, ["yes"]);
    const { prompt, messages, raw } = body;
    assert.deepEqual({ ...(prompt === undefined ? {} : { prompt }), ...(messages === undefined ? {} : { messages }), raw }, becomes);
    assert.equal((await answer).response, "yes");
  }
  const loaded = await client.generate({ model: "fake", prompt: "" });
  assert.deepEqual([loaded.response, loaded.done, loaded.done_reason], ["", true, "load"]);
  await assert.rejects(client.chat({ model: "gpt-99", messages: [] }), { status_code: 404 });
});

test("a client that leaves frees the slot; a job that fails in its stream ends it with the error", async (t) => {
  const { client, worker } = await startOllama(t);
  const leaving = client.chat({ ...CHAT, stream: true });
  const left = await worker.next();
  left.started();
  left.tokens("one");
  const stream = await leaving;
  await assert.rejects(
    async () => {
      for await (const _ of stream) stream.abort();
    },
    { name: "AbortError" },
  );
  await left.closed;

  const failing = client.chat({ ...CHAT, stream: true });
  const attempt = await worker.next();
  attempt.started();
  attempt.tokens("one");
  const read = (async () => {
    for await (const _ of await failing);
  })();
  attempt.fail("ENGINE_FAILED", false);
  await assert.rejects(read, /the fake worker says ENGINE_FAILED/);
});

test("what ends in the middle has the reason as its last line, and does not end as a whole answer does", async (t) => {
  for (const [how, said] of [
    ["fails", /^\{"error":"[^"]+"\}\n$/],
    ["stops", /^\{"error":"[^"]+stopped in the middle of this answer\. [^"]+"\}\n$/],
  ] as const) {
    const { orcd, worker, post } = await startOllama(t);
    const asking = post("/api/chat", CHAT);
    const attempt = await worker.next();
    attempt.started();
    attempt.tokens("a");
    const reader = ((await asking).body as ReadableStream<Uint8Array>).pipeThrough(new TextDecoderStream()).getReader();
    const stopped = how === "stops" ? orcd.orcd.stop() : attempt.fail("INTERNAL", false);
    let last = "";
    const whole = (async () => {
      for (let next = await reader.read(); !next.done; next = await reader.read()) last = next.value;
    })();
    await assert.rejects(whole, how);
    assert.match(last, said, how);
    await stopped;
  }
});

test("what can't be honoured is refused by name, in Ollama's form", async (t) => {
  const { client, post } = await startOllama(t);
  await assert.rejects(client.chat({ ...CHAT, model: "gpt-99" }), { name: "ResponseError", status_code: 404 });
  await assert.rejects(client.chat({ ...CHAT, options: { repeat_penalty: 1.1 } }), {
    status_code: 400,
    error: /repeat_penalty \(repeat_penalty\): the engine of no worker/,
  });
  await assert.rejects(client.chat({ ...CHAT, logprobs: true }), {
    status_code: 400,
    error: /logprobs \(logprobs\): the engine of no worker/,
  });
  for (const [place, table] of Object.entries(OLLAMA_FIELDS)) {
    for (const name of Object.keys(table.refused)) {
      const odd = { [name]: { odd: true } };
      const body = place.includes("messages")
        ? { ...CHAT, messages: [{ ...CHAT.messages[0], ...odd }] }
        : place.includes("options")
          ? { ...CHAT, options: odd }
          : place.includes("chat")
            ? { ...CHAT, ...odd }
            : { model: "fake", prompt: "hi", ...odd };
      const response = await post(place.includes("generate") ? "/api/generate" : "/api/chat", body);
      const { error } = (await response.json()) as Json;
      assert.equal(response.status, 400, `${place} ${name}`);
      assert.match(error, new RegExp(`${name}: is not supported`));
    }
  }
  const unknown = await post("/api/chat", { ...CHAT, nonsense: 1 });
  assert.deepEqual([unknown.status, await unknown.json()], [400, { error: "The request is not valid: nonsense: unknown field" }]);
  const page = readFileSync(new URL("../../../docs/ollama.md", import.meta.url), "utf8");
  for (const table of Object.values(OLLAMA_FIELDS))
    for (const fields of Object.values(table)) for (const name of Object.keys(fields)) assert.ok(page.includes(`| \`${name}\` |`), name);
});
