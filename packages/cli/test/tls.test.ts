/** `rbees tls` and what trusts it: certificates that real connections accept, and a sentence with a next step where they don't. */
import assert from "node:assert/strict";
import { existsSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { connect as connectTls } from "node:tls";
import { createClient } from "@rbees/contracts/client";
import { RbeesError } from "@rbees/contracts/errors";
import { workerdRoutes } from "@rbees/contracts/routes";
import { homeOf } from "@rbees/kit/home";
import { serve } from "@rbees/kit/http";
import type { HttpLimits } from "@rbees/kit/http-limits";
import { silentLog } from "@rbees/kit/log";
import { authorities, fetchTrusting, serverTls, tlsFolder } from "@rbees/kit/tls";
import { Connections } from "../../orcd/src/worker-http/connections.ts";
import { orchestratorAt } from "../src/orchestrator.ts";
import { allowedNames } from "../src/tls/authority.ts";
import { requestCertificate } from "../src/tls/request.ts";
import { type Bench, bench, until } from "./harness.ts";
import { setUpTls as setUp } from "./tls-setup.ts";

const { cancel } = workerdRoutes;
const routes = { cancel };

async function listen(
  t: TestContext,
  tls: { cert: string; key: string } | undefined,
  limits: Partial<HttpLimits> = {},
): Promise<{ url: string; port: number }> {
  const handlers = { cancel: () => ({ status: 202, json: { cancelled: true } }) };
  const served = await serve(routes, handlers, {
    host: "127.0.0.1",
    port: 0,
    log: silentLog(),
    body_bytes_max: 4096,
    ping_ms: 1000,
    tls,
    ...limits,
  });
  t.after(() => served.close(0));
  return served;
}

const ask = (url: string, ca?: string) => createClient(routes, url, { fetch: fetchTrusting(ca) }).call("cancel", { body: { job_id: "j" } });

const refused = (pattern: RegExp) => (error: unknown) =>
  error instanceof RbeesError && error.code === "UNREACHABLE" && pattern.test(error.message);

test("a certificate of `rbees tls` is trusted by who knows its authority; else the sentence says what is wrong and what to do", async (t) => {
  const { ca, certificate } = await setUp(t);
  const good = await listen(t, await certificate("good", ["127.0.0.1", "localhost", "::1"]));
  assert.deepEqual(await ask(good.url, ca), { cancelled: true });
  assert.deepEqual(await ask(good.url.replace("127.0.0.1", "localhost"), ca), { cancelled: true });
  await assert.rejects(ask(good.url), refused(/is not trusted .*authority that is not known here.*--ca/));
  const stranger = await setUp(t);
  await assert.rejects(ask(good.url, stranger.ca), refused(/authority that is not known here/));
  const late = await listen(t, await certificate("late", ["127.0.0.1"], -0.02));
  await assert.rejects(ask(late.url, ca), refused(/CERT_HAS_EXPIRED.*`rbees tls renew`/));
  const other = await listen(t, await certificate("other", ["rbees.lan"]));
  await assert.rejects(ask(other.url, ca), refused(/for other names and addresses.*`rbees tls renew --name NAME`/));
  const clear = await listen(t, undefined);
  await assert.rejects(ask(clear.url.replace("http:", "https:"), ca), refused(/does not speak TLS.*http:\/\//));
});

test("whoever comes in clear to a port with TLS is told so, and one that says nothing keeps nobody", async (t) => {
  const { near, certificate } = await setUp(t);
  const { url, port } = await listen(t, await certificate("good", ["127.0.0.1"]));
  const clear = url.replace("https:", "http:");
  assert.match(
    (await near.run(["rbees", "jobs", "list", "--orchestrator", clear])).err,
    /speaks TLS: use https:\/\/ in place of http:\/\//,
  );
  const told = await fetch(clear);
  assert.equal(told.status, 400);
  assert.match(await told.text(), /speaks TLS: use https:\/\//);
  await assert.rejects(ask(clear), refused(/answered 400.*use https:\/\//s));
  const silent = connect(port, "127.0.0.1");
  await new Promise((resolve) => silent.once("connect", resolve));
  t.after(() => silent.destroy());
});

test("a port with TLS waits for nobody: not for a first byte, a handshake, or headers that drip", async (t) => {
  const { ca, certificate } = await setUp(t);
  const { url, port } = await listen(t, await certificate("good", ["127.0.0.1"]), { headers_ms_max: 150, request_ms_max: 300 });
  const closed = (socket: Socket, send: () => void) => {
    t.after(() => socket.destroy());
    socket.on("error", () => {});
    const timer = setInterval(() => socket.writable && send(), 20);
    return new Promise<void>((resolve) => socket.on("close", resolve)).finally(() => clearInterval(timer));
  };
  const plain = () => connect(port, "127.0.0.1");
  const [silent, begun, clear] = [plain(), plain(), plain()];
  begun.write(Buffer.from([22, 3, 1, 2, 0]));
  clear.write("GET /health HTTP/1.1\r\nx-slow: ");
  const inside = connectTls({ port, host: "127.0.0.1", ca });
  inside.write("GET /health HTTP/1.1\r\nhost: x\r\nx-slow: ");
  await Promise.all([
    closed(silent, () => {}),
    closed(begun, () => begun.write(Buffer.from([1]))),
    closed(clear, () => clear.write("a")),
    closed(inside, () => inside.write("a")),
  ]);
  assert.deepEqual(await ask(url, ca), { cancelled: true });
});

test("the orchestrator's own connections to a worker: encrypted, checked, and an attempt that fails says why", async (t) => {
  const { ca, certificate } = await setUp(t);
  const { port } = await listen(t, await certificate("worker", ["127.0.0.1", "worker.lan"]));
  const post = (tls: { servername: string | undefined; ca: string[] | undefined }) => {
    const connections = new Connections(
      { host: "worker.lan", address: "127.0.0.1", port, tls },
      { connect_ms_max: 5000, attempt_silence_ms_max: 5000 },
    );
    t.after(() => connections.close());
    return new Promise<string>((resolve) => {
      let text = "";
      connections.post("/cancel", { "content-type": "application/json" }, '{"job_id":"j"}', {
        onHead: (status) => {
          text = String(status);
        },
        onText: (more) => {
          text += more;
        },
        onEnd: () => resolve(text),
        onFailure: resolve,
      });
    });
  };
  assert.equal(await post({ servername: "worker.lan", ca: authorities(ca) }), '202{"cancelled":true}');
  assert.equal(await post({ servername: undefined, ca: authorities(ca) }), '202{"cancelled":true}', "by its address");
  assert.match(await post({ servername: "other.lan", ca: authorities(ca) }), /not trusted .*other names/);
  assert.match(await post({ servername: "worker.lan", ca: undefined }), /not trusted .*authority that is not known/);
  if (process.platform !== "linux") return;
  // Its machine is asked whether it is there: the timer of keep-alive (02), which rings in five seconds at most.
  const row = new RegExp(` 0100007F:${port.toString(16).toUpperCase().padStart(4, "0")} 01 \\S+ 02:(\\S+) `);
  const rings_in = () => Number.parseInt(row.exec(readFileSync("/proc/net/tcp", "utf8"))?.[1] ?? "FFFF", 16);
  await until(() => rings_in() <= 500, "the machine of the worker is asked");
});

test("a program beyond loopback wants a certificate that is whole, its own, in time, and kept to itself", async (t) => {
  const { home, folder, certificate } = await setUp(t);
  const settings = { host: "10.77.0.1", tls_cert: "", tls_key: "", insecure_no_tls: false };
  const says = (pattern: RegExp, more: Partial<typeof settings> = {}) =>
    assert.throws(
      () => serverTls({ ...settings, ...more }, home, "orcd"),
      (error: RbeesError) => error.code === "INVALID_REQUEST" && pattern.test(error.message),
    );
  says(/there is no certificate in .*`rbees tls init`.*--insecure-no-tls/);
  assert.equal(serverTls({ ...settings, host: "127.0.0.1" }, home, "orcd"), undefined);
  assert.equal(serverTls({ ...settings, insecure_no_tls: true }, home, "orcd"), undefined);
  await certificate("orcd", ["10.77.0.1"]);
  assert.ok(serverTls(settings, home, "orcd"));
  const [tls_cert, tls_key] = [join(folder, "a.pem"), join(folder, "a.key")];
  says(/belong together/, { tls_cert });
  says(/There is no certificate at/, { tls_cert, tls_key });
  await certificate("a", ["x"], -0.02);
  says(/expired at .* the clock here says .*`rbees tls renew`/, { tls_cert, tls_key });
  t.mock.timers.enable({ apis: ["Date"], now: Date.now() });
  await certificate("a", ["x"]);
  t.mock.timers.setTime(Date.now() - 14 * 3_600_000);
  assert.ok(serverTls({ ...settings, tls_cert, tls_key }, home, "orcd"), "a clock that has the time of another zone");
  t.mock.timers.setTime(Date.now() - 14 * 3_600_000);
  says(/a\.pem: The certificate is not valid before .*, and the clock here says .*: set the clock/, { tls_cert, tls_key });
  t.mock.timers.reset();
  await certificate("a", ["x"]);
  says(/does not belong to/, { tls_cert, tls_key: join(folder, "orcd.key") });
  writeFileSync(join(folder, "open.key"), readFileSync(tls_key), { mode: 0o644 });
  says(/Others can read the key .*chmod 600/, { tls_cert, tls_key: join(folder, "open.key") });
  writeFileSync(tls_cert, "nothing");
  says(/must be PEM/, { tls_cert, tls_key });
});

test("rbees tls: init, show, renew; private files are private; a request from elsewhere can't claim to be this machine", async (t) => {
  const near: Bench = await bench((clean) => t.after(clean));
  const run = (...words: string[]) => near.run(["rbees", "tls", ...words]);
  const home = homeOf(near.env);
  const folder = tlsFolder(home);
  assert.match((await run("show")).out, /No certificates here; `rbees tls init`/);
  assert.match((await run("issue", "nowhere.json")).err, /^rbees: nowhere\.json: there is no such file\. .*rbees-pool tls request --json/);
  const init = await run("init", "--name", "rbees.lan", "--json");
  assert.equal(init.exit, 0, init.err);
  const [authority, orcd] = JSON.parse(init.out).certificates;
  assert.ok(authority.file.endsWith("ca.pem") && orcd.names.includes("rbees.lan") && orcd.names.includes("::1"));
  for (const name of ["ca.key", "orcd.key"]) assert.equal(statSync(join(folder, name)).mode & 0o777, 0o600);
  const before = readFileSync(join(folder, "orcd.pem"), "utf8");
  const renewed = await run("renew", "--name", "10.1.2.3", "--days", "30", "--json");
  const files = JSON.parse(renewed.out).certificates.map(({ file }: { file: string }) => file);
  assert.deepEqual([renewed.exit, files], [0, [join(folder, "orcd.pem"), join(folder, "worker.pem")]]);
  assert.notEqual(readFileSync(join(folder, "orcd.pem"), "utf8"), before);
  const shown = JSON.parse((await run("show", "--json")).out).certificates;
  assert.deepEqual(shown[0], authority, "the authority stays");
  for (const name of ["rbees.lan", "10.1.2.3"]) assert.ok(shown[1].names.includes(name));

  assert.deepEqual(allowedNames({ home }, ["attic", "10.0.0.9", "rbees.lan", "10.1.2.3", "localhost"]), ["attic", "10.0.0.9", "localhost"]);
  const far = await bench((clean) => t.after(clean));
  const request = requestCertificate({ home: homeOf(far.env) } as Parameters<typeof requestCertificate>[0], ["attic.lan"]);
  const file = join(near.root, "request.json");
  writeFileSync(file, JSON.stringify(request));
  const issued = await run("issue", file);
  assert.match(issued.out, /^-----BEGIN CERTIFICATE-----/);
  assert.ok(existsSync(join(tlsFolder(homeOf(far.env)), "worker.key")));
  assert.ok(!JSON.stringify(request).includes("PRIVATE"), "the key stays where it was made");
  writeFileSync(file, JSON.stringify({ ...request, public_key: "x" }));
  assert.match((await run("issue", file)).err, /no public key/);
});

test("a key is never sent in clear to another machine, unless told so", async (t) => {
  const near = await bench((clean) => t.after(clean));
  const key = `rbk_0123456789ab_${"k".repeat(43)}`;
  const list = (words: string[], env: Record<string, string> = {}) =>
    near.run(["rbees", "workers", "list", ...words], { env: { RBEES_API_KEY: key, ...env } });
  for (const url of ["http://192.0.2.1:8080", "http://rbees.example"]) {
    const { exit, err } = await list(["--orchestrator", url]);
    assert.equal(exit, 2, err);
    assert.match(err, /Your key would go to http:.* in clear.*https:\/\/.*--insecure-no-tls/);
  }
  const signal = AbortSignal.abort();
  const way = { env: { RBEES_API_KEY: key }, home: homeOf(near.env), signal };
  assert.ok(orchestratorAt({ ...way, insecure_no_tls: true }, "http://192.0.2.1:8080"));
  assert.ok(orchestratorAt({ ...way, env: { ...way.env, RBEES_INSECURE_NO_TLS: "1" } }, "http://192.0.2.1:8080"));
  assert.ok(orchestratorAt(way, "http://127.0.0.1:8080"));
  assert.ok(orchestratorAt(way, "https://192.0.2.1:8080"));
});
