/** What a login is elsewhere: whoever comes with a key that may operate or audit is in the record first, and not with each request. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Caller } from "../src/caller.ts";
import { KeyUses } from "../src/key-uses.ts";
import { databaseIn } from "../src/store/open.ts";
import type { Change } from "../src/store/port.ts";
import { recordsIn } from "./database.ts";
import type { Json } from "./harness.ts";
import { bearer, startTenants } from "./tenants-setup.ts";

function recordOf(data_dir: string): Json[] {
  return recordsIn(databaseIn(data_dir));
}

test("whoever comes with a key that may operate or audit is in the record before anything is done with it, once in a life", async (t) => {
  const { orcd, operator, who, data_dir, again } = await startTenants(t);
  const auditor = await who({ roles: ["audit"], tenant: "acme" });
  const others = await Promise.all([who({ roles: ["observe"] }), who({ roles: ["submit"], tenant: "acme" })]);
  assert.equal((await orcd.get("/v2/keys", bearer(auditor.key))).status, 403, "who is not let in has used nothing");
  assert.ok(recordOf(data_dir).every(({ kind, who: by }) => kind !== "key.used" || by !== auditor.key_id));
  await Promise.all([1, 2, 3].map(() => orcd.get("/v2/policy", bearer(auditor.key))));
  for (const { key } of others) assert.equal((await orcd.get("/v2/models", bearer(key))).status, 200);
  assert.equal((await orcd.get("/v2/policy", bearer(`${auditor.key}x`))).status, 401);
  const uses = () =>
    recordOf(data_dir)
      .filter(({ kind }) => kind === "key.used")
      .map(({ who: by, roles, tenant, address }) => [by, roles, tenant, address]);
  const once = [
    [operator.key_id, ["operate"], null, "127.0.0.1"],
    [auditor.key_id, ["audit"], "acme", "127.0.0.1"],
  ];
  assert.deepEqual(uses(), once);
  const record = recordOf(data_dir);
  const first = record.findIndex(({ kind }) => kind === "key.used");
  assert.ok(first < record.findIndex(({ who: by, kind }) => by === operator.key_id && kind !== "key.used"), "before what it was used for");
  await again();
  assert.deepEqual(uses(), [...once, once[0]], "in the next life again");
});

const caller = (who: string, roles = ["operate"]): Caller => ({
  who,
  key_id: who,
  tenant: "default",
  roles: new Set(roles),
  everywhere: true,
});

function uses(limits: { key_idle_ms?: number; key_uses_max?: number } = {}) {
  const clock = { now_ms: 1_000_000 };
  const written: string[] = [];
  const ways: { fail?: Error; held?: Promise<void> } = {};
  const commit = async (changes: readonly Change[]) => {
    await ways.held;
    if (ways.fail !== undefined) throw ways.fail;
    for (const change of changes) {
      if (change.table !== "audit" || !("append" in change)) assert.fail("nothing but entries");
      written.push(`${change.append.kind} ${change.append.fields["who"]} ${change.append.fields["address"]}`);
    }
  };
  const all = new KeyUses({ commit }, { key_idle_ms: 3_600_000, key_uses_max: 100, ...limits }, () => clock.now_ms);
  return { clock, written, ways, use: (one: Caller | undefined, address = "10.0.0.1") => all.noted(one, () => address) };
}

test("a key is said again when it was idle, or comes from elsewhere; keys that may neither operate nor audit cost nothing", async () => {
  const { clock, written, use } = uses();
  const boss = caller("boss");
  const one = use(boss);
  assert.ok(one instanceof Promise, "the entry comes first");
  assert.deepEqual(await one, boss);
  assert.equal(use(boss), boss, "at once");
  for (let used = 0; used < 3; used++) {
    clock.now_ms += 3_599_999;
    assert.equal(use(boss), boss, "in use all the time");
  }
  clock.now_ms += 3_600_000;
  await use(boss);
  await use(boss, "10.0.0.2");
  await use(Promise.resolve(caller("oidc:https://i#me", ["submit", "audit"])) as never);
  assert.deepEqual(written, [
    "key.used boss 10.0.0.1",
    "key.used boss 10.0.0.1",
    "key.used boss 10.0.0.2",
    "key.used oidc:https://i#me 10.0.0.1",
  ]);
  const plain = caller("app", ["submit", "observe"]);
  assert.equal(use(plain), plain);
  assert.equal(use(undefined), undefined);
  assert.equal(written.length, 4);
});

test("who comes while the entry is on its way waits for it; where it can't be written nobody gets in, and the next one tries again", async () => {
  const { written, ways, use } = uses();
  const boss = caller("boss");
  const held = Promise.withResolvers<void>();
  ways.held = held.promise;
  ways.fail = new Error("the disk is full");
  const both = [use(boss), use(boss)];
  assert.ok(both.every((one) => one instanceof Promise));
  held.resolve();
  for (const one of await Promise.allSettled(both)) assert.equal(one.status, "rejected");
  delete ways.fail;
  assert.deepEqual(await use(boss), boss);
  assert.deepEqual(written, ["key.used boss 10.0.0.1"]);
});

test("of how many it is remembered is bounded; of those that are forgotten there is another entry", async () => {
  const { written, use } = uses({ key_uses_max: 2 });
  for (const who of ["a", "b", "c"]) await use(caller(who));
  assert.ok(!(use(caller("c")) instanceof Promise) && !(use(caller("b")) instanceof Promise));
  await use(caller("a"));
  assert.deepEqual(
    written.map((line) => line.split(" ")[1]),
    ["a", "b", "c", "a"],
  );
});
