/** `models download` against a hub and a network that misbehave: what is tried again, what is kept, and what is said. */
import assert from "node:assert/strict";
import { open, readdir, readFile } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { connect } from "node:net";
import { join } from "node:path";
import { test } from "node:test";
import { PoolDownloaded, PoolModels } from "@rbees/contracts/pool";
import { contentOf, FakeHub, hashOf } from "../../../test/support/fake-hub.ts";
import { COMMIT, FILE, modelOf, QUICK, REPO, setUp } from "./download-setup.ts";
import { until } from "./harness.ts";

const TOKEN = "hf_secret";
/** How long programs may take to start where many tests run at once. */
const SLOW_START_MS = 60_000;

async function fileOf(out: string): Promise<Buffer> {
  const { model } = PoolDownloaded.parse(JSON.parse(out.trim().split("\n").at(-1) ?? ""));
  return readFile(model.path ?? "");
}

test("connections that break, stall or end early are replaced, and nothing is fetched twice", async (t) => {
  const pool = await setUp(t, { bytes: 8_000_000 });
  const faults = [{ cut_after: 300_000 }, { stall_after: 400_000 }, { end_after: 200_000 }, { status: 503 }, { status: 500 }];
  // The first request only asks for the size.
  pool.hub.fault = (_, nth) => (nth === 1 ? undefined : faults.shift());
  const { exit, out, err } = await pool.download("qwen", "--json");
  assert.equal(exit, 0, err);
  assert.deepEqual(await fileOf(out), pool.model);
  assert.equal(faults.length, 0);
  // What a broken connection had sent and nobody could read any more comes again; that is all.
  assert.ok(pool.hub.sent < pool.model.length + 1_500_000, `${pool.hub.sent} bytes for a file of ${pool.model.length}`);
});

test("a hub that never recovers is given up after so many tries, and what came is kept for the next run", async (t) => {
  const pool = await setUp(t, { bytes: 6_000_000 });
  pool.hub.fault = ({ range }) => (range === "bytes=0-0" || range?.startsWith("bytes=0-") ? undefined : { status: 502 });
  const failed = await pool.download("qwen", "--json");
  assert.equal(failed.exit, 5);
  assert.match(failed.err, /has trouble \(502\)\. Tried 3 times\. What is here already is kept: the same command goes on from there/);
  pool.hub.fault = () => undefined;
  const before = pool.hub.sent;
  const { out } = await pool.download("qwen", "--json");
  assert.deepEqual(await fileOf(out), pool.model);
  assert.ok(pool.hub.sent - before < pool.model.length - 1_000_000);
});

test("kill -9 in the middle: the next run fetches only what is missing", async (t) => {
  const pool = await setUp(t, { bytes: 60_000_000 });
  pool.hub.pace_bytes_per_second = 10_000_000;
  const first = pool.startDownload("qwen");
  await until(() => pool.hub.sent > 30_000_000, "half of it is here", SLOW_START_MS);
  first.child.kill("SIGKILL");
  await first.ended;
  pool.hub.pace_bytes_per_second = Number.POSITIVE_INFINITY;
  const before = pool.hub.sent;
  const { exit, out } = await pool.startDownload("qwen", "--json").ended;
  assert.equal(exit, 0);
  assert.deepEqual(await fileOf(out), pool.model);
  assert.deepEqual(PoolModels.parse(JSON.parse((await pool.models("list", "--json")).out)).unfinished, []);
  // One megabyte of each connection may not have been noted down yet.
  assert.ok(pool.hub.sent - before < 35_000_000, `${pool.hub.sent - before} bytes fetched again`);
});

test("Ctrl-C keeps what came, and ends with 130", async (t) => {
  const pool = await setUp(t, { bytes: 20_000_000 });
  pool.hub.pace_bytes_per_second = 2_000_000;
  const stop = new AbortController();
  const running = pool.run(["rbees-pool", "models", "download", "qwen"], { env: { HF_ENDPOINT: pool.hub.url }, signal: stop.signal });
  await until(() => pool.hub.sent > 5_000_000, "some of it is here", SLOW_START_MS);
  stop.abort(new DOMException("interrupted", "AbortError"));
  assert.equal((await running).exit, 130);
  const { models, unfinished } = PoolModels.parse(JSON.parse((await pool.models("list", "--json")).out));
  assert.deepEqual(
    models.map(({ name }) => name),
    ["demo"],
    "a part is no model",
  );
  assert.equal(unfinished.length, 1);
  const [{ bytes = 0, ...part } = {}] = unfinished;
  const reference = `hf:${REPO}@${COMMIT}::file=${FILE}`;
  assert.deepEqual(part, { name: "qwen-0.5b", reference, file: FILE, bytes_total: 20_000_000, running: false });
  assert.ok(bytes > 0 && bytes < 20_000_000, String(bytes));
  assert.match((await pool.models("list")).out, /\n\nUNFINISHED .*\nqwen-0\.5b +\d.* of 20\.0 MB +no +qwen2/);
  const [folder = ""] = (await readdir(join(pool.root, "data", "models"))).filter((name) => !name.endsWith(".lock"));
  assert.deepEqual((await readdir(join(pool.root, "data", "models", folder))).sort(), [`${FILE}.partial`, `${FILE}.progress`]);
});

