/** A machine that has only Node gets rbees over SSH, and a worker there answers. */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, readlinkSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { pathToFileURL } from "node:url";
import { findPrograms, type Programs } from "../../packages/cli/src/programs.ts";
import { bench, freePort, REAL } from "../../packages/cli/test/harness.ts";
import { noSshd, type SshdOptions, startSshd } from "../../packages/cli/test/sshd.ts";
import { builtRelease } from "../support/release.ts";

const skip = noSshd();

/** Both ends clean up after themselves, in the order of their making: workers of the far side end with its sshd. */
async function setUp(t: TestContext, programs: Programs, options: SshdOptions = {}) {
  // Nothing of the near side's helps the far one.
  const far = await startSshd((clean) => t.after(clean), { ...options, env: { NODE_OPTIONS: "" } });
  const near = await bench((clean) => t.after(clean), programs);
  Object.assign(near.env, far.env);
  return {
    far,
    near,
    rbees: (...words: string[]) => near.run(["rbees", ...words]),
    versions: join(far.home, ".local/share/rbees/versions"),
  };
}

/** As of a release, which is not built for each command anew. */
function released(t: TestContext): Programs {
  return findPrograms(pathToFileURL(join(builtRelease(t), "rbees.mjs")).href);
}

/** A folder with what a small machine has, and this Node. */
function smallPath(folder: string, node: string): string {
  mkdirSync(join(folder, "small"), { recursive: true });
  for (const tool of ["uname", "df", "awk", "tar", "gzip", "mkdir", "mv", "rm", "ln", "cat", "chmod", "readlink", "ps", "printf"]) {
    const found = ["/usr/bin", "/bin"].map((at) => join(at, tool)).find((path) => existsSync(path));
    if (found !== undefined && !existsSync(join(folder, "small", tool))) symlinkSync(found, join(folder, "small", tool));
  }
  symlinkSync(node, join(folder, "small", "node"));
  return join(folder, "small");
}

test("install, spawn, a job, upgrade, stop: from nothing but Node", { skip, timeout: 110_000 }, async (t) => {
  const { near, rbees, versions } = await setUp(t, { ...REAL });
  assert.match(
    (await rbees("pool", "upgrade", "--host", "atlas")).err,
    /no rbees-pool on atlas to bring up to date: `rbees pool install --host atlas`/,
  );
  const installed = await rbees("pool", "install", "--host", "atlas", "--json");
  assert.equal(installed.exit, 0, installed.err);
  const { version, sent_bytes, unpacked_bytes, backends } = JSON.parse(installed.out);
  t.diagnostic(`sent ${sent_bytes} bytes, ${unpacked_bytes} on disk`);
  assert.deepEqual(backends, ["cpu"]);
  assert.deepEqual(readdirSync(versions), [version]);
  assert.equal(readlinkSync(join(versions, "../current")), `versions/${version}`);
  assert.ok(!existsSync(join(versions, version, "rbees-orcd.mjs")), "no orchestrator on a pool's machine");
  Object.assign(near.programs, released(t));
  assert.deepEqual(
    JSON.parse((await rbees("pool", "install", "--host", "atlas", "--json")).out).sent_bytes,
    null,
    "the same again costs nothing",
  );

  // One that does not start is brought anew.
  writeFileSync(join(versions, version, "rbees-pool.mjs"), "damaged(");
  const damaged = await rbees("pool", "worker", "list", "--host", "atlas");
  assert.match(damaged.err, /\(exit code 1: SyntaxError: .*\)\. It may be too old or damaged: `rbees pool install --host atlas` puts/);
  assert.equal(JSON.parse((await rbees("pool", "install", "--host", "atlas", "--json")).out).sent_bytes > 0, true);
  assert.equal((await rbees("pool", "worker", "list", "--host", "atlas")).exit, 0);

  const port = String(await freePort());
  assert.equal((await rbees("up", "--port", port, "--worker-port", String(await freePort()), "--slots", "1", "--threads", "1")).exit, 0);
  const spawned = await rbees("pool", "worker", "spawn", "cpu", "--model", "demo", "--threads", "1", "--name", "far", "--host", "atlas");
  assert.equal(spawned.exit, 0, spawned.err);
  const job = await rbees("jobs", "submit", "--model", "demo", "--prompt", "Hello", "--pin", "far");
  assert.equal(job.exit, 0, job.err);
  assert.match(job.out, /\w/);

  // Another version beside it: what a worker runs from stays, what nobody uses goes. So with attempts: one that runs, and one that was cut off.
  const attempts = [`.incoming-${process.pid}`, ".incoming-99999999"];
  for (const old of ["0.0.1-used", "0.0.1-unused", "0.0.2-unused", ...attempts]) mkdirSync(join(versions, old));
  const user = spawn(process.execPath, ["-e", "setTimeout(() => {}, 60_000)", `${join(versions, "0.0.1-used")}/program.mjs`], {
    stdio: "ignore",
  });
  t.after(() => user.kill("SIGKILL"));
  assert.equal((await rbees("pool", "upgrade", "--host", "atlas")).exit, 0);
  assert.deepEqual(readdirSync(versions).sort(), [`.incoming-${process.pid}`, "0.0.1-used", version]);
  assert.equal((await rbees("jobs", "submit", "--model", "demo", "--prompt", "Hello", "--pin", "far")).exit, 0, "the worker goes on");
  assert.match((await rbees("pool", "worker", "stop-all", "--host", "atlas")).out, /^far has finished its jobs and ended\n$/);
});

