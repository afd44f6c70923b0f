/** The worker's place in the registry, against a stand-in orchestrator. */
import assert from "node:assert/strict";
import { hash } from "node:crypto";
import { statSync } from "node:fs";
import { join } from "node:path";
import { after, test } from "node:test";
import { RbeesError } from "@rbees/contracts/errors";
import { RegisterWorker } from "@rbees/contracts/worker";
import { silentLog } from "@rbees/kit/log";
import { temporaryFolder } from "../../../test/support/cluster.ts";
import { Enlist, type EnlistOptions } from "../src/enlist.ts";
import { Pass } from "../src/worker-secrets.ts";
import { FakeOrchestrator } from "./orchestrator.ts";
import { until } from "./support.ts";

const running: { stop(): Promise<void> }[] = [];
const servers: FakeOrchestrator[] = [];
after(async () => {
  await Promise.all(running.map((enlist) => enlist.stop()));
  await Promise.all(servers.map((server) => server.close()));
});

const registration = RegisterWorker.parse({ id: "w1", host: "127.0.0.1", port: 8001, model: "m", slots: 2, epoch: 1_700_000_000_000 });
const limits = { backoff_ms: 5, backoff_max_ms: 40, call_ms: 2_000, leave_ms: 500 };

async function orchestrator(): Promise<{ server: FakeOrchestrator; url: string }> {
  const server = new FakeOrchestrator();
  servers.push(server);
  return { server, url: await server.listen() };
}

function enlist(url: string, more: Partial<EnlistOptions> = {}): Enlist {
  const beat = () => ({ slots_busy: 1, memory_bytes: 5, tokens_per_second: 2.5, draining: false });
  const worker = new Enlist({ url, registration, beat, log: silentLog(), on_fenced() {}, limits, ...more });
  running.push(worker);
  worker.start();
  return worker;
}

test("registers, then beats at the pace the orchestrator gives, then leaves", async () => {
  const { server, url } = await orchestrator();
  const worker = enlist(url);
  await until(() => server.beats.length >= 3);
  assert.equal(worker.registered, true);
  assert.deepEqual(server.registrations, [registration]);
  assert.deepEqual(server.named, ["w1"]);
  assert.deepEqual(server.beats[0], {
    id: "w1",
    seq: 1,
    epoch: registration.epoch,
    slots_busy: 1,
    memory_bytes: 5,
    tokens_per_second: 2.5,
    draining: false,
  });
  await worker.stop();
  assert.deepEqual(server.removed, ["w1"]);
  assert.equal(worker.registered, false);
});

test("an orchestrator that forgot the worker gets it registered again", async () => {
  const { server, url } = await orchestrator();
  server.refusals.beat.push(new RbeesError("NOT_FOUND", "who?"));
  enlist(url);
  await until(() => server.registrations.length === 2 && server.beats.length >= 2);
});

test("an older life of a worker ends when it is told so", async () => {
  for (const route of ["registerWorker", "beat"] as const) {
    const { server, url } = await orchestrator();
    server.refusals[route].push(new RbeesError("CONFLICT", "a newer life of w1 is registered"));
    let fenced: RbeesError | undefined;
    const worker = enlist(url, { on_fenced: (error) => (fenced = error) });
    await until(() => fenced !== undefined);
    assert.match(fenced?.message ?? "", /newer life/);
    await worker.stop();
    assert.deepEqual(server.removed, [], "it must not remove the newer one");
  }
});

test("keeps trying while the orchestrator refuses or is away, and registers when it is back", async () => {
  const { server, url } = await orchestrator();
  const busy = () => new RbeesError("SHUTTING_DOWN", "not now");
  server.refusals.registerWorker.push(busy(), busy(), busy());
  const worker = enlist(url);
  await until(() => server.beats.length > 0);
  assert.equal(worker.registered, true);
  await server.close();
  await until(() => !worker.registered);
  const back = new FakeOrchestrator();
  servers.push(back);
  back.refusals.beat.push(new RbeesError("NOT_FOUND", "who?"));
  await back.listen(Number(new URL(url).port));
  await until(() => back.registrations.length === 1 && worker.registered);
});

