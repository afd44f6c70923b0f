/** A job run again as it was, or refused with the reason; and the entry for each who gets a text that is not its own. */
import assert from "node:assert/strict";
import { hash } from "node:crypto";
import { join } from "node:path";
import { test } from "node:test";
import type { FakeAttempt, FakeWorker } from "../../../test/support/fake-worker.ts";
import { recordsIn } from "./database.ts";
import { eventsOf, eventually, type Harness, type Json, startHarness } from "./harness.ts";
import { startTenants } from "./tenants-setup.ts";

const BUILD = { model_digest: "sha256:a", engine: "libllama 1" };
const ASKED = {
  prompt: "count",
  seed: 7,
  temperature: 0.9,
  top_p: 0.5,
  top_k: 9,
  max_tokens: 12,
  stop: ["!"],
  metadata: { subject: "anna" },
};

const HELD = {
  frequency_penalty: 0.5,
  presence_penalty: -1,
  repeat_penalty: 1.1,
  repeat_last_n: 8,
  logit_bias: { "5": 2 },
  json_schema: { type: "string" },
};
const FEATURES = ["penalties", "repeat_penalty", "logit_bias", "json_schema"];

const replay = (orcd: Harness, id: string) => fetch(`${orcd.url}/v2/tasks/${id}/replay`, { method: "POST" });

function answer(attempt: FakeAttempt, text: string): void {
  attempt.started();
  attempt.tokens(text);
  attempt.end();
}

async function done(orcd: Harness, worker: FakeWorker, body: Json = ASKED): Promise<{ id: string; attempt: FakeAttempt }> {
  const { job_id: id } = (await (await orcd.submit(body)).json()) as Json;
  const attempt = await worker.next();
  answer(attempt, "one two");
  await eventsOf(await orcd.get(`/v2/tasks/${id}/events`));
  return { id, attempt };
}

function trailOf(data_dir: string): Json[] {
  return recordsIn(join(data_dir, "orcd.sqlite"));
}

test("a replay asks the same of the same build, on the same worker if it is there, and the record says which build it was", async (t) => {
  const orcd = await startHarness(t);
  const build = { ...BUILD, features: FEATURES };
  await orcd.worker("w0", build);
  const [w1, other] = [await orcd.worker("w1", build), await orcd.worker("w2", { ...build, engine: "libllama 2" })];
  const first = await done(orcd, w1, { ...ASKED, ...HELD, placement: { pin: "w1" }, deadline_ms: 60_000 });
  const answered = await replay(orcd, first.id);
  assert.equal(answered.status, 202);
  const begun = (await answered.json()) as Json;
  assert.deepEqual([begun.replay_of, begun.worker_id, begun.model_digest, begun.engine], [first.id, "w1", "sha256:a", "libllama 1"]);
  const again = await w1.next();
  const { job_id: _, ...same } = first.attempt.body;
  const { job_id: __, ...asked } = again.body;
  assert.deepEqual({ ...asked, time_left_ms: undefined }, { ...same, time_left_ms: undefined });
  answer(again, "one two");
  await eventsOf(await orcd.get(begun.events_url));
  assert.equal((await orcd.json(`/v2/tasks/${begun.job_id}`)).metadata.subject, "anna", "it is of the same subject");
  await w1.close();
  await other.close();
  await orcd.orcd.stop();
  const trail = trailOf(orcd.data_dir);
  const accepted = trail.filter(({ kind }) => kind === "job.accepted");
  const {
    prompt: _prompt,
    metadata: _metadata,
    temperature: _temperature,
    stop,
    logit_bias,
    json_schema,
    ...plain
  } = { ...ASKED, ...HELD };
  const long = { stop_sha256: stop, logit_bias_sha256: logit_bias, json_schema_sha256: json_schema };
  const hashes = Object.entries(long).map(([name, value]) => [name, hash("sha256", JSON.stringify(value), "hex")]);
  const written = { ...plain, ...{ temperature: "0.9", top_p: "0.5", frequency_penalty: "0.5", repeat_penalty: "1.1" } };
  for (const entry of accepted) assert.partialDeepStrictEqual(entry, { ...written, ...Object.fromEntries(hashes) });
  assert.deepEqual([accepted[0].replay_of, accepted[1].replay_of], [undefined, first.id]);
  const [one, two] = trail.filter(({ kind }) => kind === "job.ended");
  assert.deepEqual([one.model_digest, one.engine, one.answer_sha256], ["sha256:a", "libllama 1", two.answer_sha256]);
});

