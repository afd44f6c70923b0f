/** Who may register as a worker, from where, and what a stolen, old or foreign secret is worth: nothing, and the record says so. */
import assert from "node:assert/strict";
import { hash } from "node:crypto";
import { type TestContext, test } from "node:test";
import { createClient } from "@rbees/contracts/client";
import { orcdRoutes } from "@rbees/contracts/routes";
import { eventually, temporaryFolder } from "../../../test/support/cluster.ts";
import { type FakeWorker, startFakeWorker } from "../../../test/support/fake-worker.ts";
import type { OrcdConfig } from "../src/config.ts";
import { Keyring } from "../src/keyring.ts";
import { databaseIn, openStore } from "../src/store/open.ts";
import { placeOf } from "../src/worker-place.ts";
import { recordsIn } from "./database.ts";
import { eventsOf, type Harness, type Json, startHarness } from "./harness.ts";

const bearer = (secret: string) => ({ authorization: `Bearer ${secret}` });
const DOOR = "d".repeat(43);
const credential = (letter: string) => `rbw_${letter.repeat(43)}`;
const sha256 = (of: string) => hash("sha256", of.slice("rbw_".length), "hex");

async function setUp(t: TestContext, more: Partial<OrcdConfig> = {}) {
  const data_dir = temporaryFolder(t, "doors");
  const store = await openStore(databaseIn(data_dir));
  const { key } = await (await Keyring.open(store)).create({ name: "first", roles: ["operate"] }, undefined);
  await store.close();
  const orcd = await startHarness(t, { auth_required: true, attempts_max: 1000, ...more }, data_dir);
  const client = createClient(orcdRoutes, orcd.url, { headers: bearer(key) });
  const worker = async (id: string, door?: string) => {
    const made = await startFakeWorker(id, "fake", door);
    t.after(() => made.close());
    return made;
  };
  return { data_dir, key, orcd, client, worker, invite: (body: Json) => client.call("inviteWorker", { body }) };
}

function post({ url }: Pick<Harness, "url">, path: string, secret: string | undefined, body: Json): Promise<Response> {
  const headers = { "content-type": "application/json", ...(secret === undefined ? {} : bearer(secret)) };
  return fetch(url + path, { method: "POST", headers, body: JSON.stringify(body) });
}

const register = (orcd: Pick<Harness, "url">, secret: string | undefined, { id, port }: FakeWorker, more: Json = {}) =>
  post(orcd, "/workers/register", secret, { id, host: "127.0.0.1", port, model: "fake", epoch: 1, door: DOOR, ...more });

const refusal = async (answer: Promise<Response>): Promise<[number, string]> => {
  const found = await answer;
  return [found.status, ((await found.json()) as Json).error.message];
};

function entries(data_dir: string, kind: string): Json[] {
  return recordsIn(databaseIn(data_dir), "kind = ?", kind);
}