test("one that is stopped while it registers leaves as soon as it is in", async () => {
  const { server, url } = await orchestrator();
  let answer = () => {};
  server.until_registered = new Promise((resolve) => (answer = resolve));
  const worker = enlist(url);
  await until(() => server.registrations.length === 1);
  const stopped = worker.stop();
  answer();
  await stopped;
  assert.deepEqual(server.removed, ["w1"]);

  server.until_registered = new Promise(() => {});
  const unheard = enlist(url);
  await until(() => server.registrations.length === 2);
  await unheard.stop();
});

test("without a token or with a refused credential it is told how to get in; a token opens once, its own credential from then on", async (t) => {
  const secrets = temporaryFolder(t, "secrets");
  const token = `rbj_0123456789ab_${"t".repeat(43)}`;
  const accepted = new Set<string>();
  const shown: string[] = [];
  let tokens_good = true;
  const server = new FakeOrchestrator();
  servers.push(server);
  const url = await server.listen(0, (_, { authorization = "" }) => {
    const given = authorization.slice("Bearer ".length);
    shown.push(given);
    if (given === token && tokens_good) return { who: "join:" };
    const sha256 = hash("sha256", given.slice("rbw_".length), "hex");
    if (!accepted.has(sha256)) throw new RbeesError("UNAUTHORIZED", "not known here");
    return { who: "worker:" };
  });
  const said: string[] = [];
  const log = Object.assign(silentLog(), { warn: (_: unknown, line: string) => said.push(line) });
  const stranger = enlist(url, { pass: new Pass(secrets, "w1", undefined), log });
  await until(() => said.length === 1);
  assert.match(said[0] ?? "", /wants a join token \(`rbees workers invite`.*--join-token-file/);
  await stranger.stop();

  // The answer to the registration is lost, and the token is used up all the same.
  server.registrations.push = (...all) => {
    for (const { credential_sha256 } of all) if (credential_sha256 !== undefined) accepted.add(credential_sha256);
    if (!tokens_good) return 1;
    tokens_good = false;
    throw new Error("lost");
  };
  const worker = enlist(url, { pass: new Pass(secrets, "w1", token) });
  await until(() => server.beats.length > 0);
  assert.ok(shown.includes(token));
  assert.match(shown.at(-1) ?? "", /^rbw_[\w-]{43}$/);
  await worker.stop();
  assert.deepEqual(server.removed, ["w1"]);

  const before = server.beats.length;
  const again = enlist(url, { pass: new Pass(secrets, "w1", token) });
  await until(() => server.beats.length > before);
  assert.equal(statSync(join(secrets, "w1.credential")).mode & 0o777, 0o600);
  const seqs = server.beats.slice(before).map(({ seq }) => seq);
  assert.deepEqual(
    seqs,
    seqs.map((_, index) => index + 1),
    "each heartbeat of a life has a higher number",
  );
  await again.stop();
});

test("stops at once while nobody answers", async () => {
  const worker = enlist("http://127.0.0.1:9", { limits: { ...limits, backoff_ms: 60_000, backoff_max_ms: 60_000 } });
  const began = performance.now();
  await worker.stop();
  assert.ok(performance.now() - began < 5_000);
});

test("an orchestrator whose name is not known here is told as that", async () => {
  const said: unknown[] = [];
  const log = Object.assign(silentLog(), { warn: ({ reason }: { reason: unknown }) => said.push(reason) });
  const cause = Object.assign(new Error("getaddrinfo ENOTFOUND rbees.lan"), { code: "ENOTFOUND" });
  const fetch = () => Promise.reject(new TypeError("fetch failed", { cause }));
  enlist("https://rbees.lan:8080", { fetch, log });
  await until(() => said.length > 0);
  assert.match(String(said[0]), /does not know the name in https:\/\/rbees\.lan:8080 \(ENOTFOUND\): is it spelt right/);
});

test("what has changed is said at once", async () => {
  const { server, url } = await orchestrator();
  server.heartbeat_ms = 60_000;
  let draining = false;
  const worker = enlist(url, { beat: () => ({ slots_busy: 0, memory_bytes: 0, tokens_per_second: 0, draining }) });
  await until(() => worker.registered);
  draining = true;
  worker.beatNow();
  await until(() => server.beats.some((beat) => beat.draining));
});
