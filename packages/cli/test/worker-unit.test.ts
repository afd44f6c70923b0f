/** The unit that `worker spawn --systemd` writes; test/e2e/systemd.test.ts gives one to a real systemd. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { requireUserSystemd } from "../src/local/systemd.ts";
import { unitName, unitText } from "../src/pool/worker-unit.ts";

test("a unit quotes what systemd would read otherwise, and keeps no key and nothing of the session", () => {
  const text = unitText({
    worker_id: "atlas:8001",
    argv: ["/opt/a b/node", "/main.mjs", '--labels=x="1" 50% $HOME\n\\'],
    env: {
      ...{ RBEES_HOME: "/srv/50%", PATH: "/opt/llama/bin:/bin", RBEES_API_KEY: "rbk_secret", RBEES_AFAR: "1" },
      ...{ SSH_CONNECTION: "1 2 3 4", CUDA_VISIBLE_DEVICES: "" },
    },
    log: "/srv/50%/w.log",
    folder: "/srv/50%",
  });
  const lines = text.split("\n");
  assert.ok(lines.includes(String.raw`ExecStart=:"/opt/a b/node" "/main.mjs" "--labels=x=\"1\" 50%% $HOME\n\\"`), text);
  assert.deepEqual(
    lines.filter((line) => /^(Environment|WorkingDirectory|StandardOutput)=/.test(line)),
    [
      'Environment="RBEES_HOME=/srv/50%%"',
      'Environment="PATH=/opt/llama/bin:/bin"',
      "WorkingDirectory=/srv/50%%",
      "StandardOutput=append:/srv/50%%/w.log",
    ],
  );
  assert.doesNotMatch(text, /rbk_secret|AFAR|SSH_CONNECTION|CUDA/);
  // Its engine is its own to start again, and wrong flags don't get better.
  for (const line of ["OOMPolicy=continue", "RestartPreventExitStatus=2"]) assert.ok(lines.includes(line), text);
  assert.equal(unitName("atlas:8001"), "rbees-worker-atlas:8001.service");
});

test("where there is no systemd, that is said, with what to do", async () => {
  await assert.rejects(
    requireUserSystemd("darwin"),
    /On a Mac launchd would keep a worker over a reboot, and rbees does not do that yet\. Leave out/,
  );
  await assert.rejects(requireUserSystemd("win32"), /needs Linux with systemd/);
});
