/** What only a process of its own shows: signals, exit codes, where logs go. And the small facts about a host. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { closeSync, existsSync, mkdirSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { fileURLToPath } from "node:url";
import { homeOf } from "../src/home.ts";
import { createRegistry, Gauge } from "../src/metrics.ts";
import { writePrivateFile } from "../src/private-file.ts";
import { systemRefusal } from "../src/system-refusal.ts";
import { NODE_MIN, nodeTooOld, VERSION } from "../src/version.ts";
import { until } from "./support.ts";

const DAEMON = fileURLToPath(new URL("fixtures/daemon.ts", import.meta.url));

function daemon(t: TestContext, ...args: string[]) {
  return started(t, "pipe", ...args);
}

function started(t: TestContext, stderr: "pipe" | number, ...args: string[]) {
  const child = spawn(process.execPath, ["--disable-warning=ExperimentalWarning", DAEMON, ...args], { stdio: ["ignore", "pipe", stderr] });
  const out = { stdout: "", stderr: "" };
  child.stdout?.on("data", (chunk) => {
    out.stdout += chunk;
  });
  child.stderr?.on("data", (chunk) => {
    out.stderr += chunk;
  });
  const exited = new Promise<number | string>((resolve) => child.on("close", (code, signal) => resolve(code ?? signal ?? "gone")));
  t.after(() => child.kill("SIGKILL"));
  return { child, out, exited, says: (word: string) => until(() => out.stdout.includes(`${word}\n`), word) };
}

for (const signal of ["SIGTERM", "SIGINT"] as const) {
  test(`${signal} stops a daemon in order: it exits 0 when stopping is done`, async (t) => {
    const { child, out, exited, says } = daemon(t);
    await says("ready");
    child.kill(signal);
    assert.equal(await exited, 0);
    assert.match(out.stdout, /stopping/);
    const [line = "{}"] = out.stderr.split("\n");
    const { name, msg, why } = JSON.parse(line);
    assert.deepEqual([name, msg, why], ["daemon", "stopping", signal]);
  });
}

test("a second signal ends a daemon that hangs while stopping, with exit 1", async (t) => {
  const { child, out, exited, says } = daemon(t, "hanging");
  await says("ready");
  child.kill("SIGTERM");
  await says("stopping");
  child.kill("SIGINT");
  assert.equal(await exited, 1);
  assert.match(out.stderr, /asked again: ending at once/);
  assert.equal(out.stdout.match(/stopping/g)?.length, 1, "stop is called once");
});

test("a daemon that does not stop within its deadline exits 1 and says so", async (t) => {
  const { child, out, exited, says } = daemon(t, "hanging", "info", "json", "10");
  await says("ready");
  child.kill("SIGTERM");
  assert.equal(await exited, 1);
  assert.match(out.stderr, /did not stop in time/);
});

test("a daemon whose stopping fails exits 1 and logs why", async (t) => {
  const { child, out, exited, says } = daemon(t, "failing");
  await says("ready");
  child.kill("SIGTERM");
  assert.equal(await exited, 1);
  assert.match(out.stderr, /could not stop/);
});

test("a daemon can be asked to stop from within", async (t) => {
  const { out, exited } = daemon(t, "asked");
  assert.equal(await exited, 0);
  assert.match(out.stderr, /"why":"asked to"/);
});

test("logs go to stderr: JSON lines with an ISO time for machines, readable lines for people, nothing when silent", async (t) => {
  const stopped = async (...args: string[]) => {
    const { child, out, exited, says } = daemon(t, "orderly", ...args);
    await says("ready");
    child.kill("SIGTERM");
    await exited;
    assert.equal(out.stdout, "ready\nstopping\n");
    return out.stderr;
  };
  const [json, pretty, auto, silent, error] = await Promise.all([
    stopped("info", "json"),
    stopped("info", "pretty"),
    stopped("info", "auto"),
    stopped("silent", "json"),
    stopped("error", "json"),
  ]);
  assert.match(JSON.parse(json).time, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
  assert.match(pretty, /^\[\d\d:\d\d:\d\d\.\d{3}\] .*INFO.*stopping/);
  assert.doesNotThrow(() => JSON.parse(auto), "a pipe is no terminal");
  assert.deepEqual([silent, error], ["", ""]);
});

test("the version is the one of package.json, and so is the oldest Node.js", () => {
  const read = (path: string) => JSON.parse(readFileSync(new URL(path, import.meta.url), "utf8"));
  assert.equal(VERSION, read("../package.json").version);
  assert.equal(VERSION, read("../../../package.json").version);
  assert.ok(NODE_MIN.startsWith(read("../../../package.json").engines.node.replace(">=", "")));
});

test("an older Node.js is told what it needs, this one is not", () => {
  assert.equal(nodeTooOld(process.versions.node), undefined);
  for (const fine of [NODE_MIN, "23.0.0", "24.1.0"]) assert.equal(nodeTooOld(fine), undefined, fine);
  for (const old of ["22.17.9", "20.19.0", "9.9.9"])
    assert.match(nodeTooOld(old) ?? "", new RegExp(`needs Node.js ${NODE_MIN} or newer; this is ${old}`));
});

test("everything lives in one folder when RBEES_HOME says so, else in the platform's places", () => {
  const one = homeOf({ RBEES_HOME: "/srv/rbees" });
  assert.deepEqual(one, { config: join("/srv/rbees", "config"), data: join("/srv/rbees", "data"), state: join("/srv/rbees", "state") });
  const own = homeOf({ RBEES_HOME: "" });
  assert.equal(new Set(Object.values(own)).size, 3);
  for (const folder of Object.values(own)) assert.match(folder, /rbees/);
});

test("each program has a registry of its own, with the figures of its process in it", async () => {
  const [one, two] = [createRegistry(), createRegistry()];
  new Gauge({ name: "mine", help: "h", registers: [one] }).set(1);
  assert.match(await one.metrics(), /^mine 1$/m);
  const other = await two.metrics();
  assert.match(other, /^process_cpu_seconds_total /m);
  assert.doesNotMatch(other, /^mine/m);
});

test("what the system refuses is said with what to do: a full disk needs room", () => {
  const refused = (code: string) =>
    systemRefusal(Object.assign(new Error(`${code}: so it is`), { code, syscall: "write" }), "Or elsewhere.");
  assert.equal(refused("ENOSPC")?.message, "The disk is full (ENOSPC: so it is): make room, then try again. Or elsewhere.");
  assert.equal(refused("EACCES")?.message, "The system refuses: EACCES: so it is. Or elsewhere.");
  assert.equal(systemRefusal(new Error("a bug"), ""), undefined);
});

test("a secret that can't be written leaves nothing of it behind", (t) => {
  const folder = mkdtempSync(join(tmpdir(), "rbees-private-"));
  t.after(() => rmSync(folder, { recursive: true }));
  mkdirSync(join(folder, "key", "in-the-way"), { recursive: true });
  assert.throws(() => writePrivateFile(join(folder, "key"), "secret"));
  assert.deepEqual(readdirSync(folder), ["key"]);
});

test("a log on a full disk neither ends a program nor keeps it from ending", { skip: !existsSync("/dev/full") }, async (t) => {
  for (const format of ["json", "pretty"]) {
    const full = openSync("/dev/full", "w");
    t.after(() => closeSync(full));
    const { child, says, exited, out } = started(t, full, "logging", "info", format);
    await says("logged 100");
    child.kill("SIGTERM");
    assert.equal(await exited, 0, format);
    assert.match(out.stdout, /stopping\n/);
  }
});
