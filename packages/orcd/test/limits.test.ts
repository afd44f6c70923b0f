/** Limits of tenants and keys, as those meet them who ask through each of the doors; what was used of a day outlives a restart. */
import assert from "node:assert/strict";
import { test } from "node:test";
import Anthropic from "@anthropic-ai/sdk";
import { RbeesError } from "@rbees/contracts/errors";
import { databaseIn } from "../src/store/open.ts";
import { recordsIn } from "./database.ts";
import { eventually, type Json, startHarness } from "./harness.ts";
import { answers, clientOf } from "./openai-harness.ts";
import { startTenants } from "./tenants-setup.ts";

const JOB = { model: "fake", prompt: "hi", max_tokens: 99 };
const CHAT = { model: "fake", messages: [{ role: "user", content: "hi" }], max_tokens: 99 };
const OLLAMA = { model: "fake", stream: false, options: { num_predict: 99 } };
const refused = (code: string) => (error: unknown) => error instanceof RbeesError && error.code === code;

test("over a rate every door refuses in its own words, says what is left and when to come again, and the record names the limit", async (t) => {
  const { orcd, worker, data_dir, who, operator } = await startTenants(t, {}, 50);
  const acme = await who({ tenant: "acme" }, { requests_per_minute_max: 3, tokens_per_minute_max: 1000 });
  const first = await acme.send("POST", "/v2/tasks", JOB);
  const rates = (answer: Response) =>
    ["limit", "remaining", "reset"].flatMap((what) => ["requests", "tokens"].map((of) => answer.headers.get(`x-ratelimit-${what}-${of}`)));
  assert.equal(first.status, 202);
  const [requests_max, tokens_max, requests_left, tokens_left, reset] = rates(first);
  assert.deepEqual([requests_max, tokens_max, requests_left], ["3", "1000", "2"]);
  // They drain while the answer is on its way.
  assert.ok(Number(tokens_left) >= 900 && Number(tokens_left) < 1000, `${tokens_left}`);
  assert.match(reset ?? "", /^1?\d?s$|^20s$/);
  await answers(worker, ["a"]);
  const [chat] = await Promise.all([acme.send("POST", "/v1/chat/completions", CHAT), answers(worker, ["b"])]);
  assert.equal(chat.headers.get("x-ratelimit-limit-requests"), "3");
  await Promise.all([acme.send("POST", "/api/chat", { ...OLLAMA, messages: CHAT.messages }), answers(worker, ["c"])]);

  const doors = [
    ["/v2/tasks", JOB],
    ["/v1/chat/completions", CHAT],
    ["/v1/completions", JOB],
    ["/v1/responses", { model: "fake", input: "hi", max_output_tokens: 99 }],
    ["/v1/messages", CHAT],
    ["/api/chat", { ...OLLAMA, messages: CHAT.messages }],
    ["/api/generate", { ...OLLAMA, prompt: "hi" }],
  ] as const;
  for (const [path, body] of doors) {
    const answer = await acme.send("POST", path, body);
    const said = (await answer.json()) as Json;
    assert.equal(answer.status, 429, path);
    const wait_s = Number(answer.headers.get("retry-after"));
    assert.ok(wait_s > 0 && wait_s <= 60, `${path}: ${wait_s}`);
    assert.equal(answer.headers.get("x-ratelimit-remaining-requests"), "0", path);
    assert.match(path.startsWith("/api") ? said.error : said.error.message, /a minute.*of the tenant acme/, path);
    if (path === "/v1/messages") assert.equal(said.error.type, "rate_limit_error");
    if (path === "/v1/chat/completions") assert.deepEqual([said.error.code, said.error.type], ["RATE_LIMITED", "rate_limit_error"]);
  }
  const client = clientOf(orcd.url).withOptions({ apiKey: acme.key });
  await assert.rejects(client.chat.completions.create(CHAT as never), (error: Json) => error.constructor.name === "RateLimitError");
  assert.equal((await (await who({ tenant: "zeta" })).send("POST", "/v2/tasks", JOB)).status, 202, "nobody else is over it");

  const large = await acme.send("POST", "/v2/tasks", { ...JOB, max_tokens: 1000 });
  assert.equal(large.status, 400);
  assert.match(((await large.json()) as Json).error.message, /max_tokens of at most 999/);
  await operator.client.call("setTenant", { params: { id: "acme" }, body: { requests_per_minute_max: 0, models: ["other"] } });
  for (const [path, body] of doors) assert.equal((await acme.send("POST", path, body)).status, 403, path);
  await orcd.orcd.stop();

  const records = recordsIn(databaseIn(data_dir), "kind in ('job.refused', 'tenant.changed')");
  const limits = records.map(({ kind, limit, tenant, who: by }) => [kind, limit, tenant, by]);
  assert.deepEqual(limits[0], ["job.refused", "requests_per_minute_max of tenant acme", "acme", acme.key_id]);
  assert.equal(limits.filter(([, limit]) => limit === "models of tenant acme").length, doors.length);
  const changed = records.find(({ kind }) => kind === "tenant.changed") ?? {};
  assert.deepEqual([changed.requests_per_minute_max, changed.models, changed.who], [0, ["other"], operator.key_id]);
});

