/** Rules in an orchestrator: through every door, in the record, loaded again while jobs wait, and when the file is not valid. */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { temporaryFolder } from "../../../test/support/cluster.ts";
import type { OrcdConfig } from "../src/config.ts";
import { recordsIn } from "./database.ts";
import { eventually, type Harness, type Json, startHarness } from "./harness.ts";
import { startTenants } from "./tenants-setup.ts";

const rule = (name: string, when: string, effect: string) => `[[rule]]\nname = "${name}"\nwhen = '${when}'\n${effect}\n`;

async function start(t: TestContext, rules: string, data_dir?: string, more: Partial<OrcdConfig> = {}) {
  const file = join(temporaryFolder(t, "policy"), "policy.toml");
  writeFileSync(file, rules);
  const orcd = await startHarness(t, { policy_file: file, ...more }, data_dir);
  const post = (path: string, body: unknown) =>
    fetch(orcd.url + path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
  return { orcd, file, post, reload: () => post("/v2/policy/reload", {}) };
}

/** The entries of a kind, once the orchestrator has stopped. */
async function entries(orcd: Harness, kind: string): Promise<Json[]> {
  return recordsIn(join(orcd.data_dir, "orcd.sqlite"), "kind = ?", kind);
}

test("a denied job is refused through every door, with the rule's name and message", async (t) => {
  const { orcd, post } = await start(t, rule("no demo", 'model == "fake"', 'deny = "Take another model."'));
  await orcd.worker("w1");
  const messages = [{ role: "user", content: "hi" }];
  for (const [path, body, messageOf] of [
    ["/v2/tasks", { prompt: "hi" }, (answer: Json) => answer.error.code === "FORBIDDEN" && answer.error.message],
    ["/v2/tasks", { prompt: "hi", stream: true }, (answer: Json) => answer.error.message],
    ["/v1/chat/completions", { messages }, (answer: Json) => answer.error.type === "permission_error" && answer.error.message],
    ["/v1/chat/completions", { messages, stream: true }, (answer: Json) => answer.error.message],
    ["/v1/completions", { prompt: "hi" }, (answer: Json) => answer.error.message],
    ["/v1/responses", { input: "hi" }, (answer: Json) => answer.error.message],
    [
      "/v1/messages",
      { messages, max_tokens: 5 },
      (answer: Json) => answer.error.details.error_code === "FORBIDDEN" && answer.error.message,
    ],
    ["/api/chat", { messages }, (answer: Json) => answer.error],
    ["/api/generate", { prompt: "hi" }, (answer: Json) => answer.error],
  ] as const) {
    const refused = await post(path, { model: "fake", ...body });
    assert.equal(refused.status, 403, path);
    assert.match(messageOf((await refused.json()) as Json), /The rule "no demo" forbids it: Take another model\./, path);
  }
  assert.equal((await orcd.json("/v2/policy")).rules[0].jobs, 9);
  await orcd.orcd.stop();
  const refusals = await entries(orcd, "job.refused");
  assert.equal(refusals.length, 9);
  for (const refusal of refusals) assert.deepEqual([refusal.code, refusal.rule, refusal.rules], ["FORBIDDEN", "no demo", ["no demo"]]);
  const [loaded] = await entries(orcd, "policy.loaded");
  assert.deepEqual([loaded.mode, loaded.rules, loaded.sha256.length], ["enforce", 1, 64]);
});

test("set, require and prefer are done, said by explain, and written down", async (t) => {
  const { orcd } = await start(
    t,
    rule("short", "job.max_tokens > 10", 'set = { max_tokens = 10, priority = "batch" }') +
      rule("at home", 'has(job.metadata.class) && job.metadata["class"] == "personal"', 'require = { region = "EU" }') +
      rule("fast", 'has(worker.labels.disk) && worker.labels.disk == "nvme"', "prefer = 10") +
      rule("no guests", 'worker.trust == "open" && worker.region == "us"', 'deny = "not there"'),
  );
  await orcd.worker("us", { region: "us", slots: 8 });
  const plain = await orcd.worker("plain", { slots: 8 });
  const fast = await orcd.worker("fast", { slots: 8, labels: { disk: "nvme" } });
  const { job_id } = (await (await orcd.submit({ max_tokens: 99 })).json()) as Json;
  assert.equal((await fast.next()).body.max_tokens, 10);
  const job = await orcd.json(`/v2/tasks/${job_id}`);
  assert.deepEqual([job.priority, job.worker_id], ["batch", "fast"]);
  const why = await orcd.json(`/v2/tasks/${job_id}/explain`);
  assert.deepEqual(why.rules, ["short"]);
  const reason = (id: string, from: Json) => from.workers.find(({ worker_id }: Json) => worker_id === id).reason;
  assert.match(reason("fast", why), /rules that hold there: fast/);
  assert.equal(reason("us", why), 'The rule "no guests" forbids it: not there');
  const personal = (await (await orcd.submit({ metadata: { class: "personal" } })).json()) as Json;
  const waits = await orcd.json(`/v2/tasks/${personal.job_id}/explain`);
  assert.match(waits.answer, /rule at home demands a worker in EU/);
  assert.match(reason("plain", waits), /rule at home demands a worker in EU, and it declares no region/);
  const de = await orcd.worker("de", { region: "de" });
  assert.equal((await de.next()).body.job_id, personal.job_id);
  await orcd.orcd.stop();
  const accepted = await entries(orcd, "job.accepted");
  assert.deepEqual(
    accepted.map(({ rules }) => rules),
    [["short"], ["short", "at home"]],
  );
  assert.deepEqual(
    (await entries(orcd, "job.dispatched")).map(({ rules }) => rules),
    [["fast"], undefined],
  );
  await plain.close();
});

test("a rule says how long content is kept, shorter than its tenant's time, and the record and the rows say so", async (t) => {
  const { orcd } = await start(t, rule("not kept", "has(job.metadata.class)", "set = { content_keep_ms = 0 }"), undefined, {
    content_sweep_ms: 10,
  });
  const worker = await orcd.worker("w1");
  const ids: string[] = [];
  for (const metadata of [{ class: "health" }, {}]) {
    const { job_id } = (await (await orcd.submit({ metadata })).json()) as Json;
    const attempt = await worker.next();
    attempt.started();
    const { rules } = await orcd.json(`/v2/tasks/${job_id}/explain`);
    assert.deepEqual(rules, "class" in metadata ? ["not kept"] : []);
    attempt.tokens("an answer");
    attempt.end();
    ids.push(job_id);
  }
  const [short, kept] = ids;
  await eventually(async () => (await orcd.json(`/v2/tasks/${kept}`)).status === "succeeded");
  await eventually(async () => (await orcd.json(`/v2/tasks/${short}`)).content === "expired");
  assert.equal((await orcd.json(`/v2/tasks/${kept}`)).content, "kept");
  await orcd.orcd.stop();
  assert.deepEqual(
    (await entries(orcd, "job.accepted")).map(({ rules, content_keep_ms }) => [rules, content_keep_ms]),
    [
      [["not kept"], 0],
      [undefined, undefined],
    ],
  );
  assert.deepEqual(
    (await entries(orcd, "content.expired")).map(({ tenant, jobs, by }) => [tenant, jobs, by]),
    [["default", 1, "rule"]],
  );
});

test("rules are loaded again for what waits and what comes; a file that is not valid changes nothing", async (t) => {
  const { orcd, file, reload } = await start(t, rule("eu", "true", 'require = { region = "EU" }'));
  const worker = await orcd.worker("w1");
  const { job_id } = (await (await orcd.submit({})).json()) as Json;
  assert.equal((await orcd.json(`/v2/tasks/${job_id}`)).status, "queued");
  writeFileSync(file, rule("eu", "tru", 'require = { region = "EU" }'));
  const refused = await reload();
  assert.equal(refused.status, 400);
  assert.match(
    ((await refused.json()) as Json).error.message,
    /policy\.toml:3:9: rule "eu", column 1 of when: Unknown variable: tru\n {2}tru\n {2}\^/,
  );
  assert.equal((await orcd.json("/v2/policy")).rules[0].when, "true");
  assert.equal((await orcd.json(`/v2/tasks/${job_id}`)).status, "queued");
  writeFileSync(file, rule("nobody", 'model == "fake"', 'deny = "no more"'));
  const loaded = (await (await reload()).json()) as Json;
  assert.deepEqual(
    loaded.rules.map(({ name }: Json) => name),
    ["nobody"],
  );
  assert.equal((await worker.next()).body.job_id, job_id, "nothing is required of it any more, and what was let in stays in");
  assert.equal((await orcd.submit({})).status, 403);
  await orcd.orcd.stop();
  assert.equal((await entries(orcd, "policy.refused")).length, 1);
  const loads = await entries(orcd, "policy.loaded");
  assert.equal(loads.length, 2);
  assert.equal(loads[1].sha256, loaded.sha256);
});

test("after a restart the rules hold for what waited; what can't be evaluated denies; log_only only says", async (t) => {
  const first = await start(t, rule("eu", "true", 'require = { region = "EU" }'));
  await first.orcd.worker("w1");
  await first.orcd.submit({});
  await first.orcd.orcd.stop();
  const second = await start(
    t,
    rule("eu", "true", 'require = { region = "EU" }') + rule("class", 'job.metadata.class == "x"', "log = true"),
    first.orcd.data_dir,
  );
  await second.orcd.worker("w1");
  await eventually(async () => (await second.orcd.json("/v2/workers")).workers.length === 1);
  assert.equal((await second.orcd.json("/v2/tasks?status=queued")).tasks.length, 1);
  const denied = await second.orcd.submit({});
  assert.equal(denied.status, 403);
  assert.match(
    ((await denied.json()) as Json).error.message,
    /The rule "class" forbids it: it could not be evaluated, and so denies \(No such key: class/,
  );
  writeFileSync(second.file, `mode = "log_only"\n${rule("no", "true", 'deny = "no"')}`);
  assert.equal((await second.reload()).status, 200);
  assert.equal((await second.orcd.submit({})).status, 202);
  await second.orcd.orcd.stop();
  assert.deepEqual((await entries(second.orcd, "job.accepted")).at(-1).rules, ["log_only:no"]);
});

test("an orchestrator does not start without the rules that it was told", async (t) => {
  await assert.rejects(start(t, rule("r", "tennant == 1", "log = true")), {
    code: "INVALID_REQUEST",
    message: /Unknown variable: tennant/,
  });
  await assert.rejects(startHarness(t, { policy_file: "/nowhere/policy.toml" }), { code: "INVALID_REQUEST", message: /can't be read/ });
  const none = await startHarness(t);
  assert.deepEqual((await none.json("/v2/policy")).rules, []);
  assert.equal((await fetch(`${none.url}/v2/policy/reload`, { method: "POST" })).status, 409);
});

test("rules see whose key it was; who may submit may neither see nor load them, nor change what they say of it by its own words", async (t) => {
  const file = join(temporaryFolder(t, "policy"), "policy.toml");
  writeFileSync(
    file,
    rule("app", 'key.name == "app" && tenant == "acme"', "allow = true") + rule("rest", 'model == "fake"', 'deny = "not with this key"'),
  );
  const tenants = await startTenants(t, { policy_file: file });
  const app = await tenants.who({ name: "app", tenant: "acme" });
  const other = await tenants.who({ name: "other", tenant: "acme" });
  const submit = (who: typeof app, more: object = {}) => who.send("POST", "/v2/tasks", { model: "fake", prompt: "hi", ...more });
  assert.equal((await submit(app)).status, 202);
  assert.equal((await submit(other)).status, 403);
  const claims = { metadata: { tenant: "acme", "key.name": "app", key: "app" }, placement: { labels: { trust: "joined" } } };
  assert.equal((await submit(other, claims)).status, 403);
  for (const who of [app, other]) {
    assert.equal((await who.send("GET", "/v2/policy")).status, 403);
    assert.equal((await who.send("POST", "/v2/policy/reload")).status, 403);
  }
  assert.equal((await fetch(`${tenants.orcd.url}/v2/policy`)).status, 401);
  assert.equal((await tenants.operator.send("POST", "/v2/policy/reload")).status, 200);
});
