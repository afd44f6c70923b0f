/** `npm run test:cluster`: an operator and three machines, each with its own address, name, sshd and home. */
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { noSshd, processes, type Sshd, startSshd } from "../../packages/cli/test/sshd.ts";
import { eventually, type Json } from "../support/cluster.ts";
import { machines, noNamespaces } from "../support/netns.ts";

const HUB = fileURLToPath(new URL("./hub.ts", import.meta.url));
const RBEES = fileURLToPath(new URL("../../packages/cli/src/rbees.ts", import.meta.url));
const HOSTS = ["h1", "h2", "h3"] as const;
const skip = noSshd() || noNamespaces();

function onMachine(prefix: readonly string[], words: readonly string[]): [string, string[]] {
  const [program = "", ...args] = [...prefix, process.execPath, ...words];
  return [program, args];
}

interface Ran {
  exit: number;
  out: string;
  err: string;
  ms: number;
}

test("three hosts: register, install, download, spawn, a job, a cable pulled and plugged in, stop-all, nothing left", {
  skip,
  timeout: 400_000,
}, async (t) => {
  const { all, close } = machines(["op", ...HOSTS]);
  const folder = mkdtempSync("/tmp/rbees-cluster-");
  const cleaning: (() => Promise<void>)[] = [];
  const folders = [folder];
  t.after(async () => {
    close();
    for (const clean of cleaning) await clean();
    rmSync(folder, { recursive: true, force: true });
  });
  const [op, ...hosts] = all;
  assert.ok(op);

  // Each host has an sshd at its own address; the operator's ssh knows them by name.
  const sshds: Sshd[] = [];
  for (const { address, prefix } of hosts) {
    sshds.push(await startSshd((clean) => void cleaning.push(clean), { address, prefix, port: 22 }));
  }
  folders.push(...sshds.map((sshd) => sshd.folder));
  const bin = join(folder, "bin");
  for (const made of [bin, join(folder, "run")]) mkdirSync(made, { mode: 0o700 });
  const config = hosts.map(
    ({ address }, i) =>
      `Host ${address}\n  User root\n  IdentityFile ${sshds[i]?.folder}/key\n  UserKnownHostsFile ${sshds[i]?.known_hosts}\n  IdentityAgent none\n`,
  );
  writeFileSync(join(folder, "ssh_config"), config.join(""));
  writeFileSync(join(bin, "ssh"), `#!/bin/sh\nexec /usr/bin/ssh -F ${folder}/ssh_config "$@"\n`);
  chmodSync(join(bin, "ssh"), 0o755);
  const env = {
    PATH: `${bin}:${dirname(process.execPath)}:/usr/sbin:/usr/bin:/sbin:/bin`,
    HOME: folder,
    RBEES_HOME: join(folder, "op"),
    XDG_RUNTIME_DIR: join(folder, "run"),
  };

  // A hub on the operator's machine. The hosts know nothing of it: which one it is, and a token for it, come from the operator.
  const model = fileURLToPath(new URL("../../models/demo/demo.gguf", import.meta.url));
  const hub = spawn(
    ...onMachine(op.prefix, [HUB, op.address, "Qwen/Qwen2.5-0.5B-Instruct-GGUF", "qwen2.5-0.5b-instruct-q4_k_m.gguf", model, "hf_op"]),
    { env, stdio: ["pipe", "pipe", "inherit"] },
  );
  t.after(() => hub.kill());
  const [hub_url] = await once(createInterface({ input: hub.stdout }), "line");
  Object.assign(env, { HF_ENDPOINT: hub_url, HF_TOKEN: "hf_op" });

  const rbees = (...words: string[]): Promise<Ran> => {
    const began = performance.now();
    const child = spawn(...onMachine(op.prefix, [RBEES, ...words]), { env, stdio: ["ignore", "pipe", "pipe"] });
    const ran: Ran = { exit: -1, out: "", err: "", ms: 0 };
    child.stdout.setEncoding("utf8").on("data", (chunk: string) => {
      ran.out += chunk;
    });
    child.stderr.setEncoding("utf8").on("data", (chunk: string) => {
      ran.err += chunk;
    });
    return new Promise((resolve) => {
      child.once("close", (code) => resolve({ ...ran, exit: code ?? -1, ms: Math.round(performance.now() - began) }));
    });
  };
  const good = async (...words: string[]): Promise<Ran> => {
    const ran = await rbees(...words);
    t.diagnostic(`rbees ${words.join(" ")}: exit ${ran.exit}, ${ran.ms} ms`);
    assert.equal(ran.exit, 0, `rbees ${words.join(" ")}: ${ran.err}`);
    return ran;
  };
  const workers = async (): Promise<Json[]> => JSON.parse((await good("workers", "list", "--json")).out).workers;
  const onAll = (...words: string[]) => Promise.all(HOSTS.map((host) => good("pool", ...words, "--host", host)));

  // An orchestrator that nobody else can reach is no place to register, and that is said before anything is started.
  await good("up", "--threads", "1", "--slots", "1");
  for (const [i, host] of HOSTS.entries()) {
    const registered = await good("pool", "register", host, "--host", hosts[i]?.address ?? "", "--user", "root");
    assert.match(registered.out, new RegExp(`missing +rbees-pool[\\s\\S]*Next: rbees pool install --host ${host}\n$`));
  }
  const loopback = await rbees("pool", "worker", "spawn", "cpu", "--model", "demo", "--host", "h1");
  assert.equal(loopback.exit, 1);
  assert.match(loopback.err, /only this machine can.*`rbees up --listen 10\.77\.0\.1`/);
  await good("down");

  assert.match((await good("up", "--listen", op.address, "--threads", "1", "--slots", "1")).err, /Made a key for rbees here/);
  await onAll("install");
  assert.match((await good("pool", "register", "h1", "--host", hosts[0]?.address ?? "", "--user", "root")).out, /ok +rbees-pool +0\.1\.0/);

  // Each fetches the model over the network, into its own home; what it got is what the hub said it would be.
  for (const [i, { out }] of (await onAll("models", "download", "qwen")).entries())
    assert.match(out, new RegExp(`qwen-0.5b is here, [^\\n]*: ${sshds[i]?.home}/`));
  for (const { out } of await onAll("models", "verify", "qwen")) assert.match(out, /qwen-0.5b +yes/);

  const spawned = await onAll("worker", "spawn", "cpu", "--model", "qwen", "--threads", "1", "--slots", "2");
  for (const { err } of spawned)
    assert.match(err, /The worker listens on 10\.77\.0\.\d: others on that network can reach it too; it answers its orchestrator alone/);
  const addresses = (await workers()).map(({ worker_id, address }) => [worker_id, address]);
  for (const { name, address } of hosts)
    assert.ok(
      addresses.some(([id, at]) => id === `${name}-8001` && at === `https://${address}:8001`),
      JSON.stringify(addresses),
    );

  // Whoever is on the network, on another of the machines too, gets nothing of a worker but its health.
  const knock = (method: string, path: string) =>
    execFileSync(
      ...onMachine(hosts[0]?.prefix ?? [], [
        "-e",
        `fetch("https://${hosts[1]?.address}:8001${path}", { method: "${method}" }).then(({ status }) => console.log(status))`,
      ]),
      { env: { ...env, NODE_EXTRA_CA_CERTS: join(folder, "op/config/tls/ca.pem") } },
    ).toString();
  assert.deepEqual(
    [knock("GET", "/health"), knock("POST", "/execute"), knock("POST", "/shutdown")].map((line) => line.trim()),
    ["200", "401", "401"],
  );

  const job = (worker: string) => good("jobs", "submit", "--model", "qwen", "--prompt", "What is a bee?", "--pin", worker);
  assert.match((await job("h2-8001")).err, /worker h2-8001/);
  const status = await good("pool", "status");
  assert.match(status.out, /h1 [^\n]* 1\/1 [^\n]*answers\nh2 [^\n]* 1\/1 [^\n]*answers\nh3 [^\n]* 1\/1 [^\n]*answers\n$/);

  // A cable is pulled: the others work on, and looking at all costs one timeout.
  hosts[2]?.cable(false);
  const dark = await rbees("pool", "status");
  t.diagnostic(`rbees pool status with one of three gone: exit ${dark.exit}, ${dark.ms} ms`);
  assert.equal(dark.exit, 5);
  assert.match(
    dark.out,
    /h1 [^\n]*answers\nh2 [^\n]*answers\nh3 [^\n]*see below\nh3: [^\n]*(no answer within 5 s|does not answer in time|broke)[^\n]*\n$/,
  );
  assert.ok(dark.ms < 15_000, `${dark.ms} ms`);
  await job("h1-8001");
  hosts[2]?.cable(true);
  await eventually(async () => {
    const [h3] = (await workers()).filter(({ worker_id }) => worker_id === "h3-8001");
    return h3 !== undefined && h3.status === "ready" && Date.now() - Date.parse(h3.last_heartbeat_at) < 6000;
  }, 60_000);
  assert.match((await job("h3-8001")).err, /worker h3-8001/);
  const logs = await good("pool", "worker", "logs", "h3-8001", "--host", "h3");
  assert.match(logs.out, /registered/);

  for (const { out } of await onAll("worker", "stop-all")) assert.match(out, /has finished its jobs and ended/);
  assert.deepEqual(
    (await workers()).filter(({ worker_id }) => /^h\d/.test(worker_id)),
    [],
  );
  await good("down");
  hub.stdin.end();
  await once(hub, "exit");

  // Kept connections end by themselves; the machines are then taken away.
  const left = () => processes().filter(({ args }) => folders.some((one) => args.includes(one)) && !args.includes("sshd_config"));
  await eventually(() => left().length === 0, 30_000).catch(() => assert.deepEqual(left(), [], "only each host's sshd is left"));
  close();
  for (const clean of cleaning.splice(0)) await clean();
  rmSync(folder, { recursive: true, force: true });
  assert.deepEqual(
    processes().filter(({ args }) => folders.some((one) => args.includes(one))),
    [],
  );
  for (const one of folders) assert.ok(!existsSync(one), one);
});
