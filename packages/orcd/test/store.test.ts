/** The store and its audit trail: durable together or not at all, recovered as they were, every tampering found. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { type TestContext, test } from "node:test";
import fc from "fast-check";
import { type AuditValue, type ChainedEntry, canonicalJson, chain, firstBroken, GENESIS } from "../src/store/audit-chain.ts";
import { openStore } from "../src/store/open.ts";
import type { Change, Store } from "../src/store/port.ts";
import { NOT_BEGUN } from "../src/store/schema.ts";
import { eventsOf, startHarness } from "./harness.ts";

function folder(t: TestContext): string {
  const path = mkdtempSync(join(tmpdir(), "rbees-store-"));
  t.after(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

async function open(t: TestContext, path: string): Promise<Store> {
  const store = await openStore(path);
  t.after(() => store.close().catch(() => {}));
  return store;
}

function job(id: string, status = "queued"): Change {
  return {
    table: "jobs",
    insert: {
      ...NOT_BEGUN,
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
  const db = new DatabaseSync(path, { readOnly: true });
  const rows = db.prepare("select * from audit order by seq").all() as unknown as ChainedEntry[];
  db.close();
  return rows;
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

test("a file that is no database is refused with its name", async (t) => {
  const path = join(folder(t), "db.sqlite");
  writeFileSync(path, "this is no database, it is a poem ".repeat(100));
  await assert.rejects(openStore(path), /db\.sqlite can't be opened/);
});

test("jobs that ran come before jobs that waited, and their open attempts count as lost", async (t) => {
  const path = join(folder(t), "db.sqlite");
  const store = await open(t, path);
  await store.commit([job("waits"), job("ran", "running"), job("done", "succeeded")]);
  await store.commit([
    { table: "attempts", insert: { job_id: "ran", attempt: 1, worker_id: "w", started_at_ms: 1, ended_at_ms: null, outcome: null } },
  ]);
  const { jobs } = await store.recover(9);
  assert.deepEqual(
    jobs.map(({ id }) => id),
    ["ran", "waits"],
  );
  const shown = await store.showJob("ran");
  assert.deepEqual([shown?.attempts[0]?.outcome, shown?.attempts[0]?.ended_at_ms], ["lost", 9]);
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
    ],
  );
  const all = entries.map(({ record }) => record).join("\n");
  assert.ok(!all.includes("secret"));
  assert.match(all, /"prompt_bytes":15,"prompt_sha256":"[0-9a-f]{64}"/);
  assert.match(all, /"answer_bytes":13,"answer_sha256":"[0-9a-f]{64}"/);
});
