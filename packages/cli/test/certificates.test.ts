/** Certificates that are renewed or run out while programs run. */
import assert from "node:assert/strict";
import { X509Certificate } from "node:crypto";
import { copyFileSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { connect, type TLSSocket } from "node:tls";
import { fileURLToPath } from "node:url";
import { workerdRoutes } from "@rbees/contracts/routes";
import { serve } from "@rbees/kit/http";
import type { Log } from "@rbees/kit/log";
import { expiryOf, fetchTrusting, readTls } from "@rbees/kit/tls";
import { eventually, follow, startOrcd, startWorkerd, temporaryFolder } from "../../../test/support/cluster.ts";
import { setUpTls } from "./tls-setup.ts";

const DEMO = fileURLToPath(new URL("../../../models/demo/demo.gguf", import.meta.url));
const { cancel } = workerdRoutes;
const NAMES = ["127.0.0.1"];

/** Without resumption: what the server shows whoever is new. */
function open(t: TestContext, port: number, ca: string): Promise<TLSSocket> {
  return new Promise((resolve, reject) => {
    const socket = connect({ host: "127.0.0.1", port, ca }, () => resolve(socket));
    socket.once("error", reject);
    t.after(() => socket.destroy());
  });
}

async function shownAt(t: TestContext, port: number, ca: string): Promise<string | undefined> {
  const socket = await open(t, port, ca);
  const shown = socket.getPeerX509Certificate()?.fingerprint256;
  socket.destroy();
  return shown;
}

/** A request over a connection that is there already. */
function ask(socket: TLSSocket): Promise<string> {
  const body = '{"job_id":"j"}';
  return new Promise((resolve, reject) => {
    socket.once("data", (data: Buffer) => resolve(data.toString()));
    socket.once("close", () => reject(new Error("closed")));
    socket.write(`POST /cancel HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`);
  });
}

const fingerprintOf = ({ cert }: { cert: string }) => new X509Certificate(cert).fingerprint256;

/** What would be in the log, by level. */
function listening() {
  const said: { level: string; sentence: string; fields: Record<string, unknown> }[] = [];
  const at = (level: string) => (fields: Record<string, unknown>, sentence: string) => said.push({ level, sentence, fields });
  return { said, log: { info: at("info"), warn: at("warn"), error: at("error") } as unknown as Log };
}

test("a new certificate is shown to whoever comes from then on, and what is connected goes on; one that is wrong is not taken up, and that is said", async (t) => {
  const { ca, certificate, folder } = await setUpTls(t);
  const [cert_file, key_file] = [join(folder, "a.pem"), join(folder, "a.key")];
  const first = await certificate("a", NAMES);
  const { said, log } = listening();
  const served = await serve(
    { cancel },
    { cancel: () => ({ status: 202, json: { cancelled: true } }) },
    { host: "127.0.0.1", port: 0, log, body_bytes_max: 4096, ping_ms: 1000, tls: { ...first, cert_file, key_file }, tls_reload_ms: 10 },
  );
  t.after(() => served.close(0));
  const shown = () => shownAt(t, served.port, ca);
  const early = await open(t, served.port, ca);
  assert.match(await ask(early), /^HTTP\/1\.1 202/);
  assert.equal(await shown(), fingerprintOf(first));

  const second = await certificate("a", NAMES);
  await eventually(async () => (await shown()) === fingerprintOf(second));
  assert.match(await ask(early), /^HTTP\/1\.1 202/, "the connection of before");
  assert.ok(said.some(({ level, sentence }) => level === "info" && /new certificate is shown/.test(sentence)));

  // Another key with the certificate of before, no certificate at all, no file: each is said, none is shown.
  await certificate("b", NAMES);
  for (const [what, harm] of [
    [/does not belong to/, () => copyFileSync(join(folder, "b.key"), key_file)],
    [/must be PEM/, () => writeFileSync(cert_file, "half a certifi")],
    [/There is no certificate/, () => renameSync(cert_file, `${cert_file}.old`)],
  ] as const) {
    harm();
    await eventually(() => said.some(({ level, fields }) => level === "warn" && what.test(String(fields["why"]))));
    assert.equal(await shown(), fingerprintOf(second));
  }
  // The key is b's by now.
  copyFileSync(join(folder, "b.pem"), cert_file);
  await eventually(async () => (await shown()) === fingerprintOf(readTls(join(folder, "b.pem"), join(folder, "b.key"))));
});

test("an end that is near is told of ahead, once, and one that has come as an error; doctor says both", async (t) => {
  const { near, certificate, folder } = await setUpTls(t);
  const start = async (name: string, days: number) => {
    const tls = await certificate(name, NAMES, days);
    const { said, log } = listening();
    const files = { cert_file: join(folder, `${name}.pem`), key_file: join(folder, `${name}.key`) };
    const served = await serve(
      {},
      {},
      { host: "127.0.0.1", port: 0, log, body_bytes_max: 4096, ping_ms: 1000, tls: { ...tls, ...files }, tls_reload_ms: 10 },
    );
    t.after(() => served.close(0));
    return said;
  };
  assert.deepEqual(await start("good", 100), []);
  const soon = await start("soon", 5);
  assert.deepEqual(
    soon.map(({ level, sentence }) => [level, /expires at .*`rbees tls renew`/.test(sentence)]),
    [["warn", true]],
  );
  await certificate("soon", NAMES, 100);
  await eventually(() => soon.some(({ level }) => level === "info"));
  assert.deepEqual(
    soon.map(({ level }) => level),
    ["warn", "info"],
  );
  const late = await start("late", -0.02);
  assert.deepEqual(
    late.map(({ level, sentence }) => [level, /has expired/.test(sentence)]),
    [["error", true]],
  );

  await certificate("soon", NAMES, 5);
  writeFileSync(join(folder, "broken.pem"), "nothing");
  t.mock.timers.enable({ apis: ["Date"], now: Date.now() + 3 * 86_400_000 });
  await certificate("early", NAMES, 100);
  t.mock.timers.reset();
  const { exit, out } = await near.run(["rbees", "doctor", "--json"]);
  assert.equal(exit, 1);
  const { checks } = JSON.parse(out) as { checks: { name: string; level: string }[] };
  const levels = checks.filter(({ name }) => name.startsWith("certificate ")).map(({ name, level }) => [name, level]);
  assert.deepEqual(levels, [
    ["certificate broken.pem", "fail"],
    ["certificate ca.pem", "ok"],
    ["certificate early.pem", "fail"],
    ["certificate good.pem", "ok"],
    ["certificate late.pem", "fail"],
    ["certificate soon.pem", "warn"],
  ]);
});

test("doctor says of a certificate whose key is gone, or is another's, that it can't be shown, and what it advises mends it", async (t) => {
  const { near, folder, certificate } = await setUpTls(t);
  for (const name of ["orcd", "worker", "other"]) await certificate(name, NAMES, 100);
  rmSync(join(folder, "orcd.key"));
  writeFileSync(join(folder, "worker.key"), readFileSync(join(folder, "other.key")));
  const failed = async () => {
    const { checks } = JSON.parse((await near.run(["rbees", "doctor", "--json"])).out) as {
      checks: { name: string; level: string; found: string }[];
    };
    return checks.filter(({ name, level }) => name.startsWith("certificate ") && level === "fail").map(({ name, found }) => [name, found]);
  };
  assert.deepEqual(await failed(), [
    ["certificate orcd.pem", `There is no key at ${join(folder, "orcd.key")}.`],
    ["certificate worker.pem", `The key ${join(folder, "worker.key")} does not belong to the certificate ${join(folder, "worker.pem")}.`],
  ]);
  rmSync(join(folder, "worker.key"));
  assert.equal((await near.run(["rbees", "tls", "renew"])).exit, 0);
  assert.deepEqual(await failed(), []);
});

test("two weeks are ahead", async (t) => {
  const { certificate } = await setUpTls(t);
  const shown = new X509Certificate((await certificate("a", NAMES, 100)).cert);
  const end_ms = shown.validToDate.getTime();
  const at = (days_before: number) => expiryOf(shown, end_ms - days_before * 86_400_000)?.expired;
  assert.deepEqual([at(15), at(13), at(0.001), at(0), at(-1)], [undefined, false, false, true, true]);
});

test("the programs: orchestrator and worker show a renewed certificate, and a stream that runs goes on to its end", {
  timeout: 110_000,
}, async (t) => {
  const { ca, certificate, folder } = await setUpTls(t);
  const first = await certificate("both", NAMES);
  const files = ["--tls-cert", join(folder, "both.pem"), "--tls-key", join(folder, "both.key"), "--tls-reload-ms", "20"];
  const secrets = mkdtempSync(join(tmpdir(), "rbees-secrets-"));
  t.after(() => rmSync(secrets, { recursive: true, force: true }));
  const orcd = await startOrcd(t, temporaryFolder(t, "certificates"), files);
  const worker = await startWorkerd(t, DEMO, "none", [...files, "--secrets-dir", secrets]);
  for (const { url, port } of [orcd, worker]) {
    assert.match(url, /^https:/);
    assert.equal(await shownAt(t, port, ca), fingerprintOf(first));
  }
  const body = JSON.stringify({ job_id: "j", prompt: "Hello", raw: true, max_tokens: 300, temperature: 0.9, seed: 1 });
  const stream = await fetchTrusting(ca)(`${worker.url}/execute`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body,
  });
  const events = follow(stream);
  assert.equal((await events.next()).value.type, "started");
  const second = await certificate("both", NAMES);
  for (const { port } of [orcd, worker]) await eventually(async () => (await shownAt(t, port, ca)) === fingerprintOf(second));
  let last: string | undefined;
  for await (const { type } of events) last = type;
  assert.equal(last, "end");
});
