/** API keys: every door asks, each for its roles; what is revoked, expired, wrong or too small opens none; no secret is kept. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { fileURLToPath } from "node:url";
import { createClient } from "@rbees/contracts/client";
import { RbeesError } from "@rbees/contracts/errors";
import type { Role } from "@rbees/contracts/key";
import type { Route } from "@rbees/contracts/route";
import { orcdAccess, orcdRoutes } from "@rbees/contracts/routes";
import { ROLES } from "@rbees/contracts/sets";
import { environment } from "@rbees/kit/config";
import { eventually, temporaryFolder } from "../../../test/support/cluster.ts";
import { startFakeWorker } from "../../../test/support/fake-worker.ts";
import { Keyring } from "../src/keyring.ts";
import { databaseIn, openStore } from "../src/store/open.ts";
import { recordsIn } from "./database.ts";
import { type Harness, type Json, startHarness } from "./harness.ts";

const MAIN = fileURLToPath(new URL("../src/main.ts", import.meta.url));
const bearer = (key: string) => ({ authorization: `Bearer ${key}` });

/** An orchestrator that asks, with a first key that may operate. */
async function asking(t: TestContext, data_dir = temporaryFolder(t, "keys")) {
  const store = await openStore(databaseIn(data_dir));
  const { key } = await (await Keyring.open(store)).create({ name: "first", roles: ["operate"] }, undefined);
  await store.close();
  const orcd = await startHarness(t, { auth_required: true }, data_dir);
  return { orcd, key, data_dir, client: createClient(orcdRoutes, orcd.url, { headers: bearer(key) }) };
}

/** Each route once; with a body where it takes one, that no handler would take. */
function knock({ url }: Harness, { method, path, body }: Route, headers: Record<string, string>): Promise<Response> {
  return fetch(url + path.replace(/\{\w+\}/g, "nothing"), {
    method,
    headers: { ...headers, ...(body === undefined ? {} : { "content-type": "application/json" }) },
    ...(body === undefined ? {} : { body: "{}" }),
  });
}

function auditOf(data_dir: string): Json[] {
  return recordsIn(databaseIn(data_dir));
}

test("without a key every route but health is closed, and with one it opens for its roles and for no others", async (t) => {
  const { orcd, client } = await asking(t);
  const keys = new Map<Role, string>();
  for (const role of ROLES) keys.set(role, (await client.call("createKey", { body: { name: role, roles: [role] } })).key);
  for (const [name, route] of Object.entries(orcdRoutes) as [keyof typeof orcdRoutes, Route][]) {
    const access = orcdAccess[name];
    const bare = await knock(orcd, route, {});
    if (access === "everybody") {
      assert.equal(name, "health");
      assert.equal(bare.status, 200);
      continue;
    }
    assert.equal(bare.status, 401, name);
    assert.match(bare.headers.get("www-authenticate") ?? "", /^Bearer/);
    const { error } = (await bare.json()) as Json;
    const { error_form = "rbees" } = route;
    if (error_form === "ollama") assert.equal(typeof error, "string", name);
    else if (error_form === "anthropic") assert.equal(error.type, "authentication_error", name);
    else assert.equal(error.code, "UNAUTHORIZED", name);
    for (const [role, key] of keys) {
      const { status } = await knock(orcd, route, bearer(key));
      if (access.includes(role)) assert.ok(status !== 401 && status !== 403, `${name} as ${role}: ${status}`);
      else assert.equal(status, 403, `${name} as ${role}`);
    }
  }
});

test("a wrong key, half a key and a key of another orchestrator open nothing; both headers are read", async (t) => {
  const { orcd, key } = await asking(t);
  const { key: strange } = await asking(t);
  const other_secret = `${key.slice(0, 17)}${strange.slice(17)}`;
  for (const wrong of [strange, other_secret, key.slice(0, -1), `${key}A`, "rbk_", "sk-something", "__proto__"]) {
    for (const headers of [bearer(wrong), { "x-api-key": wrong }]) {
      const answer = await orcd.get("/v2/tasks", headers);
      assert.equal(answer.status, 401, wrong);
      const said = await answer.text();
      assert.ok(!said.includes(key.slice(17)) && !said.includes(strange.slice(17)), "no secret comes back");
    }
  }
  assert.equal((await orcd.get("/v2/tasks", { authorization: `Basic ${key}` })).status, 401);
  assert.equal((await orcd.get("/v2/tasks", bearer(key))).status, 200);
  assert.equal((await orcd.get("/v2/tasks", { authorization: `bearer ${key}` })).status, 200);
  assert.equal((await orcd.get("/v2/tasks", { "x-api-key": key })).status, 200);
});