test("a chat that does not say how long its answer may be gets as long a one as the limits allow", async (t) => {
  const { worker, who } = await startTenants(t);
  const acme = await who({ tenant: "acme", tokens_per_day_max: 500 }, { tokens_per_minute_max: 1000 });
  const { max_tokens: _, ...chat } = CHAT;
  const [answer, attempt] = await Promise.all([acme.send("POST", "/v1/chat/completions", chat), answers(worker, ["a"])]);
  assert.equal(answer.status, 200);
  assert.ok(attempt.body.max_tokens > 400 && attempt.body.max_tokens < 500, `${attempt.body.max_tokens}`);
});

test("tokens a day count what was used, of the tenant and of the key, also by what was cancelled, and outlive a restart", async (t) => {
  const { worker, who, operator, again } = await startTenants(t);
  const acme = await who({ tenant: "acme", tokens_per_day_max: 150 }, { tokens_per_day_max: 10_000 });
  const day = async (one = operator) => (await one.client.call("showTenant", { params: { id: "acme" } })).tokens_today;
  const job = (await acme.client.call("submitJob", { body: JOB })) as Json;
  assert.equal(await day(), 100, "reserved: a token of the prompt, and all that may come");
  await answers(worker, ["a", "b"]);
  await eventually(async () => (await acme.client.call("showJob", { params: { id: job.job_id } })).status === "succeeded");
  assert.equal(await day(), 5, "three of the prompt and two of the answer, as the worker counted");

  const cut = (await acme.client.call("submitJob", { body: JOB })) as Json;
  const attempt = await worker.next();
  attempt.started();
  attempt.tokens("a");
  const metrics = { type: "metrics", job_id: cut.job_id, tokens_out: 60, decode_time_ms: 1, memory_bytes: 0 };
  attempt.response.write(`event: metrics\ndata: ${JSON.stringify(metrics)}\n\n`);
  const seen = await acme.send("GET", `/v2/tasks/${cut.job_id}/events`);
  for await (const chunk of seen.body as unknown as AsyncIterable<Uint8Array>) if (Buffer.from(chunk).includes("metrics")) break;
  await acme.client.call("deleteJob", { params: { id: cut.job_id } });
  assert.equal(await day(), 66);
  await assert.rejects(acme.client.call("submitJob", { body: JOB }), refused("QUOTA_EXCEEDED"));

  const later = await again();
  assert.equal(await day(later.as(operator)), 66);
  const still = await later.as(acme).send("POST", "/v2/tasks", JOB);
  assert.equal(still.status, 429);
  assert.match(((await still.json()) as Json).error.message, /Of 150 tokens for today \(UTC\) 84 are left.*of the key /);
  await later.as(operator).client.call("setKey", { params: { id: acme.key_id }, body: { tokens_per_day_max: 0 } });
  assert.equal((await later.as(acme).send("POST", "/v2/tasks", JOB)).status, 202);
});

test("clients do not come back in vain, nor sleep until tomorrow, when the tokens of a day are used up", async (t) => {
  const { orcd, who } = await startTenants(t);
  const acme = await who({ tenant: "acme" }, { tokens_per_day_max: 120 });
  await acme.client.call("submitJob", { body: JOB });
  let sent = 0;
  const counted: typeof fetch = (...request) => {
    sent += 1;
    return fetch(...request);
  };
  const openai = clientOf(orcd.url, 3).withOptions({ apiKey: acme.key, fetch: counted });
  await assert.rejects(openai.chat.completions.create(CHAT as never), (error: Json) => {
    assert.equal(error.constructor.name, "RateLimitError");
    assert.deepEqual([error.code, error.type], ["QUOTA_EXCEEDED", "insufficient_quota"]);
    return true;
  });
  assert.equal(sent, 1);
  const anthropic = new Anthropic({ baseURL: orcd.url, apiKey: acme.key, maxRetries: 3, fetch: counted });
  await assert.rejects(anthropic.messages.create(CHAT as never), (error: Json) => {
    assert.equal(error.constructor.name, "RateLimitError");
    assert.equal(error.error.error.type, "rate_limit_error");
    return true;
  });
  assert.equal(sent, 2);
});

