/** What is in files and batches at rest: nobody reads it on the disk, and who is erased is gone from it line by line, in every copy. */
import assert from "node:assert/strict";
import { cpSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { silentLog } from "@rbees/kit/log";
import OpenAI, { toFile } from "openai";
import { temporaryFolder } from "../../../test/support/cluster.ts";
import type { FakeAttempt } from "../../../test/support/fake-worker.ts";
import { batchHandlers } from "../src/api/batches.ts";
import { gdprHandlers } from "../src/api/gdpr.ts";
import { Batches } from "../src/batches.ts";
import { callerOf } from "../src/caller.ts";
import { contentKeyIn } from "../src/content-key.ts";
import { filePartsOf } from "../src/file-parts.ts";
import { Files } from "../src/files.ts";
import { databaseIn, openStore } from "../src/store/open.ts";
import { answered, asking, begin, CHAT, contentOf, echoes, ended, linesOf, startBatches } from "./batch-setup.ts";
import { opened, rowsIn } from "./database.ts";
import { eventually, type Harness, type Json, startHarness } from "./harness.ts";
import { wordsIn } from "./kept.ts";
import { clientOf } from "./openai-harness.ts";
import { startTenants } from "./tenants-setup.ts";

const of = (subject: string, text: string) => ({ ...asking(text), metadata: { subject } });
const ANNA = of("anna", "Anna's knee hurts");
const BERT = of("bert", "Bert's elbow itches");
const NOBODY = asking("What heals a knee?");
const ERASED = "subject_erased";

const upload = async (client: OpenAI, text: string) =>
  await client.files.create({ purpose: "batch", file: await toFile(Buffer.from(text), "in.jsonl") });
const textOf = async (client: OpenAI, id: string) => await (await client.files.content(id)).text();
const parsed = (text: string): Json[] =>
  text
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line));
const post = async ({ url }: Harness, path: string, body: Json): Promise<Json> =>
  (await fetch(url + path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) })).json();
const worded = (attempt: FakeAttempt) => attempt.body.messages?.[0]?.content as string;

function rows(data_dir: string, query: string): Json[] {
  return rowsIn(databaseIn(data_dir), query);
}

test("no file of the whole folder has a word of an upload, a custom_id or an answer, while the batch runs, after it and after a restart", async (t) => {
  const data_dir = temporaryFolder(t, "sealed");
  const first = await startHarness(t, {}, data_dir);
  const worker = await first.worker("w1", { slots: 4 });
  const held: FakeAttempt[] = [];
  echoes(worker, (attempt) => worded(attempt) === NOBODY.messages[0]?.content && held.push(attempt) > 0);
  const client = clientOf(first.url);
  const text = linesOf([ANNA, BERT, { ...NOBODY, temperature: 9 }, NOBODY]).replaceAll('"a0"', '"knee-of-anna"');
  const words = ["Anna's knee", "Bert's elbow", "What heals", "knee-of-anna", "you said"];
  const file = await upload(client, text);
  const begun = await client.batches.create({ input_file_id: file.id, endpoint: CHAT, completion_window: "24h" });
  await eventually(async () => held.length === 1 && (await client.batches.retrieve(begun.id)).request_counts?.completed === 2);
  assert.deepEqual(wordsIn(data_dir, ...words), []);
  answered(held[0] as FakeAttempt);
  const batch = await ended(client, begun.id);
  const output = await contentOf(client, batch.output_file_id);
  assert.deepEqual(wordsIn(data_dir, ...words), []);
  await first.orcd.stop();
  assert.deepEqual(wordsIn(data_dir, ...words), []);

  const again = clientOf((await startHarness(t, {}, data_dir)).url);
  assert.equal(await textOf(again, file.id), text);
  assert.deepEqual(await contentOf(again, batch.output_file_id), output);
  assert.deepEqual(
    output.map(({ custom_id, response }) => [custom_id, response.body.choices[0].message.content]),
    [
      ["knee-of-anna", "you said Anna's knee hurts"],
      ["a1", "you said Bert's elbow itches"],
      ["a3", "you said What heals a knee?"],
    ],
  );
});

