/** A worker whose engine is another server with OpenAI's API: here another rbees, whose worker is llama.cpp with the demo model. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { type AddressInfo, createServer } from "node:net";
import { join } from "node:path";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";
import { contractModel, engineContract } from "../../packages/workerd/test/engine-contract.ts";
import { startWorker } from "../../packages/workerd/test/support.ts";
import { eventually, follow, getJson, type Json, startOrcd, startWorkerd, submit, temporaryFolder } from "../support/cluster.ts";

const DEMO = fileURLToPath(new URL("../../models/demo/demo.gguf", import.meta.url));
const file = { after };
const folder = temporaryFolder(file, "openai-engine");
const inner = await startOrcd(file, join(folder, "inner"));
const llama = await startWorkerd(file, DEMO, inner.url, ["--model-name", "demo", "--slots", "2"]);
await eventually(async () => (await getJson(`${inner.url}/v2/workers`)).workers.length === 1);
const outer = await startOrcd(file, join(folder, "outer"), ["--heartbeat-ms", "200"]);
const external = (id: string) =>
  startWorkerd(file, "demo", outer.url, [
    ...["--engine", "openai", "--engine-url", `${inner.url}/v1`, "--ctx", "2048", "--slots", "2", "--worker-id", id],
  ]);
const first = await external("far");
await eventually(async () => (await getJson(`${outer.url}/v2/workers`)).workers.length === 1);

const inside = await startOrcd(file, join(folder, "contract"));
await startWorkerd(file, contractModel(), inside.url, ["--model-name", "said", "--slots", "2", "--ctx", "2048"]);
await eventually(async () => (await getJson(`${inside.url}/v2/workers`)).workers.length === 1);
engineContract({
  name: "openai, on another rbees",
  features: ["json_schema", "logit_bias", "penalties", "tools", "embeddings", "reasoning_effort"],
  tells_tokens: false,
  draws_by_position: false,
  start: () => startWorker({ model: "said", engine: "openai", engine_url: `${inside.url}/v1`, ctx: 2048 }),
});

const PROMPT = "What does rbees-orcd do?";
const greedy = { model: "demo", prompt: PROMPT, max_tokens: 80, temperature: 0, stream: true };

async function events(orchestrator: string, body: Record<string, unknown>): Promise<Json[]> {
  const found: Json[] = [];
  for await (const event of follow(await submit(orchestrator, body))) found.push(event);
  return found;
}

const textOf = (all: readonly Json[]) => all.flatMap(({ type, t }) => (type === "token" ? [t] : [])).join("");

test("the answer, its usage and its end are those of the server that computes", async () => {
  const here = await events(inner.url, greedy);
  const there = await events(outer.url, greedy);
  assert.equal(textOf(there), textOf(here));
  const [a, b] = [here.at(-1), there.at(-1)];
  assert.deepEqual([b.type, b.stop_reason, b.tokens_in, b.tokens_out], ["end", a.stop_reason, a.tokens_in, a.tokens_out]);
  const short = (await events(outer.url, { ...greedy, max_tokens: 3 })).at(-1);
  assert.deepEqual([short.stop_reason, short.tokens_out], ["MAX_TOKENS", 3]);
});

test("a stop string is found here and never leaked, and the server stops computing", async () => {
  const whole = textOf(await events(inner.url, greedy));
  const stop = whole.slice(9, 14);
  const stopped = await events(outer.url, { ...greedy, stop: [stop] });
  assert.equal(textOf(stopped), whole.slice(0, whole.indexOf(stop)));
  assert.deepEqual([stopped.at(-1).stop_reason, stopped.at(-1).stop], ["STOP_SEQUENCE", stop]);
  await eventually(async () => (await getJson(`${llama.url}/health`)).slots_busy === 0);
});

test("raw prompts go on as they are; a client that leaves frees the slot there too", async () => {
  const raw = { model: "demo", prompt: "The queen bee", raw: true, max_tokens: 8, temperature: 0, stream: true };
  assert.equal(textOf(await events(outer.url, raw)), textOf(await events(inner.url, raw)));
  const leaving = new AbortController();
  const long = { model: "demo", prompt: "Tell me about bees.", max_tokens: 1500, on_disconnect: "cancel", stream: true };
  const answer = await submit(outer.url, long, leaving.signal);
  for await (const { type } of follow(answer)) if (type === "token") break;
  leaving.abort();
  await eventually(async () => (await getJson(`${first.url}/health`)).slots_busy === 0);
  await eventually(async () => (await getJson(`${llama.url}/health`)).slots_busy === 0);
});

test("an answer that lost such a worker begins anew, and says so", async (t) => {
  const second = await external("other");
  t.after(() => second.kill("SIGKILL"));
  await eventually(async () => (await getJson(`${outer.url}/v2/workers`)).workers.length === 2);
  const seen: Json[] = [];
  for await (const event of follow(await submit(outer.url, { ...greedy, placement: { prefer: ["other"] } }))) {
    seen.push(event);
    if (event.type === "token" && event.i === 2) second.signal("SIGKILL");
  }
  const anew = seen.findIndex(({ type }) => type === "restarted");
  assert.match(seen[anew]?.reason, /can't go on in the middle of an answer/);
  assert.equal(textOf(seen.slice(anew)), textOf(await events(inner.url, greedy)));
  assert.equal(seen.at(-1).type, "end");
});

test("a model that the server does not have, and a server that is not there, are said at the start", async () => {
  const start = (model: string, url: string) =>
    startWorkerd(file, model, "none", ["--engine", "openai", "--engine-url", url, "--ctx", "2048"]);
  await assert.rejects(start("gpt-99", `${inner.url}/v1`), /has no model \\?"gpt-99\\?"; it has: demo/);
  const gone = createServer().listen(0, "127.0.0.1");
  await once(gone, "listening");
  const { port } = gone.address() as AddressInfo;
  gone.close();
  await assert.rejects(start("demo", `http://127.0.0.1:${port}/v1`), /does not answer \(.*ECONNREFUSED/);
  await assert.rejects(start("demo", inner.url), /is --engine-url right|does not know the model or the address/i);
});
