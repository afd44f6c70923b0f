/** The engine dies; the worker does not. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ANSWER, chain } from "../../../models/fixtures/scripted.ts";
import { RESTART_LIMITS } from "../src/engine-supervisor.ts";
import { ask, collect, health, open, post, scripted, startWorker, until } from "./support.ts";

const model = scripted("talker", { edges: chain(ANSWER, [" tick", " tock"], "loop") });

test("an engine that is killed while it is started again is started once more", async () => {
  let fatal: Error | undefined;
  const worker = await startWorker({ model, ctx: 2048 }, { on_fatal: (error) => (fatal = error) });
  const first = worker.engine_pid ?? 0;
  process.kill(first, "SIGKILL");
  await until(() => worker.engine_pid !== first);
  process.kill(worker.engine_pid ?? 0, "SIGKILL");
  await until(async () => (await health(worker)).slots_busy === 0);
  assert.equal((await ask(worker, { prompt: "go", max_tokens: 2 })).text, " tick tock");
  assert.equal(fatal, undefined);
});

test("an engine killed in mid-stream fails its attempts, is started again, and is given up when it keeps dying", async () => {
  let fatal: Error | undefined;
  const worker = await startWorker({ model, ctx: 2048 }, { on_fatal: (error) => (fatal = error) });
  for (let crash = 0; crash <= RESTART_LIMITS.restarts_max; crash++) {
    const stream = await open(worker, { prompt: "go", max_tokens: 1_900 });
    assert.equal((await stream.next())?.type, "started");
    assert.equal((await stream.next())?.type, "token");
    process.kill(worker.engine_pid ?? 0, "SIGKILL");
    const { error } = await collect(stream.events);
    assert.deepEqual([error?.code, error?.retriable], ["ENGINE_FAILED", true]);
    assert.match(error?.message ?? "", /SIGKILL/);
    if (crash === RESTART_LIMITS.restarts_max) break;
    const refused = await post(worker, "/execute", { job_id: "meanwhile", prompt: "go", max_tokens: 1 });
    assert.ok([200, 503].includes(refused.status), String(refused.status));
    await refused.text();
    await until(async () => (await health(worker)).slots_busy === 0);
    assert.equal((await ask(worker, { prompt: "go", max_tokens: 2 })).text, " tick tock");
  }
  await until(() => fatal !== undefined);
  assert.match(fatal?.message ?? "", /crashed 4 times/);
});
