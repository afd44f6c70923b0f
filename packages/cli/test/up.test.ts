/** `rbees up`, `down` and `doctor`, with programs that behave like the real ones. */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { dirname, join } from "node:path";
import { type TestContext, test } from "node:test";
import { homeOf } from "@rbees/kit/home";
import { isAlive } from "../src/local/process-identity.ts";
import { readUp } from "../src/local/up-record.ts";
import { readWorkers } from "../src/pool/worker-record.ts";
import { writeGguf } from "./gguf-file.ts";
import { ANSI, type Bench, bench, freePort, until } from "./harness.ts";

async function setUp(t: TestContext): Promise<{ rbees: Bench; port: number; run: (...argv: string[]) => ReturnType<Bench["run"]> }> {
  const rbees = await bench((clean) => t.after(clean));
  await writeGguf(rbees.programs.demo_model);
  await writeFile(join(rbees.root, "bins"), "");
  const run = (...argv: string[]) => rbees.run(["rbees", ...argv]);
  return { rbees, port: await freePort(), run };
}

async function processes({ env }: Bench) {
  const up = await readUp(homeOf(env));
  const workers = await readWorkers(homeOf(env));
  return { orchestrator: up?.orchestrator?.process, workers: workers.map((worker) => worker.process) };
}

test("up starts an orchestrator and a worker, and what it prints works; again it does nothing; down ends both", async (t) => {
  const { rbees, port, run } = await setUp(t);
  const first = await run("up", "--port", String(port), "--slots", "2");
  assert.equal(first.exit, 0, first.err);
  assert.match(first.out, new RegExp(`^rbees is up: http://127\\.0\\.0\\.1:${port}\ndemo is served by .*, cpu, 2 slots\n`));
  assert.doesNotMatch(first.out + first.err, ANSI);
  const curl = /curl -N (\S+) -H 'content-type: application\/json' -d '(.*)'/.exec(first.out);
  assert.ok(curl?.[1] && curl[2]);
  const answer = await fetch(curl[1], { method: "POST", headers: { "content-type": "application/json" }, body: curl[2] });
  assert.equal(answer.status, 202);
  await answer.text();

  const submitted = await run("jobs", "submit", "--model", "demo", "--prompt", "Hi");
  assert.equal(submitted.out, "Hello\n", "the orchestrator of `up` is found without naming it");

  const again = JSON.parse((await run("up", "--json")).out);
  assert.deepEqual(again.started, { orchestrator: false, worker: false });
  assert.equal(again.url, `http://127.0.0.1:${port}`);

  const { orchestrator, workers } = await processes(rbees);
  assert.ok(orchestrator && workers.length === 1);
  const down = await run("down");
  assert.equal(down.exit, 0);
  assert.match(down.out, /^worker .* ended\norchestrator http:\S+ ended\n$/);
  for (const one of [orchestrator, ...workers]) assert.equal(await isAlive(one), false);
  assert.deepEqual(await run("down"), { exit: 0, out: "Nothing was up.\n", err: "" });
});

test("up with other flags than what is up says what runs, what was asked and what to type, and fails; with the same it is done", async (t) => {
  const { rbees, port, run } = await setUp(t);
  const worker_port = await freePort();
  const started = await run("up", "--port", String(port), "--worker-port", String(worker_port), "--slots", "3");
  assert.equal(started.exit, 0, started.err);
  const [worker] = await readWorkers(homeOf(rbees.env));
  assert.ok(worker);
  const anew = `rbees down && rbees up --port ${port}`;
  for (const [flags, said, typed] of [
    [["--slots", "2"], "with 3 slots, not 2", "--slots 2"],
    [["--ctx", "99"], "with 512 tokens of context, not 99", "--ctx 99"],
    [["--threads", "7"], "with its own number of threads, not 7", "--threads 7"],
    [["--deterministic"], "without --deterministic", "--deterministic"],
    [["--slots", "2", "--ctx", "99"], "with 3 slots, not 2, with 512 tokens of context, not 99", "--slots 2 --ctx 99"],
  ] as const) {
    const { exit, err, out } = await run("up", ...flags);
    assert.deepEqual([exit, out], [1, ""], err);
    assert.match(err, new RegExp(`^rbees: rbees is up already, and not as asked: demo is served by ${worker.worker_id} ${said}\\. `));
    assert.ok(err.includes(`\`${anew} ${typed}\``), err);
    assert.ok(err.includes(`\`rbees-pool worker spawn cpu --model demo ${typed}\``), err);
  }
  const moved = await run("up", "--port", String(port + 1), "--slots", "2");
  assert.equal(moved.exit, 1);
  assert.match(moved.err, new RegExp(`the orchestrator runs on port ${port}, not ${port + 1}\\.`));
  assert.ok(moved.err.includes(`\`rbees down && rbees up --port ${port + 1} --slots 2\``), moved.err);
  for (const listen of ["10.99.0.1", "0.0.0.0"]) {
    assert.match((await run("up", "--listen", listen)).err, new RegExp(`the orchestrator runs at 127\\.0\\.0\\.1, not ${listen}\\.`));
  }

  for (const same of [[], ["--slots", "3"], ["--ctx", "512"], ["--backend", "cpu", "--model", "demo", "--port", String(port)]]) {
    const { exit, err } = await run("up", ...same, "--worker-port", String(worker_port));
    assert.equal(exit, 0, err);
  }
  assert.equal((await readWorkers(homeOf(rbees.env))).length, 1);
});

