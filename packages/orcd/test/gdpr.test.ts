/** What is kept of one subject: given out, erased with every copy, consented to; and never to another tenant. */
import assert from "node:assert/strict";
import { cpSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { firstBroken } from "@rbees/kit/audit-check";
import { temporaryFolder } from "../../../test/support/cluster.ts";
import { contentKeyIn } from "../src/content-key.ts";
import { databaseIn, openStore } from "../src/store/open.ts";
import { opened, rowsIn } from "./database.ts";
import { eventsOf, type Harness, type Json, startHarness } from "./harness.ts";
import { keptIn } from "./kept.ts";
import { startTenants, type Who } from "./tenants-setup.ts";

const PROMPT = "Is the queen of hive seven still alive?";
const ANSWER = "She was seen this morning, laying.";
const ANNA = { metadata: { subject: "anna" } };

const post = (orcd: Harness, path: string, body: Json) =>
  fetch(`${orcd.url}/v2/gdpr/${path}`, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });

async function answered(orcd: Harness, worker: Awaited<ReturnType<Harness["worker"]>>, body: Json = {}): Promise<string> {
  const { job_id } = (await (await orcd.submit({ prompt: PROMPT, ...body })).json()) as Json;
  const attempt = await worker.next();
  attempt.started();
  attempt.tokens(ANSWER);
  attempt.end();
  await eventsOf(await orcd.get(`/v2/tasks/${job_id}/events`));
  return job_id;
}

function entries(data_dir: string): Json[] {
  const rows = rowsIn<Json>(join(data_dir, "orcd.sqlite"), "select * from audit order by seq");
  assert.equal(firstBroken(rows), undefined, "the chain is whole");
  return rows.map(({ record }) => JSON.parse(record));
}

test("an export has every job of the subject with prompt and answer, page by page, its consents, and nothing of anybody else", async (t) => {
  const orcd = await startHarness(t);
  const worker = await orcd.worker("w1");
  const own = [await answered(orcd, worker, ANNA)];
  await answered(orcd, worker, { metadata: { subject: "bert" } });
  await answered(orcd, worker);
  own.push(await answered(orcd, worker, ANNA));
  for (const given of [true, false])
    assert.equal((await post(orcd, "consents", { subject: "anna", purpose: "support", given })).status, 201);
  const first = (await (await post(orcd, "export", { subject: "anna", limit: 1 })).json()) as Json;
  const second = (await (await post(orcd, "export", { subject: "anna", limit: 1, cursor: first.next_cursor })).json()) as Json;
  const jobs = [...first.jobs, ...second.jobs];
  assert.deepEqual(
    jobs.map(({ job_id, request, text, content }: Json) => [job_id, request.prompt, text, content]),
    own.map((id) => [id, PROMPT, ANSWER, "kept"]),
  );
  assert.deepEqual([second.next_cursor, first.tenant], [undefined, "default"]);
  assert.deepEqual(
    first.consents.map(({ purpose, given }: Json) => [purpose, given]),
    [
      ["support", true],
      ["support", false],
    ],
  );
  assert.equal((await post(orcd, "export", { subject: "nobody" })).status, 404);
  assert.equal((await post(orcd, "export", { subject: "" })).status, 400);
  assert.equal((await post(orcd, "export", { subject: "anna", cursor: "x" })).status, 400);
  await orcd.orcd.stop();
  const trail = entries(orcd.data_dir);
  const of = (kind: string) => trail.filter((entry) => entry.kind === kind);
  assert.deepEqual(
    of("subject.exported").map(({ subject_id, jobs: n }) => [subject_id, n]),
    [
      [first.subject_id, 1],
      [first.subject_id, 1],
    ],
  );
  assert.deepEqual([of("consent.given").length, of("consent.withdrawn").length, of("consent.given")[0].purpose], [1, 1, "support"]);
  assert.ok(!JSON.stringify(trail).includes("anna"), "nobody learns the name from the trail");
});

