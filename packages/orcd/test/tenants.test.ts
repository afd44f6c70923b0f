/** Tenants: what one does no other sees, whichever door it came through; and who made, changed and ended them is in the record. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { RbeesError } from "@rbees/contracts/errors";
import { NO_LIMITS } from "@rbees/core/quota";
import { temporaryFolder } from "../../../test/support/cluster.ts";
import { keyHandlers } from "../src/api/keys.ts";
import { Keyring } from "../src/keyring.ts";
import { databaseIn, openStore } from "../src/store/open.ts";
import { Tenants } from "../src/tenants.ts";
import { recordsIn } from "./database.ts";
import { eventually, type Json } from "./harness.ts";
import { answers } from "./openai-harness.ts";
import { startTenants, type Who } from "./tenants-setup.ts";

const JOB = { model: "fake", prompt: "hi" };
const CHAT = { model: "fake", messages: [{ role: "user", content: "hi" }] };
const refused = (code: string) => (error: unknown) => error instanceof RbeesError && error.code === code;

/** Every way to a job by its id. */
const DOORS = [
  ["GET", ""],
  ["GET", "/events"],
  ["GET", "/explain"],
  ["POST", "/cancel"],
  ["DELETE", ""],
] as const;

/** What each door says to this key of a job; `undefined` where it says that there is none, as of one that there never was. */
async function said(who: Who, id: string): Promise<(number | undefined)[]> {
  return Promise.all(
    DOORS.map(async ([method, path]) => {
      const [answer, nothing] = await Promise.all([id, "job_nothing"].map((job) => who.send(method, `/v2/tasks/${job}${path}`)));
      const [text, other] = [await answer?.text(), await nothing?.text()].map((body, at) =>
        body?.replaceAll(at === 0 ? id : "job_nothing", "").replace(/"correlation_id":"[^"]+"/, ""),
      );
      return answer?.status === 404 && text === other ? undefined : answer?.status;
    }),
  );
}

test("a key sees its tenant's jobs, through whichever door they came, and of others' not even whether there are any", async (t) => {
  const { worker, operator, who, again } = await startTenants(t);
  const acme = await who({ tenant: "acme", roles: ["submit", "observe"] });
  const zeta = await who({ tenant: "zeta", roles: ["submit", "observe"] });
  const nobody = await who({ roles: ["submit", "observe"] });
  const auditor = await who({ roles: ["audit", "observe"] });

  const native = (await acme.client.call("submitJob", { body: JOB })) as Json;
  await answers(worker, ["one"]);
  const chat = await Promise.all([acme.send("POST", "/v1/chat/completions", CHAT), answers(worker, ["two"])]);
  const ollama = await Promise.all([acme.send("POST", "/api/chat", { ...CHAT, stream: false }), answers(worker, ["three"])]);
  const ids = [native.job_id, ...[chat, ollama].map(([answer]) => answer.headers.get("x-rbees-job-id"))] as string[];
  // One that is still running: what is in memory must not be shown either.
  const running = (await acme.client.call("submitJob", { body: JOB })) as Json;
  const attempt = await worker.next();
  attempt.started();
  ids.push(running.job_id);
  await eventually(async () => (await operator.client.call("showJob", { params: { id: running.job_id } })).status === "running");

  const none = DOORS.map(() => undefined);
  for (const stranger of [zeta, nobody]) {
    assert.deepEqual((await stranger.client.call("listJobs", { query: {} })).tasks, []);
    assert.deepEqual((await stranger.client.call("listJobs", { query: { tenant: "acme" } })).tasks, []);
    for (const id of ids) assert.deepEqual(await said(stranger, id), none, id);
  }
  assert.equal((await operator.client.call("showJob", { params: { id: running.job_id } })).status, "running", "nobody has cancelled it");
  const listed = async (one: Who, query = {}) => (await one.client.call("listJobs", { query })).tasks.map(({ job_id }) => job_id).reverse();
  const mine = await who({ roles: ["submit"] });
  const own = (await mine.client.call("submitJob", { body: JOB })) as Json;
  assert.deepEqual(await listed(acme), ids);
  assert.deepEqual(await listed(nobody), [own.job_id], "keys of no tenant have one together");
  for (const overseer of [operator, auditor]) {
    if (overseer === auditor) assert.deepEqual(await listed(auditor, { tenant: "acme" }), ids);
    assert.deepEqual(await listed(overseer), [...ids, own.job_id]);
    assert.equal((await overseer.send("GET", `/v2/tasks/${ids[1]}`)).status, 200);
  }
  assert.equal((await acme.send("DELETE", `/v2/tasks/${running.job_id}`)).status, 202);
  await attempt.closed;

  // What was waiting or has ended is whose it was, after a restart too.
  const later = await again();
  assert.deepEqual(await listed(later.as(acme)), ids);
  for (const id of [ids[0], own.job_id]) assert.deepEqual(await said(later.as(zeta), id), none);
});

