/** Stopping in order: nothing new, what runs may finish, then an end for the rest. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ANSWER, chain, countingWords } from "../../../models/fixtures/scripted.ts";
import { collect, health, open, post, scripted, startWorker, until } from "./support.ts";

test("while it drains a worker takes no more, and a running answer finishes", async () => {
  let asked = false;
  const shape = { layers: 6, ffn: 8_192 };
  const model = scripted("counts", { edges: chain(ANSWER, countingWords(400)), shape });
  const worker = await startWorker({ model, drain_ms: 30_000 }, { on_shutdown: () => (asked = true) });
  const running = await open(worker, { prompt: "go", max_tokens: 300 });
  const response = await post(worker, "/shutdown", {});
  assert.equal(response.status, 202);
  await until(() => asked);
  const stopped = worker.stop();
  assert.equal((await health(worker)).status, "draining");
  const refused = await post(worker, "/execute", { job_id: "late", prompt: "go" });
  assert.equal(refused.status, 503);
  assert.match(await refused.text(), /SHUTTING_DOWN/);
  const { text, end } = await collect(running.events);
  assert.equal(text, countingWords(300).join(""));
  assert.equal(end?.stop_reason, "MAX_TOKENS");
  await stopped;
  await assert.rejects(fetch(`${worker.url}/health`));
});

test("an answer that outlasts the drain ends in SHUTTING_DOWN, which may be tried elsewhere", async () => {
  const model = scripted("talks", { edges: chain(ANSWER, [" tick", " tock"], "loop"), shape: { context: 131_072 } });
  const worker = await startWorker({ model, ctx: 100_000, slots: 1, drain_ms: 100 });
  const running = await open(worker, { prompt: "go", max_tokens: 99_000 });
  assert.equal((await running.next())?.type, "started");
  const stopped = worker.stop();
  const { error, end } = await collect(running.events);
  assert.deepEqual([error?.code, error?.retriable, end], ["SHUTTING_DOWN", true, undefined]);
  await stopped;
});