test("a revoked key and an expired one open nothing, also after a restart", async (t) => {
  const { orcd, client, key, data_dir } = await asking(t);
  const short = await client.call("createKey", { body: { name: "short", roles: ["observe"], expires_in_ms: 1 } });
  const gone = await client.call("createKey", { body: { name: "gone", roles: ["observe"] } });
  assert.equal((await orcd.get("/v2/workers", bearer(gone.key))).status, 200);
  const revoked = await client.call("revokeKey", { params: { id: gone.key_id } });
  assert.equal(revoked.status, "revoked");
  assert.deepEqual(await client.call("revokeKey", { params: { id: gone.key_id } }), revoked, "revoked once");
  const refused = async (where: Harness) => {
    const late = await eventually(async () => {
      const answer = await where.get("/v2/workers", bearer(short.key));
      return answer.status === 401 && answer;
    });
    assert.match(await late.text(), /has expired/);
    const ended = await where.get("/v2/workers", bearer(gone.key));
    assert.equal(ended.status, 401);
    assert.match(await ended.text(), /was revoked/);
  };
  await refused(orcd);
  await orcd.orcd.stop();
  const again = await startHarness(t, { auth_required: true }, data_dir);
  await refused(again);
  assert.equal((await again.get("/v2/workers", bearer(key))).status, 200);
});

test("a rotated key ends at once, or after its overlap; the new one may what the old one might", async (t) => {
  const { orcd, client } = await asking(t);
  const old = await client.call("createKey", { body: { name: "app", roles: ["observe", "submit"] } });
  const second = await client.call("rotateKey", { params: { id: old.key_id }, body: { overlap_ms: 3_600_000 } });
  assert.deepEqual([second.name, second.roles], [old.name, old.roles]);
  for (const { key } of [old, second]) assert.equal((await orcd.get("/v2/workers", bearer(key))).status, 200);
  const third = await client.call("rotateKey", { params: { id: second.key_id }, body: {} });
  assert.equal((await orcd.get("/v2/workers", bearer(second.key))).status, 401);
  assert.equal((await orcd.get("/v2/workers", bearer(third.key))).status, 200);
  const conflict = client.call("rotateKey", { params: { id: second.key_id }, body: {} });
  await assert.rejects(conflict, (error) => error instanceof RbeesError && error.code === "CONFLICT");
  const { keys } = await client.call("listKeys", {});
  assert.deepEqual(keys.map(({ key_id, status }) => [key_id, status]).slice(0, 3), [
    [third.key_id, "live"],
    [second.key_id, "revoked"],
    [old.key_id, "live"],
  ]);
});

test("a key that is being replaced is not replaced again: the refusal names what follows it, also after a restart", async (t) => {
  const data_dir = temporaryFolder(t, "keys");
  const open = async () => {
    const store = await openStore(databaseIn(data_dir));
    return { store, keys: await Keyring.open(store) };
  };
  const { store, keys } = await open();
  const old = await keys.create({ name: "app", roles: ["observe"] }, undefined);
  const twice = await Promise.allSettled([1, 2].map(() => keys.rotate(old.key_id, { overlap_ms: 3_600_000 }, undefined)));
  assert.deepEqual(
    twice.map(({ status }) => status),
    ["fulfilled", "rejected"],
    "of two at once the first",
  );
  const next = (twice[0] as PromiseFulfilledResult<{ key_id: string }>).value;
  const refusal = (said: RegExp) => ({ code: "CONFLICT", message: said });
  const named = new RegExp(
    `${old.key_id} is being replaced by ${next.key_id} already, and ends 2.*Z: rotate ${next.key_id} if .*keys revoke`,
  );
  await assert.rejects(keys.rotate(old.key_id, { overlap_ms: 0 }, undefined), refusal(named));
  await store.close();

  const again = await open();
  t.after(() => again.store.close());
  await assert.rejects(again.keys.rotate(old.key_id, { overlap_ms: 0 }, undefined), refusal(named));
  assert.deepEqual(
    again.keys.list().map(({ key_id, status }) => [key_id, status]),
    [
      [next.key_id, "live"],
      [old.key_id, "live"],
    ],
  );
  const third = await again.keys.rotate(next.key_id, { overlap_ms: 0 }, undefined);
  assert.equal(third.expires_at, null, "what follows it does not end with the overlap");
  await assert.rejects(
    again.keys.rotate(old.key_id, { overlap_ms: 0 }, undefined),
    refusal(/that one is revoked; `rbees keys create` makes a new one/),
  );
});

