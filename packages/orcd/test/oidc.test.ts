/** Tokens of a real issuer in place of keys: what they open, for whom, and each way in which one is not good. */
import assert from "node:assert/strict";
import type { webcrypto } from "node:crypto";
import { type TestContext, test } from "node:test";
import { RbeesError } from "@rbees/contracts/errors";
import { silentLog } from "@rbees/kit/log";
import { exportSPKI, type JWTPayload } from "jose";
import { temporaryFolder } from "../../../test/support/cluster.ts";
import type { OrcdConfig } from "../src/config.ts";
import { Oidc } from "../src/oidc.ts";
import { databaseIn } from "../src/store/open.ts";
import { recordsIn, rowsIn } from "./database.ts";
import { eventually, type Json, startHarness } from "./harness.ts";
import { AUDIENCE, type Issuer, type Known, SIGNED_WITH, signingKey, startIssuer } from "./issuer.ts";
import { answers } from "./openai-harness.ts";
import { bearer, startTenants } from "./tenants-setup.ts";

const CHAT = { model: "fake", messages: [{ role: "user", content: "hi" }] };
/** So that nothing has to be waited for. */
const SOON = { oidc_retry_ms: 10, oidc_call_ms_max: 2000 };

function trusting(issuer: Issuer, more: Partial<OrcdConfig> = {}): Partial<OrcdConfig> {
  return { oidc_issuer: issuer.url, oidc_audience: AUDIENCE, ...SOON, ...more };
}

const CLAIMS = { oidc_tenant_claim: "org", oidc_role_claim: "roles" };

async function start(t: TestContext, known: readonly Known[], more: Partial<OrcdConfig> = {}) {
  const issuer = await startIssuer(t, known);
  const harness = await startTenants(t, trusting(issuer, more));
  const ask = async (token: string, path = "/v2/tasks") => {
    const answer = await harness.orcd.get(path, bearer(token));
    const text = await answer.text();
    for (const part of token.split(".").filter((one) => one.length > 20)) assert.ok(!text.includes(part), "nothing of a token comes back");
    return { status: answer.status, text, headers: answer.headers };
  };
  return { issuer, ...harness, ask };
}

test("a token of the issuer opens what its roles open, for the tenant that it names; the record names its subject", async (t) => {
  const known = SIGNED_WITH.map((alg) => ({ id: `app-${alg}`, alg, claims: { org: "acme", roles: ["submit", "baker"] } }));
  const boss = { id: "boss", claims: { roles: ["operate"] } };
  const { issuer, worker, operator, orcd, data_dir, who, ask } = await start(t, [...known, boss], CLAIMS);
  const acme = await who({ tenant: "acme" });
  const zeta = await who({ tenant: "zeta" });
  const ids: string[] = [];
  for (const { id } of known) {
    const token = await issuer.token(id);
    const [answer] = await Promise.all([
      fetch(`${orcd.url}/v1/chat/completions`, {
        method: "POST",
        headers: { ...bearer(token), "content-type": "application/json" },
        body: JSON.stringify(CHAT),
      }),
      answers(worker, ["yes"]),
    ]);
    assert.equal(answer.status, 200, id);
    ids.unshift(answer.headers.get("x-rbees-job-id") ?? "");
    const listed = JSON.parse((await ask(token)).text) as Json;
    assert.deepEqual(
      listed.tasks.map(({ job_id }: Json) => job_id),
      ids,
      "what keys of its tenant see",
    );
    const refused = await ask(token, "/v2/keys");
    assert.equal(refused.status, 403);
    assert.match(refused.text, /has the role submit, and this needs operate/);
  }
  assert.deepEqual(
    (await acme.client.call("listJobs", { query: {} })).tasks.map(({ job_id }) => job_id),
    ids,
  );
  assert.deepEqual((await zeta.client.call("listJobs", { query: {} })).tasks, []);
  const over_all = await issuer.token("boss");
  assert.equal((await ask(over_all, "/v2/keys")).status, 200);
  assert.equal(JSON.parse((await ask(over_all)).text).tasks.length, ids.length, "operate sees everybody's");
  assert.equal((await operator.client.call("listJobs", { query: {} })).tasks.length, ids.length, "keys work beside");
  const registered = await fetch(`${orcd.url}/workers/w1/heartbeat`, { method: "POST", headers: bearer(over_all), body: "{}" });
  assert.equal(registered.status, 403, "no token opens the registry");
  assert.equal(new Set(issuer.asked.filter((path) => path !== "/token")).size, 2);
  assert.equal(issuer.asked.filter((path) => path === "/jwks").length, 1, "its keys are fetched once");

  await orcd.orcd.stop();
  const records = recordsIn(databaseIn(data_dir));
  const keys_of_jobs = rowsIn<{ key_id: string | null }>(databaseIn(data_dir), "select distinct key_id from jobs");
  const accepted = records.filter(({ kind }) => kind === "job.accepted");
  assert.deepEqual(
    accepted.map(({ who: by, tenant }) => [by, tenant]),
    known.map(({ id }) => [`oidc:${issuer.url}#${id}`, "acme"]),
  );
  const used = records.filter(({ kind, who: by }) => kind === "key.used" && by.startsWith("oidc:"));
  assert.deepEqual(
    used.map(({ who: by, roles, tenant, address }) => [by, roles, tenant, address]),
    [[`oidc:${issuer.url}#boss`, ["operate"], null, "127.0.0.1"]],
    "who may operate came, once, and those who only submit did not",
  );
  assert.deepEqual(
    keys_of_jobs.map(({ key_id }) => key_id),
    [null],
  );
});