test("up says of a worker that was drained that it takes no jobs, and how it is brought back", async (t) => {
  const { rbees, port, run } = await setUp(t);
  await run("up", "--port", String(port));
  const [worker] = await readWorkers(homeOf(rbees.env));
  assert.ok(worker);
  assert.equal((await run("workers", "drain", worker.worker_id)).exit, 0);
  const { exit, err } = await run("up");
  assert.equal(exit, 1);
  assert.ok(err.includes(`\`rbees-pool worker restart ${worker.worker_id}\``), err);
  assert.equal((await rbees.run(["rbees-pool", "worker", "restart", worker.worker_id])).exit, 0);
  assert.equal((await run("up")).exit, 0);
});

test("up without a model is done with the one that is up, and names its file where it has no name", async (t) => {
  const { rbees, port, run } = await setUp(t);
  const file = join(rbees.root, "other model.gguf");
  await writeGguf(file);
  assert.equal((await run("up", "--port", String(port), "--model", file)).exit, 0);
  const again = JSON.parse((await run("up", "--json")).out);
  assert.deepEqual([again.started, again.worker.model], [{ orchestrator: false, worker: false }, again.model]);
  assert.ok((await run("up", "--slots", "2")).err.includes(`rbees up --model '${file}' --port ${port} --slots 2\``));
});

test("up where another's worker serves the model is done only if that one is as asked", async (t) => {
  const { rbees, port, run } = await setUp(t);
  const other = join(rbees.root, "other.gguf");
  await writeGguf(other);
  await run("up", "--port", String(port));
  const spawn = ["rbees-pool", "worker", "spawn", "cpu", "--model", other, "--slots", "2", "--name", "mine"];
  assert.equal((await rbees.run([...spawn, "--registered-ms-max", "20000"])).exit, 0);
  const same = await run("up", "--model", other, "--slots", "2", "--json");
  assert.deepEqual(JSON.parse(same.out).started, { orchestrator: false, worker: false }, same.err);
  const { exit, err } = await run("up", "--model", other, "--slots", "3", "--threads", "2");
  assert.equal(exit, 1);
  assert.match(
    err,
    /other is served already, by mine, which `rbees up` did not start, and not as asked: with 2 slots, not 3, with an unknown number of threads, not 2\. /,
  );
  assert.ok(err.includes(`\`rbees-pool worker spawn cpu --model ${other} --slots 3 --threads 2\``), err);
});

test("down leaves alone what up did not start", async (t) => {
  const { rbees, port, run } = await setUp(t);
  await rbees.run(["rbees-pool", "worker", "spawn", "cpu", "--model", "demo", "--orchestrator", "none", "--name", "mine"]);
  await run("up", "--port", String(port));
  assert.equal((await run("down")).exit, 0);
  const { workers } = JSON.parse((await rbees.run(["rbees-pool", "worker", "list", "--json"])).out);
  assert.deepEqual(
    workers.map(({ worker_id }: { worker_id: string }) => worker_id),
    ["mine"],
  );
});