test("the record says who: for keys, and for jobs that were submitted and cancelled; no secret is in the data folder", async (t) => {
  const { orcd, client, key, data_dir } = await asking(t);
  const me = key.split("_")[1];
  const app = await client.call("createKey", { body: { name: "app", roles: ["submit"] } });
  const joining = await client.call("inviteWorker", { body: { worker_id: "w1" } });
  const door = "d".repeat(43);
  const worker = await startFakeWorker("w1", "fake", door);
  t.after(() => worker.close());
  const credential_sha256 = "c".repeat(64);
  const registration = { id: "w1", model: "fake", host: "127.0.0.1", port: worker.port, backend: "cpu", slots: 1, door, credential_sha256 };
  const register = (headers: Record<string, string>) =>
    fetch(`${orcd.url}/workers/register`, {
      method: "POST",
      headers: { "content-type": "application/json", ...headers },
      body: JSON.stringify(registration),
    });
  assert.equal((await register({})).status, 401);
  assert.equal((await register(bearer(app.key))).status, 403);
  assert.equal((await register(bearer(key))).status, 403, "no key opens the registry");
  assert.equal((await register(bearer(joining.token))).status, 200);
  const { job_id } = (await (await orcd.submit({}, bearer(app.key))).json()) as Json;
  await worker.next();
  await client.call("deleteJob", { params: { id: job_id } });
  await client.call("revokeKey", { params: { id: app.key_id } });
  await orcd.orcd.stop();

  const entries = auditOf(data_dir);
  const found = (kind: string) => entries.filter((entry) => entry.kind === kind);
  assert.deepEqual(
    found("key.created").map(({ key_id, name, roles, who }) => [key_id, name, roles, who]),
    [
      [me, "first", ["operate"], undefined],
      [app.key_id, "app", ["submit"], me],
    ],
  );
  assert.deepEqual(
    found("key.revoked").map(({ key_id, who }) => [key_id, who]),
    [[app.key_id, me]],
  );
  assert.equal(found("job.accepted")[0]?.who, app.key_id);
  assert.equal(found("job.cancelled")[0]?.who, me);
  assert.deepEqual(
    found("worker.invited").map(({ token_id, worker_id, who }) => [token_id, worker_id, who]),
    [[joining.token_id, "w1", me]],
  );
  assert.equal(found("worker.admitted")[0]?.token_id, joining.token_id);
  assert.equal(found("worker.joined")[0]?.who, `join:${joining.token_id}`);
  const kept = readdirSync(data_dir).map((name) => readFileSync(join(data_dir, name), "latin1"));
  for (const secret of [key, app.key, joining.token].map((one) => one.slice(17))) assert.ok(!kept.some((file) => file.includes(secret)));
});

test("the program: a file of keys that the system does not let it have is told of in a sentence, not in lines of code", async (t) => {
  const folder = temporaryFolder(t, "refused");
  const data = ["--data-dir", join(folder, "data"), "--port", "0"];
  for (const flag of ["--audit-key", "--content-key"]) {
    const { code, err } = await run(t, [...data, flag, folder]).ended;
    assert.equal(code, 1);
    assert.match(err, /^rbees-orcd: The system refuses: EISDIR.* See that this user may read and write there, or name another place\.\n$/);
  }
});

