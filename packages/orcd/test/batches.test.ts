/** Files and batches, by the official OpenAI client as it is: what comes out, what is refused, who sees what, and what a restart leaves. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import type { EventStream } from "@rbees/kit/event-stream";
import { silentLog } from "@rbees/kit/log";
import OpenAI, { toFile } from "openai";
import { temporaryFolder } from "../../../test/support/cluster.ts";
import type { FakeAttempt } from "../../../test/support/fake-worker.ts";
import { type BatchApiPorts, batchHandlers } from "../src/api/batches.ts";
import { Batches } from "../src/batches.ts";
import { callerOf } from "../src/caller.ts";
import { contentKeyIn } from "../src/content-key.ts";
import { Files } from "../src/files.ts";
import { databaseIn, openStore } from "../src/store/open.ts";
import { answered, asking, begin, CHAT, contentOf, echoes, ended, linesOf, startBatches } from "./batch-setup.ts";
import { rowsIn } from "./database.ts";
import { eventually, startHarness } from "./harness.ts";
import { clientOf } from "./openai-harness.ts";
import { startTenants } from "./tenants-setup.ts";

test("a file and a batch from its beginning to its end: answers and errors, each in its file, each line once", async (t) => {
  const { client, worker, orcd } = await startBatches(t);
  const seen = echoes(worker);
  const text = linesOf([asking("one é🐝"), { ...asking("two"), temperature: 9 }, { ...asking("three"), stream: true }, asking("four")]);
  const file = await client.files.create({ purpose: "batch", file: await toFile(Buffer.from(`${text}\n`), "in.jsonl") });
  assert.deepEqual(
    [file.object, file.filename, file.purpose, file.bytes, file.status],
    ["file", "in.jsonl", "batch", Buffer.byteLength(text) + 1, "processed"],
  );
  assert.equal(await (await client.files.content(file.id)).text(), `${text}\n`);
  const begun = await client.batches.create({
    ...{ input_file_id: file.id, endpoint: CHAT, completion_window: "24h", metadata: { team: "blue" } },
  });
  assert.deepEqual([begun.object, begun.status, begun.input_file_id, begun.metadata], ["batch", "validating", file.id, { team: "blue" }]);
  assert.equal((begun.expires_at ?? 0) - begun.created_at, 86_400);
  const batch = await ended(client, begun.id);
  assert.deepEqual([batch.status, batch.request_counts], ["completed", { total: 4, completed: 2, failed: 2 }]);
  assert.ok(batch.in_progress_at && batch.finalizing_at && batch.completed_at);
  const output = await contentOf(client, batch.output_file_id);
  assert.deepEqual(
    output.map(({ custom_id, response, error }) => [custom_id, response.status_code, error, response.body.choices[0].message.content]),
    [
      ["a0", 200, null, "you said one é🐝"],
      ["a3", 200, null, "you said four"],
    ],
  );
  assert.equal(output[0].response.body.object, "chat.completion");
  const errors = await contentOf(client, batch.error_file_id);
  assert.deepEqual(
    errors.map(({ custom_id, response }) => [custom_id, response.status_code, response.body.error.param]),
    [
      ["a1", 400, "temperature"],
      ["a2", 400, "stream"],
    ],
  );
  const job = await orcd.json(`/v2/tasks/${seen[0]?.body.job_id}`);
  assert.deepEqual([job.priority, job.status], ["batch", "succeeded"]);
  const { data } = await client.batches.list();
  assert.deepEqual([data.length, data[0]?.id], [1, batch.id]);
  const purposes: string[] = [];
  for await (const { purpose } of client.files.list({ limit: 1, order: "asc" })) purposes.push(purpose);
  assert.deepEqual(purposes, ["batch", "batch_output", "batch_output"], "page by page");

  assert.deepEqual(await client.files.delete(file.id), { id: file.id, object: "file", deleted: true });
  await client.files.delete(batch.output_file_id as string);
  for (const gone of [file.id, batch.output_file_id as string])
    await assert.rejects(async () => await client.files.content(gone), OpenAI.NotFoundError);
  assert.equal((await contentOf(client, batch.error_file_id)).length, 2, "the errors are still there");

  const database = databaseIn(orcd.data_dir);
  const records = rowsIn<{ record: string }>(database, "select record from audit").map(({ record }) => record);
  const left = rowsIn<{ lines: number; bytes: number }>(
    database,
    "select count(*) as lines, sum(length(request)) as bytes from batch_lines",
  )[0];
  for (const kind of ["file.created", "batch.created", "batch.ended", "file.deleted"])
    assert.ok(
      records.some((one) => one.includes(kind)),
      kind,
    );
  assert.ok(records.every((record) => !record.includes("one é") && !record.includes("you said")));
  assert.deepEqual([left?.lines, left?.bytes], [2, 0], "what was asked is not kept, nor what was deleted");
});

test("completions and embeddings", async (t) => {
  const { client, worker } = await startBatches(t);
  const completion = await begin(client, linesOf([{ model: "fake", prompt: "hi", max_tokens: 5 }], "/v1/completions"), "/v1/completions");
  answered(await worker.next());
  const texts = await contentOf(client, (await ended(client, completion.id)).output_file_id);
  assert.equal(texts[0].response.body.choices[0].text, "you said hi");
  const embedding = await begin(client, linesOf([{ model: "fake", input: ["a", "b"] }], "/v1/embeddings"), "/v1/embeddings");
  const attempt = await worker.next();
  attempt.vectors([
    [1, 0],
    [0, 1],
  ]);
  attempt.end("EMBEDDED");
  const vectors = await contentOf(client, (await ended(client, embedding.id)).output_file_id);
  assert.deepEqual(vectors[0].response.body.data[1].embedding, [0, 1]);
});

test("an input that is not valid fails its batch with everything that is wrong, by line", async (t) => {
  const { client } = await startBatches(t, { batch_lines_max: 3 });
  const good = { custom_id: "x", method: "POST", url: CHAT, body: asking("hi") };
  const failed = async (lines: readonly unknown[]) => {
    const text = lines.map((line) => (typeof line === "string" ? line : JSON.stringify(line))).join("\n");
    const batch = await ended(client, (await begin(client, text)).id);
    assert.deepEqual([batch.status, batch.output_file_id, batch.error_file_id], ["failed", null, null]);
    assert.ok(batch.failed_at);
    return batch.errors?.data?.map(({ line, code, param }) => [line, code, param]);
  };
  assert.deepEqual(await failed(["{no", "[]", { ...good, method: "GET", url: "/v1/x", body: 5 }, good, "", { ...good, custom_id: "x" }]), [
    [1, "invalid_json_line", null],
    [2, "invalid_json_line", null],
    [3, "invalid_method", "method"],
    [3, "mismatched_endpoint", "url"],
    [3, "invalid_body", "body"],
    [4, "duplicate_custom_id", "custom_id"],
    [6, "duplicate_custom_id", "custom_id"],
  ]);
  assert.deepEqual(await failed([{ ...good, custom_id: "" }]), [[1, "invalid_custom_id", "custom_id"]]);
  assert.deepEqual(await failed(["", " "]), [[null, "empty_file", null]]);
  const many = ["a", "b", "c", "d"].map((custom_id) => ({ ...good, custom_id }));
  assert.deepEqual(await failed(many), [[4, "too_many_requests", null]]);
});

test("what is no file, too large or of another purpose is refused by name", async (t) => {
  const { client, orcd, post } = await startBatches(t, { batch_file_bytes_max: 2000, batch_files_bytes_total_max: 3000 });
  const upload = async (bytes: Uint8Array, purpose = "batch") =>
    await client.files.create({ purpose: purpose as "batch", file: await toFile(bytes, "in.jsonl") });
  const refused =
    (code: string, status: number, param: string | null = null) =>
    (error: unknown) =>
      error instanceof OpenAI.APIError && error.code === code && error.status === status && (error.param ?? null) === param;
  await assert.rejects(upload(Buffer.alloc(2001, "a")), refused("PAYLOAD_TOO_LARGE", 413, "file"));
  await assert.rejects(upload(Buffer.alloc(200_000, "a")), refused("PAYLOAD_TOO_LARGE", 413));
  await assert.rejects(upload(Buffer.of(0xff, 0xfe)), refused("INVALID_REQUEST", 400, "file"));
  await assert.rejects(upload(Buffer.from("a"), "fine-tune"), refused("INVALID_REQUEST", 400, "purpose"));
  const first = await upload(Buffer.alloc(1900, "a"));
  await assert.rejects(upload(Buffer.alloc(1200, "a")), refused("QUOTA_EXCEEDED", 429));
  await client.files.delete(first.id);
  await upload(Buffer.alloc(1200, "a"));

  for (const body of ["no form", "--x\r\nbroken"]) {
    const headers = { "content-type": "multipart/form-data; boundary=x" };
    assert.equal((await fetch(`${orcd.url}/v1/files`, { method: "POST", headers, body })).status, 400, body);
  }
  assert.match(await (await post("/v1/files", { purpose: "batch" })).text(), /must be a form with a file|file: /);
  const form = new FormData();
  form.set("a", "b");
  assert.match(await (await fetch(`${orcd.url}/v1/chat/completions`, { method: "POST", body: form })).text(), /must be JSON/);
  const batch = (more: object) => client.batches.create({ input_file_id: "file-none", endpoint: CHAT, completion_window: "24h", ...more });
  await assert.rejects(batch({}), OpenAI.NotFoundError);
  await assert.rejects(batch({ completion_window: "1h" }), refused("INVALID_REQUEST", 400, "completion_window"));
  await assert.rejects(batch({ endpoint: "/v1/images" }), refused("INVALID_REQUEST", 400, "endpoint"));
  await assert.rejects(
    batch({ output_expires_after: { anchor: "created_at", seconds: 3600 } }),
    refused("INVALID_REQUEST", 400, "output_expires_after"),
  );
  await assert.rejects(client.batches.retrieve("batch_none"), OpenAI.NotFoundError);
  await assert.rejects(client.batches.cancel("batch_none"), OpenAI.NotFoundError);
});

test("no more lines at once than allowed; what the queue has no room for comes later", async (t) => {
  const { client, worker, orcd } = await startBatches(
    t,
    { batch_lines_running_max: 3, queue_jobs_max: 1, service_ms_guess: 20 },
    { slots: 1 },
  );
  const held: FakeAttempt[] = [];
  echoes(worker, (attempt) => {
    held.push(attempt);
    return true;
  });
  const batch = await begin(client, linesOf(Array.from({ length: 9 }, (_, i) => asking(`line ${i}`))));
  for (let done = 0; done < 9; done += 1) {
    const attempt = await eventually(() => held[done]);
    const { tasks } = await orcd.json("/v2/tasks?status=queued");
    assert.ok(tasks.length <= 1, "the queue has its bound");
    answered(attempt);
  }
  const { status, request_counts, output_file_id } = await ended(client, batch.id);
  assert.deepEqual([status, request_counts], ["completed", { total: 9, completed: 9, failed: 0 }]);
  const said = (await contentOf(client, output_file_id)).map(({ response }) => response.body.choices[0].message.content);
  assert.deepEqual(
    said.sort(),
    Array.from({ length: 9 }, (_, i) => `you said line ${i}`),
  );

  const lanes = await startBatches(t, { batch_lines_running_max: 2 });
  const asked = echoes(lanes.worker, () => true);
  const two = await begin(lanes.client, linesOf([asking("1"), asking("2"), asking("3")]));
  await eventually(() => asked.length === 2);
  const first = asked[0] as FakeAttempt;
  answered(first);
  await eventually(() => asked.length === 3);
  assert.equal((await lanes.orcd.json("/v2/tasks?status=running")).tasks.length, 2);
  for (const attempt of asked.slice(1)) answered(attempt);
  assert.equal((await ended(lanes.client, two.id)).status, "completed");
});

test("a batch that is cancelled keeps what it has, and says of the rest that it has no answer; one whose time is over likewise", async (t) => {
  const { client, worker } = await startBatches(t, { batch_lines_running_max: 2 });
  const asked = echoes(worker, (attempt) => attempt.body.messages?.[0]?.content !== "quick");
  const begun = await begin(client, linesOf([asking("quick"), asking("slow"), asking("slow"), asking("slow")]));
  await eventually(async () => asked.length === 3 && (await client.batches.retrieve(begun.id)).request_counts?.completed === 1);
  assert.equal((await client.batches.cancel(begun.id)).status, "cancelling");
  const batch = await ended(client, begun.id);
  assert.deepEqual([batch.status, batch.request_counts], ["cancelled", { total: 4, completed: 1, failed: 3 }]);
  assert.ok(batch.cancelling_at && batch.cancelled_at);
  for (const attempt of asked.slice(1)) await attempt.closed;
  assert.deepEqual(
    (await contentOf(client, batch.output_file_id)).map(({ custom_id }) => custom_id),
    ["a0"],
  );
  assert.deepEqual(
    (await contentOf(client, batch.error_file_id)).map(({ custom_id, response, error }) => [custom_id, response, error.code]),
    ["a1", "a2", "a3"].map((custom_id) => [custom_id, null, "batch_cancelled"]),
  );
  assert.equal((await client.batches.cancel(begun.id)).status, "cancelled", "again says the same");

  const late = await startBatches(t, { batch_window_ms: 1000, batch_lines_running_max: 1 });
  const waits = echoes(late.worker, () => true);
  const over = await ended(late.client, (await begin(late.client, linesOf([asking("1"), asking("2")]))).id);
  assert.deepEqual([over.status, over.request_counts?.failed, over.output_file_id], ["expired", 2, null]);
  assert.ok(over.expired_at);
  await waits[0]?.closed;
  const errors = await contentOf(late.client, over.error_file_id);
  assert.deepEqual(
    errors.map(({ error }) => error.code),
    ["batch_expired", "batch_expired"],
  );
  await assert.rejects(late.client.batches.cancel(over.id), OpenAI.ConflictError);
});

test("a tenant sees its own files and batches and nobody else's; its tokens count", async (t) => {
  const { who, worker, orcd, operator } = await startTenants(t, {}, 4);
  echoes(worker);
  const [acme, other] = [await who({ tenant: "acme" }), await who({ tenant: "other" })];
  const clientWith = ({ key }: { key: string }) => new OpenAI({ baseURL: `${orcd.url}/v1`, apiKey: key, maxRetries: 0 });
  const [mine, theirs, all] = [clientWith(acme), clientWith(other), clientWith(operator)];
  const begun = await begin(mine, linesOf([asking("hi")]));
  const batch = await ended(mine, begun.id);
  assert.equal(batch.status, "completed");
  const { tasks } = await acme.client.call("listJobs", { query: {} });
  assert.deepEqual(
    tasks.map(({ tenant, priority }) => [tenant, priority]),
    [["acme", "batch"]],
  );
  assert.ok((await operator.client.call("showTenant", { params: { id: "acme" } })).tokens_today > 0);
  for (const id of [batch.input_file_id, batch.output_file_id as string]) {
    for (const call of [() => theirs.files.retrieve(id), () => theirs.files.content(id), () => theirs.files.delete(id)])
      await assert.rejects(async () => await call(), OpenAI.NotFoundError);
  }
  for (const call of [
    () => theirs.batches.retrieve(batch.id),
    () => theirs.batches.cancel(batch.id),
    () => theirs.batches.create({ input_file_id: batch.input_file_id, endpoint: CHAT, completion_window: "24h" }),
  ])
    await assert.rejects(async () => await call(), OpenAI.NotFoundError);
  assert.deepEqual([(await theirs.files.list()).data, (await theirs.batches.list()).data], [[], []]);
  assert.equal((await all.batches.list()).data.length, 1);
  const watcher = clientWith(await who({ roles: ["observe"] }));
  await assert.rejects(begin(watcher, linesOf([asking("hi")])), OpenAI.PermissionDeniedError);
});

test("a restart: an answer that is written stays, the rest is asked again, and each line is answered once", async (t) => {
  const data_dir = temporaryFolder(t, "batches");
  const first = await startHarness(t, { batch_lines_running_max: 2 }, data_dir);
  const worker = await first.worker("w1", { slots: 4 });
  const asked = echoes(worker, (attempt) => attempt.body.messages?.[0]?.content !== "quick");
  const client = clientOf(first.url);
  const begun = await begin(client, linesOf([asking("quick"), ...Array.from({ length: 70 }, (_, i) => asking(`slow ${i}`))]));
  await eventually(async () => asked.length === 3 && (await client.batches.retrieve(begun.id)).request_counts?.completed === 1);
  await first.orcd.stop();

  const next = await startHarness(t, {}, data_dir);
  const again = clientOf(next.url);
  assert.deepEqual((await again.batches.retrieve(begun.id)).request_counts, { total: 71, completed: 1, failed: 0 });
  const second = await next.worker("w2", { slots: 4 });
  const asked_again = echoes(second);
  const batch = await ended(again, begun.id);
  assert.deepEqual([batch.status, batch.request_counts], ["completed", { total: 71, completed: 71, failed: 0 }]);
  const output = await contentOf(again, batch.output_file_id);
  assert.equal(new Set(output.map(({ custom_id }) => custom_id)).size, 71);
  assert.equal(output.length, 71);
  assert.ok(asked_again.every(({ body }) => body.messages?.[0]?.content !== "quick"));
});

test("a file that is deleted twice at once is deleted once, and no room is given back twice", async (t) => {
  const data_dir = temporaryFolder(t, "files");
  const store = await openStore(databaseIn(data_dir), { content: contentKeyIn(join(data_dir, "content.key")) });
  const limits = { batch_file_bytes_max: 2000, batch_files_bytes_total_max: 3000, batch_file_keep_ms: 0, batch_lines_max: 9 };
  const files = await Files.open(store, limits);
  const { deleteFile } = batchHandlers({ store, files } as unknown as BatchApiPorts);
  const upload = async () =>
    await files.upload({ name: "in.jsonl", bytes: Buffer.alloc(1400, "a") }, undefined, callerOf({ principal: undefined }));
  await upload();
  const { id } = await upload();
  const asked = { params: { id }, who: undefined, principal: undefined };
  const outcomes = await Promise.allSettled([deleteFile(asked as never), deleteFile(asked as never), deleteFile(asked as never)]);
  assert.throws(() => files.checkRoom(1700), /hold 1400 of 3000/);
  assert.deepEqual(outcomes.map(({ status }) => status).sort(), ["fulfilled", "rejected", "rejected"]);
  await store.close();
  assert.equal(rowsIn(databaseIn(data_dir), "select seq from audit where record like '%file.deleted%'").length, 1);
});

test("a file of answers that goes while it is read breaks off: what came of it is not taken for all", async () => {
  const row = { id: "file-a", batch_id: "batch_a", filename: "batch_a_output.jsonl" };
  const lines = Array.from({ length: 150 }, (_, i) => ({ line: i + 1, output: "{}" }));
  const read = async (goes: boolean): Promise<unknown> => {
    let there = true;
    const store = {
      showFile: async () => (there ? row : undefined),
      async batchLines({ after, limit }: { after: number; limit: number }) {
        const found = there ? lines.slice(after, after + limit) : [];
        there = !goes;
        return found;
      },
    };
    const ports = { store, files: { find: async () => row, disclose: async () => {} } } as unknown as BatchApiPorts;
    const asked = { params: { id: row.id }, who: undefined, principal: undefined };
    const answer = (await batchHandlers(ports).fileContent(asked as never)) as { events: (stream: EventStream) => void };
    return await new Promise((resolve) => {
      const stream = { closed: false, onDrain() {}, onClose() {}, writeText: () => true };
      answer.events({ ...stream, end: () => resolve("ended"), cut: () => resolve("cut") } as unknown as EventStream);
    });
  };
  assert.deepEqual([await read(false), await read(true)], ["ended", "cut"]);
});

test("requests that come at once begin no more batches than may be", async (t) => {
  const data_dir = temporaryFolder(t, "batches");
  const store = await openStore(databaseIn(data_dir), { content: contentKeyIn(join(data_dir, "content.key")) });
  const limits = { batch_file_bytes_max: 2000, batch_files_bytes_total_max: 9000, batch_file_keep_ms: 0, batch_lines_max: 9 };
  const files = await Files.open(store, limits);
  const fatal = (error: unknown) => assert.fail(String(error));
  const of_batches = { store, files, handlers: {} as never, limits: { ...limits, batch_lines_running_max: 1 }, log: silentLog(), fatal };
  const batches = new Batches(of_batches);
  const { createBatch } = batchHandlers({ store, files, batches, stopping: () => false, batch_window_ms: 60_000, batches_live_max: 2 });
  const nobody = { who: undefined, principal: undefined };
  const { id } = await files.upload({ name: "in.jsonl", bytes: Buffer.from("{") }, undefined, callerOf(nobody));
  const asked = { body: { input_file_id: id, endpoint: CHAT, completion_window: "24h" }, ...nobody };
  const begun = await Promise.allSettled(Array.from({ length: 4 }, () => createBatch(asked as never)));
  assert.deepEqual(begun.map(({ status }) => status).sort(), ["fulfilled", "fulfilled", "rejected", "rejected"]);
  await eventually(() => batches.size === 0);
  await createBatch(asked as never);
  await eventually(() => batches.size === 0);
  await store.close();
});
