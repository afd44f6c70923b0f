/** A disk without a byte left: a small file system of its own, in a mount namespace. */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { identify } from "../src/local/process-identity.ts";
import { setUp } from "./download-setup.ts";
import { SRC } from "./harness.ts";

const MODEL = "qwen";
const FULL = `
set -e
cp -a "$0" "$0.kept"
mount -t tmpfs -o size=8m none "$0"
cp -a "$0.kept/." "$0"
rm -r "$0.kept"
dd if=/dev/zero of="$0/fill" bs=4k 2>/dev/null || true
"$1" "$2/rbees.ts" down
"$1" "$2/rbees-pool.ts" models delete "$MODEL"
`;
const skip = spawnSync("unshare", ["-m", "mount", "-t", "tmpfs", "none", "/mnt"]).status !== 0 && "needs the right to mount, as root has";

test("on a full disk what is up can be ended, and a model deleted", { skip }, async (t) => {
  const pool = await setUp(t, { bytes: 3_000_000 });
  await pool.download(MODEL);
  const running = spawn("sleep", ["600"], { detached: true, stdio: "ignore" });
  t.after(() => running.kill("SIGKILL"));
  await once(running, "spawn");
  const orchestrator = { process: await identify(running.pid ?? 0), url: "http://127.0.0.1:9", port: 9, log: "", started_at: "" };
  mkdirSync(join(pool.root, "state"), { recursive: true });
  writeFileSync(join(pool.root, "state", "up.json"), JSON.stringify({ orchestrator, workers: [] }));
  const { status, stdout, stderr } = spawnSync("unshare", ["-m", "sh", "-c", FULL, pool.root, process.execPath, SRC], {
    env: { ...pool.env, MODEL },
    encoding: "utf8",
  });
  assert.equal(status, 0, stderr);
  assert.equal(stdout, "orchestrator http://127.0.0.1:9 ended\nqwen-0.5b is deleted; 3.0 MB are free again.\n");
});