test("who is erased is gone from files line by line, from what was answered and from what runs, and from every copy", async (t) => {
  const { orcd, client, worker } = await startBatches(t, { batch_lines_running_max: 2 });
  const asked = echoes(worker, (attempt) => worded(attempt).startsWith("slow"));
  const text = linesOf([ANNA, BERT, NOBODY, ANNA]).trimEnd();
  const done = await ended(client, (await begin(client, text)).id);
  const slow = ["anna", "bert", "anna"].map((subject) => of(subject, `slow ${subject}`));
  const live = await begin(client, linesOf([...slow, ANNA, NOBODY]));
  await eventually(() => asked.filter((attempt) => worded(attempt).startsWith("slow")).length === 2);
  const backup = temporaryFolder(t, "backup");
  cpSync(orcd.data_dir, backup, { recursive: true });
  const bytes_before = (await client.files.retrieve(done.input_file_id)).bytes;

  const erased = await post(orcd, "/v2/gdpr/erase", { subject: "anna" });
  // Two and two lines of the first, uploaded and answered; three and three of the other.
  assert.deepEqual([erased.lines, erased.cancelled], [2 + 2 + 3 + 3, 1]);
  const [input, output] = [await textOf(client, done.input_file_id), await contentOf(client, done.output_file_id)];
  assert.deepEqual(
    parsed(input).map(({ custom_id, error }) => custom_id ?? error.code),
    [ERASED, "a1", "a2", ERASED],
  );
  assert.equal(input.split("\n")[1], text.split("\n")[1]);
  assert.notEqual(Buffer.byteLength(input), bytes_before);
  assert.equal((await client.files.retrieve(done.input_file_id)).bytes, Buffer.byteLength(input));
  assert.deepEqual(
    output.map(({ custom_id, response, error }) => [custom_id, response?.status_code, error?.code]),
    [
      [null, undefined, ERASED],
      ["a1", 200, undefined],
      ["a2", 200, undefined],
      [null, undefined, ERASED],
    ],
  );
  assert.deepEqual((await client.batches.retrieve(done.id)).request_counts, { total: 4, completed: 4, failed: 0 });

  // The batch that runs goes on without her.
  const bert = asked.find((attempt) => worded(attempt) === "slow bert") as FakeAttempt;
  answered(bert);
  const went_on = await ended(client, live.id);
  assert.deepEqual([went_on.status, went_on.request_counts], ["completed", { total: 5, completed: 2, failed: 3 }]);
  assert.deepEqual(
    (await contentOf(client, went_on.error_file_id)).map(({ error }) => error.code),
    [ERASED, ERASED, ERASED],
  );
  assert.equal(asked.filter((attempt) => worded(attempt) === "slow anna").length, 1, "the one that ran");
  // What is left of the first file can be asked again; where she was is an error.
  const again = await client.batches.create({ input_file_id: done.input_file_id, endpoint: CHAT, completion_window: "24h" });
  assert.deepEqual((await ended(client, again.id)).request_counts, { total: 4, completed: 2, failed: 2 });
  assert.equal((await fetch(`${orcd.url}/v2/gdpr/consents?subject=anna`)).status, 404);
  await orcd.orcd.stop();
  const [entry] = rows(orcd.data_dir, "select record from audit where kind = 'subject.erased'").map(({ record }) => JSON.parse(record));
  assert.deepEqual([entry.jobs, entry.lines], [3, 10]);

  // The copy from before, with the keys as they are now.
  for (const name of ["content-key", "content-key-subjects.sqlite"]) cpSync(join(orcd.data_dir, name), join(backup, name));
  const copy = await openStore(databaseIn(backup), { content: contentKeyIn(join(backup, "content-key")) });
  const of_copy = [
    await copy.fileContent(done.input_file_id),
    ...(await copy.batchLines({ batch_id: live.id, which: "waiting", after: 0, limit: 9 })).map(({ request }) => request),
    ...(await copy.batchLines({ batch_id: done.id, which: "answers", after: 0, limit: 9 })).map((line) => line.output),
  ].join("\n");
  await copy.close();
  assert.match(of_copy, /Bert's elbow[\s\S]*What heals[\s\S]*slow bert[\s\S]*you said Bert/);
  assert.doesNotMatch(of_copy, /anna|Anna/);
});

test("an export has each line of the subject, where it stands, page by page, and a tenant's own", async (t) => {
  const { who, worker, operator, orcd } = await startTenants(t, {}, 4);
  echoes(worker);
  const [acme, rival] = [await who({ tenant: "acme" }), await who({ tenant: "rival" })];
  const clientWith = ({ key }: { key: string }) => new OpenAI({ baseURL: `${orcd.url}/v1`, apiKey: key, maxRetries: 0 });
  const [mine, theirs] = [clientWith(acme), clientWith(rival)];
  const text = linesOf([NOBODY, ANNA, ANNA, BERT]);
  const batch = await ended(mine, (await begin(mine, text)).id);
  const other = await ended(theirs, (await begin(theirs, text)).id);
  const found: Json[] = [];
  const pages: number[] = [];
  for (let cursor: string | undefined, more = true; more; more = cursor !== undefined) {
    const body = { subject: "anna", tenant: "acme", limit: 1, cursor };
    const page = await operator.client.call("exportSubject", { body });
    pages.push(page.jobs.length);
    found.push(...page.lines);
    cursor = page.next_cursor;
  }
  assert.deepEqual(pages, [1, 1, 0, 0, 0], "two jobs, one part of the file, two answers");
  const [second, third, ...answers] = found;
  const lines = text.split("\n");
  assert.deepEqual(
    [second, third],
    [
      { file_id: batch.input_file_id, batch_id: null, line: 2, text: lines[1] },
      { file_id: batch.input_file_id, batch_id: null, line: 3, text: lines[2] },
    ],
  );
  assert.deepEqual(
    answers.map(({ file_id, batch_id, line, text: said }) => [file_id, batch_id, line, JSON.parse(said).response.status_code]),
    [2, 3].map((line) => [batch.output_file_id, batch.id, line, 200]),
  );
  await operator.client.call("eraseSubject", { body: { subject: "anna", tenant: "acme" } });
  assert.match(await textOf(mine, batch.input_file_id), new RegExp(ERASED));
  assert.equal(await textOf(theirs, other.input_file_id), text, "the other tenant's is another Anna");
  const all = clientWith(operator);
  await assert.rejects(
    all.batches.create({ input_file_id: batch.input_file_id, endpoint: CHAT, completion_window: "24h" }),
    /is a file of tenant acme/,
  );
});

test("an erasure in the moment that a batch begins leaves none of the subject's lines, and each line counts once", async (t) => {
  const { orcd, client, worker } = await startBatches(t);
  const asked = echoes(worker);
  // Most are refused by their own fault, in many commits; hers come last.
  const lines = [...Array.from({ length: 450 }, () => ({ ...NOBODY, temperature: 9 })), ANNA, NOBODY, ANNA];
  const begun = await begin(client, linesOf(lines));
  await post(orcd, "/v2/gdpr/erase", { subject: "anna" });
  const { status, request_counts: counts, ...batch } = await ended(client, begun.id);
  assert.deepEqual([status, counts?.total], ["completed", 453]);
  assert.equal((counts?.completed ?? 0) + (counts?.failed ?? 0), 453);
  const answers = [...(await contentOf(client, batch.output_file_id)), ...(await contentOf(client, batch.error_file_id))];
  assert.equal(answers.length, 453);
  assert.equal(answers.filter(({ error }) => error?.code === ERASED).length, 2);
  assert.doesNotMatch(JSON.stringify(answers), /Anna/);
  assert.ok(asked.length <= 3);
  const known = await fetch(`${orcd.url}/v2/gdpr/consents?subject=anna`);
  assert.equal(known.status, 404, "nobody of that name was made anew");
});

test("a batch that begins while the jobs of who is erased are being cancelled asks none of the subject's lines", async (t) => {
  const folder = temporaryFolder(t, "erased-meanwhile");
  const store = await openStore(databaseIn(folder), { content: contentKeyIn(join(folder, "content-key")) });
  t.after(() => store.close());
  const limits = { batch_file_bytes_max: 1e6, batch_files_bytes_total_max: 1e6, batch_file_keep_ms: 0, batch_lines_max: 10 };
  const files = await Files.open(store, limits);
  const asked: Json[] = [];
  const handlers = { openaiChat: ({ body }: Json) => ({ json: asked.push(body) }) } as never;
  const fatal = (error: unknown) => assert.fail(String(error));
  const batches = new Batches({ store, files, handlers, limits: { ...limits, batch_lines_running_max: 8 }, log: silentLog(), fatal });
  t.after(() => batches.stop());
  const cancelled = Promise.withResolvers<void>();
  const running = { id: "j", tenant: "default", request: { metadata: ANNA.metadata }, decided: false };
  const jobs = { active: () => [running], get: () => undefined, forget: () => {} };
  const loop = { send: () => ({ decisions: [], done: cancelled.promise }) };
  const gdpr = gdprHandlers({ store, files, batches, jobs, loop, replay_after_end_ms: 0 } as never);
  const api = batchHandlers({ store, files, batches, stopping: () => false, batch_window_ms: 60_000, batches_live_max: 1 });
  const nobody = { who: undefined, principal: undefined };

  const file = { name: "in.jsonl", bytes: Buffer.from(linesOf([ANNA, BERT])) };
  const { id } = await files.upload(file, undefined, callerOf(nobody));
  const erasing = gdpr.eraseSubject({ body: { subject: "anna" }, ...nobody } as never);
  await api.createBatch({ body: { input_file_id: id, endpoint: CHAT, completion_window: "24h" }, ...nobody } as never);
  cancelled.resolve();
  await erasing;
  await eventually(() => batches.size === 0);
  assert.deepEqual(
    asked.map(({ metadata }) => metadata.subject),
    ["bert"],
  );
});

test("whoever gets another's file is in the record first, and who gets his own is not", async (t) => {
  const { who, worker, operator, orcd, data_dir } = await startTenants(t, {}, 4);
  echoes(worker);
  const [mine, colleague] = [await who({ tenant: "acme" }), await who({ tenant: "acme" })];
  const clientWith = ({ key }: { key: string }) => new OpenAI({ baseURL: `${orcd.url}/v1`, apiKey: key, maxRetries: 0 });
  const client = clientWith(mine);
  const { input_file_id, output_file_id } = await ended(client, (await begin(client, linesOf([NOBODY]))).id);
  const files = [input_file_id, output_file_id as string];
  for (const id of files) await textOf(client, id);
  for (const reader of [colleague, operator]) for (const id of files) await textOf(clientWith(reader), id);
  await orcd.orcd.stop();
  assert.deepEqual(
    rows(data_dir, "select record from audit where kind = 'content.read' order by seq")
      .map(({ record }) => JSON.parse(record))
      .map(({ file_id, tenant, what, who: key }) => [file_id, tenant, what, key]),
    [colleague, operator].flatMap(({ key_id }) => files.map((id) => [id, "acme", "file", key_id])),
  );
});

test("files go with their tenant's content: answers after their time, what was asked after its last batch, and what nobody asked not", async (t) => {
  const { orcd, client, worker } = await startBatches(t, { content_sweep_ms: 10 });
  const asked = echoes(worker, (attempt) => worded(attempt) === "slow");
  const unused = await upload(client, linesOf([NOBODY]));
  const done = await ended(client, (await begin(client, linesOf([NOBODY]))).id);
  const running = await begin(client, linesOf([asking("slow")]));
  await eventually(() => asked.length === 2);
  await post(orcd, "/v2/tenants/default", { content_keep_ms: 0 });
  const left = async () => (await client.files.list()).data.map(({ id }) => id).sort();
  await eventually(async () => (await left()).length === 2);
  assert.deepEqual(await left(), [unused.id, running.input_file_id].sort());
  await assert.rejects(textOf(client, done.output_file_id as string), OpenAI.NotFoundError);
  answered(asked[1] as FakeAttempt);
  await eventually(async () => (await left()).join() === unused.id);
  await orcd.orcd.stop();
  assert.deepEqual(rows(orcd.data_dir, "select count(*) as n from file_parts where file_id <> ''"), [{ n: 1 }]);
  assert.deepEqual(rows(orcd.data_dir, "select count(*) as n from batch_lines"), [{ n: 0 }]);
});

test("what lay in clear is sealed at the next start, each line with the key of its subject, and nothing of it is left on the disk", async (t) => {
  const data_dir = temporaryFolder(t, "clear");
  const first = await startHarness(t, {}, data_dir);
  echoes(await first.worker("w1", { slots: 4 }));
  const client = clientOf(first.url);
  const text = linesOf([ANNA, NOBODY]);
  const batch = await ended(client, (await begin(client, text)).id);
  const output = await textOf(client, batch.output_file_id as string);
  await first.orcd.stop();
  const db = opened(databaseIn(data_dir));
  db.prepare("update files set content = ? where batch_id is null").run(text);
  for (const [at, line] of output.trimEnd().split("\n").entries())
    db.prepare("update batch_lines set output = ?, custom_id = ?, subject = null, output_bytes = 0 where line = ?").run(
      line,
      `a${at}`,
      at + 1,
    );
  db.exec("delete from file_parts; pragma user_version = 1");
  db.close();
  assert.notDeepEqual(wordsIn(data_dir, "Anna's knee"), []);

  const second = await startHarness(t, {}, data_dir);
  assert.deepEqual(wordsIn(data_dir, "Anna's knee", "you said", "What heals"), []);
  const again = clientOf(second.url);
  assert.deepEqual([await textOf(again, batch.input_file_id), await textOf(again, batch.output_file_id as string)], [text, output]);
  await post(second, "/v2/gdpr/erase", { subject: "anna" });
  const left = [await textOf(again, batch.input_file_id), await textOf(again, batch.output_file_id as string)].map(parsed);
  assert.deepEqual(
    left.map((lines) => lines.map(({ custom_id, error }) => custom_id ?? error.code)),
    [
      [ERASED, "a1"],
      [ERASED, "a1"],
    ],
  );
});

test("a file that names too many subjects is refused, and nothing of it stays", async (t) => {
  const { orcd, client } = await startBatches(t, { batch_lines_max: 2 });
  const three = linesOf(["a", "b", "c"].map((subject) => of(subject, "hi")));
  await assert.rejects(upload(client, three), /more than 2 requests name a subject.*batch_lines_max/);
  await upload(client, linesOf(Array.from({ length: 3 }, () => NOBODY)));
  await orcd.orcd.stop();
  assert.deepEqual(rows(orcd.data_dir, "select count(*) as n, sum(lines) as lines from file_parts"), [{ n: 1, lines: 3 }]);
});

test("a file is cut into parts of one subject each that are the file again", () => {
  const line = (subject: string | null, more = "") =>
    JSON.stringify({ body: { metadata: subject === null ? undefined : { subject } }, more });
  const cut = (text: string) => [...filePartsOf(text)].map((part) => [part.subject, part.line, part.lines]);
  const text = [line(null), "{no", line("a"), line("a"), line("b"), "", line("b")].join("\n");
  assert.deepEqual(cut(text), [
    [null, 1, 2],
    ["a", 3, 2],
    ["b", 5, 1],
    [null, 6, 1],
    ["b", 7, 0],
  ]);
  assert.equal([...filePartsOf(text)].map((part) => part.text).join(""), text);
  assert.deepEqual([cut(""), cut("\n"), cut("x")], [[], [[null, 1, 1]], [[null, 1, 0]]]);
  const large = `${line("a", "x".repeat(50_000))}\n`.repeat(3);
  assert.deepEqual(cut(large), [
    ["a", 1, 1],
    ["a", 2, 1],
    ["a", 3, 1],
  ]);
  for (const odd of [
    "null",
    "[]",
    '{"body":null}',
    '{"body":{"metadata":null}}',
    '{"body":{"metadata":{"subject":5}}}',
    '{"body":{"metadata":{"subject":""}}}',
  ])
    assert.deepEqual(cut(odd), [[null, 1, 0]], odd);
});
