/** The record's own end of life, and its heads in a second file: what is left proves itself, and what was taken away can't be hidden. */
import assert from "node:assert/strict";
import { createPublicKey } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { type ChainedEntry, entryOfLine, recordOf } from "@rbees/kit/audit-chain";
import { ChainCheck, type CheckOptions, type Verdict } from "@rbees/kit/audit-check";
import { keyId } from "@rbees/kit/audit-head";
import { temporaryFolder } from "../../../test/support/cluster.ts";
import { auditKeyIn } from "../src/audit-key.ts";
import { openStore } from "../src/store/open.ts";
import type { Store } from "../src/store/port.ts";
import { rowsIn } from "./database.ts";
import { eventually, startHarness } from "./harness.ts";

function entriesIn(path: string): ChainedEntry[] {
  return rowsIn<ChainedEntry>(path, "select * from audit order by seq");
}

function verdict(entries: readonly ChainedEntry[], options: CheckOptions = {}): Verdict {
  const check = new ChainCheck(options);
  for (const entry of entries) check.take(entry, `row ${entry.seq}`);
  return check.end();
}

/** Ten entries and a head, so often; entry n is of n ms. */
async function fill(store: Store, segments: number): Promise<void> {
  for (let segment = 0; segment < segments; segment += 1) {
    const at = (n: number) => segment * 11 + n;
    for (let n = 1; n <= 10; n += 1) await store.commit([{ table: "audit", append: { at_ms: at(n), kind: "k", fields: { n: at(n) } } }]);
    await store.commit([{ table: "audit", sign: { at_ms: at(11) } }]);
  }
}

test("whole signed segments expire; the head that signed them is the beginning, and the rest verifies with an entry that says so", async (t) => {
  const folder = temporaryFolder(t, "expiry");
  const path = join(folder, "db.sqlite");
  const pem = auditKeyIn(join(folder, "audit-key.pem"));
  const store = await openStore(path, { audit: pem });
  t.after(() => store.close().catch(() => {}));
  await fill(store, 4);
  const before = entriesIn(path);
  const expire = (now_ms: number, segment_ms = 0) => store.expireAudit({ now_ms, keep_ms: 1000, segment_ms });
  assert.equal(await expire(1005), false, "no segment is over its time");
  assert.equal(await expire(1030, 100), false, "too little is");
  assert.equal(entriesIn(path).length, 44);
  await expire(1030);
  const left = entriesIn(path);
  assert.deepEqual([left[0]?.seq, left[0]?.kind, left.length], [22, "head.signed", 24]);
  assert.deepEqual(left.slice(0, -1), before.slice(21), "nothing of the rest was touched");
  const record = recordOf(left.at(-1) as ChainedEntry);
  assert.deepEqual(
    [record?.kind, record?.["from_seq"], record?.["to_seq"], record?.["head_hash"]],
    ["trail.expired", 1, 21, left[0]?.hash],
  );
  await store.commit([{ table: "audit", sign: { at_ms: 50 } }]);
  const key = createPublicKey(pem);
  const keys = new Map([[keyId(key), key]]);
  const whole = entriesIn(path);
  const { problems, first_seq, expired_until, signed } = verdict(whole, { keys });
  assert.deepEqual([problems, first_seq, expired_until, signed?.seq], [[], 22, 21, 46]);

  // And once more: what was expired before is not asked for again.
  await expire(1040);
  await store.commit([{ table: "audit", sign: { at_ms: 60 } }]);
  const later = verdict(entriesIn(path), { keys });
  assert.deepEqual([later.problems, later.first_seq, later.expired_until], [[], 33, 32]);

  // Whoever takes away more than has expired is found: no entry is about the head with which it begins then.
  const more = verdict(
    whole.filter(({ seq }) => seq >= 33),
    { keys },
  );
  assert.deepEqual(
    more.problems.map(({ problem, message }) => [problem, message]),
    [["missing", "Entries 1 to 32 are missing, before entry 33."]],
  );
  const without_head = verdict(whole.slice(1), { keys });
  assert.equal(without_head.problems[0]?.message, "Entries 1 to 22 are missing, before entry 23.");
  const silent = verdict(
    whole.filter(({ kind }) => kind !== "trail.expired"),
    { keys },
  );
  assert.ok(silent.problems.some(({ message }) => /Entries 1 to 21 are missing/.test(message)));
  for (const from of [0, 1, 5]) {
    const swapped = whole.with(from, whole[from + 3] as ChainedEntry).with(from + 3, whole[from] as ChainedEntry);
    assert.ok(verdict(swapped, { keys }).problem_count > 0, `swapped at ${from}`);
  }
});

test("a long segment goes whole, and twenty thousand entries at once at most", async (t) => {
  const path = join(temporaryFolder(t, "expiry"), "db.sqlite");
  const store = await openStore(path, { audit: auditKeyIn(join(path, "..", "audit-key.pem")) });
  t.after(() => store.close().catch(() => {}));
  const add = (count: number, at_ms: number) =>
    store.commit(Array.from({ length: count }, () => ({ table: "audit", append: { at_ms, kind: "k", fields: {} } }) as const));
  const sign = (at_ms: number) => store.commit([{ table: "audit", sign: { at_ms } }]);
  await add(15_000, 1);
  await sign(2);
  await add(15_000, 3);
  await sign(4);
  await add(45_000, 5);
  await sign(6);
  await add(10, 100);
  const sizes: (number | undefined)[] = [];
  let more: boolean;
  do {
    more = await store.expireAudit({ now_ms: 60, keep_ms: 50, segment_ms: 0 });
    sizes.push(entriesIn(path)[0]?.seq);
  } while (more);
  assert.deepEqual(sizes, [15_001, 30_002, 75_003]);
  await store.close();
  assert.deepEqual(verdict(entriesIn(path)).problems, []);
});

test("an orchestrator takes away what is over its time by itself, and keeps its heads in a second file", async (t) => {
  const folder = temporaryFolder(t, "anchor");
  const anchor = join(folder, "heads.ndjson");
  const config = { audit_anchor: anchor, audit_head_ms: 10, audit_keep_ms: 1, audit_segment_ms: 0, content_sweep_ms: 10 };
  const orcd = await startHarness(t, config);
  await orcd.worker("w1");
  const path = join(orcd.data_dir, "orcd.sqlite");
  await eventually(() => (entriesIn(path)[0]?.seq ?? 1) > 1);
  await orcd.orcd.stop();
  const heads = readFileSync(anchor, "utf8").trimEnd().split("\n").map(entryOfLine);
  const entries = entriesIn(path);
  const last = entries.at(-1) as ChainedEntry;
  assert.deepEqual([heads.at(-1)?.hash, last.kind], [last.hash, "head.signed"]);
  const kept = new Map(heads.map((head) => [recordOf(head as ChainedEntry)?.seq as number, head?.hash as string]));
  assert.equal(kept.size, heads.length, "none stands there twice");
  assert.deepEqual(verdict(entries, { kept }).problems, []);
  const cut = verdict(entries.slice(0, -1), { kept });
  assert.equal(cut.problems[0]?.problem, "cut_off");

  await assert.rejects(startHarness(t, { audit_anchor: join(folder, "no", "such", "folder") }), /audit_anchor .* can't be written/);
});
