/** Prompts and answers at rest: nothing on disk can be read without its key, and what is over its time is gone. */
import assert from "node:assert/strict";
import { chmodSync, cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { firstBroken } from "@rbees/kit/audit-check";
import fc from "fast-check";
import { contentKeyIn } from "../src/content-key.ts";
import { openStore } from "../src/store/open.ts";
import type { Change } from "../src/store/port.ts";
import { seal, unseal } from "../src/store/seal.ts";
import { SubjectKeys } from "../src/store/subject-keys.ts";
import { opened, rowsIn } from "./database.ts";
import { eventsOf, eventually, type Harness, type Json, startHarness } from "./harness.ts";
import { keptIn, wordsIn } from "./kept.ts";

const PROMPT = "Is the queen of hive seven still alive?";
const ANSWER = "She was seen this morning, laying.";
const SUBJECT = "patient-4711@example.org";

function folder(t: TestContext): string {
  const path = mkdtempSync(join(tmpdir(), "rbees-content-"));
  t.after(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

function rows(data_dir: string, table: string): Json[] {
  return rowsIn<Json>(join(data_dir, "orcd.sqlite"), `select * from ${table}`);
}

/** A job that is answered; `on_way` is called when half of it has come. */
async function answered(orcd: Harness, body: Json = {}, on_way: () => Promise<void> = async () => {}): Promise<string> {
  const worker = await orcd.worker("w1");
  const { job_id } = (await (await orcd.submit({ prompt: PROMPT, ...body })).json()) as Json;
  const attempt = await worker.next();
  attempt.started();
  attempt.tokens(ANSWER.slice(0, 10));
  await on_way();
  attempt.tokens(ANSWER.slice(10));
  attempt.end();
  await eventsOf(await orcd.get(`/v2/tasks/${job_id}/events`));
  return job_id;
}

test("no file of the whole folder has a word of a prompt, an answer or a subject, while the job runs and after it", async (t) => {
  const orcd = await startHarness(t, { progress_flush_ms: 5 });
  const { data_dir } = orcd;
  const words = [PROMPT, ANSWER, ANSWER.slice(0, 10), ANSWER.slice(10), SUBJECT];
  const job_id = await answered(orcd, { metadata: { subject: SUBJECT } }, async () => {
    await eventually(() => rows(data_dir, "progress").length > 0);
    assert.deepEqual(wordsIn(data_dir, ...words), []);
  });
  assert.deepEqual(wordsIn(data_dir, ...words), []);
  const shown = await orcd.json(`/v2/tasks/${job_id}`);
  assert.deepEqual([shown.text, shown.content, shown.metadata], [ANSWER, "kept", { subject: SUBJECT }]);
  await orcd.orcd.stop();
  assert.deepEqual(wordsIn(data_dir, ...words), []);
  const [job] = keptIn(join(data_dir, "orcd.sqlite"), join(data_dir, "content-key")).jobs;
  assert.deepEqual([JSON.parse(job?.request ?? "").prompt, job?.text], [PROMPT, ANSWER]);
});

test("each tenant and subject has a key of its own, and a job without a subject that of its tenant", async (t) => {
  const orcd = await startHarness(t);
  const { data_dir } = orcd;
  await orcd.worker("w1");
  for (const subject of ["a", "b", "a", undefined, ""]) await orcd.submit({ metadata: subject === undefined ? {} : { subject } });
  await orcd.orcd.stop();
  const [a, b, again, none, empty] = rows(data_dir, "jobs").map(({ subject }) => subject);
  assert.deepEqual([a === again, a === b, none === empty, a === none], [true, false, true, false]);
  assert.match(`${a} ${none}`, /^sub_\S+ all_\S+$/);
  const ids = rows(data_dir, "audit").map(({ record }) => JSON.parse(record).subject_id);
  assert.deepEqual(
    ids.filter((id) => id !== undefined),
    [a, b, a],
    "the trail says which subject, by an id",
  );
});

test("a database is of no use without the keys: what waits fails and says why, the rest is shown without its text", async (t) => {
  const first = await startHarness(t);
  const done = await answered(first, { metadata: { subject: SUBJECT } });
  const { job_id: waits } = (await (await first.submit({ prompt: PROMPT, model: "fake" })).json()) as Json;
  await first.orcd.stop();
  const copy = folder(t);
  cpSync(first.data_dir, copy, { recursive: true });
  for (const name of readdirSync(copy)) if (name.startsWith("content-key")) rmSync(join(copy, name));
  const second = await startHarness(t, {}, copy);
  const shown = await second.json(`/v2/tasks/${done}`);
  assert.deepEqual([shown.status, shown.text, shown.content, shown.metadata], ["succeeded", "", "unreadable", {}]);
  const failed = await second.json(`/v2/tasks/${waits}`);
  assert.deepEqual([failed.status, failed.error.code], ["failed", "GONE"]);
  // New jobs of the same subject have a key again.
  const next = await answered(second, { metadata: { subject: SUBJECT } });
  assert.equal((await second.json(`/v2/tasks/${next}`)).text, ANSWER);
  await second.orcd.stop();
  assert.equal(firstBroken(rows(copy, "audit")), undefined);
});

test("another content key than that of the subjects' keys is refused, as is one that others may read, or that is none", async (t) => {
  const first = await startHarness(t);
  await first.submit({});
  await first.orcd.stop();
  const key = join(first.data_dir, "content-key");
  for (const name of ["content-key", "content-key-subjects.sqlite"]) assert.equal(statSync(join(first.data_dir, name)).mode & 0o777, 0o600);
  const own = readFileSync(key);
  writeFileSync(key, `${Buffer.alloc(32, 1).toString("base64")}\n`);
  await assert.rejects(startHarness(t, {}, first.data_dir), /were made with another content key/);
  writeFileSync(key, "no key\n");
  await assert.rejects(startHarness(t, {}, first.data_dir), /holds no content key/);
  writeFileSync(key, own);
  chmodSync(key, 0o644);
  await assert.rejects(startHarness(t, {}, first.data_dir), /Others may read or write .*content-key, and so could read every prompt/);
});

test("what was stored in clear is read, and sealed at the next start, with nothing of it left in the file", async (t) => {
  const data_dir = folder(t);
  const path = join(data_dir, "orcd.sqlite");
  const content = contentKeyIn(join(data_dir, "content-key"));
  const store = await openStore(path, { content });
  t.after(() => store.close().catch(() => {}));
  const row = { tenant: "default", key_id: null, model: "m", priority: "batch", correlation_id: "c", lives: 0, submitted_at_ms: 1 };
  const asked = JSON.stringify({ prompt: PROMPT, seed: 9, metadata: { subject: SUBJECT } });
  const insert = (id: string, status: string): Change => ({
    table: "jobs",
    insert: { ...row, id, status, worker_id: "w", started_at_ms: 1, request: "{}" },
  });
  await store.commit(Array.from({ length: 700 }, (_, n) => insert(`job_${n}`, n === 699 ? "running" : "succeeded")));
  await store.close();
  const db = opened(path);
  db.prepare("update jobs set request = ?, text = ?, seed = null, subject = null, content = 'clear'").run(asked, ANSWER);
  db.prepare("update jobs set ended_at_ms = 5 where status = 'succeeded'").run();
  db.prepare("insert into progress (job_id, first_event, life, events) values ('job_699', 2, 0, ?)").run(
    `${JSON.stringify({ t: ANSWER })}\n`,
  );
  db.exec("create table gone (t text)");
  db.prepare("insert into gone values (?)").run(ANSWER.repeat(2000));
  db.exec("drop table gone; pragma user_version = 0; delete from subjects");
  db.close();
  assert.notDeepEqual(wordsIn(data_dir, PROMPT, ANSWER, SUBJECT), []);

  const keys_only = await openStore(path);
  await keys_only.listKeys();
  await keys_only.close();
  const again = await openStore(path, { content });
  t.after(() => again.close().catch(() => {}));
  assert.deepEqual(wordsIn(data_dir, PROMPT, ANSWER, SUBJECT), []);
  const shown = await again.showJob("job_3");
  assert.deepEqual([shown?.job.request, shown?.job.text, shown?.job.seed, shown?.job.content], [asked, ANSWER, 9, "kept"]);
  const { progress } = await again.recover(9);
  assert.deepEqual(
    progress.map(({ events }) => JSON.parse(events).t),
    [ANSWER],
  );
  await again.close();
  assert.equal(new Set(rows(data_dir, "jobs").map(({ subject }) => subject)).size, 1);
});

test("content is kept for its time, that of its tenant if it has one, and then gone; row, usage and entries stay", async (t) => {
  const orcd = await startHarness(t, { content_sweep_ms: 10, content_keep_ms: 3_600_000 });
  const long = await answered(orcd, { metadata: { subject: "a" } });
  const post = (path: string, body: Json) =>
    fetch(`${orcd.url}${path}`, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
  assert.equal((await orcd.json(`/v2/tenants/default`)).content_keep_ms, 3_600_000);
  assert.equal(((await (await post("/v2/tenants/default", { content_keep_ms: 0 })).json()) as Json).content_keep_ms, 0);
  const shown = await eventually(async () => {
    const job = await orcd.json(`/v2/tasks/${long}`);
    return job.content === "expired" && job;
  });
  assert.deepEqual([shown.text, shown.metadata, shown.status, shown.usage.tokens_out], ["", {}, "succeeded", 2]);
  assert.equal((await orcd.json("/v2/tasks")).tasks.length, 1);
  assert.equal(((await (await post("/v2/tenants/default", { content_keep_ms: null })).json()) as Json).content_keep_ms, 3_600_000);
  assert.equal((await post("/v2/tenants/default", { content_keep_ms: -1 })).status, 400);
  await orcd.orcd.stop();
  const entries = rows(orcd.data_dir, "audit");
  assert.equal(firstBroken(entries), undefined);
  const expired = entries.map(({ record }) => JSON.parse(record)).filter(({ kind }) => kind === "content.expired");
  assert.deepEqual([expired.length, expired[0].tenant, expired[0].jobs], [1, "default", 1]);
  assert.equal(keptIn(join(orcd.data_dir, "orcd.sqlite"), join(orcd.data_dir, "content-key")).jobs[0]?.request, "");
});

test("a thousand jobs whose time is over go piece by piece, oldest first, and none of those that are not", async (t) => {
  const data_dir = folder(t);
  const store = await openStore(join(data_dir, "orcd.sqlite"), { content: contentKeyIn(join(data_dir, "content-key")) });
  t.after(() => store.close().catch(() => {}));
  const jobs = Array.from({ length: 1200 }, (_, n): Change => {
    const [id, tenant, ended_at_ms] = [`job_${n}`, `t${n % 3}`, n % 4 === 3 ? null : n];
    const row = { id, tenant, key_id: null, status: "x", model: "m", priority: "batch", request: "{}", correlation_id: "c", lives: 0 };
    return { table: "jobs", insert: { ...row, submitted_at_ms: 0, ended_at_ms } };
  });
  await store.commit(jobs);
  const retention = { now_ms: 1000, keep_ms: 100, of_tenant: { t1: 600, t2: 5000 } };
  const more: boolean[] = [];
  do more.push(await store.expireContent(retention));
  while (more.at(-1) === true);
  await store.close();
  const left = rows(data_dir, "jobs").filter(({ content }) => content === "kept");
  const due = (n: number) => n % 4 !== 3 && ((n % 3 === 0 && n <= 900) || (n % 3 === 1 && n <= 400));
  assert.deepEqual(
    left.map(({ id }) => id),
    jobs.flatMap((_, n) => (due(n) ? [] : [`job_${n}`])),
  );
  const entries = rows(data_dir, "audit").map(({ record }) => JSON.parse(record));
  assert.equal(
    entries.reduce((sum, { jobs: n }) => sum + n, 0),
    jobs.filter((_, n) => due(n)).length,
  );
});

test("what is sealed opens with its key, in its place, unchanged, and not otherwise", (t) => {
  const keys = new SubjectKeys({ master: Buffer.alloc(32, 7).toString("base64"), subjects_file: join(folder(t), "s.sqlite") });
  const [key, other] = [keys.make("a"), keys.make("b")];
  keys.flush();
  fc.assert(
    fc.property(fc.string({ unit: "grapheme" }), fc.string(), fc.nat(), fc.integer({ min: 1, max: 255 }), (text, place, where, bits) => {
      const once = seal(key, text, place);
      assert.equal(unseal(key, once, place)?.toString("utf8"), text);
      assert.notDeepEqual(seal(key, text, place), once, "a fresh nonce each time");
      assert.deepEqual(
        [unseal(other, once, place), unseal(key, once, `${place}x`), unseal(key, once.subarray(1), place)],
        [undefined, undefined, undefined],
      );
      const changed = Buffer.from(once);
      changed[where % once.length] = (changed[where % once.length] as number) ^ bits;
      assert.equal(unseal(key, changed, place), undefined);
    }),
  );
  assert.deepEqual([keys.get("a")?.equals(key), keys.get("c")], [true, undefined]);
  keys.destroy("a");
  assert.equal(keys.get("a"), undefined);
  keys.close();
});

test("a key that is destroyed leaves no byte of itself in the file", (t) => {
  const file = join(folder(t), "s.sqlite");
  const open = () => new SubjectKeys({ master: Buffer.alloc(32, 7).toString("base64"), subjects_file: file });
  let keys = open();
  for (let n = 0; n < 300; n += 1) keys.make(`sub_${n}`);
  keys.flush();
  keys.close();
  const [bytes] = rowsIn<{ wrapped: Buffer }>(file, "select wrapped from keys where id = 'sub_150'").map(({ wrapped }) => wrapped);
  assert.ok(bytes !== undefined);
  assert.ok(readFileSync(file).includes(bytes));
  keys = open();
  keys.destroy("sub_150");
  for (const name of readdirSync(join(file, ".."))) assert.ok(!readFileSync(join(file, "..", name)).includes(bytes), name);
  assert.ok(keys.get("sub_149") !== undefined);
  keys.close();
});