test("tenants are made, changed and ended by whoever operates; keys go before them, and no name is given twice", async (t) => {
  const { operator, who, again, data_dir, orcd } = await startTenants(t);
  const { call } = operator.client;
  const acme = await who({ tenant: "acme" }, { weight: 2.5 });
  for (const [method, path, body] of [
    ["GET", "/v2/tenants"],
    ["POST", "/v2/tenants", { name: "x" }],
    ["GET", "/v2/tenants/acme"],
    ["POST", "/v2/tenants/acme", { weight: 9 }],
    ["DELETE", "/v2/tenants/acme"],
  ] as const)
    assert.equal((await acme.send(method, path, body)).status, 403, `${method} ${path}`);
  assert.deepEqual(
    (await call("listTenants", {})).tenants.map(({ name, weight, keys }) => [name, weight, keys]),
    [
      ["acme", 2.5, 1],
      ["default", 1, 1],
    ],
  );
  assert.equal((await call("setTenant", { params: { id: "acme" }, body: { weight: 3 } })).weight, 3);
  await assert.rejects(call("createTenant", { body: { name: "acme" } }), refused("CONFLICT"));
  await assert.rejects(call("createTenant", { body: { name: "../etc" } }), refused("INVALID_REQUEST"));
  await assert.rejects(call("createKey", { body: { name: "x", roles: ["submit"], tenant: "nobody" } }), refused("NOT_FOUND"));
  await assert.rejects(
    call("createKey", { body: { name: "x", roles: ["submit", "operate"], tenant: "acme" } }),
    refused("INVALID_REQUEST"),
  );
  await assert.rejects(call("deleteTenant", { params: { id: "acme" } }), (error) => String(error).includes(acme.key_id));
  const rotated = await call("rotateKey", { params: { id: acme.key_id }, body: {} });
  assert.equal(rotated.tenant, "acme", "a key that follows another is of the same tenant");
  await call("revokeKey", { params: { id: rotated.key_id } });
  await call("deleteTenant", { params: { id: "acme" } });
  await assert.rejects(call("createTenant", { body: { name: "acme" } }), refused("CONFLICT"));
  await assert.rejects(call("createKey", { body: { name: "x", roles: ["submit"], tenant: "acme" } }), refused("NOT_FOUND"));
  for (const id of ["acme", "__proto__", "nobody"]) await assert.rejects(call("showTenant", { params: { id } }), refused("NOT_FOUND"));
  await assert.rejects(call("deleteTenant", { params: { id: "default" } }), refused("CONFLICT"));
  await call("setTenant", { params: { id: "default" }, body: { weight: 0.5 } });

  const later = await again();
  const kept = await later.as(operator).client.call("listTenants", {});
  assert.deepEqual(
    kept.tenants.map(({ name, weight }) => [name, weight]),
    [["default", 0.5]],
  );
  await orcd.orcd.stop();
  assert.deepEqual(
    recordsIn(databaseIn(data_dir), "kind like 'tenant.%'").map(({ kind, tenant, weight, who: by }) => [
      kind,
      tenant,
      weight,
      by === operator.key_id,
    ]),
    [
      ["tenant.created", "acme", "2.5", true],
      ["tenant.changed", "acme", 3, true],
      ["tenant.deleted", "acme", undefined, true],
      ["tenant.changed", "default", "0.5", true],
    ],
  );
});

test("a tenant is not deleted while a key of it is being made", async (t) => {
  const store = await openStore(databaseIn(temporaryFolder(t, "tenants")));
  t.after(() => store.close());
  const keys = await Keyring.open(store);
  const more = { limits: NO_LIMITS, content_keep_ms: 0, asks_keys: true, tell: () => {}, tokensToday: () => 0 };
  const tenants = await Tenants.open({ store, keys, ...more });
  await tenants.create({ name: "acme" }, undefined);
  const making = keyHandlers(keys, tenants).createKey({ body: { name: "x", roles: ["submit"], tenant: "acme" } } as never);
  await assert.rejects(tenants.delete("acme", undefined), refused("CONFLICT"));
  await making;
});

test("workers are told which prompts may spare one another: a tenant's own, unless it is set that they are shared", async (t) => {
  for (const prefixes_shared of [false, true]) {
    const { worker, who } = await startTenants(t, { prefixes_shared });
    const salts: (string | undefined)[] = [];
    for (const tenant of ["acme", "acme", "zeta", undefined]) {
      const asker = await who(tenant === undefined ? {} : { tenant });
      await asker.client.call("submitJob", { body: JOB });
      const attempt = await worker.next();
      salts.push(attempt.body.cache_salt);
      attempt.started();
      attempt.end();
    }
    const [one, again, other, nobody] = salts;
    assert.equal(one, again);
    assert.equal(nobody, undefined);
    if (prefixes_shared) assert.equal(one ?? other, undefined);
    else assert.ok(one !== undefined && other !== undefined && one !== other && !`${one}${other}`.includes("acme"));
  }
});