test("without the same model and engine, the content or a whole answer there is no replay, and each refusal says why", async (t) => {
  const orcd = await startHarness(t, { content_sweep_ms: 10 });
  const refused = async (id: string, status: number, reason: RegExp) => {
    const answered = await replay(orcd, id);
    const { error } = (await answered.json()) as Json;
    assert.equal(answered.status, status, error.message);
    assert.match(error.message, reason);
  };
  const w1 = await orcd.worker("w1", BUILD);
  const { id } = await done(orcd, w1);
  const tells_nothing = await orcd.worker("w2", {});
  const silent = await done(orcd, tells_nothing, { prompt: "x", placement: { pin: "w2" } });
  await refused(silent.id, 409, /is not recorded: its worker did not say/);
  const { job_id: runs } = (await (await orcd.submit({ placement: { pin: "w1" } })).json()) as Json;
  await refused(runs, 409, /it is running/);
  await refused("job_nobody", 404, /no job job_nobody/);
  await fetch(`${orcd.url}/workers/w1`, { method: "DELETE" });
  await refused(id, 503, /ran with sha256:a on libllama 1, and no worker has that now. Of fake: w2 has a model that it does not tell/);
  await orcd.worker("w3", { ...BUILD, model_digest: "sha256:b" });
  await refused(id, 503, /w3 has sha256:b on libllama 1/);
  const headers = { "content-type": "application/json" };
  await fetch(`${orcd.url}/v2/tenants/default`, { method: "POST", headers, body: JSON.stringify({ content_keep_ms: 0 }) });
  await eventually(async () => (await orcd.json(`/v2/tasks/${id}`)).content === "expired");
  await refused(id, 410, /not kept any more: their time was over/);
});

test("whoever gets the text of another's job is in the record first, and who reads his own is not", async (t) => {
  const { orcd, worker, who, operator } = await startTenants(t);
  const acme = await who({ tenant: "acme", roles: ["submit"] });
  const colleague = await who({ tenant: "acme", roles: ["submit"] });
  const rival = await who({ tenant: "rival", roles: ["submit"] });
  const { job_id } = (await (await acme.send("POST", "/v2/tasks", { model: "fake", prompt: "x" })).json()) as Json;
  const attempt = await worker.next();
  answer(attempt, "one");
  const path = `/v2/tasks/${job_id}`;
  await eventsOf(await acme.send("GET", `${path}/events`));
  assert.equal(((await (await acme.send("GET", path)).json()) as Json).text, "one");
  await operator.send("GET", "/v2/tasks");
  await operator.send("GET", `${path}/explain`);
  assert.equal((await rival.send("GET", path)).status, 404);
  assert.equal((await rival.send("POST", `${path}/replay`)).status, 404);
  assert.equal((await colleague.send("GET", path)).status, 200);
  await eventsOf(await operator.send("GET", `${path}/events`));
  await orcd.orcd.stop();
  const read = trailOf(orcd.data_dir).filter(({ kind }) => kind === "content.read");
  assert.deepEqual(
    read.map(({ job_id: id, tenant, what, who: by }) => [id, tenant, what, by]),
    [
      [job_id, "acme", "text", colleague.key_id],
      [job_id, "acme", "events", operator.key_id],
    ],
  );
});

test("a prompt of tokens is run again as these tokens", async (t) => {
  const orcd = await startHarness(t);
  const worker = await orcd.worker("w1", { ...BUILD, features: ["token_prompts"] });
  const asking = fetch(`${orcd.url}/v1/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ model: "fake", prompt: [5, 6, 7], seed: 1 }),
  });
  answer(await worker.next(), "one");
  const id = (await asking).headers.get("x-rbees-job-id") ?? "";
  assert.equal((await replay(orcd, id)).status, 202);
  const again = await worker.next();
  assert.deepEqual([again.body.token_prompt, again.body.prompt, again.body.raw, again.body.seed], [[5, 6, 7], undefined, true, 1]);
  answer(again, "one");
});
