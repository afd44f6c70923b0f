/** The rules of a real orchestrator process are loaded again by SIGHUP; a set that is not valid changes nothing. */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { test } from "node:test";
import { eventually, type Json, startOrcd, submit, temporaryFolder } from "../support/cluster.ts";

test("SIGHUP loads the rules again, and a bad file leaves those in force", async (t) => {
  const data = temporaryFolder(t, "reloaded");
  const file = join(data, "policy.toml");
  const rules = (message: string, when = "true") => writeFileSync(file, `[[rule]]\nname = "r"\nwhen = '${when}'\ndeny = "${message}"\n`);
  rules("the first set");
  const orcd = await startOrcd(t, data, ["--policy-file", file, "--audit-key", join(data, "audit-key.pem")]);
  const refusal = async () => ((await (await submit(orcd.url, { model: "demo", prompt: "hi" })).json()) as Json).error.message;
  const entries = (kind: string) => {
    const db = new DatabaseSync(join(data, "orcd.sqlite"), { readOnly: true });
    const found = db.prepare("select count(*) as n from audit where kind = ?").get(kind);
    db.close();
    return found?.["n"];
  };
  assert.match(await refusal(), /the first set/);

  rules("the second set");
  process.kill(orcd.pid, "SIGHUP");
  await eventually(async () => /the second set/.test(await refusal()));

  rules("the third set", "tru");
  process.kill(orcd.pid, "SIGHUP");
  await eventually(() => entries("policy.refused") === 1);
  assert.match(await refusal(), /the second set/);

  rules("the fourth set");
  process.kill(orcd.pid, "SIGHUP");
  await eventually(async () => /the fourth set/.test(await refusal()));
  assert.equal(entries("policy.loaded"), 3);
});