test("lists of models show those that the asker may use, and of others not that they are there", async (t) => {
  const { operator, who } = await startTenants(t);
  const zeta = await who({ tenant: "zeta", roles: ["submit", "observe"] });
  const key = await who({ tenant: "zeta", models: ["other"] });
  const acme = await who({ tenant: "acme" }, { models: ["other"] });
  const listed = async (one: typeof zeta) => {
    const json = async (path: string) => (await (await one.send("GET", path)).json()) as Json;
    const shown = [await one.send("GET", "/v1/models/fake"), await one.send("POST", "/api/show", { model: "fake" })];
    return [
      (await json("/v1/models")).data.map(({ id }: Json) => id).join(),
      (await json("/api/tags")).models.map(({ name }: Json) => name).join(),
      (await json("/v2/models")).models.map(({ model }: Json) => model).join(),
      ...shown.map(({ status }) => status),
    ];
  };
  assert.deepEqual(await listed(zeta), ["fake", "fake", "fake", 200, 200]);
  for (const one of [key, acme]) assert.deepEqual(await listed(one), ["", "", "", 404, 404]);
  const said = async (name: string) => ((await (await acme.send("GET", `/v1/models/${name}`)).json()) as Json).error.message;
  assert.equal((await said("fake")).replace("fake", ""), (await said("never")).replace("never", ""));
  await operator.client.call("setTenant", { params: { id: "default" }, body: { models: ["other"] } });
  assert.deepEqual(
    await listed(operator),
    ["", "", "fake", 404, 404],
    "whoever sees everybody's jobs sees every model, and may ask for none",
  );
});

test("queue instead of refuse: the job waits, is told why, and runs once another has given back what it did not use", async (t) => {
  const { worker, who } = await startTenants(t, {}, 4);
  const acme = await who({ tenant: "acme" }, { tokens_per_minute_max: 120, over_limit: "queue", jobs_queued_max: 1 });
  const submit = async () => (await acme.client.call("submitJob", { body: JOB })) as Json;
  await submit();
  const attempt = await worker.next();
  const waits = await submit();
  assert.ok(waits.eta_ms > 1000, `${waits.eta_ms}`);
  assert.match(
    (await acme.client.call("explainJob", { params: { id: waits.job_id } })).answer,
    /It waits for the rates of the tenant acme/,
  );
  await assert.rejects(submit(), refused("RATE_LIMITED"));
  attempt.started();
  attempt.end();
  await answers(worker, ["b"]);
});

test("where nobody is asked for a key, nothing is limited or counted unless the configuration says so", async (t) => {
  const open = await startHarness(t);
  await open.worker("w1");
  const answer = await open.submit({});
  assert.equal(answer.status, 202);
  assert.equal(answer.headers.get("x-ratelimit-limit-requests"), null);
  const limited = await startHarness(t, { tenant_requests_per_minute_max: 1 });
  await limited.worker("w1");
  assert.deepEqual([(await limited.submit({})).status, (await limited.submit({})).status], [202, 429]);
});

test("several answers to one request are within the rates together, or nothing of them is begun or counted", async (t) => {
  const { worker, who } = await startTenants(t, {}, 8);
  const acme = await who({ tenant: "acme" }, { requests_per_minute_max: 5, tokens_per_minute_max: 1000, tokens_per_day_max: 5000 });
  const ask = async (body: object) => {
    const answer = await acme.send("POST", "/v1/chat/completions", { ...CHAT, ...body });
    return { status: answer.status, left: answer.headers.get("x-ratelimit-remaining-requests"), ...((await answer.json()) as Json).error };
  };
  const never = await ask({ n: 6, max_tokens: 9 });
  assert.deepEqual([never.status, never.left], [400, "5"], "a minute never has as many");
  assert.match(never.message, /6 answers.*5 requests.*requests_per_minute_max/);
  const large = await ask({ n: 4, max_tokens: 300 });
  assert.deepEqual([large.status, large.left], [400, "5"]);
  assert.match(large.message, /4 answers.*tokens.*1000.*tokens_per_minute_max/);
  const { max_tokens: _, ...open } = CHAT;
  const three = acme.send("POST", "/v1/chat/completions", { ...open, n: 3 });
  for (const attempt of [await worker.next(), await worker.next(), await worker.next()]) {
    assert.ok(attempt.body.max_tokens <= 333, `${attempt.body.max_tokens}: each has its part of what is allowed`);
    attempt.started();
    attempt.tokens("a");
    attempt.end();
  }
  assert.equal((await three).status, 200);
  const later = await ask({ n: 3, max_tokens: 9 });
  assert.deepEqual([later.status, later.left], [429, "2"], "what is left is not used up in vain");
  const job = (await acme.client.call("listJobs", { query: { limit: 10 } })) as Json;
  assert.equal(job.tasks.length, 3, "nothing was begun but what was answered");
});
