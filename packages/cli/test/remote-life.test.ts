/** Workers that are started from afar, and far commands that end with whoever called them. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { PoolWorkers } from "@rbees/contracts/pool";
import { freePort, until } from "./harness.ts";
import { setUp, skip } from "./remote-setup.ts";
import { processes } from "./sshd.ts";

const { far, near, rbees, onAtlas, farCommands } = skip === false ? await setUp() : ({} as Awaited<ReturnType<typeof setUp>>);

test("a worker that is started from afar is registered, answers, is followed, and is stopped", { skip, timeout: 100_000 }, async (t) => {
  const [port, worker_port] = [String(await freePort()), String(await freePort())];
  const up = await rbees("up", "--port", port, "--worker-port", String(await freePort()), "--slots", "1", "--threads", "1");
  t.after(() => rbees("down", "--now"));
  assert.equal(up.exit, 0, up.err);
  const flags = ["--model", "demo", "--port", worker_port, "--threads", "1", "--slots", "2"];
  const spawned = await onAtlas("worker", "spawn", "cpu", ...flags, "--name", "far");
  t.after(() => onAtlas("worker", "stop-all", "--now"));
  assert.equal(spawned.exit, 0, spawned.err);
  assert.match(spawned.out, /^far is ready: demo on cpu, 2 slots/);
  assert.match(spawned.err, /^loading demo on cpu\nwaiting for http:\S+ to accept far\n$/);
  const { workers } = JSON.parse((await rbees("workers", "list", "--json")).out);
  assert.ok(workers.some((worker: { worker_id: string }) => worker.worker_id === "far"));
  const job = await rbees("jobs", "submit", "--model", "demo", "--prompt", "Hello", "--pin", "far");
  assert.equal(job.exit, 0, job.err);
  assert.match(job.err, /worker far/);

  let shown = "";
  const stop = new AbortController();
  const following = near.run(["rbees", "pool", "worker", "logs", "far", "--follow", "--host", "atlas"], {
    signal: stop.signal,
    onOut: (out) => {
      shown = out;
    },
  });
  await until(() => /\d\d:\d\d:\d\d\.\d{3} {2}info {3}ready/.test(shown), "the log is shown as people read it");
  assert.equal(farCommands().length, 1);
  stop.abort();
  assert.equal((await following).exit, 130);
  assert.deepEqual(farCommands(), [], "Ctrl-C has ended the far command too");

  // The port is taken, by a worker and by a stranger.
  const taken = await onAtlas("worker", "spawn", "cpu", ...flags, "--name", "other");
  assert.equal(taken.exit, 1);
  assert.match(taken.err, new RegExp(`atlas: Port ${worker_port} is taken by worker far`));

  const gone = await onAtlas("worker", "stop-all");
  assert.match(gone.out, /^far has finished its jobs and ended\n$/);
  assert.deepEqual(PoolWorkers.parse(JSON.parse((await onAtlas("worker", "list", "--json")).out)).workers, []);
});

test("restart brings a worker back that was expelled, and takes it to an orchestrator that has moved", {
  skip,
  timeout: 100_000,
}, async (t) => {
  mkdirSync(join(near.root, "config"), { recursive: true });
  writeFileSync(join(near.root, "config", "config.toml"), "[orcd]\nauth_required = true\nheartbeat_ms = 100\n");
  const [orcd = "", ...words] = [...near.programs.orcd, "keys", "create", "me", "--role", "operate"];
  writeFileSync(join(near.root, "config", "api.key"), execFileSync(orcd, words, { env: near.env, stdio: "pipe" }), { mode: 0o600 });
  const up = async () => {
    const flags = ["--port", String(await freePort()), "--worker-port", String(await freePort()), "--slots", "1", "--threads", "1"];
    const ran = await rbees("up", ...flags, "--json");
    assert.equal(ran.exit, 0, ran.err);
    return JSON.parse(ran.out) as { url: string; worker: { worker_id: string } };
  };
  const { worker } = await up();
  t.after(() => rbees("down", "--now"));
  t.after(() => onAtlas("worker", "stop-all", "--now"));
  // A port of its own: between its lives others may take the first free one.
  const flags = ["--model", "demo", "--port", String(await freePort()), "--threads", "1", "--slots", "1", "--name", "far"];
  const spawned = await onAtlas("worker", "spawn", "cpu", ...flags);
  assert.equal(spawned.exit, 0, spawned.err);
  // What waiting would not change is told at once.
  const twin = await onAtlas("worker", "spawn", "cpu", "--model", "demo", "--threads", "1", "--slots", "1", "--name", worker.worker_id);
  assert.equal(twin.exit, 1);
  assert.match(
    twin.err,
    /The orchestrator at http:\S+ does not accept worker \S+, so it has been stopped: .*another worker of that name answers at/,
  );
  const listed = async () => (await onAtlas("worker", "list")).out;

  assert.equal((await rbees("workers", "expel", "far")).exit, 0);
  await until(async () => (await listed()).includes("ready, not registered"), "it has heard of it");
  const back = await onAtlas("worker", "restart", "far", "--now");
  assert.equal(back.exit, 0, back.err);
  assert.match(back.out, /^far has ended\nfar is ready/);

  await rbees("down", "--now");
  const { url } = await up();
  const stop = new AbortController();
  const left = await near.run(["rbees", "pool", "worker", "restart", "far", "--now", "--host", "atlas"], {
    signal: stop.signal,
    onErr: () => stop.abort(),
  });
  assert.match(
    left.err,
    new RegExp(`^far is of the orchestrator at http:\\S+, and stays so: --orchestrator ${url} takes it to that one\\.\n`),
  );
  const moved = await onAtlas("worker", "restart", "far", "--orchestrator", url);
  assert.equal(moved.exit, 0, moved.err);
  assert.equal((await rbees("jobs", "submit", "--model", "demo", "--prompt", "Hello", "--max-tokens", "4", "--pin", "far")).exit, 0);
  assert.match(await listed(), /^WORKER +STATUS +MODEL .*\nfar +ready +demo/);
});

test("Ctrl-C while a worker loads leaves none behind", { skip }, async () => {
  const stop = new AbortController();
  const ran = await near.run(
    ["rbees", "pool", "worker", "spawn", "cpu", "--model", "demo", "--orchestrator", "none", "--threads", "1", "--host", "atlas"],
    { signal: stop.signal, onErr: () => stop.abort() },
  );
  assert.equal(ran.exit, 130);
  assert.deepEqual(PoolWorkers.parse(JSON.parse((await onAtlas("worker", "list", "--json")).out)).workers, []);
});

test("SIGTERM, SIGKILL and a connection that breaks end the far command", { skip, timeout: 60_000 }, async (t) => {
  const spawned = await onAtlas("worker", "spawn", "cpu", "--model", "demo", "--orchestrator", "none", "--threads", "1", "--name", "w");
  assert.equal(spawned.exit, 0, spawned.err);
  t.after(() => onAtlas("worker", "stop-all", "--now"));
  const breaks: [string, (child: { kill(signal: NodeJS.Signals): boolean }) => void, number | undefined][] = [
    ["SIGTERM", (child) => child.kill("SIGTERM"), 130],
    ["SIGKILL", (child) => child.kill("SIGKILL"), undefined],
    ["a broken connection", () => breakConnections(), 5],
  ];
  for (const [what, end, exit] of breaks) {
    const following = near.start(["rbees", "pool", "worker", "logs", "w", "--follow", "--host", "atlas"]);
    await until(() => following.out().includes("ready") && farCommands().length === 1, `${what}: it follows`);
    end(following.child);
    const ran = await following.ended;
    if (exit !== undefined) assert.equal(ran.exit, exit, `${what}: ${ran.err}`);
    if (what === "a broken connection") assert.match(ran.err, /The connection to atlas broke/);
    await until(() => farCommands().length === 0, `${what}: the far command has ended`);
  }
});

/** Ends the processes of sshd that serve a connection, as a reboot of the network would. */
function breakConnections(): void {
  const sessions = processes().filter(({ args }) => /^sshd: /.test(args) && !args.includes("listener"));
  for (const { pid } of sessions) if (isBelow(pid, far.pid)) process.kill(pid, "SIGKILL");
}

function isBelow(pid: number, ancestor: number): boolean {
  const parents = new Map(processes("ppid").map(({ pid: child, args }) => [child, Number(args)] as const));
  for (let at: number | undefined = pid; at !== undefined && at > 1; at = parents.get(at)) if (at === ancestor) return true;
  return false;
}