test("a join token opens once, for its name and pool, until its time; a credential opens from then on, and not for others", async (t) => {
  const { orcd, client, worker, invite, data_dir, key } = await setUp(t);
  const w1 = await worker("w1", DOOR);
  const mine = { credential_sha256: sha256(credential("a")) };

  assert.deepEqual((await refusal(register(orcd, undefined, w1)))[0], 401);
  assert.match((await refusal(register(orcd, `rbj_0123456789ab_${"x".repeat(43)}`, w1, mine)))[1], /not known here.*rbees workers invite/);
  const late = await invite({ pool: "attic", expires_in_ms: 1 });
  await eventually(async () => /expired at/.test((await refusal(register(orcd, late.token, w1, mine)))[1]));
  const other = await invite({ worker_id: "w2" });
  assert.deepEqual(await refusal(register(orcd, other.token, w1, mine)), [
    403,
    `The join token ${other.token_id} is for worker w2, not for w1.`,
  ]);
  const attic = await invite({ pool: "attic" });
  assert.match(
    (await refusal(register(orcd, attic.token, w1, { ...mine, labels: { "rbees.pool": "cellar" } })))[1],
    /for pool attic, .*of pool cellar/,
  );
  assert.match((await refusal(register(orcd, attic.token, w1, { ...mine, door: undefined })))[1], /would answer anybody/);
  assert.match((await refusal(register(orcd, attic.token, w1)))[1], /credential_sha256/);
  assert.equal((await orcd.get("/v2/workers", bearer(attic.token))).status, 403, "it opens the registry and nothing else");

  // Nothing of that has used it up.
  assert.equal((await register(orcd, attic.token, w1, { ...mine, labels: { "rbees.pool": "attic" } })).status, 200);
  const thief = await worker("w9", DOOR);
  assert.match(
    (await refusal(register(orcd, attic.token, thief, { credential_sha256: sha256(credential("t")) })))[1],
    /was used at .* good for once/,
  );
  assert.equal((await register(orcd, credential("a"), w1)).status, 200, "its own credential");
  assert.match((await refusal(register(orcd, credential("b"), w1)))[1], /credential is not known here/);
  assert.match((await refusal(register(orcd, credential("a"), thief)))[1], /can't speak for worker w9/);
  assert.match((await refusal(register(orcd, credential("a"), w1, { labels: { "rbees.pool": "cellar" } })))[1], /for pool attic/);
  assert.equal((await orcd.get("/v2/tasks", bearer(credential("a")))).status, 403, "a worker reads no jobs");

  // A name that is taken stays with its pool, and a credential with its worker.
  const cellar = await invite({ pool: "cellar" });
  assert.match(
    (await refusal(register(orcd, cellar.token, w1, { credential_sha256: sha256(credential("c")) })))[1],
    /name of a worker of attic/,
  );
  assert.equal((await register(orcd, cellar.token, thief, mine)).status, 400, "the credential of another");

  assert.equal((await client.call("expelWorker", { params: { id: "w1" } })).expelled, true);
  assert.deepEqual((await client.call("listWorkers", {})).workers, []);
  assert.match((await refusal(register(orcd, credential("a"), w1)))[1], /has ended/);
  await orcd.orcd.stop();
  const again = await startHarness(t, { auth_required: true }, data_dir);
  assert.match((await refusal(register(again, credential("a"), w1)))[1], /has ended/);
  assert.match((await refusal(register(again, attic.token, w1, mine)))[1], /was used at/);
  await again.orcd.stop();

  const me = key.split("_")[1];
  assert.deepEqual(
    entries(data_dir, "worker.admitted").map(({ worker_id, token_id, pool }) => [worker_id, token_id, pool]),
    [["w1", attic.token_id, "attic"]],
  );
  assert.deepEqual(
    entries(data_dir, "worker.expelled").map(({ worker_id, who }) => [worker_id, who]),
    [["w1", me]],
  );
  const reasons = entries(data_dir, "worker.refused").map(({ reason }) => reason);
  for (const reason of [
    "the join token has expired",
    "another name",
    "another pool",
    "the join token was used before",
    "it reported for w9",
  ])
    assert.equal(reasons.filter((one) => one === reason).length >= 1, true, reason);
});

test("a token says where its worker stands, by itself or by its pool; whoever claims another region is refused, also later and after a restart", async (t) => {
  const { orcd, worker, invite, client, data_dir } = await setUp(t, { pools: { box: "localhost" }, pool_regions: { box: "de" } });
  const w1 = await worker("w1", DOOR);
  const mine = { credential_sha256: sha256(credential("a")) };
  const regions = async () => (await client.call("listWorkers", {})).workers.map(({ worker_id, region }) => [worker_id, region]);

  const bound = await invite({ pool: "box" });
  assert.equal(bound.region, "de");
  assert.deepEqual(await refusal(register(orcd, bound.token, w1, { ...mine, region: "fr" })), [
    403,
    `The join token ${bound.token_id} is for a worker in de, and the worker says that it stands in fr. Start it with --region de, or invite it anew.`,
  ]);
  // Nothing of that has used it up; one that does not say stands where its token says.
  assert.equal((await register(orcd, bound.token, w1, mine)).status, 200);
  assert.deepEqual(await regions(), [["w1", "de"]]);
  assert.match(
    (await refusal(register(orcd, credential("a"), w1, { region: "de-fra" })))[1],
    /The credential is for a worker in de, .* in de-fra/,
  );
  assert.equal((await register(orcd, credential("a"), w1, { region: "DE" })).status, 200);

  await assert.rejects(invite({ pool: "box", region: "us" }), /region: pool box stands in de, as pool_regions .*, and not in us/);
  await assert.rejects(invite({ pool: "box", region: "in the EU" }), /region: up to 63 letters/);
  await assert.rejects(invite({ worker_id: "w9", region: "UE" }), /region: names no country that there is \(UE\)/);
  const w2 = await worker("w2", DOOR);
  const said = await invite({ worker_id: "w2", region: "fr" });
  assert.equal((await register(orcd, said.token, w2, { credential_sha256: sha256(credential("b")), region: "us" })).status, 403);
  assert.equal((await register(orcd, said.token, w2, { credential_sha256: sha256(credential("b")), region: "fr" })).status, 200);
  // Where nobody said it, the worker does.
  const w3 = await worker("w3", DOOR);
  const open = await invite({ pool: "attic" });
  assert.equal(open.region, null);
  assert.equal((await register(orcd, open.token, w3, { credential_sha256: sha256(credential("c")), region: "us" })).status, 200);
  assert.deepEqual((await regions()).sort(), [
    ["w1", "de"],
    ["w2", "fr"],
    ["w3", "us"],
  ]);

  await orcd.orcd.stop();
  const again = await startHarness(t, { auth_required: true }, data_dir);
  assert.match((await refusal(register(again, credential("a"), w1, { region: "us" })))[1], /is for a worker in de/);
  await again.orcd.stop();
  assert.deepEqual(
    entries(data_dir, "worker.refused").map(({ worker_id, reason }) => [worker_id, reason]),
    [
      ["w1", "another region"],
      ["w1", "another region"],
      ["w2", "another region"],
      ["w1", "another region"],
    ],
  );
  assert.deepEqual(
    entries(data_dir, "worker.admitted").map(({ region }) => region),
    ["de", "fr", null],
  );
});

test("two who come with the same token at once: one gets in", async (t) => {
  const { orcd, worker, invite, client } = await setUp(t);
  const { token } = await invite({ pool: "attic" });
  const both = await Promise.all(["w1", "w2"].map((id) => worker(id, DOOR)));
  const answers = await Promise.all(
    both.map((one, at) => register(orcd, token, one, { credential_sha256: sha256(credential("ab"[at] ?? "")) })),
  );
  assert.deepEqual(answers.map(({ status }) => status).sort(), [200, 401]);
  assert.equal((await client.call("listWorkers", {})).workers.length, 1);
});

test("an address is followed only if the caller has it, and never to nowhere, link-local or the cloud's own services", async (t) => {
  const { orcd, worker, invite } = await setUp(t);
  const w1 = await worker("w1", DOOR);
  const rules = { approved: null, ca: undefined, insecure_no_tls: false };
  const { token } = await invite({ pool: "attic", address: "192.0.2.7" });
  const mine = { credential_sha256: sha256(credential("a")) };
  for (const host of [
    "169.254.169.254",
    "169.254.1.1",
    "0.0.0.0",
    "224.0.0.1",
    "255.255.255.255",
    "fe80::1",
    "fd00:ec2::254",
    "::",
    "::ffff:169.254.169.254",
  ]) {
    const [status, said] = await refusal(register(orcd, token, w1, { ...mine, host }));
    assert.deepEqual([status, /is no address of a worker/.test(said)], [403, true], `${host}: ${said}`);
  }
  const [status, said] = await refusal(register(orcd, token, w1, { ...mine, host: "192.0.2.9" }));
  assert.deepEqual(
    [status, /announced 192\.0\.2\.9, and called from 127\.0\.0\.1.*rbees workers invite --address/.test(said)],
    [403, true],
  );
  assert.match((await refusal(register(orcd, token, w1, { ...mine, host: "no-such-host.invalid" })))[1], /does not know the name/);
  await assert.rejects(
    placeOf({ id: "w1", host: "127.0.0.1", port: 1, tls: true }, "192.0.2.1", rules),
    /called from 192\.0\.2\.1/,
    "from afar, loopback is ours",
  );
  const named = { id: "w1", host: "192.0.2.7", port: 1 };
  const approved = { ...rules, approved: "192.0.2.7" };
  assert.equal((await placeOf({ ...named, tls: true }, "192.0.2.1", approved)).origin, "https://192.0.2.7:1", "the operator named it");
  await assert.rejects(placeOf({ ...named, tls: false }, "192.0.2.1", approved), /speaks in clear/);
  assert.equal((await placeOf({ ...named, tls: false }, "192.0.2.1", { ...approved, insecure_no_tls: true })).origin, "http://192.0.2.7:1");
});

test("who registers another's address has to know that one's secret", async (t) => {
  const { orcd, worker, invite } = await setUp(t);
  const victim = await worker("w1", "v".repeat(43));
  const { token } = await invite({ worker_id: "w1" });
  const forged = { credential_sha256: sha256(credential("a")) };
  assert.match((await refusal(register(orcd, token, victim, forged)))[1], /the worker there has another secret/);
  const open = await worker("w1");
  assert.match((await refusal(register(orcd, token, open, forged)))[1], /does not ask for the secret that was announced/);
});

test("a heartbeat that was heard before, or an older one, changes nothing; nobody beats for another", async (t) => {
  const { orcd, worker, invite, client } = await setUp(t);
  const w1 = await worker("w1", DOOR);
  const { token } = await invite({ worker_id: "w1" });
  const secret = credential("a");
  await register(orcd, token, w1, { credential_sha256: sha256(secret) });
  const beat = (seq: number | undefined, more: Json = {}, by = secret) =>
    post(orcd, "/workers/w1/heartbeat", by, { epoch: 1, seq, slots_busy: 0, memory_bytes: 1, tokens_per_second: 0, ...more }).then(
      ({ status }) => status,
    );
  assert.equal(await beat(1), 200);
  assert.equal(await beat(3), 200);
  for (const old of [1, 3, 2, undefined]) assert.equal(await beat(old, { draining: true }), 409);
  assert.equal(await beat(4, { draining: true }, credential("b")), 401);
  assert.equal((await client.call("listWorkers", {})).workers[0]?.status, "ready");
  assert.equal(await beat(4), 200);
  assert.equal((await fetch(`${orcd.url}/workers/w2`, { method: "DELETE", headers: bearer(secret) })).status, 403);
});

test("the orchestrator shows a worker its secret; one that has another by now is left until it registers", async (t) => {
  const { orcd, worker, invite, key } = await setUp(t);
  const w1 = await worker("w1", DOOR);
  const { token } = await invite({ worker_id: "w1" });
  await register(orcd, token, w1, { credential_sha256: sha256(credential("a")) });
  const submit = () => post(orcd, "/v2/tasks", key, { model: "fake", prompt: "hi", stream: true });
  const first = submit();
  const attempt = await w1.next();
  attempt.started();
  attempt.tokens("a");
  attempt.end();
  assert.equal((await eventsOf(await first)).at(-1).type, "end");

  const { port } = w1;
  await w1.close();
  const newer = await startFakeWorker("w1", "fake", "n".repeat(43), port);
  t.after(() => newer.close());
  const second = submit();
  await eventually(async () => {
    const { tasks } = (await (await orcd.get("/v2/tasks", bearer(key))).json()) as Json;
    return tasks[0].status === "queued";
  });
  assert.equal((await register(orcd, credential("a"), newer, { epoch: 2, door: "n".repeat(43) })).status, 200);
  // An attempt that was on its way when the worker registered may reach it too, and is aborted: each is answered.
  const answering = async () => {
    for (;;) {
      const attempt = await newer.next();
      attempt.started();
      attempt.tokens("b");
      attempt.end();
    }
  };
  void answering();
  assert.equal((await eventsOf(await second)).at(-1).type, "end");
});
