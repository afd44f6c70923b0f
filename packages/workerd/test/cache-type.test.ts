/** A context that is kept in fewer bits: the same answers from a model that has no doubt, and said where one looks. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { LIBRARIES } from "./engine-options.ts";
import { ask, health, startWorker } from "./support.ts";

const DEMO = fileURLToPath(new URL("../../../models/demo/demo.gguf", import.meta.url));
const ASKED = { prompt: "What does rbees-orcd do?", max_tokens: 60, temperature: 0 };

for (const engine of LIBRARIES) {
  test(`${engine}: the demo model answers with 8 bits as with 16, also beside others and from what is kept`, async () => {
    const exact = await ask(await startWorker({ model: DEMO, engine, ctx: 512 }), ASKED);
    const worker = await startWorker({ model: DEMO, engine, ctx: 512, cache_type: "q8_0" });
    assert.equal((await health(worker)).cache_type, "q8_0");
    const both = await Promise.all([ask(worker, ASKED), ask(worker, { ...ASKED, job_id: "job-2" })]);
    for (const { text } of both) assert.equal(text, exact.text);
    const again = await ask(worker, ASKED);
    assert.equal(again.text, exact.text);
    assert.ok((again.end?.tokens_cached ?? 0) > 0);
  });
}

test("what can't be together is refused before anything is loaded", async () => {
  await assert.rejects(startWorker({ model: DEMO, cache_type: "q4_0", deterministic: true }), /cache-type: needs flash attention/);
  await assert.rejects(async () => startWorker({ model: DEMO, cache_type: "q5" }), /cache.type.*f16/i);
});