test("two processes at once: one downloads, the other waits for it and shows how far it is", async (t) => {
  const pool = await setUp(t, { bytes: 20_000_000 });
  pool.hub.pace_bytes_per_second = 200_000;
  const running = [pool.startDownload("qwen", "--json"), pool.startDownload("qwen", "--json")];
  await until(
    () => running.some(({ err, out }) => err().includes("waiting for it") && out().includes('"progress"')),
    "one waits",
    SLOW_START_MS,
  );
  const unfinished = async () => PoolModels.parse(JSON.parse((await pool.models("list", "--json")).out)).unfinished;
  await until(async () => (await unfinished())[0]?.running === true, "it is listed as being fetched");
  pool.hub.pace_bytes_per_second = Number.POSITIVE_INFINITY;
  const ran = await Promise.all(running.map(({ ended }) => ended));
  assert.deepEqual(
    ran.map(({ exit }) => exit),
    [0, 0],
  );
  const hows = ran.map(({ out }) => PoolDownloaded.parse(JSON.parse(out.trim().split("\n").at(-1) ?? "")).how);
  assert.deepEqual(hows.sort(), ["by_another_process", "downloaded"]);
  const waiting = ran.find(({ err }) => err.includes("is downloading qwen-0.5b; waiting for it"));
  assert.match(waiting?.out ?? "", /"type":"progress","name":"qwen-0\.5b","bytes":\d/);
  assert.ok(pool.hub.sent < 1.1 * pool.model.length, `${pool.hub.sent} bytes sent`);
});

test("whoever waits takes over when the other is killed", async (t) => {
  const pool = await setUp(t, { bytes: 20_000_000 });
  pool.hub.pace_bytes_per_second = 200_000;
  const first = pool.startDownload("qwen");
  await until(() => pool.hub.sent > 100_000, "the first has begun", SLOW_START_MS);
  const second = pool.startDownload("qwen", "--json");
  await until(() => second.err().includes("waiting for it"), "the second waits", SLOW_START_MS);
  first.child.kill("SIGKILL");
  pool.hub.pace_bytes_per_second = Number.POSITIVE_INFINITY;
  const { exit, out } = await second.ended;
  assert.equal(exit, 0);
  assert.deepEqual(await fileOf(out), pool.model);
});

test("a file with another hash than the hub says is deleted, and said to be wrong", async (t) => {
  const pool = await setUp(t);
  pool.repo.wrong_sha256 = "00".repeat(32);
  const { exit, err } = await pool.download("qwen");
  assert.equal(exit, 1);
  assert.match(err, new RegExp(`has the SHA-256 ${hashOf(contentOf(pool.model))}, but should have 0{64}: .*They are deleted`));
  const folders = await readdir(join(pool.root, "data", "models"));
  assert.deepEqual(await readdir(join(pool.root, "data", "models", folders[0] ?? "")), []);
  assert.doesNotMatch((await pool.models("list")).out, /qwen/);
});

test("a part of an earlier run that the disk has spoilt is found by the hash, and all is fetched once more", async (t) => {
  const pool = await setUp(t, { bytes: 6_000_000 });
  pool.hub.fault = ({ range }) => (range?.startsWith("bytes=0-") ? undefined : { status: 502 });
  await pool.download("qwen");
  const [folder = ""] = await readdir(join(pool.root, "data", "models"));
  const partial = await open(join(pool.root, "data", "models", folder, `${FILE}.partial`), "r+");
  await partial.write(Buffer.from("spoilt"), 0, 6, 100_000);
  await partial.close();
  pool.hub.fault = () => undefined;
  const { exit, out } = await pool.download("qwen", "--json");
  assert.equal(exit, 0);
  assert.deepEqual(await fileOf(out), pool.model);
});

