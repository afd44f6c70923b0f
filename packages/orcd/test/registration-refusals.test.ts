/** The log says which workers were refused and why: each refusal once, not with each try, and no more than can be read. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { RbeesError } from "@rbees/contracts/errors";
import { ORCHESTRATOR_SPEAKS } from "@rbees/contracts/protocol";
import { type Log, silentLog } from "@rbees/kit/log";
import { temporaryFolder } from "../../../test/support/cluster.ts";
import { startFakeWorker } from "../../../test/support/fake-worker.ts";
import type { OrcdConfig } from "../src/config.ts";
import { Keyring } from "../src/keyring.ts";
import { REFUSALS_MAX, RegistrationRefusals, SAID_AGAIN_MS } from "../src/registration-refusals.ts";
import { databaseIn, openStore } from "../src/store/open.ts";
import { type Json, startHarness } from "./harness.ts";

/** What is warned of, with its message as `msg`. */
function keptWarnings(): { log: Log; lines: Json[] } {
  const lines: Json[] = [];
  const warn = (fields: Json, msg: string) => void lines.push({ ...fields, msg });
  return { log: Object.assign(silentLog(), { warn }), lines };
}

const refusal = (id: string, reason = "no") => ({
  route: "registerWorker",
  error: new RbeesError("FORBIDDEN", reason),
  peer: "10.0.0.7",
  body: { id, host: "attic.lan", port: 8001 },
  headers: {},
});

test("a worker that is refused is in the log with its name, its address and the reason, once however often it tries", async (t) => {
  const { log, lines } = keptWarnings();
  const orcd = await startHarness(t, {}, undefined, log);
  const worker = await startFakeWorker("w1");
  t.after(() => worker.close());
  const new_one = { protocol: ORCHESTRATOR_SPEAKS.protocol + 9, protocol_min: ORCHESTRATOR_SPEAKS.protocol + 9, version: "9.0.0" };
  for (const more of [new_one, new_one, { id: "w2" }, { id: "w2" }, { slots: -1 }]) {
    assert.equal((await worker.register(orcd.url, more)).ok, false);
  }
  const address = `127.0.0.1:${worker.port}`;
  assert.deepEqual(
    lines.map((line) => [line.msg, line.worker_id, line.address, line.from, line.code]),
    [
      ["a worker was refused", "w1", address, "127.0.0.1", "PROTOCOL_MISMATCH"],
      ["a worker was refused", "w2", address, "127.0.0.1", "UNREACHABLE"],
      ["a worker was refused", "w1", address, "127.0.0.1", "INVALID_REQUEST"],
    ],
  );
  assert.match(lines[1]?.reason, /worker w1 answers there/);
  assert.equal((await worker.register(orcd.url)).ok, true);
  assert.equal(lines.length, 3, "who is let in is not warned of");
});

test("a wrong join token is in the log too, without the token, with the name that the worker gives beside its body", async (t) => {
  const { log, lines } = keptWarnings();
  const data_dir = temporaryFolder(t, "refusals");
  const store = await openStore(databaseIn(data_dir));
  await (await Keyring.open(store)).create({ name: "first", roles: ["operate"] }, undefined);
  await store.close();
  const orcd = await startHarness(t, { auth_required: true } satisfies Partial<OrcdConfig>, data_dir, log);
  const secret = "x".repeat(43);
  const headers = { "content-type": "application/json", authorization: `Bearer rbj_0123456789ab_${secret}` };
  for (const _ of [1, 2]) await fetch(`${orcd.url}/workers/register`, { method: "POST", headers, body: "{}" });
  const named = { ...headers, "x-rbees-worker": "attic-8001" };
  await fetch(`${orcd.url}/workers/register`, { method: "POST", headers: named, body: "{}" });
  await fetch(`${orcd.url}/v2/tasks`, { headers });
  assert.deepEqual(
    lines.map((line) => [line.worker_id, line.address, line.from, line.code]),
    [
      [null, null, "127.0.0.1", "UNAUTHORIZED"],
      ["attic-8001", null, "127.0.0.1", "UNAUTHORIZED"],
    ],
  );
  assert.match(lines[0]?.reason, /join token is not known here/);
  assert.doesNotMatch(JSON.stringify(lines), new RegExp(secret));
});

test("what goes on is said again after a while, with how often it came", () => {
  const { log, lines } = keptWarnings();
  let now_ms = 0;
  const refusals = new RegistrationRefusals(log, () => now_ms);
  for (now_ms = 0; now_ms <= SAID_AGAIN_MS; now_ms += SAID_AGAIN_MS / 4) refusals.note(refusal("w1"));
  refusals.note(refusal("w1", "for another reason"));
  assert.deepEqual(
    lines.map(({ reason, times_since }) => [reason, times_since]),
    [
      ["no", undefined],
      ["no", 4],
      ["for another reason", undefined],
    ],
  );
});

test("whoever makes up names can't fill the log", () => {
  const { log, lines } = keptWarnings();
  let now_ms = 0;
  const refusals = new RegistrationRefusals(log, () => now_ms);
  for (let made_up = 0; made_up < REFUSALS_MAX * 3; made_up++) refusals.note(refusal(`w${made_up}`));
  assert.equal(lines.length, REFUSALS_MAX + 1);
  assert.equal(lines.at(-1)?.msg, "more workers are refused than are said here");
  now_ms = SAID_AGAIN_MS;
  refusals.note(refusal("mine"));
  assert.equal(lines.at(-1)?.worker_id, "mine");
});
