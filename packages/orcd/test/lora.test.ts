/** LoRA adapters: a field of the native door, models of their own at the others; only workers that have one get its jobs. */
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { namedModel } from "../src/adapters.ts";
import { contentText, promptBlocks } from "../src/prompt.ts";
import { eventsOf, type Json } from "./harness.ts";
import { answers, CHAT, startOpenai } from "./openai-harness.ts";

const { orcd, worker, client, post } = await startOpenai({ after }, {}, { features: ["lora:sql", "tools", "tokenize"], slots: 4 });
await orcd.worker("w2", { model: "other" });

test("a name with an adapter goes to its model's worker, which is told of the adapter, and the answer bears that name", async () => {
  const answer = client.chat.completions.create({ ...CHAT, model: "fake:sql" });
  const { body } = await answers(worker, ["SELECT"]);
  assert.equal(body.lora, "sql");
  const { model, choices } = await answer;
  assert.deepEqual([model, choices[0]?.message.content], ["fake:sql", "SELECT"]);

  const without = client.chat.completions.create(CHAT);
  assert.equal((await answers(worker, ["hello"])).body.lora, undefined);
  assert.equal((await without).model, "fake");
});

test("each door takes it: Anthropic's, Ollama's, the native one with the field", async () => {
  const asked: [string, Json][] = [
    ["/v1/messages", { model: "fake:sql", max_tokens: 9, messages: CHAT.messages }],
    ["/api/chat", { model: "fake:sql", messages: CHAT.messages, stream: false }],
    ["/v1/responses", { model: "fake:sql", input: "hi" }],
  ];
  for (const [path, body] of asked) {
    const answer = post(path, body);
    assert.equal((await answers(worker, ["yes"])).body.lora, "sql", path);
    assert.equal(((await (await answer).json()) as Json)["model"], "fake:sql", path);
  }
  const accepted = await post("/v2/tasks", { model: "fake", lora: "sql", prompt: "hi" });
  assert.equal(accepted.status, 202);
  assert.equal((await answers(worker, ["yes"])).body.lora, "sql");
});

test("a prompt is counted with the tokenizer of the adapter's model", async () => {
  const counted = (await (await post("/v2/tokenize", { model: "fake:sql", prompt: "hi" })).json()) as Json;
  assert.deepEqual([counted["model"], counted["tokens_in"]], ["fake:sql", 7]);
});

test("models are listed with the adapters that their workers have, and shown one by one", async () => {
  assert.deepEqual(
    (await client.models.list()).data.map(({ id }) => id),
    ["fake", "fake:sql", "other"],
  );
  const shown = await client.models.retrieve("fake:sql");
  assert.ok(shown.created > 0);
  const tags = (await (await fetch(`${orcd.url}/api/tags`)).json()) as { models: { name: string }[] };
  assert.deepEqual(
    tags.models.map(({ name }) => name),
    ["fake", "fake:sql", "other"],
  );
});

test("an adapter that nobody has is refused, by the model's name or by the field's, and vectors are made through none", async () => {
  const refused = async (path: string, body: Json) => {
    const response = await post(path, body);
    const { error } = (await response.json()) as { error: { message: string; param?: string | null } };
    return [response.status, error.param ?? null, error.message] as const;
  };
  const [status, , message] = await refused("/v1/chat/completions", { ...CHAT, model: "fake:greek" });
  assert.equal(status, 404);
  assert.match(message, /fake:greek/);
  const [code, param, says] = await refused("/v2/tasks", { model: "other", lora: "sql", prompt: "hi" });
  assert.deepEqual([code, param], [400, "lora"]);
  assert.match(says, /lora \(lora:sql\): the engine of no worker that serves other can do that/);
  assert.equal((await refused("/v2/tasks", { model: "fake", lora: "a b", prompt: "hi" }))[0], 400);
  assert.equal((await refused("/v1/embeddings", { model: "fake:sql", input: "hi" }))[0], 404);
});

test("a beginning that was computed through an adapter is no beginning without it", () => {
  const content = contentText({ prompt: "the same text again and again" });
  const blocks = (lora?: string, salt?: string) => promptBlocks({ model: "fake", raw: false, lora }, content, { block_tokens: 1, salt });
  assert.ok(blocks().every((block, i) => block !== blocks("sql")[i] && block !== blocks(undefined, "sql")[i]));
  assert.deepEqual(blocks("sql"), blocks("sql"));
});

test("a name is of an adapter only where no model has it and a worker may have the adapter", () => {
  const fleet = (features: string[]) => [{ spec: { features } }];
  const state = { models: new Set(["m", "m:7b", "away"]), fleets: new Map([["m", fleet(["lora:a"])]]) } as never;
  const found = ["m", "m:a", "m:7b", "m:b", "x:a", "away:a", ":a", "m:"].map((name) => namedModel(state, name).lora ?? null);
  assert.deepEqual(found, [null, "a", null, null, null, "a", null, null]);
});

test("an adapter of the same name in another file is another build: an answer begins anew there, and is not replayed there", async (t) => {
  const limits = { attempts_max: 5, worker_inhibit_ms: 0, retry_backoff_ms: 1 };
  const build = { model_digest: "sha256:m", engine: "libllama 1", features: ["lora:sql"] };
  const { orcd, worker, post } = await startOpenai(t, limits, { ...build, lora_digests: { sql: "sha256:a" } });
  const job = { model: "fake:sql", prompt: "hi", max_tokens: 9 };
  const { job_id, events_url } = (await (await post("/v2/tasks", job)).json()) as Record<string, string>;
  const first = await worker.next();
  first.started();
  first.tokens("a");
  const other = await orcd.worker("w2", { ...build, lora_digests: { sql: "sha256:b" } });
  first.drop();
  await fetch(`${orcd.url}/workers/w1`, { method: "DELETE" });
  const second = await other.next();
  assert.equal(second.body.continue_from, undefined);
  second.started();
  second.tokens("b");
  second.end();
  const events = await eventsOf(await orcd.get(events_url ?? ""));
  assert.equal(events.find(({ type }) => type === "restarted")?.reason, "the next worker has another build of the model");
  assert.equal(((await orcd.json(`/v2/tasks/${job_id}`)) as Json)["text"], "b");

  const replay = async () => {
    const answer = await post(`/v2/tasks/${job_id}/replay`, {});
    return [answer.status, (await answer.json()) as Json] as const;
  };
  const [status, begun] = await replay();
  assert.deepEqual([status, begun["model_digest"]], [202, "sha256:m with sha256:b"]);
  await answers(other, ["b"]);
  await fetch(`${orcd.url}/workers/w2`, { method: "DELETE" });
  await orcd.worker("w3", { ...build, lora_digests: { sql: "sha256:a" } });
  const [refused, why] = await replay();
  assert.equal(refused, 503);
  assert.match(JSON.stringify(why), /ran with sha256:m with sha256:b on libllama 1.*w3 has sha256:m with sha256:a/);
});