test("a token that is forged, stale, or for something else opens nothing, and says which it is", async (t) => {
  const { issuer, ask } = await start(t, []);
  const { jwk } = issuer.key;
  const now_s = Math.floor(Date.now() / 1000);
  const good = await issuer.forged({});
  assert.equal((await ask(good)).status, 200, "the same, when all is well");
  const [head = "", body = "", signature = ""] = good.split(".");
  const encoded = (value: unknown) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const claims = JSON.parse(Buffer.from(body, "base64url").toString()) as JWTPayload;
  const stranger = await signingKey("RS256", jwk.kid as string);
  const public_pem = new TextEncoder().encode(await exportSPKI(await publicOf(jwk)));
  const bad: [string, string, RegExp][] = [
    ["wrong issuer", await issuer.forged({ iss: "https://elsewhere.example" }), /of another issuer/],
    ["issuer with a slash more", await issuer.forged({ iss: `${issuer.url}/` }), /of another issuer/],
    ["wrong audience", await issuer.forged({ aud: "urn:other" }), /another audience/],
    ["no audience", await issuer.forged({ aud: undefined }), /audience/],
    ["expired", await issuer.forged({ exp: now_s - 60 }), /has expired/],
    ["for ever", await issuer.forged({ exp: undefined }), /has no exp/],
    ["not valid yet", await issuer.forged({ nbf: now_s + 600 }), /not valid yet/],
    ["of nobody", await issuer.forged({ sub: undefined }), /has no sub/],
    ["of a line break", await issuer.forged({ sub: "me\nyou" }), /names nobody/],
    ["of too long a name", await issuer.forged({ sub: "x".repeat(256) }), /names nobody/],
    ["for logging out", await issuer.forged({}, { typ: "logout+jwt" }), /not one for access/],
    ["bound to a key", await issuer.forged({ cnf: { jkt: "x" } }), /bound to a key/],
    ["wrong key, same name", await issuer.forged({}, {}, stranger.private_key), /not signed with a key of its issuer/],
    ["unknown key", await issuer.forged({}, { kid: "nobody's" }), /not signed with a key of its issuer/],
    [
      "a key that it brings itself",
      await issuer.forged({}, { kid: "mine", jwk: stranger.jwk as never }, stranger.private_key),
      /not signed/,
    ],
    ["unsigned", `${encoded({ alg: "none" })}.${body}.`, /not signed in a way/],
    ["unsigned, in other letters", `${encoded({ alg: "nOnE", kid: jwk.kid })}.${body}.${signature}`, /not signed in a way/],
    ["the public key as a shared secret", await issuer.forged({}, { alg: "HS256" }, public_pem), /not signed in a way/],
    ["another signature", `${encoded({ alg: "ES256", kid: jwk.kid })}.${body}.${signature}`, /not signed with a key of its issuer/],
    ["changed claims", `${head}.${encoded({ ...claims, sub: "root" })}.${signature}`, /not signed with a key of its issuer/],
    ["no signature", `${head}.${body}.`, /not signed with a key of its issuer/],
    ["no claims", `${head}.${encoded([])}.${signature}`, /Your token/],
    ["no head", `${encoded([])}.${body}.${signature}`, /Your token/],
    ["nothing in it", "a.b.c", /Your token/],
  ];
  for (const [what, token, why] of bad) {
    const answer = await ask(token);
    assert.equal(answer.status, 401, `${what}: ${answer.text}`);
    assert.match(answer.text, why, what);
    assert.match(answer.headers.get("www-authenticate") ?? "", /^Bearer realm="rbees", error="invalid_token"$/, what);
  }
});

