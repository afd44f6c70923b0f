/** The store and its audit trail: durable together or not at all, recovered as they were, every tampering found. */
import assert from "node:assert/strict";
import { hash } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { type TestContext, test } from "node:test";
import { type AuditValue, type ChainedEntry, canonicalJson, chain, GENESIS } from "@rbees/kit/audit-chain";
import { firstBroken } from "@rbees/kit/audit-check";
import fc from "fast-check";
import { contentKeyIn } from "../src/content-key.ts";
import { brokenStore, openStore } from "../src/store/open.ts";
import type { Change, Store } from "../src/store/port.ts";
import type { JobTable } from "../src/store/schema.ts";
import { opened, rowsIn } from "./database.ts";
import { eventsOf, startHarness } from "./harness.ts";

function folder(t: TestContext): string {
  const path = mkdtempSync(join(tmpdir(), "rbees-store-"));
  t.after(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

async function open(t: TestContext, path: string): Promise<Store> {
  const store = await openStore(path, { content: contentKeyIn(`${path}-key`) });
  t.after(() => store.close().catch(() => {}));
  return store;
}

const ended = (id: string, status: string, error_code: string | null = null) => job(id, status, { ended_at_ms: 2, error_code });

function job(id: string, status = "queued", more: Partial<JobTable> = {}): Change {
  return {
    table: "jobs",
    insert: {
      tenant: "default",
      key_id: null,
      ...more,
      id,
      status,
      model: "m",
      priority: "batch",
      request: "{}",
      correlation_id: "c",
      lives: 0,
      submitted_at_ms: 1,
    },
  };
}

const audit = (n: number): Change => ({ table: "audit", append: { at_ms: n, kind: "test", fields: { n } } });

function entriesOf(path: string): ChainedEntry[] {
  return rowsIn<ChainedEntry>(path, "select * from audit order by seq");
}

test("commits that queue together keep their order, and each is whole", async (t) => {
  const path = join(folder(t), "db.sqlite");
  const store = await open(t, path);
  await Promise.all(Array.from({ length: 200 }, (_, n) => store.commit([job(`job_${n}`), audit(n)])));
  const { jobs } = await store.recover(5);
  assert.deepEqual(
    jobs.map(({ id }) => id),
    Array.from({ length: 200 }, (_, n) => `job_${n}`),
  );
  assert.ok(jobs.every(({ lives }) => lives === 1));
  await store.close();
  const entries = entriesOf(path);
  assert.equal(entries.length, 200);
  assert.equal(firstBroken(entries), undefined);
});

test("a commit that fails leaves nothing behind, not even a gap in the audit trail", async (t) => {
  const path = join(folder(t), "db.sqlite");
  const store = await open(t, path);
  await store.commit([job("a"), audit(1)]);
  await assert.rejects(store.commit([audit(2), job("a")]));
  await store.commit([audit(3)]);
  await store.close();
  const entries = entriesOf(path);
  assert.deepEqual(
    entries.map(({ record }) => JSON.parse(record).n),
    [1, 3],
  );
  assert.equal(firstBroken(entries), undefined);
});

test("a second orchestrator on the same database is refused", async (t) => {
  const path = join(folder(t), "db.sqlite");
  const store = await open(t, path);
  await store.commit([audit(1)]);
  await assert.rejects(openStore(path), /in use by another orchestrator/);
});

test("a database of a newer orchestrator is refused in words", async (t) => {
  const path = join(folder(t), "db.sqlite");
  await (await openStore(path)).close();
  const db = opened(path);
  db.exec("insert into kysely_migration values ('9999-of-another-day', '2099-01-01')");
  db.close();
  await assert.rejects(openStore(path), /db\.sqlite was written by a newer rbees-orcd; start that one/);
});

test("the folder that is made for a database is its owner's alone", { skip: process.platform === "win32" }, async (t) => {
  const path = join(folder(t), "data", "orcd", "db.sqlite");
  await (await openStore(path)).close();
  assert.equal(statSync(dirname(path)).mode & 0o777, 0o700);
});

test("a file that is no database is refused with its name", async (t) => {
  const path = join(folder(t), "db.sqlite");
  writeFileSync(path, "this is no database, it is a poem ".repeat(100));
  await assert.rejects(openStore(path), /db\.sqlite can't be opened/);
});

test("of a damaged database and a full disk it is said what to do", async (t) => {
  const path = join(folder(t), "db.sqlite");
  await (await openStore(path)).close();
  const bytes = readFileSync(path);
  writeFileSync(path, bytes.fill(0xaa, 8192));
  await assert.rejects(openStore(path), /db\.sqlite is damaged \(database disk image is malformed\)\. Restore a copy of its folder; or/);
  const full = Object.assign(new Error("database or disk is full"), { code: "SQLITE_FULL" });
  assert.match(brokenStore(full, path)?.message ?? "", /no room for .*db\.sqlite: free some/);
  assert.equal(brokenStore(new Error("a bug"), path), undefined);
});

test("jobs that ran come before jobs that waited, and their running attempts count as lost", async (t) => {
  const path = join(folder(t), "db.sqlite");
  const store = await open(t, path);
  await store.commit([job("waits"), job("ran", "running"), ended("done", "succeeded")]);
  await store.commit([{ table: "jobs", id: "ran", update: { attempt: 1, worker_id: "w", started_at_ms: 1 } }]);
  const { jobs } = await store.recover(9);
  assert.deepEqual(
    jobs.map(({ id }) => id),
    ["ran", "waits"],
  );
  const shown = await store.showJob("ran");
  assert.deepEqual(
    shown?.attempts.map(({ outcome, ended_at_ms }) => [outcome, ended_at_ms]),
    [["lost", 9]],
  );
});

test("progress is found again in order with the jobs that have not ended, and is gone with the end of its job", async (t) => {
  const store = await open(t, join(folder(t), "db.sqlite"));
  const progress = (job_id: string, first_event: number): Change => {
    const events = `{"n":${first_event}}\n`;
    return { table: "progress", insert: { job_id, first_event, life: 0, model_digest: null, events } };
  };
  await store.commit([job("a"), job("b"), progress("a", 2), progress("b", 2)]);
  await store.commit([progress("a", 10), progress("a", 9)]);
  const kept = async () => (await store.recover(5)).progress.map(({ job_id, events }) => [job_id, JSON.parse(events).n]);
  assert.deepEqual(await kept(), [
    ["a", 2],
    ["a", 9],
    ["a", 10],
    ["b", 2],
  ]);
  await store.commit([{ table: "progress", job_id: "a", gone: true }]);
  assert.deepEqual(await kept(), [["b", 2]]);
});

test("the attempts of a job are all shown: those that were lost, the one that runs, the one that succeeded", async (t) => {
  const store = await open(t, join(folder(t), "db.sqlite"));
  const attempts = async () =>
    (await store.showJob("a"))?.attempts.map(({ attempt, worker_id, started_at_ms, ended_at_ms, outcome }) => [
      attempt,
      worker_id,
      started_at_ms,
      ended_at_ms,
      outcome,
    ]);
  await store.commit([job("a")]);
  assert.deepEqual(await attempts(), []);
  await store.commit([{ table: "jobs", id: "a", update: { status: "running", attempt: 1, worker_id: "w1", started_at_ms: 1 } }]);
  assert.deepEqual(await attempts(), [[1, "w1", 1, null, null]]);
  const over: Change = { table: "attempts", job_id: "a", over: { ended_at_ms: 2, outcome: "lost" } };
  await store.commit([over, { table: "jobs", id: "a", update: { status: "queued", worker_id: null } }]);
  assert.deepEqual(await attempts(), [[1, "w1", 1, 2, "lost"]]);
  // A second report of the same end changes nothing.
  await store.commit([{ table: "attempts", job_id: "a", over: { ended_at_ms: 3, outcome: "aborted" } }]);
  await store.commit([{ table: "jobs", id: "a", update: { status: "running", attempt: 2, worker_id: "w2", started_at_ms: 4 } }]);
  await store.commit([{ table: "jobs", id: "a", update: { status: "succeeded", ended_at_ms: 5 } }]);
  assert.deepEqual(await attempts(), [
    [1, "w1", 1, 2, "lost"],
    [2, "w2", 4, 5, "done"],
  ]);
});

test("jobs are listed by status, whatever index serves it", async (t) => {
  const store = await open(t, join(folder(t), "db.sqlite"));
  await store.commit([
    job("q"),
    job("r", "running"),
    ended("s", "succeeded"),
    ended("f", "failed", "WORKER_LOST"),
    ended("c", "cancelled", "CANCELLED"),
  ]);
  for (const [status, id] of Object.entries({ queued: "q", running: "r", succeeded: "s", failed: "f", cancelled: "c" })) {
    const listed = await store.listJobs({ status, limit: 10 });
    assert.deepEqual(
      listed.map((row) => row.id),
      [id],
      status,
    );
  }
});

/** What 0001-first made, as SQLite told it. */
const FIRST_LAYOUT = `
  create table kysely_migration (name varchar(255) not null primary key, timestamp varchar(255) not null);
  create table kysely_migration_lock (id varchar(255) not null primary key, is_locked integer default 0 not null);
  insert into kysely_migration values ('0001-first', '2026-11-21T00:00:00.000Z');
  insert into kysely_migration_lock values ('migration_lock', 0);
  create table jobs (id text primary key, seq bigint not null unique, status text not null, model text not null,
    priority text not null, request text not null, correlation_id text not null, attempt integer not null, spent integer not null,
    worker_id text, lives integer not null, submitted_at_ms bigint not null, started_at_ms bigint, first_token_at_ms bigint,
    ended_at_ms bigint, stop_reason text, tokens_in integer, tokens_out integer, tokens_cached integer, prefill_ms double precision,
    decode_ms double precision, text text not null, error_code text, error_message text, error_retriable integer);
  create index jobs_by_status on jobs (status, seq);
  create table attempts (job_id text not null, attempt integer not null, worker_id text not null, started_at_ms bigint not null,
    ended_at_ms bigint, outcome text, constraint attempts_key primary key (job_id, attempt));
  create table models (model text primary key, first_seen_at_ms bigint not null);
  create table audit (seq bigint primary key, at_ms bigint not null, kind text not null, record text not null,
    previous text not null, hash text not null);`;

test("a database of the first layout is taken over, with its jobs, attempts and audit trail", async (t) => {
  const path = join(folder(t), "db.sqlite");
  const sqlite = opened(path);
  sqlite.exec(FIRST_LAYOUT);
  const insert = (table: string, row: Record<string, string | number | null>) =>
    sqlite.prepare(`insert into ${table} (${Object.keys(row)}) values (${Object.keys(row).map(() => "?")})`).run(...Object.values(row));
  const row = { model: "m", priority: "batch", request: "{}", correlation_id: "c", spent: 0, lives: 0, submitted_at_ms: 1, text: "" };
  insert("jobs", {
    ...row,
    seq: 1,
    id: "done",
    status: "succeeded",
    attempt: 1,
    worker_id: "w",
    started_at_ms: 2,
    ended_at_ms: 3,
    text: "bees",
  });
  insert("jobs", { ...row, seq: 2, id: "ran", status: "running", attempt: 2, worker_id: "w", started_at_ms: 2 });
  for (const [job_id, attempt, ended_at_ms, outcome] of [
    ["done", 1, 3, "done"],
    ["ran", 1, 2, "lost"],
    ["ran", 2, null, null],
  ] as const) {
    insert("attempts", { job_id, attempt, worker_id: "w", started_at_ms: 2, ended_at_ms, outcome });
  }
  const entry = chain({ at_ms: 1, kind: "k", fields: {} }, 1, GENESIS);
  insert("audit", { ...entry });
  sqlite.close();

  const store = await open(t, path);
  const { jobs } = await store.recover(9);
  assert.deepEqual(
    jobs.map(({ id }) => id),
    ["ran"],
  );
  const outcomes = async (id: string) => (await store.showJob(id))?.attempts.map(({ outcome }) => outcome);
  assert.deepEqual([await outcomes("done"), await outcomes("ran")], [["done"], ["lost", "lost"]]);
  assert.equal((await store.showJob("done"))?.job.text, "bees");
  const progress = { job_id: "ran", first_event: 2, life: 1, model_digest: null, events: "{}\n" };
  await store.commit([job("new"), audit(2), { table: "progress", insert: progress }]);
  assert.deepEqual(
    (await store.listJobs({ limit: 9 })).map(({ seq }) => seq),
    [3, 2, 1],
  );
  await store.close();
  const entries = entriesOf(path);
  assert.deepEqual([entries.length, firstBroken(entries)], [2, undefined]);
});

test("any changed, removed or swapped entry of the audit trail is found", () => {
  fc.assert(
    fc.property(
      fc.array(fc.dictionary(fc.string(), fc.oneof(fc.string(), fc.integer(), fc.boolean())), { minLength: 2, maxLength: 8 }),
      fc.nat(),
      fc.nat(),
      (all, where, how) => {
        let previous = GENESIS;
        const entries = all.map((fields, i) => {
          const entry = chain({ at_ms: i, kind: "k", fields: { fields } }, i + 1, previous);
          previous = entry.hash;
          return entry;
        });
        assert.equal(firstBroken(entries), undefined);
        const i = where % entries.length;
        const entry = entries[i] as ChainedEntry;
        const tampered: ChainedEntry[][] = [
          entries.with(i, { ...entry, record: `${entry.record} ` }),
          entries.with(i, { ...entry, hash: entry.hash.replace(/^./, (digit) => (digit === "0" ? "1" : "0")) }),
          i < entries.length - 1 ? entries.toSpliced(i, 1) : entries.with(0, { ...(entries[0] as ChainedEntry), seq: 7 }),
        ];
        assert.notEqual(firstBroken(tampered[how % tampered.length] as ChainedEntry[]), undefined);
      },
    ),
  );
});

test("canonical JSON is one string for one value, whatever the order of its members", () => {
  fc.assert(
    fc.property(
      fc.dictionary(fc.string(), fc.oneof(fc.string(), fc.integer(), fc.constant(null), fc.boolean(), fc.array(fc.integer()))),
      (object) => {
        const turned = Object.fromEntries(Object.entries(object).reverse());
        const json = canonicalJson(object as AuditValue);
        assert.equal(canonicalJson(turned as AuditValue), json);
        assert.deepEqual(JSON.parse(json), JSON.parse(JSON.stringify(object)));
      },
    ),
  );
});

test("canonical JSON has its members in the order of RFC 8785, also those that JavaScript would move", () => {
  const members = { "9": 1, "10": 2, __proto: 3, "\u20ac": 4, b: [1, { d: 1, c: 2 }], a: null, B: "\u000f\n\\" };
  assert.equal(canonicalJson(members), '{"10":2,"9":1,"B":"\\u000f\\n\\\\","__proto":3,"a":null,"b":[1,{"c":2,"d":1}],"\u20ac":4}');
  assert.equal(canonicalJson(JSON.parse('{"b":1,"__proto__":2,"a":3}')), '{"__proto__":2,"a":3,"b":1}');
  assert.throws(() => canonicalJson({ a: Number.NaN }), RangeError);
});

test("of a conversation, too, the audit trail has only length and hash, of its messages as JSON", async (t) => {
  const orcd = await startHarness(t);
  const worker = await orcd.worker("w1");
  const messages = [
    { role: "system", content: "secret rule" },
    { role: "user", content: "secret question" },
  ];
  const answer = await orcd.submit({ prompt: undefined, messages });
  assert.equal(answer.status, 202);
  assert.deepEqual((await worker.next()).body.messages, messages);
  await orcd.orcd.stop();
  const all = entriesOf(join(orcd.data_dir, "orcd.sqlite"))
    .map(({ record }) => record)
    .join("\n");
  assert.ok(!all.includes("secret"));
  const exact = JSON.stringify(messages);
  assert.ok(all.includes(`"prompt_bytes":${exact.length},"prompt_sha256":"${hash("sha256", exact, "hex")}"`));
});

test("each act of a job is in the audit trail, in a whole chain, without a word of prompt or answer", async (t) => {
  const orcd = await startHarness(t, { queue_jobs_max: 1 });
  const worker = await orcd.worker("w1");
  const answer = orcd.submit({ prompt: "secret question", stream: true });
  const attempt = await worker.next();
  attempt.started();
  attempt.tokens("secret ", "answer");
  const second = await orcd.submit({ prompt: "secret too" });
  assert.equal((await orcd.submit({ prompt: "one too many" })).status, 429);
  const { job_id } = (await second.json()) as { job_id: string };
  await fetch(`${orcd.url}/v2/tasks/${job_id}`, { method: "DELETE" });
  attempt.end();
  await eventsOf(await answer);
  await orcd.orcd.stop();
  const entries = entriesOf(join(orcd.data_dir, "orcd.sqlite"));
  assert.equal(firstBroken(entries), undefined);
  assert.deepEqual(
    entries.map(({ kind }) => kind),
    [
      "orchestrator.started",
      "worker.joined",
      "job.accepted",
      "job.dispatched",
      "job.accepted",
      "job.refused",
      "job.cancelled",
      "job.ended",
      "orchestrator.stopped",
      "head.signed",
    ],
  );
  const all = entries.map(({ record }) => record).join("\n");
  assert.ok(!all.includes("secret"));
  assert.match(all, /"prompt_bytes":15,"prompt_sha256":"[0-9a-f]{64}"/);
  assert.match(all, /"answer_bytes":13,"answer_sha256":"[0-9a-f]{64}"/);
});
