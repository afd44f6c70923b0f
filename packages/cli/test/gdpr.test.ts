/** `rbees gdpr`: what the verbs send and show. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { fakeOrchestrator, SUBJECT } from "./fake-orchestrator.ts";
import { bench } from "./harness.ts";

test("a subject is exported page by page, erased, and its consent recorded and shown", async (t) => {
  const orchestrator = await fakeOrchestrator({ events: [] });
  t.after(() => orchestrator.close());
  const { run } = await bench((clean) => t.after(clean));
  const rbees = (...words: string[]) => run(["rbees", "gdpr", ...words, "--orchestrator", orchestrator.url]);
  const named = ["--subject", SUBJECT];
  assert.match((await rbees("consent", ...named, "--purpose", "support", "--given")).out, /consent for support is given/);
  assert.match((await rbees("consent", ...named, "--purpose", "support", "--withdrawn")).out, /support is withdrawn/);
  for (const flags of [[], ["--given", "--withdrawn"]]) {
    const unclear = await rbees("consent", ...named, "--purpose", "support", ...flags);
    assert.deepEqual([unclear.exit, /either --given or --withdrawn/.test(unclear.err)], [2, true]);
  }
  assert.match((await rbees("consents", ...named)).out, /PURPOSE +CONSENT +AT\s+support +given .*\s+support +withdrawn/);
  const { out, err } = await rbees("export", ...named, "--tenant", "acme");
  const [head, ...said] = out
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
  assert.deepEqual([head.subject, head.subject_id, head.tenant, head.consents.length], [SUBJECT, "sub_1", "acme", 2]);
  assert.deepEqual(
    said.map(({ job_id, file_id, text }) => [job_id ?? file_id, text]),
    [...[0, 1, 2].map((n) => [`job_${n}`, "answer"]), ["file-1", "line"]],
  );
  assert.match(err, /3 jobs, 1 line of files/);
  assert.match(
    (await rbees("erase", ...named)).out,
    /Erased: the prompts and answers of 3 jobs, 1 of which was cancelled first, and 2 lines of files.*sub_1/,
  );
  const unknown = await rbees("erase", "--subject", "nobody");
  assert.deepEqual([unknown.exit, /Nothing is kept of this subject/.test(unknown.err)], [6, true]);
  assert.equal((await rbees("erase")).exit, 2);
});