test("what does not exist: check the reference; a private one: set HF_TOKEN; a gated one: accept the licence", async (t) => {
  const { hub, repo, models, download, run } = await setUp(t);
  const withToken = (token: string, ...rest: string[]) =>
    run(["rbees-pool", "models", "download", ...rest, ...QUICK], { env: { HF_ENDPOINT: hub.url, HF_TOKEN: token } });
  const unknown = await download("hf:nobody/nothing");
  assert.equal(unknown.exit, 4);
  assert.match(unknown.err, /401.*Check the reference; if it is right, the model is private or gated: set HF_TOKEN/);
  const sure = await withToken(TOKEN, "hf:nobody/nothing");
  assert.equal(sure.exit, 6);
  assert.match(sure.err, /"Repository not found": .*Check the reference/);
  const revision = await download(`hf:${REPO}@v9`);
  assert.equal(revision.exit, 6);
  assert.match(revision.err, /Invalid rev id: v9/);
  const file = await download(`hf:${REPO}::file=other.gguf`);
  assert.equal(file.exit, 6);
  assert.match(file.err, /has no file other\.gguf\. There is: qwen2\.5.*\(3\.0 MB\)/);
  repo.token = TOKEN;
  repo.gated = true;
  const gated = await download("qwen");
  assert.equal(gated.exit, 4);
  assert.match(
    gated.err,
    new RegExp(`set HF_TOKEN to a token from ${hub.url}/settings/tokens, and accept the licence on ${hub.url}/${REPO}`),
  );
  const refused = await withToken("hf_other", "qwen");
  assert.equal(refused.exit, 4);
  assert.match(refused.err, new RegExp(`restricted.*Accept the licence on ${hub.url}/${REPO}, then try again`));
  assert.equal((await withToken(TOKEN, "qwen")).exit, 0);
  assert.deepEqual(
    [...new Set(hub.requests.filter(({ at }) => at === "storage").map(({ authorization }) => authorization))],
    [undefined],
    "storage never sees the token",
  );
  assert.equal((await models("download", "nonsense")).exit, 6);
  assert.equal((await models("download", "hf:only-one-part")).exit, 2);
});

test("a token that does not look like the hub's own goes to a mirror all the same", async (t) => {
  const pool = await setUp(t);
  pool.repo.token = "of-a-mirror";
  const env = { HF_ENDPOINT: `${pool.hub.url}/`, HF_TOKEN: "of-a-mirror" };
  assert.equal((await pool.run(["rbees-pool", "models", "download", "qwen"], { env })).exit, 0);
});

test("429 is waited for as long as the hub asks, and reported when that is too long", async (t) => {
  const pool = await setUp(t);
  const asked: number[] = [];
  pool.hub.hub_fault = () => {
    asked.push(performance.now());
    return asked.length === 1 ? { status: 429, headers: { "retry-after": "1" } } : undefined;
  };
  assert.equal((await pool.download("qwen")).exit, 0);
  assert.ok((asked[1] ?? 0) - (asked[0] ?? 0) >= 990);
  pool.hub.hub_fault = () => ({ status: 429, headers: { "retry-after": "3600" } });
  const { exit, err, out } = await pool.download("mistral", "--json");
  assert.equal(exit, 3);
  assert.match(err, /429.*It asks to wait 60m 0s/);
  assert.equal(JSON.parse(out).error.retry_after_ms, 3_600_000);
});

test("signed addresses expire, and new ones are fetched", async (t) => {
  const pool = await setUp(t, { bytes: 9_000_000 });
  pool.hub.signed_uses_max = 2;
  const { exit, out, err } = await pool.download("qwen", "--json");
  assert.equal(exit, 0, err);
  assert.deepEqual(await fileOf(out), pool.model);
});

test("a server without ranges is read from start to end, and again from the start when it breaks", async (t) => {
  const pool = await setUp(t, { bytes: 5_000_000 });
  pool.hub.ranges = false;
  pool.hub.fault = (_, nth) => (nth === 2 ? { cut_after: 2_000_000 } : undefined);
  const { exit, out, err } = await pool.download("qwen", "--json");
  assert.equal(exit, 0, err);
  assert.deepEqual(await fileOf(out), pool.model);
});

test("a disk without room is found out before the first byte, with how much is missing", async (t) => {
  const pool = await setUp(t);
  pool.repo.wrong_bytes = 1e15;
  const { exit, err, out } = await pool.download("qwen", "--json");
  assert.equal(exit, 1);
  assert.match(err, /The disk has no room: 1\.0 PB are to come, .* are missing\. RBEES_HOME chooses another folder/);
  assert.ok(JSON.parse(out).error.details.missing_bytes > 0);
  assert.equal(pool.hub.sent, 0);
});

