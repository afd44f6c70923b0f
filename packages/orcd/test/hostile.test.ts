/** Requests that mean harm, at each of the doors: bombs of JSON, and words that would be lines of a log, headers or events of their own. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { connect } from "node:net";
import { type TestContext, test } from "node:test";
import { fileURLToPath } from "node:url";
import { ERRORS } from "@rbees/contracts/errors";
import { environment } from "@rbees/kit/config";
import { eventually, temporaryFolder } from "../../../test/support/cluster.ts";
import { eventsOf, type Harness, type Json, startHarness } from "./harness.ts";

const MAIN = fileURLToPath(new URL("../src/main.ts", import.meta.url));
const message = { role: "user", content: "hi" };
const DOORS: readonly (readonly [string, object])[] = [
  ["/v2/tasks", { model: "fake", prompt: "hi" }],
  ["/v1/chat/completions", { model: "fake", messages: [message] }],
  ["/v1/completions", { model: "fake", prompt: "hi" }],
  ["/v1/responses", { model: "fake", input: "hi" }],
  ["/v1/messages", { model: "fake", messages: [message], max_tokens: 5 }],
  ["/api/chat", { model: "fake", messages: [message], stream: false }],
  ["/api/generate", { model: "fake", prompt: "hi", stream: false }],
  ["/v2/keys", { name: "k", roles: ["submit"] }],
  ["/v2/tenants", { name: "t" }],
  ["/workers/register", { id: "w9", model: "fake", host: "127.0.0.1", port: 1 }],
];

function post({ url }: Pick<Harness, "url">, path: string, body: string): Promise<Response> {
  return fetch(url + path, { method: "POST", body, headers: { "content-type": "application/json" } });
}

/** Of the bombs: beyond what any body may be. */
const TOO_MUCH: readonly string[] = ["deep", "nested", "wide"];

/** The body with this in each of its places, and in one that no door knows. */
function* harmed(body: object, harm: string): Generator<[place: string, harmed: string]> {
  for (const place of [...Object.keys(body), "tools", "metadata", "options", "unheard_of"]) {
    const rest = Object.entries(body).filter(([name]) => name !== place);
    yield [place, `{${[...rest.map(([name, value]) => `${JSON.stringify(name)}:${JSON.stringify(value)}`), `"${place}":${harm}`].join()}}`];
  }
}

test("a bomb of JSON in any field of any door is refused in a short answer of its form, nothing waits, and the next good one works", async (t) => {
  const orcd = await startHarness(t, { json_values_max: 10_000, worker_silence_ms_max: 3_600_000 });
  const worker = await orcd.worker("w1", { slots: 8 });
  const answering = async () => {
    for (;;) {
      const attempt = await worker.next();
      attempt.started();
      attempt.tokens("yes");
      attempt.end();
    }
  };
  void answering();
  const bombs = {
    deep: `${"[".repeat(5000)}${"]".repeat(5000)}`,
    nested: `${'{"a":'.repeat(5000)}1${"}".repeat(5000)}`,
    wide: `[${"0,".repeat(10_000)}0]`,
    wrong: `[${"0,".repeat(2000)}0]`,
    keys: `{${Array.from({ length: 2000 }, (_, n) => `"k${n}":"v"`).join()}}`,
    number: "9".repeat(1000),
  };
  for (const [path, body] of DOORS) {
    for (const [what, bomb] of Object.entries(bombs)) {
      for (const [place, harm] of harmed(body, bomb)) {
        const answer = await post(orcd, path, harm);
        const text = await answer.text();
        const where = `${what} in ${place} at ${path}: ${answer.status} ${text.slice(0, 200)}`;
        // Some doors overlook fields that they don't know, as the APIs that they speak do; what is too much is so anywhere.
        const overlooked = !Object.hasOwn(body, place) && !TOO_MUCH.includes(what);
        if (overlooked && answer.ok) continue;
        assert.ok(answer.status === 400 || answer.status === 413 || (overlooked && path === "/workers/register"), where);
        assert.ok(text.length < 32_768, `${where}: ${text.length} characters`);
        const { error } = JSON.parse(text) as Json;
        const code = typeof error === "string" ? "INVALID_REQUEST" : (error.code ?? error.details.error_code);
        assert.ok(Object.hasOwn(ERRORS, code), where);
      }
    }
  }
  await eventually(async () => (await orcd.json("/v2/tasks?status=queued")).tasks.length === 0);
  assert.ok((await eventsOf(await orcd.submit({ stream: true }))).some(({ type }) => type === "end"));
});