test("clocks may differ by as much as was said", async (t) => {
  const { issuer, ask } = await start(t, [], { oidc_clock_skew_ms: 120_000 });
  const now_s = Math.floor(Date.now() / 1000);
  for (const [claims, status] of [
    [{ exp: now_s - 60 }, 200],
    [{ nbf: now_s + 60 }, 200],
    [{ exp: now_s - 180 }, 401],
    [{ nbf: now_s + 240 }, 401],
  ] as const)
    assert.equal((await ask(await issuer.forged(claims))).status, status, JSON.stringify(claims));
});

test("what its claims mean is what the configuration says: no tenant is made by a token, and none is guessed", async (t) => {
  const { issuer, ask, who, operator } = await start(t, [], {
    oidc_tenant_claim: "groups",
    oidc_tenants: { "team a": "acme", "team b": "zeta", ghosts: "nobody" },
    oidc_role_claim: "realm_access.roles",
    oidc_roles: { users: "submit", watchers: "observe", admins: "operate", auditors: "audit" },
  });
  await who({ tenant: "acme" });
  const zeta = await who({ tenant: "zeta" });
  const says = async (groups: unknown, roles: unknown) => ask(await issuer.forged({ groups, realm_access: { roles } }));
  assert.equal((await says(["all", "team a"], ["users", "offline_access"])).status, 200);
  assert.equal((await says("team b", "users")).status, 200);
  for (const [groups, roles, why] of [
    ["team a", ["submit"], /names no role/],
    ["team a", ["__proto__", "constructor"], /names no role/],
    ["team a", { users: true }, /names no role/],
    ["team a", undefined, /names no role/],
    ["acme", ["users"], /names no tenant/],
    ["__proto__", ["users"], /names no tenant/],
    [undefined, ["users"], /names no tenant/],
    [["team a", "team b"], ["users"], /names 2 tenants/],
    ["ghosts", ["users"], /the tenant nobody, and there is none here/],
    ["team a", ["users", "admins"], /names a tenant and has the role operate/],
  ] as const) {
    const answer = await says(groups, roles);
    assert.equal(answer.status, 403, answer.text);
    assert.match(answer.text, why);
  }
  // Those that see everybody's need no tenant.
  for (const role of ["admins", "auditors"]) assert.equal((await says(undefined, [role, "users"])).status, 200);
  await operator.client.call("revokeKey", { params: { id: zeta.key_id } });
  await operator.client.call("deleteTenant", { params: { id: "zeta" } });
  assert.match((await says("team b", "users")).text, /there is none here/, "one that was ended");
});

test("an issuer's new keys are taken up, and its old ones are over; tokens of unknown keys don't make it be asked each time", async (t) => {
  const { issuer, ask } = await start(t, [{ id: "app" }], { oidc_retry_ms: 60_000 });
  const before = await issuer.token("app");
  assert.equal((await ask(before)).status, 200);
  const asked = () => issuer.asked.filter((path) => path === "/jwks").length;
  for (let n = 0; n < 20; n++) assert.equal((await ask(await issuer.forged({}, { kid: `made up ${n}` }))).status, 401);
  assert.equal(asked(), 1, "within oidc_retry_ms nobody makes it ask again");

  const soon = await startTenants(t, trusting(issuer));
  const status = async (token: string) => (await soon.orcd.get("/v2/tasks", bearer(token))).status;
  assert.equal(await status(before), 200);
  await issuer.rotate();
  const after = await issuer.token("app");
  await eventually(async () => (await status(after)) === 200);
  assert.equal(await status(before), 401);
});