test("who is erased is gone from this database and from every copy of it; rows and entries stay, and the chain says so", async (t) => {
  const orcd = await startHarness(t, { progress_flush_ms: 5 });
  const worker = await orcd.worker("w1");
  const done = await answered(orcd, worker, ANNA);
  const other = await answered(orcd, worker, { metadata: { subject: "bert" } });
  await post(orcd, "consents", { subject: "anna", purpose: "support", given: true });
  const running = (await (await orcd.submit({ prompt: PROMPT, ...ANNA })).json()) as Json;
  const attempt = await worker.next();
  attempt.started();
  attempt.tokens("She ");
  const waiting = (await (await orcd.submit({ prompt: PROMPT, ...ANNA })).json()) as Json;
  const backup = temporaryFolder(t, "backup");
  cpSync(orcd.data_dir, backup, { recursive: true });

  const erased = (await (await post(orcd, "erase", { subject: "anna" })).json()) as Json;
  assert.deepEqual([erased.jobs, erased.cancelled], [3, 2]);
  await attempt.closed;
  for (const id of [done, running.job_id, waiting.job_id]) {
    const { content, text, metadata, seed } = await orcd.json(`/v2/tasks/${id}`);
    assert.deepEqual([content, text, metadata, typeof seed], ["erased", "", {}, "number"]);
    assert.equal((await orcd.get(`/v2/tasks/${id}/events`)).status, 410, "nor from memory");
  }
  assert.equal((await orcd.json(`/v2/tasks/${other}`)).text, ANSWER);
  assert.equal((await post(orcd, "export", { subject: "anna" })).status, 404);
  assert.equal((await post(orcd, "erase", { subject: "anna" })).status, 404);
  assert.equal((await orcd.get("/v2/gdpr/consents?subject=anna")).status, 404);
  // Whoever comes again is somebody new.
  const again = await answered(orcd, await orcd.worker("w2"), ANNA);
  assert.equal((await orcd.json(`/v2/tasks/${again}`)).text, ANSWER);
  await orcd.orcd.stop();

  const trail = entries(orcd.data_dir);
  const [entry, second] = trail.filter(({ kind }) => kind === "subject.erased");
  assert.deepEqual([entry.subject_id, entry.tenant, entry.jobs, second], [erased.subject_id, "default", 3, undefined]);
  assert.equal(trail.filter(({ job_id }) => job_id === done).length, 3, "accepted, dispatched, ended");
  // The copy from before, with the keys as they are now.
  const key = join(orcd.data_dir, "content-key");
  const kept = keptIn(join(backup, "orcd.sqlite"), key).jobs.map(({ id, text }) => [id, text]);
  assert.deepEqual(Object.fromEntries(kept), { [done]: "", [other]: ANSWER, [running.job_id]: "", [waiting.job_id]: "" });
  const jobs = keptIn(join(orcd.data_dir, "orcd.sqlite"), key).jobs;
  assert.deepEqual(
    jobs.map(({ content, request }) => [content, request === ""]),
    [
      ["erased", true],
      ["kept", false],
      ["erased", true],
      ["erased", true],
      ["kept", false],
    ],
  );
});

test("an erasure whose key was not destroyed yet when the orchestrator ended is finished at the next start", async (t) => {
  const data_dir = temporaryFolder(t, "erasure");
  const content = contentKeyIn(join(data_dir, "content-key"));
  const path = databaseIn(data_dir);
  const store = await openStore(path, { content });
  t.after(() => store.close().catch(() => {}));
  const row = { tenant: "default", key_id: null, status: "queued", model: "m", priority: "batch", correlation_id: "c", lives: 0 };
  await store.commit([{ table: "jobs", insert: { ...row, id: "a", request: "{}", submitted_at_ms: 1 }, subject: "anna" }]);
  await store.close();
  const db = opened(path);
  db.exec("update subjects set name_hash = null, erased_at_ms = 5");
  db.close();
  await (await openStore(path, { content })).close();
  const copy = join(data_dir, "copy.sqlite");
  cpSync(path, copy);
  assert.equal(keptIn(copy, join(data_dir, "content-key")).jobs[0]?.request, "", "it can't be read");
});

test("a subject is its tenant's: no other tenant sees, erases or exports it, and each role may what it says", async (t) => {
  const { orcd, worker, who, operator } = await startTenants(t);
  const acme = await who({ tenant: "acme", roles: ["submit"] });
  const acme_auditor = await who({ tenant: "acme", roles: ["audit"] });
  const rival = await who({ tenant: "rival", roles: ["submit", "audit"] });
  const auditor = await who({ roles: ["audit"] });
  const observer = await who({ roles: ["observe"] });
  const ask = async (by: Who, path: string, body: Json) => (await by.send("POST", `/v2/gdpr/${path}`, body)).status;
  await acme.send("POST", "/v2/tasks", { model: "fake", prompt: PROMPT, ...ANNA });
  const attempt = await worker.next();
  attempt.started();
  attempt.end();
  assert.equal(await ask(acme, "consents", { subject: "anna", purpose: "p", given: true }), 201);
  for (const tenant of [undefined, "acme", "default"]) {
    assert.equal(await ask(rival, "export", { subject: "anna", tenant }), 404, tenant);
    assert.equal((await rival.send("GET", `/v2/gdpr/consents?subject=anna${tenant === undefined ? "" : `&tenant=${tenant}`}`)).status, 404);
  }
  assert.equal(await ask(rival, "consents", { subject: "anna", tenant: "acme", purpose: "p", given: false }), 404);
  for (const by of [acme, acme_auditor, rival, auditor, observer])
    assert.equal(await ask(by, "erase", { subject: "anna", tenant: "acme" }), 403);
  assert.deepEqual([await ask(acme, "export", { subject: "anna" }), await ask(observer, "export", { subject: "anna" })], [403, 403]);
  assert.equal(await ask(acme_auditor, "export", { subject: "anna" }), 200);
  assert.equal(await ask(auditor, "export", { subject: "anna", tenant: "acme" }), 200);
  assert.equal(await ask(auditor, "export", { subject: "anna" }), 404, "of the default tenant there is none");
  assert.equal(await ask(operator, "erase", { subject: "anna" }), 404);
  assert.equal(await ask(operator, "erase", { subject: "anna", tenant: "acme" }), 200);
  await orcd.orcd.stop();
  const trail = entries(orcd.data_dir);
  const by = (kind: string) => trail.filter((entry) => entry.kind === kind).map(({ who: key }) => key);
  assert.deepEqual(by("subject.exported"), [acme_auditor.key_id, auditor.key_id]);
  assert.deepEqual(by("subject.erased"), [operator.key_id]);
});