test("on loopback nobody is asked, and the record names nobody", async (t) => {
  const orcd = await startHarness(t);
  await orcd.worker("w1");
  assert.equal((await orcd.submit({}, bearer("anything at all"))).status, 202);
  assert.equal((await orcd.get("/v2/keys")).status, 200);
  await orcd.orcd.stop();
  assert.ok(auditOf(orcd.data_dir).every(({ who }) => who === undefined));
});

interface Ran {
  code: number | null;
  out: string;
  err: string;
}

function run(t: TestContext, args: readonly string[]): { ended: Promise<Ran>; ran: Ran; stop: () => void } {
  // No home of anybody's: what is there must not count.
  const env = { ...environment(), RBEES_HOME: temporaryFolder(t, "home") };
  const child = spawn(process.execPath, [MAIN, ...args], { env, stdio: ["ignore", "pipe", "pipe"] });
  const ran: Ran = { code: null, out: "", err: "" };
  child.stdout.setEncoding("utf8").on("data", (chunk) => {
    ran.out += chunk;
  });
  child.stderr.setEncoding("utf8").on("data", (chunk) => {
    ran.err += chunk;
  });
  const ended = new Promise<Ran>((resolve) => child.on("close", (code) => resolve(Object.assign(ran, { code }))));
  t.after(async () => {
    child.kill("SIGKILL");
    await ended;
  });
  return { ended, ran, stop: () => void child.kill("SIGTERM") };
}

test("the program: beyond loopback it refuses to start without keys and says what to do; a key made offline opens it; no key is in its log", async (t) => {
  const data = ["--data-dir", temporaryFolder(t, "keys")];
  const listen = ["--host", "0.0.0.0", "--port", "0", "--log-format", "json", "--log-level", "trace", "--insecure-no-tls", ...data];
  const bare = await run(t, ["--host", "0.0.0.0", "--port", "0", ...data]).ended;
  assert.equal(bare.code, 2);
  assert.match(bare.err, /others can reach 0\.0\.0\.0, and there is no certificate.*`rbees tls init`.*--insecure-no-tls/);
  const refused = await run(t, listen).ended;
  assert.equal(refused.code, 2);
  assert.match(
    refused.err,
    /every request needs a key.*`rbees-orcd keys create NAME --role operate`.* api\.key .*in place of any that is there.*--insecure-no-auth/,
  );

  assert.match((await run(t, ["keys", "create", "me", ...data]).ended).err, /--role takes submit, observe, operate, audit\./);
  const made = await run(t, ["keys", "create", "me", "--role", "operate,submit", ...data]).ended;
  assert.equal(made.code, 0, made.err);
  assert.match(made.out, /^rbk_[0-9a-z]{12}_[\w-]{43}\n$/);
  const key = made.out.trim();

  const open = run(t, listen);
  const url = await eventually(() => /"url":"([^"]+)".*"msg":"ready"/.exec(open.ran.err)?.[1]?.replace("0.0.0.0", "127.0.0.1"));
  const status = async (headers: Record<string, string>) => (await fetch(`${url}/v2/tasks`, { headers })).status;
  assert.equal((await fetch(`${url}/health`)).status, 200);
  assert.deepEqual([await status({}), await status(bearer(`${key}x`)), await status(bearer(key))], [401, 401, 200]);
  const broken = await fetch(`${url}/v2/tasks`, { method: "POST", headers: bearer(key), body: "{" });
  assert.equal(broken.status, 400);
  assert.match((await run(t, ["keys", "list", ...data]).ended).err, /runs, and holds its database: ask it with `rbees keys list`/);
  open.stop();
  const { err } = await open.ended;
  assert.ok(!err.includes(key.slice(17)), "no key in the log");
  assert.match((await run(t, ["keys", "list", ...data]).ended).out, /^[0-9a-z]{12} {2}me {2}operate,submit {2}live\n$/);

  const trusting = run(t, [...listen, "--insecure-no-auth"]);
  await eventually(() => trusting.ran.err.includes('"msg":"ready"'));
});
