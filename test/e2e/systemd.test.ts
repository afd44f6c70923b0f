/** `worker spawn --systemd` beside a real systemd of a user: a worker that is there again after a reboot. */
import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { environment } from "@rbees/kit/config";
import { freePort } from "../../packages/cli/test/harness.ts";
import { eventually, temporaryFolder } from "../support/cluster.ts";
import { quickStart } from "../support/quick-start.ts";
import { noUserSystemd, UserSystemd } from "../support/user-systemd.ts";

const POOL = fileURLToPath(new URL("../../packages/cli/src/rbees-pool.ts", import.meta.url));
const skip = noUserSystemd();

test("a worker that systemd keeps comes back after a reboot, is restarted and listed, and leaves no unit when it is stopped", {
  skip,
}, async (t) => {
  // With what a unit's file must quote.
  const folder = join(temporaryFolder(t, "systemd"), 'a "b" 100% $c');
  const { PATH } = environment();
  const systemd = await UserSystemd.open(folder, { PATH, ...quickStart(), RBEES_HOME: join(folder, "rbees") });
  t.after(() => systemd.close());
  const worker = (...words: string[]) => systemd.run(process.execPath, POOL, "worker", ...words);
  const spawn = (...flags: string[]) =>
    worker("spawn", "cpu", "--model", "demo", "--orchestrator", "none", "--slots", "1", "--threads", "1", "--systemd", ...flags);
  const list = async () => JSON.parse((await worker("list", "--json")).out).workers as { status: string; pid: number }[];
  const units = join(folder, "config/systemd/user");

  const early = await spawn();
  assert.equal(early.exit, 1);
  assert.match(early.err, /There is no systemd of this user here \(.+\)\. Leave out --systemd/);

  await systemd.boot();
  const spawned = await spawn("--name", "w1", "--port", String(await freePort()), "--labels", 'disk=a "b" $HOME %h');
  assert.equal(spawned.exit, 0, spawned.err);
  assert.match(spawned.err, /systemd keeps it as rbees-worker-w1\.service: it starts again when you log in; `loginctl enable-linger`/);
  const text = readFileSync(join(units, "rbees-worker-w1.service"), "utf8");
  assert.match(text, /^Environment="RBEES_HOME=.*100%% \$c\/rbees"$/m);
  const [before] = await list();
  assert.equal(before?.status, "ready");
  const main_pid = await systemd.run("systemctl", "--user", "show", "--property=MainPID", "--value", "rbees-worker-w1.service");
  assert.equal(Number(main_pid.out), before.pid);
  const words = readFileSync(`/proc/${before.pid}/cmdline`, "utf8").split("\0");
  assert.ok(words.includes('--labels=disk=a "b" $HOME %h'), words.join("\n"));

  await systemd.shutDown();
  assert.ok(!existsSync(`/proc/${before.pid}`), "it ended with the machine");
  await systemd.boot();
  const after = await eventually(async () => (await list()).find(({ status }) => status === "ready"));
  assert.notEqual(after.pid, before.pid);

  const again = await worker("restart", "w1");
  assert.match(again.out, /^w1 has finished its jobs and ended\nw1 is ready: /, again.err);
  // As after `su`, where systemd can't be asked: nothing of it is left that could start it again.
  const stop = await systemd.run("env", "XDG_RUNTIME_DIR=/nowhere", process.execPath, POOL, "worker", "stop", "w1", "--now");
  assert.equal(stop.out, "w1 has ended\n");
  assert.deepEqual(await list(), []);

  const broken = await spawn("--name", "w2", "--ctx", "999999");
  assert.equal(broken.exit, 1);
  assert.match(broken.err, /Worker w2 ended before it was ready: .*999999 is more than/);
  assert.deepEqual(
    readdirSync(units, { recursive: true }).filter((name) => String(name).includes("rbees")),
    [],
  );
});