test("no words of a caller become a header, an event or a line of their own", async (t) => {
  const orcd = await startHarness(t);
  const worker = await orcd.worker("w1");
  const evil = "x\r\nx-forged: yes\r\n\r\nevent: forged\ndata: {}\n\n\u2028\u0000\u001b[2J";
  for (const field of ["id", "model", "host", "credential_sha256", "door"]) {
    const registration = { id: "w2", model: "fake", host: "127.0.0.1", port: worker.port, [field]: evil };
    assert.equal((await post(orcd, "/workers/register", JSON.stringify(registration))).status, 400, field);
  }
  const submitted = orcd.submit({ prompt: evil, metadata: { a: evil }, stream: true });
  const attempt = await worker.next();
  assert.equal(attempt.body.prompt, evil, "it is what was asked");
  attempt.started();
  attempt.tokens(evil);
  attempt.end();
  const answer = await submitted;
  assert.equal(answer.headers.get("x-forged"), null);
  const events = await eventsOf(answer);
  assert.deepEqual(
    events.filter(({ type }) => type === "token").map(({ t: text }) => text),
    [evil],
  );
  for (const path of [
    `/v2/tasks/${encodeURIComponent(evil)}`,
    `/v2/workers/${encodeURIComponent(evil)}/drain`,
    `/${encodeURIComponent(evil)}`,
  ]) {
    const refused = await orcd.get(path);
    assert.equal(refused.status, 404, path);
    assert.equal(refused.headers.get("x-forged"), null);
    assert.ok(JSON.parse(await refused.text()).error.message.length < 300);
  }
});

/** Bytes that no client would send, and the answer to them. */
function raw(port: number, bytes: string): Promise<string> {
  return new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1");
    let text = "";
    socket.setEncoding("latin1").on("data", (chunk: string) => {
      text += chunk;
    });
    socket.on("error", () => {});
    socket.on("close", () => resolve(text));
    socket.write(bytes, "latin1");
  });
}

async function program(t: TestContext, log_format: string) {
  const folder = temporaryFolder(t, "hostile");
  const args = ["--port", "0", "--data-dir", folder, "--log-level", "trace", "--log-format", log_format];
  const child = spawn(process.execPath, [MAIN, ...args], {
    env: { ...environment(), RBEES_HOME: folder },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let log = "";
  child.stderr.setEncoding("utf8").on("data", (chunk: string) => {
    log += chunk;
  });
  const ended = new Promise((resolve) => child.on("close", resolve));
  t.after(async () => {
    child.kill("SIGKILL");
    await ended;
  });
  const url = await eventually(() => /http:\/\/127\.0\.0\.1:\d+/.exec(log)?.[0], 60_000);
  const stop = async () => {
    child.kill("SIGTERM");
    await ended;
    return log;
  };
  return { url, port: Number(new URL(url).port), stop };
}

for (const format of ["json", "pretty"]) {
  test(`a caller writes no line of the log (${format}), and what was asked is not in it`, { timeout: 110_000 }, async (t) => {
    const { url, port, stop } = await program(t, format);
    const forged = '{"level":30,"name":"rbees-orcd","msg":"forged"}';
    const secret = "a prompt that nobody else may read";
    for (const id of [`a\r\n${forged}`, `a\t${forged}`, `a\u0085${forged}`, "%0a%0d", "\u001b[31m"]) {
      const answer = await raw(port, `GET /v2/tasks HTTP/1.1\r\nhost: x\r\nx-correlation-id: ${id}\r\nconnection: close\r\n\r\n`);
      assert.match(answer, /^HTTP\/1\.1 [24]/);
      assert.match(answer, /x-correlation-id: [0-9a-f-]{36}|x-correlation-id: a\r\n/i);
      assert.ok(!answer.split("\r\n\r\n")[0]?.includes("forged"), answer);
    }
    for (const body of [
      { model: `m\n${forged}`, prompt: secret },
      { model: "nobody-has-it", prompt: secret },
      { id: `w\n${forged}`, model: "m", host: `h\n${forged}`, port: 1, labels: { [`l\n${forged}`]: `v\n${forged}` }, region: forged },
      {
        id: "w1",
        model: "m",
        host: "127.0.0.1",
        port: 1,
        labels: { [`l\n${forged}`]: `v\n${forged}` },
        version: `\n${forged}`,
        device: forged,
      },
    ])
      for (const path of ["/v2/tasks", "/workers/register", "/v1/chat/completions"]) {
        const answer = await post({ url }, path, JSON.stringify(body));
        assert.ok(answer.status >= 400 && answer.status < 600, `${path}: ${answer.status}`);
        await answer.arrayBuffer();
      }
    await fetch(`${url}/${encodeURIComponent(`\n${forged}`)}`);
    const lines = (await stop()).trimEnd().split("\n");
    assert.ok(lines.length >= 1);
    assert.ok(!lines.some((line) => line.includes(secret)));
    if (format === "json") for (const line of lines) assert.notEqual((JSON.parse(line) as Json).msg, "forged");
    else for (const line of lines) assert.ok(!line.startsWith(forged), line);
  });
}
