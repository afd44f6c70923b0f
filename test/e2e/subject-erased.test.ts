/** A person's job on the real engine: run again it comes out the same; erased it is gone, and the record says so and is whole. */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { eventually, getJson, type Json, startOrcd, startWorkerd, submit, temporaryFolder } from "../support/cluster.ts";

const RBEES = fileURLToPath(new URL("../../packages/cli/src/rbees.ts", import.meta.url));
const DEMO = fileURLToPath(new URL("../../models/demo/demo.gguf", import.meta.url));

function rbees(...words: string[]): Promise<{ exit: unknown; out: string }> {
  return new Promise((resolve) =>
    execFile(process.execPath, [RBEES, ...words], (error, out, err) => resolve({ exit: error?.code ?? 0, out: out + err })),
  );
}

test("a person's job is replayed, given out and erased", async (t) => {
  const folder = temporaryFolder(t, "person");
  const data = join(folder, "data");
  const orcd = await startOrcd(t, data, ["--audit-key", join(folder, "audit-key.pem")]);
  const worker = await startWorkerd(t, DEMO, orcd.url, ["--model-name", "demo", "--deterministic"]);
  await eventually(async () => (await getJson(`${orcd.url}/v2/workers`)).workers.length === 1);
  const body = { model: "demo", prompt: "Write about bees", max_tokens: 24, temperature: 0.9, metadata: { subject: "anna" } };
  const { job_id } = (await (await submit(orcd.url, body)).json()) as Json;
  const { text } = await eventually(async () => {
    const job = await getJson(`${orcd.url}/v2/tasks/${job_id}`);
    return job.status === "succeeded" && job;
  });
  const to = ["--orchestrator", orcd.url];

  const replayed = await rbees("jobs", "replay", job_id, ...to);
  assert.match(replayed.out, new RegExp(`${job_id} came out the same: ${[...text].length} characters`));
  assert.equal(replayed.exit, 0);

  const given = await rbees("gdpr", "export", "--subject", "anna", ...to);
  assert.ok(given.out.includes(JSON.stringify(text)), given.out);
  assert.match((await rbees("gdpr", "erase", "--subject", "anna", ...to)).out, /the prompts and answers of 2 jobs\./);
  const refused = await rbees("jobs", "replay", job_id, ...to);
  assert.match(refused.out, /not kept any more: their subject was erased/);
  assert.equal(refused.exit, 6);

  await worker.kill("SIGTERM");
  await orcd.kill("SIGTERM");
  const db = ["--db", join(data, "orcd.sqlite")];
  const verified = await rbees("audit", "verify", ...db, "--public-key", join(folder, "audit-key.pub.pem"));
  assert.match(verified.out, /is whole: [\s\S]*1 subject was erased, with the prompts and answers of 2 jobs; their entries are here\./);
  assert.equal(verified.exit, 0);
  const proof = await rbees("audit", "prove", job_id, ...db);
  assert.match(proof.out, /The subject of the job was erased at 2/);
  const part = join(folder, "proof.ndjson");
  writeFileSync(part, proof.out.replace(/^[^{].*$/gm, "").replace(/\n+$/, "\n"));
  assert.equal((await rbees("audit", "verify", part, "--part")).exit, 0);
});
