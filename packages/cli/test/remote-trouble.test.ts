/** What can be wrong with a machine, and how it is told; the register of machines. */
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { test } from "node:test";
import { connectionError } from "../src/remote/ssh-errors.ts";
import { parseTarget } from "../src/remote/target.ts";
import { freePort } from "./harness.ts";
import { setUp, skip } from "./remote-setup.ts";
import { startSshd } from "./sshd.ts";

/** For machines that are known not to answer. */
const IMPATIENT = { RBEES_SSH_CONNECT_MS_MAX: "1000" };

const { far, near, rbees } = skip === false ? await setUp() : ({} as Awaited<ReturnType<typeof setUp>>);

test("what stands in the way of a connection is said with the next step", { skip, timeout: 60_000 }, async (t) => {
  const silent = createServer(() => {});
  const silent_port = await new Promise<number>((resolve) => {
    silent.listen(0, "127.0.0.1", () => resolve((silent.address() as { port: number }).port));
  });
  t.after(() => silent.close());
  const list = (host: string, env: Record<string, string> = {}) => near.run(["rbees", "pool", "worker", "list", "--host", host], { env });
  const says = async (ran: ReturnType<typeof list>, exit: number, expected: RegExp) => {
    const { exit: got, err } = await ran;
    assert.equal(got, exit, err);
    assert.match(err, expected);
    assert.equal(err.trimEnd().split("\n").length, 1, "one sentence");
  };
  await says(list("atlas", { RBEES_SSH_CONNECT_MS_MAX: "soon" }), 2, /RBEES_SSH_CONNECT_MS_MAX must be a whole number of milliseconds/);
  await says(list("nobody.invalid"), 5, /There is no host "nobody\.invalid".*Check the spelling/);
  await says(list(`127.0.0.1:${await freePort()}`), 5, /refuses the connection.*no SSH server listens/);
  await says(list(`127.0.0.1:${silent_port}`, IMPATIENT), 5, /does not answer in time/);

  const stranger = await startSshd((clean) => t.after(clean));
  const unknown = { ...stranger.env, PATH: far.env.PATH };
  await says(list(`127.0.0.1:${stranger.port}`, unknown), 4, /not known yet: connect once with `ssh -p \d+ 127\.0\.0\.1`/);
  // Another key than the one that is known, and then none of ours that fits.
  writeFileSync(stranger.known_hosts, `[127.0.0.1]:${stranger.port} ${hostKeyOf(far.known_hosts)}`);
  await says(list("atlas", { ...stranger.env, RBEES_HOME: near.root }), 4, /is not the one that is known.*ssh-keygen -R atlas/);
  const locked = await startSshd((clean) => t.after(clean));
  writeFileSync(`${locked.folder}/authorized_keys`, "");
  await says(list("atlas", locked.env), 4, /lets nobody in with the keys.*publickey.*ssh-copy-id/);

  const bare = await startSshd((clean) => t.after(clean));
  await says(list("atlas", bare.env), 6, /There is no rbees-pool on atlas: `rbees pool install --host atlas`/);
  bare.installPool(["/bin/echo", "an old program"]);
  await says(list("atlas", bare.env), 1, /does not answer as this rbees expects.*rbees pool install/);
  bare.installPool(["/bin/false"]);
  await says(list("atlas", bare.env), 1, /does not answer as this rbees expects \(exit code 1\)/);
});

test("the commands that are advised can be typed as they stand, and a connection that broke is not called one that can't be made", () => {
  const target = { ...parseTarget("me@10.0.0.9:2200"), name: "attic" };
  const changed = connectionError(target, "WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!");
  assert.match(changed.message, /`ssh-keygen -R '\[10\.0\.0\.9\]:2200'` and connect once with `ssh -p 2200 me@10\.0\.0\.9`\.$/);
  assert.match(
    connectionError(target, "").message,
    /^The connection to attic \(10\.0\.0\.9\) could not be made, or broke, and ssh does not say why\./,
  );
});

function hostKeyOf(known_hosts: string): string {
  return readFileSync(known_hosts, "utf8").split(" ").slice(1).join(" ");
}

test("register says what is missing, list and status show it, unregister forgets it", { skip, timeout: 60_000 }, async (t) => {
  const bare = await startSshd((clean) => t.after(clean), { path: "/nowhere:/bin" });
  const silent = createServer(() => {});
  const silent_port = await new Promise<number>((resolve) => {
    silent.listen(0, "127.0.0.1", () => resolve((silent.address() as { port: number }).port));
  });
  t.after(() => silent.close());
  assert.match((await rbees("pool", "list")).out, /No pools/);
  const good = await rbees("pool", "register", "good", "--host", "atlas");
  assert.equal(good.exit, 0, good.err);
  assert.match(
    good.out,
    /^good is atlas\nok +SSH[\s\S]*ok +Node\.js[\s\S]*ok +rbees-pool +0\.1\.0[\s\S]*ok +devices +cpu[\s\S]*Next: rbees pool worker spawn/,
  );
  const empty = await near.run(["rbees", "pool", "register", "empty", "--host", "atlas", "--json"], { env: bare.env });
  const { ready, checks } = JSON.parse(empty.out);
  assert.equal(ready, false);
  assert.deepEqual(checks.map(({ name, ok }: { name: string; ok: boolean }) => [name, ok]).slice(0, 3), [
    ["SSH", true],
    ["Node.js", anyNode(checks)],
    ["rbees-pool", false],
  ]);
  assert.equal(
    (await near.run(["rbees", "pool", "register", "dead", "--host", `127.0.0.1:${silent_port}`], { env: IMPATIENT })).exit,
    5,
    "what can't be entered is not registered",
  );
  const both = JSON.parse((await rbees("pool", "list", "--json")).out).pools.map(({ name }: { name: string }) => name);
  assert.deepEqual(both, ["empty", "good"]);
  assert.equal((await rbees("pool", "unregister", "empty")).exit, 0);
  assert.equal((await rbees("pool", "unregister", "empty")).exit, 6);

  // One that has died since: it costs its own timeout, and the other is shown all the same.
  writeFileSync(
    `${near.root}/config/pools.json`,
    JSON.stringify({
      version: 1,
      pools: {
        good: { host: "atlas", registered_at: "2026-01-01" },
        dead: { host: "127.0.0.1", port: silent_port, registered_at: "2026-01-01" },
        dead2: { host: "127.0.0.1", port: silent_port, registered_at: "2026-01-01" },
      },
    }),
  );
  const began = performance.now();
  const status = await rbees("pool", "status");
  const ms = performance.now() - began;
  assert.equal(status.exit, 5);
  assert.match(
    status.out,
    /^POOL[^\n]*\ndead [^\n]* see below\ndead2 [^\n]*\ngood +atlas +0\/0 +1 .*cpu +answers\ndead: [^\n]*(no answer within 5 s|does not answer in time)[^\n]*\ndead2: [^\n]*\n$/,
  );
  assert.ok(ms < 9500, `two dead ones at once took ${Math.round(ms)} ms`);
});

function anyNode(checks: { name: string; ok: boolean }[]): boolean | undefined {
  return checks.find(({ name }) => name === "Node.js")?.ok;
}
