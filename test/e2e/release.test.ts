/** What is released works away from the sources: one bundle a program, and the native packages beside them. */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { freePort } from "../../packages/cli/test/harness.ts";
import { contentOf, FakeHub } from "../support/fake-hub.ts";
import { builtRelease } from "../support/release.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));
const run = promisify(execFile);

test("the bundles run the main job without the sources", async (t) => {
  const out = builtRelease(t);
  const hub = await FakeHub.start();
  t.after(() => hub.stop());
  const files = { "demo-Q8_0.gguf": contentOf(readFileSync(join(root, "models/demo/demo.gguf"))) };
  hub.repos.set("example/demo-GGUF", { commit: "5a".repeat(20), files });
  const port = String(await freePort());
  const env = { PATH: "/usr/bin:/bin", RBEES_HOME: join(out, "home"), HF_ENDPOINT: hub.url };
  const ran = async (program: string, ...args: string[]) =>
    (await run(process.execPath, [join(out, `${program}.mjs`), ...args], { env, cwd: out })).stdout;
  const rbees = (...args: string[]) => ran("rbees", ...args);
  try {
    assert.match(await ran("rbees-pool", "models", "download", "hf:example/demo-GGUF", "--name", "fetched"), /^fetched is here/);
    assert.match(await ran("rbees-pool", "models", "verify", "fetched"), /fetched +yes/);
    const up = JSON.parse(await rbees("up", "--port", port, "--slots", "1", "--threads", "1", "--json"));
    assert.deepEqual(up.started, { orchestrator: true, worker: true });
    const text = await rbees("jobs", "submit", "--model", "demo", "--prompt", "Hello", "--temperature", "0");
    assert.match(text, /\w+/);
    const { tasks } = JSON.parse(await rbees("jobs", "list", "--json"));
    assert.equal(tasks[0].status, "succeeded");
    await rbees("down");
    // With TLS, whose libraries are loaded when they are needed.
    const safe = JSON.parse(await rbees("up", "--listen", "0.0.0.0", "--port", port, "--slots", "1", "--threads", "1", "--json"));
    assert.equal(safe.url, `https://127.0.0.1:${port}`);
    assert.match(await rbees("jobs", "submit", "--model", "demo", "--prompt", "Hello", "--temperature", "0"), /\w+/);
  } finally {
    await rbees("down");
  }
});
