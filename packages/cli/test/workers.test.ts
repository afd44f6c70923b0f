/** `rbees-pool worker …`, `status` and `backends list`, with a worker program that behaves as its model's name says. */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { mkdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { type TestContext, test } from "node:test";
import { ModelFit, PoolBackends, PoolStatus, PoolWorker, PoolWorkers } from "@rbees/contracts/pool";
import { homeOf } from "@rbees/kit/home";
import { isAlive } from "../src/local/process-identity.ts";
import { parseNvidiaSmi } from "../src/pool/backends.ts";
import { readWorkers } from "../src/pool/worker-record.ts";
import { fakeOrchestrator } from "./fake-orchestrator.ts";
import { writeGguf } from "./gguf-file.ts";
import { ANSI, type Bench, bench, freePort, until } from "./harness.ts";
import { processes } from "./sshd.ts";

interface Pool {
  pool: Bench;
  worker: (...verb: string[]) => ReturnType<Bench["run"]>;
  spawn: (...flags: string[]) => ReturnType<Bench["run"]>;
  list: () => Promise<PoolWorker[]>;
}

async function setUp(t: TestContext): Promise<Pool> {
  const pool = await bench((clean) => t.after(clean));
  await writeGguf(pool.programs.demo_model);
  await writeFile(join(pool.root, "bins"), "");
  const worker: Pool["worker"] = (...verb) => pool.run(["rbees-pool", "worker", ...verb]);
  return {
    pool,
    worker,
    spawn: (...flags) => worker("spawn", "cpu", "--orchestrator", "none", "--model", ...flags),
    list: async () => PoolWorkers.parse(JSON.parse((await worker("list", "--json")).out)).workers,
  };
}

async function model(pool: Bench, name: string): Promise<string> {
  const path = join(pool.root, `${name}.gguf`);
  await writeGguf(path);
  return path;
}

test("spawn waits until the worker is ready; list, logs and stop tell the truth about it", async (t) => {
  const { spawn, worker, list } = await setUp(t);
  const port = await freePort();
  const ran = await spawn("demo", "--port", String(port), "--name", "w1", "--slots", "2", "--json");
  assert.equal(ran.exit, 0, ran.err);
  assert.partialDeepStrictEqual(PoolWorker.parse(JSON.parse(ran.out)), {
    worker_id: "w1",
    status: "ready",
    port,
    slots: 2,
    slots_busy: 0,
    tokens_per_second: 12.5,
  });
  assert.equal(ran.err, "loading demo on cpu\n");
  assert.deepEqual(
    (await list()).map(({ worker_id, status }) => [worker_id, status]),
    [["w1", "ready"]],
  );
  assert.match(
    (await worker("list")).out,
    new RegExp(`\\nw1 +ready +demo +cpu +127\\.0\\.0\\.1:${port} +0/2 +12\\.5 +5\\.0 MB +\\d+ MB +\\d+s +\\d+\\n$`),
  );
  const { out: log } = await worker("logs", "w1");
  assert.match(log, /info {3}ready {2}port=\d+ {2}slots=2\n$/);
  assert.doesNotMatch(log, /gpu_layers/, "the worker's own default holds");
  const stopped = await worker("stop", "w1", "--json");
  assert.deepEqual(JSON.parse(stopped.out), { worker_id: "w1", ended: "drained" });
  assert.deepEqual(await list(), []);
  assert.equal((await worker("stop", "w1")).exit, 6);
  const after = (await worker("logs", "w1", "--lines", "1", "--json")).out;
  assert.equal(JSON.parse(after).msg, "draining", "a log outlives its worker");
});

test("a worker outlives the command that started it, in a session of its own", async (t) => {
  const { spawn, pool } = await setUp(t);
  assert.equal((await spawn("demo", "--name", "w1")).exit, 0);
  const [record] = await readWorkers(homeOf(pool.env));
  assert.ok(record && (await isAlive(record.process)));
  if (process.platform !== "linux") return;
  const stat = await readFile(`/proc/${record.process.pid}/stat`, "latin1");
  const [, , group, session] = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  assert.deepEqual([Number(group), Number(session)], [record.process.pid, record.process.pid]);
});

test("workers without a port get one each, also when they start at once", async (t) => {
  const { spawn, list } = await setUp(t);
  const ran = await Promise.all(["a", "b", "c"].map((name) => spawn("demo", "--name", name)));
  assert.deepEqual(
    ran.map(({ exit }) => exit),
    [0, 0, 0],
  );
  const workers = await list();
  assert.equal(new Set(workers.map(({ port }) => port)).size, 3);
  assert.ok(workers.every(({ port, status }) => port >= 8001 && status === "ready"));
});

test("a port or an id that is taken is refused, naming who has it; so is a region that is none", async (t) => {
  const { spawn } = await setUp(t);
  const port = String(await freePort());
  await spawn("demo", "--port", port, "--name", "w1");
  const same_port = await spawn("demo", "--port", port, "--name", "w2");
  assert.equal(same_port.exit, 1);
  assert.match(same_port.err, new RegExp(`Port ${port} is taken by worker w1 \\(pid \\d+\\)`));
  const same_name = await spawn("demo", "--name", "w1");
  assert.equal(same_name.exit, 1);
  assert.match(same_name.err, /A worker "w1" is running already/);
  const nowhere = await spawn("demo", "--name", "w3", "--region", "UE");
  assert.equal(nowhere.exit, 2);
  assert.match(nowhere.err, /--region names no country that there is \(UE\)/);
});

test("a worker that dies while loading is told with its reason and the end of its log, and leaves no record", async (t) => {
  const { spawn, list, pool } = await setUp(t);
  const { exit, out, err } = await spawn(await model(pool, "dies"), "--name", "w1");
  assert.equal(exit, 1);
  assert.equal(out, "");
  assert.match(
    err,
    /Worker w1 ended before it was ready \(exit code 1\): the model needs 9 GB and 2 GB are free\nThe end of its log, .*w1\.log:\n/,
  );
  assert.deepEqual(await list(), []);
});

test("a worker that can't be written down, as on a full disk, is ended; one that can't be counted is not, and can be stopped", async (t) => {
  const { spawn, worker, list, pool } = await setUp(t);
  const workers = join(pool.root, "state", "workers");
  await mkdir(join(pool.root, "state"), { recursive: true });
  await symlink(join(pool.root, "nowhere", "workers"), workers);
  assert.equal((await spawn("demo", "--name", "unwritten")).exit, 1);
  assert.deepEqual(
    processes().filter(({ args }) => args.includes("--worker-id=unwritten")),
    [],
  );
  await rm(workers);

  await rm(join(pool.root, "state", "counters.json"), { force: true });
  await mkdir(join(pool.root, "state", "counters.json"));
  assert.equal((await spawn("demo", "--name", "uncounted")).exit, 0);
  assert.equal((await worker("stop", "uncounted")).out, "uncounted has finished its jobs and ended\n");
  assert.deepEqual(await list(), []);
});

test("a worker that was given a token is ready when it has joined: one that is refused ends, and the reason is told", async (t) => {
  const { pool, worker, list } = await setUp(t);
  const token = join(pool.root, "join.token");
  await writeFile(token, `rbj_${"a".repeat(12)}_${"b".repeat(43)}\n`, { mode: 0o600 });
  const words = ["spawn", "cpu", "--model", await model(pool, "refused"), "--orchestrator", "http://127.0.0.1:9", "--token-file", token];
  const { exit, err } = await worker(...words, "--registered-ms-max", "300");
  assert.equal(exit, 5);
  assert.match(err, /has not accepted worker .* within 300 ms, so it has been stopped\. .*: The join token was used before\./);
  // Who need not join at once is ready before, and whether the orchestrator knows it is said.
  assert.equal((await worker(...words.slice(0, -2), "--name", "alone")).exit, 0);
  assert.match((await worker("list")).out, /^alone +ready, not registered +http:\/\/127\.0\.0\.1:9 +refused /m);
  assert.deepEqual(
    (await list()).map(({ registered }) => registered),
    [false],
  );
  await worker("stop", "alone");
  // Without being told how long, too, it waits for that.
  const stop = new AbortController();
  const waiting = (said: string) => said.includes("waiting for http://127.0.0.1:9 to accept") && stop.abort();
  assert.equal((await pool.run(["rbees-pool", "worker", ...words], { signal: stop.signal, onErr: waiting })).exit, 130);
  assert.deepEqual(await list(), []);
});

test("what a start that failed has made for the worker goes with it, unless it came back without a token", async (t) => {
  const { spawn, pool } = await setUp(t);
  const file = (kind: string) => join(pool.root, "state", "workers", `w1.${kind}`);
  await mkdir(join(pool.root, "state", "workers"), { recursive: true });
  for (const kind of ["credential", "door"]) await writeFile(file(kind), kind, { mode: 0o600 });
  const dies = await model(pool, "dies");
  assert.equal((await spawn(dies, "--name", "w1")).exit, 1);
  assert.deepEqual([existsSync(file("credential")), existsSync(file("door"))], [true, false]);
  const stdin = `${JSON.stringify({ join_token: `rbj_${"a".repeat(12)}_${"b".repeat(43)}` })}\n`;
  const words = ["rbees-pool", "worker", "spawn", "cpu", "--orchestrator", "none", "--model", dies, "--name", "w1", "--handover"];
  assert.match((await pool.run(words, { stdin })).err, /the model needs 9 GB/);
  assert.deepEqual([existsSync(file("credential")), existsSync(file("join"))], [false, false]);
  Object.assign(pool.programs, { workerd: [join(pool.root, "nowhere")] });
  assert.match((await pool.run(words, { stdin })).err, /nowhere can't be started/);
  assert.equal(existsSync(file("join")), false);
});

test("a worker that never gets ready is ended when its time is up, and by Ctrl-C", async (t) => {
  const { spawn, list, pool } = await setUp(t);
  const path = await model(pool, "never-ready");
  const late = await spawn(path, "--ready-ms-max", "300");
  assert.equal(late.exit, 1);
  assert.match(late.err, /was not ready within 300 ms and has been stopped/);
  assert.deepEqual(await list(), []);
  const stop = new AbortController();
  const ran = await pool.run(["rbees-pool", "worker", "spawn", "cpu", "--orchestrator", "none", "--model", path], {
    signal: stop.signal,
    onErr: () => stop.abort(),
  });
  assert.equal(ran.exit, 130);
  assert.deepEqual(await list(), []);
});

test("a record whose pid belongs to another process now counts as dead, and that process is left alone", async (t) => {
  const { spawn, worker, list, pool } = await setUp(t);
  await spawn("demo", "--name", "w1");
  const [record] = await readWorkers(homeOf(pool.env));
  assert.ok(record);
  process.kill(record.process.pid, "SIGKILL");
  await until(async () => !(await isAlive(record.process)), "it is dead");
  const path = join(pool.root, "state", "workers", "w1.json");
  await writeFile(path, JSON.stringify({ ...record, process: { ...record.process, pid: process.pid } }));
  assert.deepEqual(
    (await list()).map(({ status, pid }) => [status, pid]),
    [["dead", process.pid]],
  );
  assert.deepEqual(JSON.parse((await worker("stop", "w1", "--json")).out), { worker_id: "w1", ended: "dead" });
});

test("restart drains a worker and starts it again with its id, port and options, by id or by port, also when it is dead", async (t) => {
  const { spawn, worker, list, pool } = await setUp(t);
  const port = await freePort();
  await spawn("demo", "--port", String(port), "--slots", "3", "--labels", "disk=fast", "--ctx", "128");
  const [before] = await readWorkers(homeOf(pool.env));
  assert.ok(before);
  const first = await worker("restart", before.worker_id, "--json");
  assert.equal(first.exit, 0, first.err);
  assert.partialDeepStrictEqual(JSON.parse(first.out), { worker_id: before.worker_id, ended: "drained", status: "ready", port, slots: 3 });
  assert.equal(await isAlive(before.process), false, "the earlier process has ended");
  const [after] = await readWorkers(homeOf(pool.env));
  assert.ok(after && (await isAlive(after.process)));
  assert.partialDeepStrictEqual(after.request, { slots: 3, ctx: 128, labels: { disk: "fast" } });
  process.kill(after.process.pid, "SIGKILL");
  await until(async () => !(await isAlive(after.process)), "it is dead");
  const second = await worker("restart", "--port", String(port));
  assert.equal(second.exit, 0, second.err);
  assert.match(
    second.out,
    new RegExp(`had ended already\\n${before.worker_id} is ready: demo on cpu, 3 slots, http://127\\.0\\.0\\.1:${port}\\n$`),
  );
  assert.deepEqual(
    (await list()).map(({ status, slots, joins }) => [status, slots, joins]),
    [["ready", 3, { orchestrator: null }]],
  );
  const orchestrator = await fakeOrchestrator({ events: [] });
  t.after(() => orchestrator.close());
  assert.equal((await worker("restart", before.worker_id, "--orchestrator", orchestrator.url)).exit, 0);
  const [moved] = await list();
  assert.deepEqual([moved?.port, moved?.joins?.orchestrator, orchestrator.workers.has(before.worker_id)], [port, orchestrator.url, true]);
});

test("restart stops nothing that could not start again, and a start that fails can be tried again", async (t) => {
  const { spawn, worker, list, pool } = await setUp(t);
  const path = await model(pool, "good");
  // A port of its own: between its two lives others may take the first free one.
  await spawn(path, "--name", "w1", "--port", String(await freePort()));
  for (const [argv, exit, says] of [
    [["restart"], 2, /Say which worker: its id, or --port/],
    [["restart", "nobody"], 6, /There is no worker "nobody" on this host; there are: w1/],
    [["restart", "--port", "1"], 6, /There is no worker on port 1 of this host; there are workers on: \d+/],
  ] as const) {
    const ran = await worker(...argv);
    assert.equal(ran.exit, exit, argv.join(" "));
    assert.match(ran.err, says);
  }
  await rm(path);
  const gone = await worker("restart", "w1");
  assert.equal(gone.exit, 6);
  assert.match(gone.err, /The model's file is gone from .*good\.gguf, so worker w1 could not start again; it is left as it is/);
  assert.deepEqual(
    (await list()).map(({ status }) => status),
    ["ready"],
  );
  await writeGguf(path);
  const record = join(pool.root, "state", "workers", "w1.json");
  const right = await readFile(record, "utf8");
  await writeFile(record, right.replaceAll('"name":"good"', '"name":"dies"').replaceAll('"name": "good"', '"name": "dies"'));
  const [credential, token] = [join(pool.root, "state", "workers", "w1.credential"), join(pool.root, "token")];
  await writeFile(credential, "kept", { mode: 0o600 });
  await writeFile(token, `rbj_${"a".repeat(12)}_${"b".repeat(43)}`, { mode: 0o600 });
  assert.match((await worker("restart", "w1", "--token-file", token)).err, /ended before it was ready/);
  assert.equal(existsSync(credential), true, "it may still be good");
  assert.deepEqual(
    (await list()).map(({ worker_id, status }) => [worker_id, status]),
    [["w1", "dead"]],
  );
  await writeFile(record, right);
  assert.equal((await worker("restart", "w1")).exit, 0);
  await writeFile(record, JSON.stringify({ ...JSON.parse(await readFile(record, "utf8")), request: undefined }));
  assert.match((await worker("restart", "w1")).err, /was started by an earlier rbees, which did not keep its options/);
});

test("a worker that ignores every request is killed", async (t) => {
  const { spawn, worker, pool } = await setUp(t);
  await spawn(await model(pool, "stubborn"), "--name", "w1");
  const { exit, out } = await worker("stop", "w1", "--now");
  assert.equal(exit, 0);
  assert.equal(out, "w1 was killed\n");
});

test("stop-all ends every worker, and says so when there is none", async (t) => {
  const { spawn, worker, list } = await setUp(t);
  await spawn("demo", "--name", "a");
  await spawn("demo", "--name", "b");
  assert.equal((await worker("stop-all")).out.trimEnd().split("\n").length, 2);
  assert.deepEqual(await list(), []);
  assert.equal((await worker("stop-all")).out, "No workers.\n");
});

test("--gpu-layers reaches the worker, and again after a restart", async (t) => {
  const { spawn, worker } = await setUp(t);
  const asked = async () => (await worker("logs", "w1")).out;
  const again = ["demo", "--name", "w1", "--port", String(await freePort())];
  const first = await spawn(...again, "--gpu-layers", "auto");
  assert.equal(first.exit, 0, first.err);
  assert.match(await asked(), /gpu_layers=auto/);
  await worker("stop", "w1", "--now");
  const second = await spawn(...again, "--gpu-layers", "0");
  assert.equal(second.exit, 0, second.err);
  assert.match(await asked(), /gpu_layers=0/);
  const restarted = await worker("restart", "w1", "--now");
  assert.equal(restarted.exit, 0, restarted.err);
  assert.match(await asked(), /gpu_layers=0/);
});

test("what the engine shall do reaches the worker, files by their whole path, and again after a restart", async (t) => {
  const { spawn, worker } = await setUp(t);
  const kept = [
    "--cache-type",
    "q8_0",
    "--prefix-cache-bytes-max",
    "1000000",
    "--prefix-cache-dir",
    "kept",
    "--speculate",
    "8",
    "--prefill-chunk-tokens",
    "128",
    "--prefill-stretch-max",
    "10",
  ];
  const given = ["demo", "--name", "w1", "--port", String(await freePort()), ...kept, "--lora", "a=one.gguf", "--lora", "b=/two.gguf"];
  const { exit, err } = await spawn(...given);
  assert.equal(exit, 0, err);
  const all = [
    ...[
      "cache_type=q8_0",
      "prefix_cache_bytes_max=1000000",
      `prefix_cache_dir=${resolve("kept")}`,
      "speculate=8",
      "prefill_chunk_tokens=128",
      "prefill_stretch_max=10",
    ],
    `lora=a=${resolve("one.gguf")},b=/two.gguf`,
  ];
  const log = (await worker("logs", "w1")).out;
  for (const one of all) assert.ok(log.includes(one), `${one}: ${log}`);
  const restarted = await worker("restart", "w1", "--now");
  assert.equal(restarted.exit, 0, restarted.err);
  const again = (await worker("logs", "w1")).out;
  for (const one of all) assert.ok(again.includes(one), `${one}: ${again}`);
  for (const wrong of ["one.gguf", "=one.gguf", "a=", "a=b,c.gguf"])
    assert.match((await spawn("demo", "--lora", wrong)).err, /Give name=FILE\.gguf, without commas/);
});

test("a program of the user's computes on what it was built for, and what a server can do is said with it", async (t) => {
  const { worker, pool } = await setUp(t);
  const spawn = (...flags: string[]) => worker("spawn", ...flags, "--orchestrator", "none");
  const own = await spawn(
    "cuda",
    "--model",
    "demo",
    "--name",
    "w1",
    "--engine",
    "llama-server",
    "--engine-path",
    "bin/llama-server",
    "--port",
    String(await freePort()),
  );
  assert.equal(own.exit, 0, own.err);
  const log = (await worker("logs", "w1")).out;
  for (const one of ["engine=llama-server", `engine_path=${resolve("bin/llama-server")}`]) assert.ok(log.includes(one), `${one}: ${log}`);
  const restarted = await worker("restart", "w1", "--now");
  assert.equal(restarted.exit, 0, restarted.err);
  const server = ["--engine", "openai", "--engine-url", "http://127.0.0.1:9/v1", "--engine-features", "tools,embeddings"];
  // The stand-in of a worker reads a file by that name.
  const other = await spawn("cpu", "--model", pool.programs.demo_model, "--name", "w2", ...server);
  assert.equal(other.exit, 0, other.err);
  assert.ok((await worker("logs", "w2")).out.includes("engine_features=tools,embeddings"));
});

test("what a worker takes is kept beside the estimate, and counts for the next one with the same file, context and slots", async (t) => {
  const { spawn, worker, list, pool } = await setUp(t);
  const fit = async (...flags: string[]) =>
    ModelFit.parse(JSON.parse((await pool.run(["rbees-pool", "models", "info", "demo", ...flags, "--json"])).out).fit);
  const before = await fit("--slots", "2");
  assert.deepEqual([before.measured_bytes, before.needed_bytes], [null, before.estimated_bytes]);
  await spawn("demo", "--name", "w1", "--slots", "2", "--port", String(await freePort()));
  const [listed] = await list();
  assert.deepEqual([listed?.memory_bytes, listed?.estimated_bytes], [5_000_000, before.estimated_bytes]);
  assert.doesNotMatch((await worker("logs", "w1")).out, /measured_bytes/);
  const after = await fit("--slots", "2");
  assert.deepEqual([after.measured_bytes, after.needed_bytes, after.estimated_bytes], [5_000_000, 5_000_000, before.estimated_bytes]);
  assert.equal((await fit("--slots", "3")).measured_bytes, null, "other slots were not measured");
  assert.equal((await fit("--slots", "2", "--ctx", "128")).measured_bytes, null, "nor was another context");
  assert.match(
    (await pool.run(["rbees-pool", "models", "info", "demo", "--slots", "2"])).out,
    /\nmemory +5\.0 MB for 2 slots of 512 tokens\n +measured here; the estimate was \d+ MB\n/,
  );
  await worker("restart", "w1");
  assert.match((await worker("logs", "w1")).out, /measured_bytes=5000000/, "the worker goes by it when it looks for room");
  await worker("stop", "w1");
  await writeGguf(pool.programs.demo_model, { filler: 1 });
  assert.equal((await fit("--slots", "2")).measured_bytes, null, "another file under the same name was not measured");
});

test("logs --follow goes on until the worker ends", async (t) => {
  const { spawn, worker, pool } = await setUp(t);
  await spawn("demo", "--name", "w1");
  let seen = "";
  const following = pool.run(["rbees-pool", "worker", "logs", "w1", "--follow"], {
    onOut: (out) => {
      seen = out;
    },
  });
  await until(() => seen.includes("ready"), "the past is shown");
  await worker("stop", "w1");
  const { exit, out } = await following;
  assert.equal(exit, 0);
  assert.match(out, /draining\n$/);
  assert.equal((await worker("logs", "nobody")).exit, 6);
});

test("a backend, model or flag that can't work is refused before anything starts", async (t) => {
  const { worker, list } = await setUp(t);
  const cases = [
    [["spawn", "vulkan", "--model", "demo"], 2, /There is no backend "vulkan", only cpu, cuda, metal\. Here works: cpu/],
    [["spawn", process.platform === "darwin" ? "cuda" : "metal", "--model", "demo"], 1, /does not work on this host: .*Here/],
    [["spawn", "cpu", "--model", "nobody"], 6, /There is no model "nobody" here; there is demo/],
    [["spawn", "cpu", "--model", "tinyllama"], 6, /not on this host/],
    [["spawn", "cpu", "--model", "./none.gguf"], 6, /There is no file/],
    [["spawn", "cpu"], 2, /required option '--model <model>'/],
    [["spawn", "cpu", "--model", "demo", "--port", "70000"], 2, /from 1 to 65535/],
    [
      ["spawn", "cpu", "--model", "demo", "--gpu-layers", "4"],
      2,
      /--gpu-layers 4 needs a GPU, and cpu computes every layer on the processor/,
    ],
    [["spawn", "cpu", "--model", "demo", "--gpu-layers", "some"], 2, /Give "auto" or a whole number from 0 to 9999/],
    [["spawn", "cpu", "--model", "demo", "--name", "a b"], 2, /is no worker id/],
    [["spwan"], 2, /Did you mean spawn\?/],
  ] as const;
  for (const [argv, exit, says] of cases) {
    const ran = await worker(...argv);
    assert.equal(ran.exit, exit, argv.join(" "));
    assert.match(ran.err, says);
  }
  assert.deepEqual(await list(), []);
});

test("status, info and backends list describe the host, for people, programs and Prometheus", async (t) => {
  const { spawn, pool } = await setUp(t);
  await spawn("demo", "--name", "w1");
  const status = PoolStatus.parse(JSON.parse((await pool.run(["rbees-pool", "status", "--json"])).out));
  assert.deepEqual([status.models.length, status.workers.length], [1, 1]);
  const text = (await pool.run(["rbees-pool", "status"])).out;
  assert.match(text, /^host +.*\ncpu +\d+ core[\s\S]*\nw1 +ready/);
  assert.doesNotMatch(text, ANSI);
  const metrics = (await pool.run(["rbees-pool", "status", "--format", "prometheus"])).out;
  assert.match(metrics, /^pool_mgr_gpus_total \d+$/m);
  assert.match(metrics, /^pool_mgr_workers_total\{status="ready"\} 1$/m);
  assert.match(metrics, /^pool_mgr_worker_starts_total\{outcome="ready"\} 1$/m);
  const { backends } = PoolBackends.parse(JSON.parse((await pool.run(["rbees-pool", "backends", "list", "--json"])).out));
  assert.deepEqual(
    backends.map(({ backend }) => backend),
    ["cpu", "cuda", "metal"],
  );
  assert.match((await pool.run(["rbees-pool", "info"])).out, /^rbees +0\.1\.0\n/);
});

test("infer asks a worker directly, and says what to do when nobody is there", async (t) => {
  const { spawn, pool } = await setUp(t);
  const port = await freePort();
  await spawn("demo", "--port", String(port), "--name", "w1");
  const ran = await pool.run(["rbees", "infer", "--worker", `localhost:${port}`, "--prompt", "Hi", "--max-tokens", "5"]);
  assert.deepEqual([ran.exit, ran.out], [0, "Hello there\n"]);
  assert.match(ran.err, /2 tokens/);
  const nobody = await pool.run(["rbees", "infer", "--worker", `localhost:${await freePort()}`, "--prompt", "Hi", "--max-tokens", "5"]);
  assert.equal(nobody.exit, 5);
  assert.match(nobody.err, /No worker answers at .*rbees-pool worker list/);
});

test("nvidia-smi's lines become devices, also where memory is shared", () => {
  assert.deepEqual(parseNvidiaSmi("0, NVIDIA H200, 143771, 143008\n1, NVIDIA GB10, [N/A], [N/A]\n"), [
    { index: 0, name: "NVIDIA H200", memory_bytes: 143771 * 1_048_576, free_bytes: 143008 * 1_048_576 },
    { index: 1, name: "NVIDIA GB10", memory_bytes: null, free_bytes: null },
  ]);
});