test("a machine without Node, with an old one, or with too little room is told what to do, and is left as it was", {
  skip,
  timeout: 100_000,
}, async (t) => {
  const { far, rbees } = await setUp(t, released(t), { path: "/nowhere" });
  const small = smallPath(far.folder, "/bin/false");
  const config = join(far.folder, "sshd_config");
  writeFileSync(config, readFileSync(config, "utf8").replace("PATH=/nowhere", `PATH=${small}`));
  await far.stop();
  await far.start();
  const says = async (expected: RegExp) => {
    const ran = await rbees("pool", "install", "--host", "atlas");
    assert.equal(ran.exit, 1, ran.err);
    assert.match(ran.err, expected);
    assert.ok(!existsSync(join(far.home, ".local/share/rbees/current")));
  };
  const node = join(far.home, ".local/bin/node");
  mkdirSync(join(far.home, ".local/bin"), { recursive: true });
  const fake = (version: string, libc: string) => {
    writeFileSync(node, `#!/bin/sh\necho ${version} linux x64 ${libc}\n`);
    chmodSync(node, 0o755);
  };
  if (!existsSync("/usr/bin/node")) await says(/There is no Node\.js on atlas; rbees needs 22\.18/);
  fake("22.17.1", "glibc");
  await says(/The newest Node\.js on atlas is 22\.17\.1 \(.*\.local\/bin\/node\); rbees needs 22\.18\.0 or newer: install Node\.js 24 LTS/);
  fake("99.0.0", "musl");
  await says(/no ready-made engine for linux x64 with musl \(Alpine\)/);
  fake("99.0.0", "glibc");
  const df = join(small, "df");
  spawnSync("rm", [df]);
  writeFileSync(df, "#!/bin/sh\necho x; echo 'tmpfs 100 0 20480 0% /'\n");
  chmodSync(df, 0o755);
  await says(/The disk of atlas has 21\.0 MB free, and 1\d\d MB are needed/);
  // It has said that there is room, and there is none: tar finds out.
  writeFileSync(df, "#!/bin/sh\necho x; echo 'tmpfs 100 0 99999999 0% /'\n");
  writeFileSync(
    join(far.folder, "tar"),
    "#!/bin/sh\nhead -c 1000000 >/dev/null; echo 'tar: x: Cannot write: No space left on device' >&2; exit 2\n",
  );
  chmodSync(join(far.folder, "tar"), 0o755);
  spawnSync("ln", ["-sf", join(far.folder, "tar"), join(small, "tar")]);
  symlinkSync("/usr/bin/head", join(small, "head"));
  await says(/atlas: its disk is full/);
  assert.deepEqual(readdirSync(join(far.home, ".local/share/rbees/versions")), [], "nothing of the attempt is left");
});