test("while the issuer can't be asked: 503 for tokens that nobody can judge, those of known keys and API keys work on; and back again", async (t) => {
  const { issuer, ask, operator } = await start(t, [{ id: "app" }]);
  const token = await issuer.token("app");
  const unknown = await issuer.forged({}, { kid: "new" });
  const nobody_knows = async (why: string) => {
    const answer = await ask(token);
    assert.equal(answer.status, 503, why);
    const { error } = JSON.parse(answer.text);
    assert.deepEqual([error.code, error.retriable], ["ISSUER_UNREACHABLE", true]);
    assert.ok(Number(answer.headers.get("retry-after")) >= 1);
    assert.ok(!answer.text.includes("127.0.0.1"), "where it is asked is the log's affair");
    assert.equal((await operator.send("GET", "/v2/tasks")).status, 200);
  };
  await issuer.stop();
  await nobody_knows("nobody there");
  await issuer.again();
  const json = (body: unknown) => ({ "content-type": "application/json", body: JSON.stringify(body) });
  for (const [why, status, { body, ...headers }] of [
    ["an error", 500, json({})],
    ["not JSON", 200, { body: "<html>" }],
    ["a list", 200, json(["a"])],
    ["another's description", 200, json({ issuer: "https://elsewhere.example", jwks_uri: `${issuer.url}/jwks` })],
    ["keys over an open wire", 200, json({ issuer: issuer.url, jwks_uri: "http://192.0.2.1/jwks" })],
    ["keys in a file", 200, json({ issuer: issuer.url, jwks_uri: "file:///etc/passwd" })],
    ["no keys", 200, json({ issuer: issuer.url, jwks_uri: `${issuer.url}/jwks`, keys: "none" })],
    ["far too much", 200, json({ issuer: issuer.url, jwks_uri: `${issuer.url}/jwks`, more: "x".repeat(300_000) })],
    ["sent elsewhere", 302, { body: "", location: "http://192.0.2.1/" }],
  ] as [string, number, Record<string, string>][]) {
    issuer.answersWith((_, response) => void response.writeHead(status, headers).end(body));
    await nobody_knows(why);
  }
  issuer.answersWith(undefined);
  await eventually(async () => (await ask(token)).status === 200);

  await issuer.stop();
  assert.equal((await ask(token)).status, 200, "its keys are known");
  assert.equal(
    (
      await eventually(async () => {
        const answer = await ask(unknown);
        return answer.status === 503 && answer;
      })
    ).status,
    503,
  );
  await issuer.again();
  await eventually(async () => (await ask(unknown)).status === 401);
});

test("an issuer that answers too slowly is one that does not answer", async (t) => {
  const { issuer, ask } = await start(t, [{ id: "app" }], { oidc_call_ms_max: 50 });
  const token = await issuer.token("app");
  issuer.answersWith((_, response) => void response.writeHead(200).write("{"));
  assert.equal((await ask(token)).status, 503);
  issuer.answersWith(undefined);
});

test("an issuer is enough to start without keys; one that is named by halves is refused, with all that is wrong", async (t) => {
  const issuer = await startIssuer(t, [{ id: "app" }]);
  const orcd = await startHarness(t, { auth_required: true, ...trusting(issuer) }, temporaryFolder(t, "oidc"));
  assert.equal((await orcd.get("/v2/tasks", bearer(await issuer.token("app")))).status, 200);
  const bare = await orcd.get("/v2/tasks");
  assert.equal(bare.status, 401);
  assert.ok((await bare.text()).includes(`or a token of ${issuer.url} as the bearer`));

  const none = { oidc_issuer: "", oidc_audience: "", oidc_tenant_claim: "", oidc_tenants: {}, oidc_role_claim: "", oidc_roles: {} };
  const config = { ...none, oidc_clock_skew_ms: 0, oidc_keys_ms: 1000, oidc_retry_ms: 10, oidc_call_ms_max: 10 };
  const wrong = (more: Partial<typeof config>, asks = true): string => {
    try {
      Oidc.of({ ...config, ...more }, { asks, log: silentLog() });
    } catch (error) {
      assert.ok(error instanceof RbeesError && error.code === "INVALID_REQUEST");
      return error.message;
    }
    return "";
  };
  const whole = { oidc_issuer: "https://login.example", oidc_audience: "rbees" };
  assert.equal(wrong({}), "");
  assert.equal(wrong({}, false), "");
  assert.equal(wrong(whole), "");
  for (const oidc_issuer of ["login.example", "http://login.example", "https://login.example/?a=b", "ftp://login.example", "https://l#x"])
    assert.match(wrong({ ...whole, oidc_issuer }), /must be an https:\/\/ address/, oidc_issuer);
  assert.match(wrong({ oidc_audience: "rbees" }), /without an oidc_issuer/);
  assert.match(wrong(whole, false), /nobody is asked/);
  const all = wrong({ oidc_issuer: "http://a", oidc_roles: { a: "king" }, oidc_tenants: { a: "b" } });
  for (const what of [/https:/, /oidc_audience is missing/, /king; there are submit/, /needs oidc_role_claim/, /needs oidc_tenant_claim/])
    assert.match(all, what);
});

async function publicOf(jwk: Issuer["key"]["jwk"]): Promise<webcrypto.CryptoKey> {
  const { kty = "RSA", n = "", e = "" } = jwk as Record<string, string>;
  return crypto.subtle.importKey("jwk", { kty, n, e }, { name: "RSASSA-PKCS1-v1_5", hash: "SHA-256" }, true, ["verify"]);
}