test("down leaves alone a worker that came to have the id of one of its own", async (t) => {
  const { rbees, port, run } = await setUp(t);
  const worker_port = String(await freePort());
  const up = await run("up", "--port", String(port), "--worker-port", worker_port);
  assert.equal(up.exit, 0, up.err);
  const [first] = await readWorkers(homeOf(rbees.env));
  assert.ok(first);
  await rbees.run(["rbees-pool", "worker", "stop", first.worker_id]);
  await rbees.run(["rbees-pool", "worker", "spawn", "cpu", "--model", "demo", "--port", worker_port, "--name", first.worker_id]);
  assert.equal((await run("down")).out, `orchestrator http://127.0.0.1:${port} ended\n`);
  assert.equal((await readWorkers(homeOf(rbees.env))).length, 1);
});

test("doctor says of workers what is so: one whose process is gone, one that is drained, none", async (t) => {
  const { rbees, port, run } = await setUp(t);
  await run("up", "--port", String(port));
  const [record] = await readWorkers(homeOf(rbees.env));
  assert.ok(record);
  const said = async (name: string) =>
    JSON.parse((await run("doctor", "--json")).out).checks.find((check: { name: string }) => check.name === name);
  assert.equal((await said("workers")).level, "ok");
  assert.equal(await said("worker that ended"), undefined);
  assert.equal((await run("workers", "drain", record.worker_id)).exit, 0);
  const drained = await said("workers");
  assert.deepEqual([drained.level, drained.found], ["warn", `${record.worker_id} (demo, draining)`]);
  assert.match(drained.next, /worker restart/);
  process.kill(record.process.pid, "SIGKILL");
  await until(async () => !(await isAlive(record.process)), "the worker is dead");
  const ended = await said("worker that ended");
  assert.equal(ended.level, "warn");
  assert.match(ended.next, new RegExp(`rbees-pool worker restart ${record.worker_id}`));
  await rbees.run(["rbees-pool", "worker", "stop", record.worker_id]);
  assert.equal(await said("worker that ended"), undefined);
});

test("where what is up was damaged, that is said with what to do, and nothing is started or ended", async (t) => {
  const { rbees, port, run } = await setUp(t);
  await run("up", "--port", String(port), "--worker-port", String(await freePort()));
  const { orchestrator, workers } = await processes(rbees);
  const file = join(rbees.root, "state", "up.json");
  const right = await readFile(file, "utf8");
  await writeFile(file, right.slice(0, 40));
  for (const words of [["down"], ["up"], ["jobs", "list"]]) {
    const { exit, out, err } = await run(...words);
    assert.equal(exit, 1, words.join(" "));
    assert.equal(out, "");
    assert.match(err, /up\.json is damaged, so nobody knows what `rbees up` started\. End it by hand: `rbees-pool worker stop-all` /);
  }
  const { worker_id = "" } = (await readWorkers(homeOf(rbees.env)))[0] ?? {};
  assert.match((await rbees.run(["rbees-pool", "worker", "restart", worker_id])).err, /up\.json is damaged/);
  const doctor = await run("doctor");
  assert.equal(doctor.exit, 1);
  assert.match(doctor.out, /fail {2}what is up +\S*up\.json is damaged/);
  for (const one of [orchestrator, ...workers]) assert.equal(one !== undefined && (await isAlive(one)), true);
  await writeFile(file, right);
  assert.match((await run("down")).out, /^worker .* ended\norchestrator .* ended\n$/);
});

test("what died is started again by up, and does not keep down from its work", async (t) => {
  const { rbees, port, run } = await setUp(t);
  await run("up", "--port", String(port));
  const before = await processes(rbees);
  const [worker] = before.workers;
  assert.ok(before.orchestrator && worker);
  process.kill(worker.pid, "SIGKILL");
  await until(async () => !(await isAlive(worker)), "the worker is dead");
  const again = JSON.parse((await run("up", "--json")).out);
  assert.deepEqual(again.started, { orchestrator: false, worker: true });
  process.kill(before.orchestrator.pid, "SIGKILL");
  const { orchestrator } = before;
  await until(async () => !(await isAlive(orchestrator)), "the orchestrator is dead");
  const down = await run("down");
  assert.equal(down.exit, 0);
  assert.match(down.out, /^worker .* ended\norchestrator http:\S+ had ended already\n$/);
  assert.deepEqual((await processes(rbees)).workers, []);
});

