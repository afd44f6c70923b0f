/** A real worker beside an orchestrator of another version. */
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { RbeesError } from "@rbees/contracts/errors";
import { environment } from "@rbees/kit/config";
import { silentLog } from "@rbees/kit/log";
import { VERSION } from "@rbees/kit/version";
import { chain } from "../../../models/fixtures/scripted.ts";
import { createWorkerd } from "../src/workerd.ts";
import { FakeOrchestrator } from "./orchestrator.ts";
import { ask, health, scripted, testConfig, until } from "./support.ts";

const model = scripted("skew", { edges: chain("A", ["Hello", " world"]) });
const enlist_limits = { backoff_ms: 5, backoff_max_ms: 20, call_ms: 2_000, leave_ms: 500 };

async function start(server: FakeOrchestrator) {
  const said: { line: string; reason: string }[] = [];
  const log = Object.assign(silentLog(), { warn: ({ reason }: { reason: string }, line: string) => said.push({ line, reason }) });
  const url = await server.listen();
  const config = testConfig({ model, model_name: "m", engine: "libllama", ctx: 256, orchestrator: url });
  const ended: unknown[] = [];
  const worker = await createWorkerd(config, log, environment(), {
    on_shutdown() {},
    on_fatal: (error) => ended.push(error),
    enlist_limits,
  });
  after(async () => {
    await worker.stop();
    await server.close();
  });
  return { worker, url, said, ended };
}

test("an orchestrator that can't work with this worker is told of once, and asked again until it can", async () => {
  const server = new FakeOrchestrator();
  server.speaks = { protocol: 9, protocol_min: 9, version: "9.0.0" };
  const { worker, said, ended } = await start(server);
  await until(() => server.asked >= 4);
  assert.deepEqual(server.registrations, []);
  assert.deepEqual(
    said.map(({ line }) => line),
    ["this worker and the orchestrator are too far apart in version; trying on, in case that one is upgraded"],
  );
  assert.match(said[0]?.reason ?? "", new RegExp(`is rbees ${VERSION} .*rbees 9\\.0\\.0 .*from protocol 9 on: upgrade the worker\\.$`));
  assert.equal((await health(worker)).registered, false);
  assert.equal((await ask(worker, { prompt: "A", raw: true, max_tokens: 1, temperature: 0 })).end?.stop_reason, "MAX_TOKENS");

  server.speaks = { protocol: 9, protocol_min: 0, version: "9.0.1" };
  await until(() => server.beats.length > 0);
  assert.deepEqual([(await health(worker)).registered, ended, said.length], [true, [], 1]);
});

test("an orchestrator that comes back too new for the worker is told of though it was away before", async () => {
  const server = new FakeOrchestrator();
  const { url, said, ended } = await start(server);
  await until(() => server.beats.length > 0);
  const back = new FakeOrchestrator();
  back.speaks = { protocol: 9, protocol_min: 9, version: "9.0.0" };
  await server.close();
  await until(() => said.length === 1);
  assert.match(said[0]?.line ?? "", /can't reach/);
  back.refusals.beat.push(new RbeesError("NOT_FOUND", "who?"));
  await back.listen(Number(new URL(url).port));
  after(() => back.close());
  await until(() => said.length === 2);
  assert.match(said[1]?.line ?? "", /too far apart in version/);
  assert.deepEqual(ended, []);
});
