/** `rbees keys`, and an orchestrator of `rbees up` that others can reach: real programs, keys made by themselves. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { chmodSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { test } from "node:test";
import { bench, freePort, REAL } from "./harness.ts";

test("up beyond loopback makes the key of this host, and its worker joins with a token; without one nobody gets in, and is told what to do", {
  timeout: 110_000,
}, async (t) => {
  const { run, root } = await bench((clean) => t.after(clean), REAL);
  const [port, worker_port] = [String(await freePort()), String(await freePort())];
  const up = await run([
    "rbees",
    "up",
    "--listen",
    "0.0.0.0",
    "--port",
    port,
    "--worker-port",
    worker_port,
    "--slots",
    "1",
    "--threads",
    "1",
  ]);
  assert.equal(up.exit, 0, up.err);
  const mine = join(root, "config", "api.key");
  const secrets = readdirSync(join(root, "state", "workers")).filter((name) => !name.endsWith(".json"));
  assert.deepEqual(secrets.map((name) => name.split(".").at(-1)).sort(), ["credential", "door"], "the token is gone, it is used");
  for (const path of [mine, ...secrets.map((name) => join(root, "state", "workers", name))])
    assert.equal(statSync(path).mode & 0o777, 0o600);
  const bare = await fetch(`http://127.0.0.1:${worker_port}/execute`, { method: "POST", body: "{}" });
  assert.equal(bare.status, 401, "the worker answers its orchestrator alone");
  assert.equal(
    (await run(["rbees", "infer", "--worker", `localhost:${worker_port}`, "--prompt", "Hello"])).exit,
    0,
    "and the tools of its host",
  );
  // The line that it prints works as it is.
  const [, line = ""] = /^ {2}(curl .*)$/m.exec(up.out) ?? [];
  assert.match(line, /--cacert .* -H "authorization: Bearer \$\(cat .*api\.key\)"/);
  const shell = spawnSync("sh", ["-c", `command -v curl >/dev/null || exit 99; ${line} --silent`], { encoding: "utf8" });
  if (shell.status !== 99) assert.match(shell.stdout, /event: end/);
  const key = readFileSync(mine, "utf8").trim();
  const url = `https://127.0.0.1:${port}`;
  assert.match(up.out, /rbees is up: https:/);
  assert.match(up.err, /Made an authority for certificates here/);
  const clear = await run(["rbees", "keys", "list", "--orchestrator", `http://127.0.0.1:${port}`]);
  assert.equal(clear.exit, 5);
  assert.match(clear.err, /no orchestrator|https:/);
  const here = (words: string[], env: Record<string, string> = {}) => run(["rbees", ...words, "--orchestrator", url], { env });

  assert.equal((await here(["jobs", "submit", "--model", "demo", "--prompt", "Hello"])).exit, 0);
  const made = await here(["keys", "create", "app", "--role", "submit"]);
  assert.match(made.out, /^rbk_[0-9a-z]{12}_[\w-]{43}\n$/);
  assert.match(made.err, /only time the key is shown/);
  const app = { RBEES_API_KEY: made.out.trim() };
  assert.equal((await here(["models", "list"], app)).exit, 0);
  const small = await here(["keys", "list"], app);
  assert.equal(small.exit, 4);
  assert.match(small.err, /has the role submit, and this needs operate/);
  assert.match((await here(["keys", "list"])).out, /app +submit +- +live/);

  const never = await here(["keys", "create", "short", "--role", "submit", "--expires-days", "0"]);
  assert.match(never.err, /--expires-days.*Give a number above 0/);
  const soon = await here(["keys", "create", "short", "--role", "submit", "--expires-days", "1"]);
  assert.match((await here(["keys", "rotate", soon.out.trim()])).err, /its roles: submit\. It ends at \d{4}-.*Z\./);
  const rotated = await here(["keys", "rotate", made.out.trim()]);
  assert.match(rotated.out, /^rbk_/);
  assert.doesNotMatch(rotated.err, /ends/);
  const old = await here(["models", "list"], app);
  assert.equal(old.exit, 4);
  assert.match(old.err, /was revoked.*RBEES_API_KEY.*api\.key/s);
  assert.match((await here(["keys", "revoke", rotated.out.split("_")[1] ?? ""])).out, /opens nothing any more/);
  assert.match((await here(["keys", "create", "x", "--role", "queen"])).err, /"queen" is none of submit, observe/);

  assert.match((await here(["keys", "list"], { RBEES_API_KEY: "sk-1" })).err, /RBEES_API_KEY is no API key/);
  chmodSync(mine, 0o644);
  const open = await here(["keys", "list"]);
  assert.match(open.err, /Others can read .*api\.key.*chmod 600/);
  writeFileSync(mine, "rbk_no\n");
  chmodSync(mine, 0o600);
  assert.match((await here(["keys", "list"])).err, /holds no API key/);
  writeFileSync(mine, `${key}\n`);
  for (const name of ["orcd.log"]) assert.ok(!readFileSync(join(root, "state", "logs", name), "utf8").includes(key.slice(17)));
  assert.equal((await run(["rbees", "down"])).exit, 0);
});

test("a token of an issuer goes where a key goes, from the variable and from the file; other words go nowhere", async (t) => {
  const { run, root } = await bench((clean) => t.after(clean));
  const shown: (string | undefined)[] = [];
  const server = createServer(({ headers }, answer) => {
    shown.push(headers.authorization);
    answer.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify({ models: [] }));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => void server.close());
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const list = (RBEES_API_KEY: string) => run(["rbees", "models", "list", "--orchestrator", url], { env: { RBEES_API_KEY } });
  const token = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJtZSJ9.c2lnbmF0dXJl";
  assert.equal((await list(token)).exit, 0);
  mkdirSync(join(root, "config"), { recursive: true });
  writeFileSync(join(root, "config", "api.key"), `${token}\n`, { mode: 0o600 });
  assert.equal((await list("")).exit, 0);
  assert.deepEqual(shown, [`Bearer ${token}`, `Bearer ${token}`]);
  for (const wrong of ["a.b", "a b.c.d", `${token}.e`]) {
    const refused = await list(wrong);
    assert.equal(refused.exit, 2);
    assert.match(refused.err, /RBEES_API_KEY is no API key.*Nor is it a token/);
    assert.ok(!refused.err.includes(wrong));
  }
  assert.equal(shown.length, 2);
});
