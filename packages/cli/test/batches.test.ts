/** `rbees batches` and `rbees embed`: what the verbs send and show. */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import type { BatchObject } from "@rbees/contracts/batch";
import { fakeOrchestrator } from "./fake-orchestrator.ts";
import { bench } from "./harness.ts";

test("a file is sent, its batch listed, shown, read and cancelled; what is not there or not valid is said", async (t) => {
  const batches = new Map<string, BatchObject>();
  const orchestrator = await fakeOrchestrator({ events: [], batches });
  t.after(() => orchestrator.close());
  const { run, root } = await bench((clean) => t.after(clean));
  const rbees = (...words: string[]) => run(["rbees", "batches", ...words, "--orchestrator", orchestrator.url]);
  const path = join(root, "in.jsonl");
  writeFileSync(path, '{"custom_id":"a"}\n');
  const sent = await rbees("submit", path, "--endpoint", "/v1/embeddings");
  assert.deepEqual([sent.exit, sent.out], [0, "batch_1\n"]);
  assert.deepEqual(
    [batches.get("batch_1")?.endpoint, batches.get("batch_1")?.input_file_id],
    ["/v1/embeddings", 'in.jsonl {"custom_id":"a"}\n'],
  );
  assert.match((await rbees("list")).out, /BATCH +STATUS +ANSWERED.*\n *batch_1 +in_progress +1 of 3, 1 failed/);
  assert.match((await rbees("show", "batch_1")).out, /status +in_progress[\s\S]*wrong +line 2: no JSON/);
  assert.equal(JSON.parse((await rbees("show", "batch_1", "--json")).out).id, "batch_1");
  assert.equal((await rbees("output", "batch_1")).out, "content of file-out\n");
  const none = await rbees("output", "batch_1", "--errors");
  assert.deepEqual([none.exit, none.out], [0, ""]);
  assert.match(none.err, /has no errors yet/);
  assert.match((await rbees("cancel", "batch_1")).out, /gets no more answers/);
  assert.equal((await rbees("show", "batch_2")).exit, 6);
  assert.match((await rbees("submit", join(root, "none.jsonl"))).err, /there is no such file/);
  assert.equal((await rbees("submit", path, "--endpoint", "/v1/images")).exit, 2);

  const vectors = await run(["rbees", "embed", "--model", "demo", "a", "b", "--dimensions", "2", "--orchestrator", orchestrator.url]);
  assert.equal(vectors.out, "[1,2]\n[1,2]\n");
  assert.equal((await run(["rbees", "embed", "--model", "demo", "--orchestrator", orchestrator.url])).exit, 2);
});
