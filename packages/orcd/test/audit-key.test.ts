/** Signed heads: when the orchestrator signs its trail, with which key, and where that key is. */
import assert from "node:assert/strict";
import { createPublicKey } from "node:crypto";
import { chmodSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { type ChainedEntry, recordOf } from "@rbees/kit/audit-chain";
import { ChainCheck } from "@rbees/kit/audit-check";
import { HEAD, keyId } from "@rbees/kit/audit-head";
import { auditKeyIn } from "../src/audit-key.ts";
import { openStore } from "../src/store/open.ts";
import { rowsIn } from "./database.ts";
import { startHarness } from "./harness.ts";

function folder(t: TestContext): string {
  const path = mkdtempSync(join(tmpdir(), "rbees-audit-"));
  t.after(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

/** Also of a database that is in use. */
function entriesIn(data_dir: string): ChainedEntry[] {
  return rowsIn<ChainedEntry>(join(data_dir, "orcd.sqlite"), "select * from audit order by seq");
}

function verdictOn(data_dir: string) {
  const key = createPublicKey(readFileSync(join(data_dir, "audit-key.pub.pem"), "utf8"));
  const check = new ChainCheck({ keys: new Map([[keyId(key), key]]) });
  const entries = entriesIn(data_dir);
  for (const entry of entries) check.take(entry, `row ${entry.seq}`);
  return { ...check.end(), kinds: entries.map(({ kind }) => kind) };
}

test("at its stop the orchestrator signs all that it recorded, and goes on with the same key", async (t) => {
  const data_dir = folder(t);
  for (const signed of [3, 6]) {
    const { orcd } = await startHarness(t, {}, data_dir);
    await orcd.stop();
    const verdict = verdictOn(data_dir);
    assert.deepEqual([verdict.problems, verdict.signed?.seq, verdict.last_seq], [[], signed, signed]);
  }
  const once = ["orchestrator.started", "orchestrator.stopped", HEAD];
  assert.deepEqual(verdictOn(data_dir).kinds, [...once, ...once]);
});

test("while it runs it signs at an interval, but not what is signed already", async (t) => {
  const { data_dir, submit } = await startHarness(t, { audit_head_ms: 5 });
  const heads = () => entriesIn(data_dir).filter(({ kind }) => kind === HEAD).length;
  const until = async (fact: () => boolean) => {
    while (!fact()) await new Promise((resolve) => setTimeout(resolve, 5));
  };
  await until(() => heads() === 1);
  const asked = await submit({ prompt: "one more entry" });
  await asked.text();
  await until(() => heads() === 2);
  const { kinds, problems } = verdictOn(data_dir);
  assert.deepEqual(problems, []);
  assert.ok(
    kinds.every((kind, at) => kind !== HEAD || kinds[at - 1] !== HEAD),
    "each head signs something",
  );
});

test("nothing is signed anew when nothing was added", async (t) => {
  const path = join(folder(t), "orcd.sqlite");
  const key = auditKeyIn(join(folder(t), "audit-key.pem"));
  const sign = { table: "audit", sign: { at_ms: 5 } } as const;
  for (const life of [1, 2]) {
    const store = await openStore(path, { audit: key });
    await store.commit([sign]);
    if (life === 1) await store.commit([{ table: "audit", append: { at_ms: 4, kind: "k", fields: {} } }, sign, sign]);
    await store.commit([sign]);
    await store.close();
  }
  assert.deepEqual(
    entriesIn(join(path, "..")).map(({ kind }) => kind),
    ["k", HEAD],
  );
});

test("the private key is for its owner alone, beside the database and not in it; its public half lies beside it", async (t) => {
  const { orcd, data_dir } = await startHarness(t);
  await orcd.stop();
  const file = join(data_dir, "audit-key.pem");
  assert.equal(statSync(file).mode & 0o777, 0o600);
  const pem = readFileSync(file, "utf8");
  const secret = pem.split("\n")[1] as string;
  for (const name of readdirSync(data_dir)) {
    if (name !== "audit-key.pem") assert.ok(!readFileSync(join(data_dir, name)).includes(secret), name);
  }
  const key = createPublicKey(readFileSync(join(data_dir, "audit-key.pub.pem"), "utf8"));
  assert.equal(recordOf(entriesIn(data_dir).at(-1) as ChainedEntry)?.["key"], keyId(key));
});

test("a key that others may read, or that is none, is refused, and the orchestrator does not start", async (t) => {
  const file = join(folder(t), "deep", "audit-key.pem");
  const pem = auditKeyIn(file);
  assert.equal(auditKeyIn(file), pem);
  chmodSync(file, 0o640);
  assert.throws(() => auditKeyIn(file), /Others may read or write .*audit-key\.pem/);
  const data_dir = folder(t);
  writeFileSync(join(data_dir, "audit-key.pem"), "no key\n", { mode: 0o600 });
  await assert.rejects(startHarness(t, {}, data_dir), /holds no Ed25519 key in PEM/);
  assert.ok(!existsSync(join(data_dir, "orcd.sqlite")), "and nothing was begun");
});