test("a second model gets a worker of its own, and down ends both", async (t) => {
  const { rbees, port, run } = await setUp(t);
  await writeGguf(join(rbees.root, "other.gguf"));
  await run("up", "--port", String(port));
  assert.equal((await run("up", "--model", join(rbees.root, "other.gguf"))).exit, 0);
  assert.equal((await processes(rbees)).workers.length, 2);
  assert.equal((await run("down")).out.trimEnd().split("\n").length, 3);
});

test("a foreign program on the port is an error that says what to do", async (t) => {
  const { port, run, rbees } = await setUp(t);
  const foreign = createServer((socket) => void socket.end("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"));
  await new Promise<void>((resolve) => foreign.listen(port, "127.0.0.1", resolve));
  t.after(() => foreign.close());
  const { exit, err } = await run("up", "--port", String(port));
  assert.equal(exit, 1);
  assert.match(err, new RegExp(`Port ${port} is taken by a program that is no orchestrator of rbees: .*rbees up --port ${port + 1}`));
  assert.equal((await processes(rbees)).orchestrator, undefined);
});

test("an address that this machine does not have is told as that, before anything is made for it", async (t) => {
  const { port, run, rbees } = await setUp(t);
  for (const [listen, said] of [
    ["192.0.2.7", "it is no address of this machine"],
    ["nowhere.invalid", "this machine does not know that name"],
  ] as const) {
    const { exit, err } = await run("up", "--port", String(port), "--listen", listen);
    assert.equal(exit, 2, err);
    assert.match(err, new RegExp(`Nothing can listen on ${listen}: ${said}\\. Give one of its`));
  }
  assert.equal(existsSync(join(rbees.root, "config", "tls")), false, "no certificate for it");
});

test("up for an orchestrator elsewhere starts nothing, and says how a worker is started for that one", async (t) => {
  const { rbees, run } = await setUp(t);
  const { exit, err } = await run("up", "--orchestrator", "http://attic:8080");
  assert.equal(exit, 2);
  assert.ok(err.includes("`rbees-pool worker spawn cpu --model demo --orchestrator http://attic:8080`"), err);
  assert.equal((await processes(rbees)).orchestrator, undefined);
});

test("when the worker can't start, the orchestrator that was started for it ends too", async (t) => {
  const { rbees, port, run } = await setUp(t);
  await writeGguf(join(rbees.root, "dies.gguf"));
  const { exit, err } = await run("up", "--port", String(port), "--model", join(rbees.root, "dies.gguf"));
  assert.equal(exit, 1);
  assert.match(err, /ended before it was ready .*the model needs 9 GB/);
  assert.equal((await processes(rbees)).orchestrator, undefined);
  await assert.rejects(fetch(`http://127.0.0.1:${port}/health`));
  assert.equal((await run("up", "--port", String(port), "--model", "nobody")).exit, 6);
});

test("doctor looks at everything, and exits 1 when something has to be mended", async (t) => {
  const { rbees, run } = await setUp(t);
  const well = JSON.parse((await run("doctor", "--json")).out);
  const names = well.checks.map(({ name }: { name: string }) => name);
  for (const name of [
    "Node.js",
    "data folder",
    "catalogue",
    "disk",
    "memory",
    "processor",
    "engine",
    "worker program",
    "port 8080",
    "orchestrator",
    "settings",
  ]) {
    assert.ok(names.includes(name), name);
  }
  assert.equal((await run("doctor")).exit, 0);
  const config = join(rbees.root, "config", "config.toml");
  await mkdir(dirname(config), { recursive: true });
  await writeFile(config, "wrong");
  const wrong = await run("doctor");
  assert.equal(wrong.exit, 1);
  assert.match(wrong.out, /fail {2}settings +port \(file .*config\.toml\): must be a whole number; x: unknown\n *→ mend what is named/);
  await writeFile(join(rbees.root, "file"), "");
  const ill = await rbees.run(["rbees", "doctor"], { env: { RBEES_HOME: join(rbees.root, "file") } });
  assert.equal(ill.exit, 1);
  assert.match(ill.out, /fail {2}data folder [\s\S]*→ make it writable/);
});