test("a server that offers another size than the hub says is refused", async (t) => {
  const pool = await setUp(t);
  pool.repo.wrong_bytes = pool.model.length + 1;
  const { exit, err } = await pool.download("qwen");
  assert.equal(exit, 1);
  assert.match(err, /offers 3\.0 MB \(3000000 bytes\), but the file should have 3000001 bytes/);
});

test("nobody there: said with the address, after a few tries", async (t) => {
  const pool = await setUp(t);
  await pool.hub.stop();
  const { exit, err } = await pool.download("qwen");
  assert.equal(exit, 5);
  assert.match(err, /The connection to 127\.0\.0\.1:\d+ failed: .*ECONNREFUSED.*Tried 3 times/);
});

test("a plain address: its own hash when none is known, the one that was given when one is", async (t) => {
  const pool = await setUp(t);
  const url = pool.hub.plainUrl(REPO, FILE);
  const wrong = await pool.download(url, "--sha256", "11".repeat(32));
  assert.equal(wrong.exit, 1);
  const { exit, out, err } = await pool.download(url, "--json", "--name", "mine");
  assert.equal(exit, 0, err);
  const { model } = PoolDownloaded.parse(JSON.parse(out.trim().split("\n").at(-1) ?? ""));
  assert.partialDeepStrictEqual(model, { name: "mine", reference: url, sha256: hashOf(contentOf(pool.model)), revision: null });
});

test("a plain address whose file changes under a broken download begins anew", async (t) => {
  const pool = await setUp(t, { bytes: 6_000_000 });
  const url = pool.hub.plainUrl(REPO, FILE);
  pool.hub.fault = ({ range }) => (range?.startsWith("bytes=0-") ? undefined : { status: 502 });
  assert.equal((await pool.download(url)).exit, 5);
  pool.hub.fault = () => undefined;
  pool.hub.etag = '"v2"';
  const changed = await modelOf(pool, 6_000_000, 8);
  pool.repo.files[FILE] = contentOf(changed);
  const { exit, out, err } = await pool.download(url, "--json");
  assert.equal(exit, 0, err);
  assert.deepEqual(await fileOf(out), changed);
});

test("a page in place of a model is deleted and named for what it is", async (t) => {
  const pool = await setUp(t);
  pool.repo.files["page.gguf"] = contentOf(Buffer.from("<!DOCTYPE html><html>please log in</html>"));
  const { exit, err } = await pool.download(pool.hub.plainUrl(REPO, "page.gguf"));
  assert.equal(exit, 2);
  assert.match(err, /What came is no model, and is deleted\. page\.gguf: this is no GGUF file: it begins with "<!DO"/);
  assert.deepEqual(await readdir(join(pool.root, "data", "models")), []);
});

test("the proxy variables are honoured, and so is NO_PROXY", async (t) => {
  const pool = await setUp(t);
  const tunnels: string[] = [];
  const proxy = createServer().on("connect", (request, client, head) => {
    tunnels.push(request.url ?? "");
    const [host, port] = (request.url ?? "").split(":");
    const server = connect(Number(port), host, () => {
      client.write("HTTP/1.1 200 OK\r\n\r\n");
      server.write(head);
      server.pipe(client).pipe(server);
    });
    server.on("error", () => client.destroy());
    client.on("error", () => server.destroy());
  });
  await new Promise<void>((done) => proxy.listen(0, "127.0.0.1", done));
  t.after(() => proxy.close());
  const HTTP_PROXY = `http://127.0.0.1:${(proxy.address() as AddressInfo).port}`;
  const download = (more: Record<string, string>) =>
    pool.run(["rbees-pool", "models", "download", "qwen", "--force", ...QUICK], {
      env: { HF_ENDPOINT: pool.hub.url, HTTP_PROXY, ...more },
    });
  const through = await download({});
  assert.equal(through.exit, 0, through.err);
  assert.ok(tunnels.includes(new URL(pool.hub.url).host));
  tunnels.length = 0;
  assert.equal((await download({ NO_PROXY: "127.0.0.1" })).exit, 0);
  assert.deepEqual(tunnels, []);
});

test("a mirror is asked instead of the hub, and its name is not part of what is recorded", async (t) => {
  const pool = await setUp(t);
  const mirror = await FakeHub.start();
  t.after(() => mirror.stop());
  mirror.repos.set(REPO, pool.repo);
  const { exit, out } = await pool.run(["rbees-pool", "models", "download", "qwen", "--json"], { env: { HF_ENDPOINT: mirror.url } });
  assert.equal(exit, 0);
  assert.match(out, new RegExp(`"reference":"hf:${REPO}@${COMMIT}::file=${FILE}"`));
  assert.equal(pool.hub.requests.length, 0);
});
