/** Copies that are made while an orchestrator runs, and what another one makes of them. */
import assert from "node:assert/strict";
import { cpSync, existsSync, readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { firstBroken } from "@rbees/kit/audit-check";
import { temporaryFolder } from "../../../test/support/cluster.ts";
import { backupCommand } from "../src/backup-command.ts";
import { rowsIn } from "./database.ts";
import { eventsOf, type Harness, type Json, startHarness } from "./harness.ts";

const PROMPT = "Is the queen of hive seven still alive?";
const ANSWER = "She was seen this morning.";

/** Where the harness has its files, copied to a folder of `where`. */
function backUp({ data_dir }: Harness, where: string): { database: string; keys: string } {
  const [database, keys_to] = [join(where, "data"), join(where, "keys")];
  const files = { data_dir, audit_key: join(data_dir, "audit-key.pem"), content_key: join(data_dir, "content-key") };
  backupCommand([database], { ...files, keys_to });
  return { database, keys: keys_to };
}

/** A folder as the harness wants it, of parts of copies. */
function restored(t: TestContext, ...parts: readonly string[]): string {
  const folder = temporaryFolder(t, "restored");
  for (const part of parts) cpSync(part, folder, { recursive: true });
  return folder;
}

function trail(folder: string): Json[] {
  return rowsIn<Json>(join(folder, "orcd.sqlite"), "select seq, at_ms, kind, record, previous, hash from audit order by seq");
}

test("a copy made while jobs run and come has every job that was accepted, its text, and a whole trail; another orchestrator goes on from it", async (t) => {
  const orcd = await startHarness(t);
  const worker = await orcd.worker("w1", { slots: 1 });
  const accepted: string[] = [];
  for (const subject of ["one", "two", "three"]) {
    const { job_id } = (await (await orcd.submit({ prompt: PROMPT, metadata: { subject } })).json()) as Json;
    accepted.push(job_id);
  }
  const first = await worker.next();
  first.started();
  first.tokens(ANSWER);
  first.end();
  await eventsOf(await orcd.get(`/v2/tasks/${accepted[0]}/events`));

  const coming = orcd.submit({ prompt: PROMPT });
  const copy = backUp(orcd, temporaryFolder(t, "backup"));
  assert.equal((await coming).status, 202);
  assert.deepEqual(readdirSync(copy.database), ["orcd.sqlite"]);
  assert.deepEqual(readdirSync(copy.keys).sort(), ["audit-key.pem", "content-key", "content-key-subjects.sqlite"]);
  for (const folder of [copy.database, copy.keys])
    for (const name of readdirSync(folder)) assert.equal(statSync(join(folder, name)).mode & 0o077, 0, name);
  assert.equal(firstBroken(trail(copy.database)), undefined);

  const again = await startHarness(t, {}, restored(t, copy.database, copy.keys));
  assert.equal((await again.json(`/v2/tasks/${accepted[0]}`)).text, ANSWER);
  const other = await again.worker("w2", { slots: 1 });
  for (const id of accepted.slice(1)) {
    const attempt = await other.next();
    assert.deepEqual([attempt.body.job_id, attempt.body.prompt], [id, PROMPT]);
    attempt.started();
    attempt.tokens(ANSWER);
    attempt.end();
    await eventsOf(await again.get(`/v2/tasks/${id}/events`));
  }
  await again.orcd.stop();
  assert.equal(firstBroken(trail(again.data_dir)), undefined);
});

test("whoever was erased after the copy is erased in it, unless the keys of then are used", async (t) => {
  const orcd = await startHarness(t);
  await orcd.worker("w1");
  const { job_id } = (await (await orcd.submit({ prompt: PROMPT, metadata: { subject: "gone" } })).json()) as Json;
  const copy = backUp(orcd, temporaryFolder(t, "backup"));
  const erase = { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ subject: "gone" }) };
  assert.equal((await fetch(`${orcd.url}/v2/gdpr/erase`, erase)).status, 200);
  const later = backUp(orcd, temporaryFolder(t, "backup"));

  const without = await startHarness(t, {}, restored(t, copy.database, later.keys));
  const ended = await without.json(`/v2/tasks/${job_id}`);
  assert.deepEqual([ended.status, ended.error?.code], ["failed", "GONE"]);
  const all = await startHarness(t, {}, restored(t, copy.database, copy.keys));
  assert.equal((await all.json(`/v2/tasks/${job_id}`)).error, null);
});

test("a copy is there as a whole or not at all, and none is written over", async (t) => {
  const orcd = await startHarness(t);
  const { data_dir } = orcd;
  const where = temporaryFolder(t, "backup");
  const files = { data_dir, audit_key: join(data_dir, "audit-key.pem"), content_key: join(data_dir, "content-key"), keys_to: "" };
  assert.match(backupCommand([join(where, "a")], files), /orcd\.sqlite\nWithout the keys/);
  assert.throws(() => backupCommand([join(where, "a")], files), /orcd\.sqlite is there already: give a new folder/);
  assert.throws(() => backupCommand([join(where, "b")], { ...files, data_dir: where }), /There is no .*orcd\.sqlite: give --data-dir/);
  assert.throws(
    () => backupCommand([join(where, "c")], { ...files, content_key: join(where, "no"), keys_to: where }),
    /There is no .*no: give/,
  );
  assert.ok(!existsSync(join(where, "c")), "nothing was begun");
  assert.throws(() => backupCommand([], files), /--keys-to/);
  assert.throws(() => backupCommand([join(data_dir, "orcd.sqlite", "d")], files), /There is no whole copy: .*/);
});
