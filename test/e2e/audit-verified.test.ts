/** The record proves itself: what a real orchestrator writes is verified while it writes, exported, and found out when changed. */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { eventually, getJson, startOrcd, startWorkerd, submit, temporaryFolder } from "../support/cluster.ts";
import { writeCountingModel } from "../support/models.ts";

const RBEES = fileURLToPath(new URL("../../packages/cli/src/rbees.ts", import.meta.url));

function audit(...words: string[]): Promise<{ exit: unknown; out: string }> {
  return new Promise((resolve) =>
    execFile(process.execPath, [RBEES, "audit", ...words], (error, out, err) => resolve({ exit: error?.code ?? 0, out: out + err })),
  );
}

test("the audit trail of an orchestrator at work is verified, exported, and verified again; a change is found", async (t) => {
  const folder = temporaryFolder(t, "audited");
  const { path } = writeCountingModel(folder, 10);
  const key = join(folder, "keys", "audit-key.pem");
  const orcd = await startOrcd(t, join(folder, "data"), ["--audit-key", key, "--audit-head-ms", "0"]);
  await startWorkerd(t, path, orcd.url, ["--model-name", "counting"]);
  await eventually(async () => (await getJson(`${orcd.url}/v2/workers`)).workers.length === 1);
  const answer = await submit(orcd.url, { model: "counting", prompt: "count", stream: true });
  await answer.text();

  const db = ["--db", join(folder, "data", "orcd.sqlite")];
  const verified = await audit("verify", ...db);
  assert.match(verified.out, /is whole: 5 entries, 1 to 5;/);
  assert.equal(verified.exit, 0);
  const kinds = (await audit("list", ...db)).out.match(/(orchestrator|worker|job)\.\w+/g);
  assert.deepEqual(kinds, ["orchestrator.started", "worker.joined", "job.accepted", "job.dispatched", "job.ended"]);

  const file = join(folder, "trail.ndjson");
  writeFileSync(file, (await audit("export", ...db)).out);
  assert.equal((await audit("verify", file)).exit, 0);
  writeFileSync(file, readFileSync(file, "utf8").replace('"tokens_out":', '"tokens_out":1'));
  const tampered = await audit("verify", file);
  assert.match(tampered.out, /line 5: Entry 5 was changed/);
  assert.equal(tampered.exit, 1);

  // It went on working meanwhile.
  await (await submit(orcd.url, { model: "counting", prompt: "again", stream: true })).text();
  assert.match((await audit("verify", ...db)).out, /8 entries/);
  assert.equal(await orcd.kill("SIGTERM"), 0);
  const public_key = join(folder, "keys", "audit-key.pub.pem");
  const signed = await audit("verify", ...db, "--public-key", public_key);
  assert.match(signed.out, /is whole: 10 entries, 1 to 10;[\s\S]*It is signed to its end/);

  const head = join(folder, "head.ndjson");
  writeFileSync(head, (await audit("head", ...db)).out);
  const cut = join(folder, "cut.ndjson");
  writeFileSync(cut, (await audit("export", ...db)).out.replace(/[^\n]*\n[^\n]*\n$/, ""));
  const shortened = await audit("verify", cut, "--head", head);
  assert.match(shortened.out, /end: The trail ends with entry 8; the head that was kept is entry 10: what came between was cut off/);
  assert.equal(shortened.exit, 1);
});
