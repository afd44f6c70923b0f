/** `rbees pool … --host`, over a real sshd on this machine, to a far side with a home of its own. */
import assert from "node:assert/strict";
import { readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { after, test } from "node:test";
import { PoolWorkers } from "@rbees/contracts/pool";
import fc from "fast-check";
import { createIo } from "../src/io.ts";
import { pool } from "../src/pool-verbs.ts";
import { rbees as program } from "../src/rbees-verbs.ts";
import { commandLine } from "../src/remote/quote.ts";
import { startThere } from "../src/remote/ssh.ts";
import { parseTarget } from "../src/remote/target.ts";
import { bench, freePort, REAL, SRC, until } from "./harness.ts";
import { hostileWords } from "./hostile-words.ts";
import { noSshd, processes, startSshd } from "./sshd.ts";

const skip = noSshd();
const cleaning: (() => Promise<void>)[] = [];
after(async () => {
  for (const clean of cleaning.reverse()) await clean();
});
const after_all = (clean: () => Promise<void>) => void cleaning.push(clean);

async function setUp() {
  const far = await startSshd(after_all);
  // By this path the far side's commands are known among all processes.
  symlinkSync(process.execPath, `${far.folder}/node`);
  far.installPool([`${far.folder}/node`, `${SRC}rbees-pool.ts`]);
  const near = await bench(after_all, REAL);
  Object.assign(near.env, far.env);
  const rbees = (...words: string[]) => near.run(["rbees", ...words]);
  return { far, near, rbees, onAtlas: (...words: string[]) => rbees("pool", ...words, "--host", "atlas") };
}
const { far, near, rbees, onAtlas } = skip === false ? await setUp() : ({} as Awaited<ReturnType<typeof setUp>>);

/** The commands of rbees that run on the far side. */
const farCommands = () => processes().filter(({ args }) => args.startsWith(`${far.folder}/node`) && args.includes("rbees-pool.ts"));

test("every verb of rbees-pool is a verb of rbees pool", () => {
  const carried = program.verbs.flatMap(({ path }) => (path.startsWith("pool ") ? [path.slice("pool ".length)] : []));
  for (const { path } of pool.verbs) assert.ok(carried.includes(path), path);
});

test("help and mistakes are told at once, without SSH", { skip }, async () => {
  const without_ssh = { env: { PATH: "/nowhere" } };
  const run = (line: string) => near.run(["rbees", "pool", ...line.split(" ")], without_ssh);
  assert.match(
    (await run("worker spawn --help")).out,
    /^Usage: rbees pool worker spawn[\s\S]*--host <host>[\s\S]*rbees pool worker spawn cpu --model demo --host atlas/,
  );
  for (const [line, exit, says] of [
    ["worker spawn cpu --host atlas", 2, /required option '--model <model>'/],
    ["worker spwan --host atlas", 2, /Did you mean spawn\?/],
    ["worker spawn cpu --model demo --port 70000 --host atlas", 2, /from 1 to 65535/],
    ["worker list", 2, /Say where: rbees pool worker list --host HOST/],
    ["worker list --host -oProxyCommand=x", 2, /no host/],
    ["worker list --host=-oProxyCommand=x", 2, /is no host/],
    ["worker list --host atlas", 6, /There is no `ssh` on this machine/],
  ] as const) {
    const ran = await run(line);
    assert.equal(ran.exit, exit, `${line}: ${ran.err}`);
    assert.match(ran.err, says);
  }
});

test("words arrive as they are through a real sshd", { skip }, async () => {
  const streams = { stdin: process.stdin, stdout: process.stdout, stderr: process.stderr };
  const world = {
    io: createIo(streams, near.env),
    env: near.env,
    home: { config: near.root, data: "", state: "" },
    programs: REAL,
    signal: new AbortController().signal,
  };
  await fc.assert(
    fc.asyncProperty(hostileWords, async (words) => {
      const child = await startThere(
        world,
        parseTarget("atlas"),
        `exec ${commandLine(["/bin/sh", "-c", 'printf "%s\\0" "$@"', "echo", ...words])}`,
      );
      child.stdin.end();
      const chunks: Buffer[] = [];
      for await (const chunk of child.stdout) chunks.push(chunk as Buffer);
      assert.equal(Buffer.concat(chunks).toString("utf8"), words.map((word) => `${word}\0`).join(""));
    }),
    { numRuns: 40 },
  );
});

test("a burst of commands shares one connection", { skip }, async () => {
  const logins = () => far.log().split("Accepted publickey").length - 1;
  await onAtlas("models", "list");
  const before = logins();
  await Promise.all([onAtlas("models", "list"), onAtlas("worker", "list"), onAtlas("backends", "list"), onAtlas("info")]);
  assert.equal(logins(), before);
});

test("tables, JSON, talk and exit codes are those of the far rbees-pool", { skip }, async () => {
  assert.match((await onAtlas("models", "list")).out, /^MODEL +SIZE[^\n]*\ndemo /);
  const json = await onAtlas("models", "catalog", "--json");
  assert.deepEqual(JSON.parse(json.out).models[0].name, "demo");
  assert.match((await onAtlas("worker", "list")).out, /rbees pool worker spawn cpu --model demo --host atlas/);
  assert.match((await onAtlas("status", "--format", "prometheus")).out, /^# HELP pool_mgr_gpus_total/);
  assert.equal(JSON.parse((await onAtlas("info", "--json")).out).folders.data, `${far.home}/.local/share/rbees`);
  for (const [words, exit, says] of [
    [["worker", "stop", "nobody"], 6, /^rbees: atlas: There is no worker "nobody" on this host; there are none\.\n$/],
    [["worker", "logs", "nobody"], 6, /^rbees: atlas: There is no worker "nobody"/],
    [["models", "info", "$(touch pwned); `x`"], 6, /There is no model "\$\(touch pwned\); `x`" here/],
    [["models", "info", "tinyllama"], 6, /`rbees pool models register tinyllama FILE\.gguf --host atlas`|models download/],
  ] as const) {
    const ran = await onAtlas(...words);
    assert.deepEqual([ran.exit, ran.out], [exit, ""], ran.err);
    assert.match(ran.err, says);
  }
  const failed = await onAtlas("worker", "stop", "nobody", "--json");
  assert.equal(failed.exit, 6);
  assert.equal(JSON.parse(failed.out).error.code, "NOT_FOUND");
});

test("a result that means other than done is shown, and its exit code kept; what a login shell says is no result", { skip }, async (t) => {
  const other = await startSshd((clean) => t.after(clean));
  const program = `${other.folder}/program`;
  const result = JSON.stringify({ models: [] });
  const talk = [
    '{"rbees":"hello","version":"9.9.9"}',
    '{"rbees":"say","line":"It is \\u0027so\\u0027."}',
    '{"rbees":"progress","step":"looking","detail":"3 %"}',
    "not of rbees",
  ];
  const say = (exit: number, out: string) =>
    writeFileSync(program, `printf '%s\\n' ${commandLine(talk)} >&2\nprintf '%s\\n' ${commandLine(["Welcome!", out])}\nexit ${exit}\n`);
  other.installPool(["/bin/sh", program]);
  say(1, result);
  const list = (...flags: string[]) => near.run(["rbees", "pool", "models", "list", "--host", "atlas", ...flags], { env: other.env });
  assert.deepEqual(await list("--json"), { exit: 1, out: `${result}\n`, err: "It is 'so'.\nlooking\n" });
  assert.match((await list()).out, /^No model is on this host\..*: rbees pool models register NAME FILE\.gguf --host atlas\n$/);
  assert.equal((await list("--quiet")).err, "");
  // A far rbees of another version that does not know the verb.
  say(
    2,
    JSON.stringify({
      error: { code: "INVALID_REQUEST", message: "unknown command 'list'", type: "x", param: null, retriable: false, correlation_id: "" },
    }),
  );
  const { exit, err } = await list("--quiet");
  assert.equal(exit, 2);
  assert.match(
    err,
    /^rbees: atlas: unknown command 'list'\. rbees is 9\.9\.9 there and 0\.1\.0 here; `rbees pool upgrade --host atlas` makes them the same\.\n$/,
  );
});

test("localhost needs no SSH", { skip }, async () => {
  const ran = await near.run(["rbees", "pool", "info", "--host", "localhost", "--json"], { env: { PATH: "/nowhere" } });
  assert.equal(ran.exit, 0, ran.err);
  assert.equal(JSON.parse(ran.out).folders.data, `${near.root}/data`);
});

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
  await says(list("nobody.invalid"), 5, /There is no host "nobody\.invalid".*Check the spelling/);
  await says(list(`127.0.0.1:${await freePort()}`), 5, /refuses the connection.*no SSH server listens/);
  await says(list(`127.0.0.1:${silent_port}`), 5, /does not answer in time/);

  const stranger = await startSshd((clean) => t.after(clean));
  const unknown = { ...stranger.env, PATH: far.env.PATH };
  await says(list(`127.0.0.1:${stranger.port}`, unknown), 4, /not known yet: connect once with `ssh -p \d+ 127\.0\.0\.1`/);
  // Another key than the one that is known, and then none of ours that fits.
  writeFileSync(stranger.known_hosts, `[127.0.0.1]:${stranger.port} ${hostKeyOf(far.known_hosts)}`);
  await says(
    list("atlas", { ...stranger.env, RBEES_HOME: near.root }),
    4,
    /is not the one that is known.*ssh-keygen -R \[127\.0\.0\.1\]:\d+|ssh-keygen -R atlas/,
  );
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
    (await rbees("pool", "register", "dead", "--host", `127.0.0.1:${silent_port}`)).exit,
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
    /^POOL[^\n]*\ndead [^\n]*(no answer within 5 s|does not answer in time)[^\n]*\ndead2 [^\n]*\ngood +atlas +0\/0 +1 .*cpu +answers\n$/,
  );
  assert.ok(ms < 9500, `two dead ones at once took ${Math.round(ms)} ms`);
});

function anyNode(checks: { name: string; ok: boolean }[]): boolean | undefined {
  return checks.find(({ name }) => name === "Node.js")?.ok;
}
