/** `rbees jobs …`, `workers …`, `models list`: good, refused, unreachable, as text and as JSON, against a scripted orchestrator. */
import assert from "node:assert/strict";
import { writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { test } from "node:test";
import { ErrorBody } from "@rbees/contracts/error-body";
import { RbeesError } from "@rbees/contracts/errors";
import { JobEvent } from "@rbees/contracts/events";
import { Accepted, Explanation, JobList, JobSummary, JobView } from "@rbees/contracts/job";
import { JoinToken } from "@rbees/contracts/join";
import { FEATURES } from "@rbees/contracts/sets";
import { ModelList, RegisterWorker, WorkerList, WorkerView } from "@rbees/contracts/worker";
import { homeOf } from "@rbees/kit/home";
import { VERSION } from "@rbees/kit/version";
import { followJob } from "../src/jobs/follow.ts";
import { tellWaiting, WAIT_SAID_MS } from "../src/jobs/waiting.ts";
import { orchestratorAt } from "../src/orchestrator.ts";
import { end, failed, fakeOrchestrator, JOB, queued, type Script, started, token, workerView } from "./fake-orchestrator.ts";
import { writeGguf } from "./gguf-file.ts";
import { ANSI, bench, freePort } from "./harness.ts";
import { SUBMIT, setUp } from "./jobs-setup.ts";

const GOOD: Script = { events: [queued(2), started, token("Hello"), token(" 🐝", 1), end], text: "Hello 🐝" };

test("submit streams the answer to stdout and one line of summary to stderr", async (t) => {
  const { at, rbees } = await setUp(t, GOOD);
  const { exit, out, err } = await rbees.run([...SUBMIT, ...at]);
  assert.equal(exit, 0);
  assert.equal(out, "Hello 🐝\n");
  assert.match(err, /2 tokens · 20\.0 tokens\/s · first token .* · worker w1 · job job_1\n$/);
  assert.doesNotMatch(out + err, ANSI);
});

test("submit sends every flag as the field it stands for", async (t) => {
  const { at, rbees, orchestrator } = await setUp(t, GOOD);
  const flags =
    "--max-tokens 7 --temperature 0.5 --top-p 0.9 --top-k 40 --min-p 0.1 --seed 3 --stop a --stop b,c --logprobs 2 --priority batch";
  const more =
    "--deadline-ms 5000 --pin w1 --avoid w2 --avoid w3 --label disk=fast --raw --on-worker-lost fail --metadata team=blue,n=1 --metadata x=y=z";
  const { exit } = await rbees.run([...SUBMIT, ...at, ...flags.split(" "), ...more.split(" ")]);
  assert.equal(exit, 0);
  assert.deepEqual(orchestrator.submitted[0], {
    model: "demo",
    prompt: "Hi",
    raw: true,
    max_tokens: 7,
    temperature: 0.5,
    top_p: 0.9,
    top_k: 40,
    min_p: 0.1,
    seed: 3,
    stop: ["a", "b,c"],
    logprobs: 2,
    priority: "batch",
    deadline_ms: 5000,
    placement: { pin: "w1", prefer: [], avoid: ["w2", "w3"], labels: { disk: "fast" } },
    on_disconnect: "continue",
    on_worker_lost: "fail",
    stream: false,
    metadata: { team: "blue", n: "1", x: "y=z" },
  });
});

test("submit reads the prompt from stdin or a file, and a prompt may look like a flag", async (t) => {
  const { at, rbees, orchestrator } = await setUp(t, GOOD);
  await rbees.run(["rbees", "jobs", "submit", "--model", "demo", "--prompt-file", "-", ...at], { stdin: "from stdin\n" });
  await writeFile(join(rbees.root, "prompt.txt"), "from a file");
  await rbees.run(["rbees", "jobs", "submit", "--model", "demo", "--prompt-file", join(rbees.root, "prompt.txt"), ...at]);
  await rbees.run(["rbees", "jobs", "submit", "--model", "demo", "--prompt", "--json", ...at]);
  assert.deepEqual(
    orchestrator.submitted.map(({ prompt }) => prompt),
    ["from stdin\n", "from a file", "--json"],
  );
});

test("submit holds the answer to a schema or a grammar from a file, and says what is wrong with the file", async (t) => {
  const { at, rbees, orchestrator } = await setUp(t, GOOD);
  const file = async (name: string, text: string) => {
    await writeFile(join(rbees.root, name), text);
    return join(rbees.root, name);
  };
  const submit = async (...flags: string[]) => await rbees.run([...SUBMIT, ...at, ...flags]);
  const [schema, grammar] = [await file("s.json", '{"type":"object"}'), await file("g.gbnf", 'root ::= "a"')];
  await submit("--json-schema-file", schema);
  await submit("--grammar-file", grammar);
  assert.deepEqual(
    orchestrator.submitted.map(({ json_schema, grammar }) => json_schema ?? grammar),
    [{ type: "object" }, 'root ::= "a"'],
  );
  const cases = [
    [["--json-schema-file", await file("bad.json", "{type:")], /bad\.json: is not JSON/],
    [["--json-schema-file", "none.json"], /--json-schema-file none\.json: there is no such file/],
    [["--json-schema-file", schema, "--grammar-file", grammar], /either --json-schema-file or --grammar-file/],
  ] as const;
  for (const [flags, why] of cases) {
    const { exit, err } = await submit(...flags);
    assert.equal(exit, 2);
    assert.match(err, why);
  }
  assert.equal(orchestrator.submitted.length, 2);
});

test("submit --json prints each event on a line and nothing else", async (t) => {
  const { at, rbees } = await setUp(t, GOOD);
  const { exit, out } = await rbees.run([...SUBMIT, ...at, "--json"]);
  assert.equal(exit, 0);
  const events = out
    .trimEnd()
    .split("\n")
    .map((line) => JobEvent.parse(JSON.parse(line)));
  assert.deepEqual(events, GOOD.events);
});

test("who follows a job that does not begin is told after a moment what it waits for, once; who need not wait is told nothing", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const said: string[] = [];
  let asked = 0;
  let answered = Promise.withResolvers<void>();
  const call = async () => {
    asked += 1;
    queueMicrotask(() => setImmediate(answered.resolve));
    return { status: "queued", answer: "It waits for a free slot." };
  };
  const begin = () => tellWaiting({ say: (line) => void said.push(line) }, { call } as never, "job_1");

  const waits = begin();
  waits.event(queued());
  waits.event(queued());
  t.mock.timers.tick(WAIT_SAID_MS - 1);
  assert.equal(asked, 0);
  t.mock.timers.tick(1);
  await answered.promise;
  waits.event(queued());
  t.mock.timers.tick(WAIT_SAID_MS);
  assert.deepEqual([asked, said], [1, ["Job job_1 is queued. It waits for a free slot. `rbees jobs why job_1` says more."]]);

  const begins = begin();
  begins.event(queued());
  begins.event(started);
  t.mock.timers.tick(WAIT_SAID_MS);
  assert.equal(asked, 1, "one that began");
  answered = Promise.withResolvers();
  begins.event(queued());
  t.mock.timers.tick(WAIT_SAID_MS);
  await answered.promise;
  assert.deepEqual([asked, said.length], [2, 2], "one whose worker died, and that waits again");

  answered = Promise.withResolvers();
  const late = begin();
  late.event(queued());
  t.mock.timers.tick(WAIT_SAID_MS);
  late.event(started);
  await answered.promise;
  assert.deepEqual([asked, said.length], [3, 2], "one that began while that was asked");
});

test("submit --detach prints the id and returns", async (t) => {
  const { at, rbees } = await setUp(t, GOOD);
  assert.deepEqual(await rbees.run([...SUBMIT, ...at, "--detach"]), { exit: 0, out: `${JOB}\n`, err: "" });
  Accepted.parse(JSON.parse((await rbees.run([...SUBMIT, ...at, "--detach", "--json"])).out));
});

test("--quiet leaves only the answer", async (t) => {
  const { at, rbees } = await setUp(t, GOOD);
  assert.deepEqual(await rbees.run([...SUBMIT, ...at, "--quiet"]), { exit: 0, out: "Hello 🐝\n", err: "" });
});

test("a job's failure is told once and its code decides the exit code", async (t) => {
  for (const [code, exit] of [
    ["DEADLINE_EXCEEDED", 1],
    ["CANCELLED", 130],
    ["NO_WORKER", 3],
    ["SOMETHING_NEW", 1],
  ] as const) {
    const { at, rbees } = await setUp(t, { events: [queued(), started, token("Hel"), failed(code)] });
    const ran = await rbees.run([...SUBMIT, ...at]);
    assert.equal(ran.exit, exit, code);
    assert.equal(ran.out, "Hel\n");
    assert.match(ran.err, new RegExp(`failed: It failed: ${code}`));
  }
});

test("a refused job exits by its code, with the error body as JSON", async (t) => {
  const { at, rbees } = await setUp(t, {
    events: [],
    refuse: new RbeesError("QUEUE_FULL", "The queue is full.", { retry_after_ms: 1200 }),
  });
  const { exit, out, err } = await rbees.run([...SUBMIT, ...at, "--json"]);
  assert.equal(exit, 3);
  assert.equal(ErrorBody.parse(JSON.parse(out)).error.code, "QUEUE_FULL");
  assert.equal(err, "rbees: The queue is full.\n");
});

test("a request that can't be valid is refused before it is sent", async (t) => {
  const { at, rbees, orchestrator } = await setUp(t, GOOD);
  for (const wrong of [
    ["--temperature", "9"],
    ["--max-tokens", "0"],
    ["--top-p", "x"],
    ["--priority", "soon"],
    ["--stop", ""],
    ["--prompt-file", "-"],
  ]) {
    const { exit, err } = await rbees.run([...SUBMIT, ...at, ...wrong]);
    assert.equal(exit, 2, wrong.join(" "));
    assert.match(err, /^rbees: /);
  }
  assert.deepEqual(orchestrator.submitted, []);
});

test("a broken connection is resumed after the last event that was read", async (t) => {
  const { at, rbees, orchestrator } = await setUp(t, {
    events: [queued(), started, token("a"), "cut", token("b", 1), "cut", token("c", 2), end],
  });
  const { exit, out } = await rbees.run([...SUBMIT, ...at]);
  assert.equal(exit, 0);
  assert.equal(out, "abc\n");
  assert.deepEqual(orchestrator.resumed, [undefined, "3", "4"]);
});

test("an answer that begins again does so on a line of its own, and stderr says so", async (t) => {
  const events: Script["events"] = [
    queued(),
    started,
    token("old"),
    { type: "restarted", reason: "the worker was lost", from: 0 },
    token("new"),
    end,
  ];
  const { at, rbees } = await setUp(t, { events });
  const { out, err } = await rbees.run([...SUBMIT, ...at]);
  assert.equal(out, "old\nnew\n");
  assert.match(err, /The answer begins again: the worker was lost/);
});

test("what is made again after a restart is not printed again, as long as it comes out the same", async (t) => {
  const taken_back = (from: number): Script["events"] => [{ type: "restarted", reason: "the orchestrator was restarted", from }];
  const start = [queued(), started, token("a"), token("b", 1), token("c", 2), token("d", 3)];
  const same = await setUp(t, {
    events: [...start, ...taken_back(2), token("c", 2), ...taken_back(1), token("bcd", 1), token("e", 4), end],
  });
  const { out, err } = await same.rbees.run([...SUBMIT, ...same.at]);
  assert.equal(out, "abcde\n");
  assert.doesNotMatch(err, /begins again/);
  const other = await setUp(t, { events: [...start, ...taken_back(2), token("c", 2), token("x", 3), end] });
  assert.equal((await other.rbees.run([...SUBMIT, ...other.at])).out, "abcd\nabcx\n");
  const shorter = await setUp(t, { events: [...start, ...taken_back(2), end] });
  assert.equal((await shorter.rbees.run([...SUBMIT, ...shorter.at])).out, "abcd\nab\n");
});

test("follow of a job whose events are gone prints the stored text and ends as the job did", async (t) => {
  const { at, rbees } = await setUp(t, { ...GOOD, gone: true });
  const { exit, out } = await rbees.run(["rbees", "jobs", "follow", JOB, ...at]);
  assert.equal(exit, 0);
  assert.equal(out, "Hello 🐝\n");
  const other = await setUp(t, { events: [failed("WORKER_LOST")], text: "Hal", gone: true });
  const ran = await other.rbees.run(["rbees", "jobs", "follow", JOB, ...other.at]);
  assert.equal(ran.exit, 1);
  assert.equal(ran.out, "Hal\n");
  const json = await rbees.run(["rbees", "jobs", "follow", JOB, ...at, "--json"]);
  const events = json.out
    .trimEnd()
    .split("\n")
    .map((line) => JobEvent.parse(JSON.parse(line)));
  assert.deepEqual(events, [{ type: "token", t: "Hello 🐝", i: 0, ids: [] }, end]);
});

test("following gives up after its tries, and says how to go on", async () => {
  const orchestrator = await fakeOrchestrator({ events: [queued(), "hang"] });
  let broken = 0;
  const following = followJob(
    orchestratorAt({ env: {}, home: homeOf({ RBEES_HOME: "/nowhere" }), signal: new AbortController().signal }, orchestrator.url),
    JOB,
    {
      signal: new AbortController().signal,
      onEvent: () => void orchestrator.close(),
      onBroken: () => {
        broken += 1;
      },
      onStored: () => {},
      tries_max: 3,
      first_wait_ms: 1,
    },
  );
  await assert.rejects(following, (error: RbeesError) => error.code === "UNREACHABLE" && error.message.includes("rbees jobs follow job_1"));
  assert.equal(broken, 2);
});

test("show prints what an answer says beside its text", async (t) => {
  const said = {
    reasoning: "Rain?",
    tool_calls: [{ id: "c1", type: "function" as const, function: { name: "look", arguments: '{"at": "sky"}' } }],
  };
  const { at, rbees } = await setUp(t, { ...GOOD, said });
  const { out } = await rbees.run(["rbees", "jobs", "show", JOB, ...at]);
  assert.match(out, /\n\nRain\?\nHello 🐝\ncalls look \{"at": "sky"\}\n$/);
});

test("list, show, why, cancel, workers and models print tables for people and the contract's JSON for programs", async (t) => {
  const { at, rbees, orchestrator } = await setUp(t, GOOD);
  orchestrator.workers.set(
    "w1",
    workerView({
      id: "w1",
      host: "127.0.0.1",
      port: 8001,
      tls: false,
      model: "demo",
      backend: "cpu",
      device: "",
      slots: 4,
      labels: {},
      features: ["grammar"],
      version: "",
      protocol: 1,
      protocol_min: 0,
      epoch: 0,
    }),
  );
  const cases = [
    { argv: ["jobs", "list"], shape: JobList, shows: /^JOB +STATUS +MODEL +WORKER +AGE +TOKENS\njob_1 +succeeded +demo +w1 +\d+d +2\n$/ },
    { argv: ["jobs", "show", JOB], shape: JobView, shows: /^job +job_1\nstatus +succeeded\n[\s\S]*\n\nHello 🐝\n$/ },
    {
      argv: ["jobs", "why", JOB],
      shape: Explanation,
      shows: /^It waits for a free slot\.\n\nWORKER +VERDICT +SCORE +CACHED +REASON\nw1 +excluded +– +– +no slot is free\n$/,
    },
    { argv: ["jobs", "cancel", JOB], shape: JobSummary, shows: /^Job job_1 is cancelled\.\n$/ },
    {
      argv: ["workers", "list"],
      shape: WorkerList,
      shows: /^WORKER [\s\S]*\nw1 +ready +demo +http:\/\/127\.0\.0\.1:8001 +cpu +0\/4 .* ago +grammar\n$/,
    },
    { argv: ["workers", "drain", "w1"], shape: WorkerView, shows: /^w1 takes no new jobs; 0 still running\.\n$/ },
    { argv: ["models", "list"], shape: ModelList, shows: /^MODEL [\s\S]*\ndemo +w1 +512 tokens +0123456789ab\n$/ },
  ];
  for (const { argv, shape, shows } of cases) {
    const text = await rbees.run(["rbees", ...argv, ...at]);
    assert.equal(text.exit, 0, argv.join(" "));
    assert.match(text.out, shows);
    assert.equal(text.err, "");
    assert.doesNotMatch(text.out, ANSI);
    const json = await rbees.run(["rbees", ...argv, ...at, "--json"]);
    assert.equal(json.out.trimEnd().split("\n").length, 1);
    shape.parse(JSON.parse(json.out));
  }
  assert.deepEqual(orchestrator.drained, ["w1", "w1"]);
});

test("a narrow terminal gets fewer columns, not wrapped rows, and is told which; a pipe gets all", async (t) => {
  const { rbees, at, orchestrator } = await setUp(t, GOOD);
  orchestrator.workers.set("w1", workerView(RegisterWorker.parse({ id: "w1", host: "127.0.0.1", port: 8001, model: "demo" })));
  const list = async (columns: number) => {
    const argv = ["rbees", "workers", "list", ...at];
    const { out } = await rbees.run(argv, { tty: true, columns, env: { NO_COLOR: "1" } });
    return out.trimEnd().split("\n");
  };
  const all = (await rbees.run(["rbees", "workers", "list", ...at])).out.trimEnd().split("\n");
  assert.deepEqual(await list(200), all);
  const widest = Math.max(...all.map((line) => line.length));
  for (let columns = widest; columns >= 50; columns--) {
    const lines = await list(columns);
    assert.ok(
      lines.slice(0, all.length).every((line) => line.length <= columns),
      lines.join("\n"),
    );
  }
  const [head, row, more] = await list(60);
  assert.match(`${head}\n${row}`, /^WORKER +STATUS +MODEL +.*\nw1 +ready +demo/);
  assert.match(more ?? "", /^No room for .*CAN: a wider terminal has it, and --json\.$/);
  assert.doesNotMatch(head ?? "", /CAN/);
});

test("what workers can is said in the fewest words", async (t) => {
  const { at, rbees, orchestrator } = await setUp(t, GOOD);
  const has = (id: string, features: string[]) =>
    orchestrator.workers.set(id, workerView(RegisterWorker.parse({ id, host: "127.0.0.1", port: 8001, model: "demo", features })));
  has("w1", [...FEATURES]);
  has("w2", [...FEATURES.slice(1), "lora:sql"]);
  has("w3", []);
  const { out } = await rbees.run(["rbees", "workers", "list", ...at]);
  for (const said of [/^w1 .* ago {3}all$/m, /^w2 .* ago {3}all but grammar; lora:sql$/m, /^w3 .* ago {3}–$/m]) assert.match(out, said);
});

test("versions are shown where a worker has another than the orchestrator, and doctor warns of it", async (t) => {
  const { at, rbees, orchestrator } = await setUp(t, GOOD);
  const register = (id: string, version: string) => {
    const body = RegisterWorker.parse({ id, host: "127.0.0.1", port: 8001, model: "demo", version });
    orchestrator.workers.set(id, workerView(body));
  };
  const list = async () => (await rbees.run(["rbees", "workers", "list", ...at])).out;
  const doctor = async () => {
    const { out } = await rbees.run(["rbees", "doctor", "--json"], { env: { RBEES_ORCHESTRATOR_URL: orchestrator.url } });
    return JSON.parse(out).checks.find(({ name }: { name: string }) => name === "workers");
  };
  register("w1", VERSION);
  register("silent", "");
  assert.doesNotMatch(await list(), /VERSION|of version/);
  assert.deepEqual(await doctor(), { name: "workers", level: "ok", found: "w1 (demo), silent (demo)" });
  register("w2", "0.0.9");
  const shown = await list();
  assert.match(shown, /^WORKER .* VERSION /);
  assert.match(shown, /\nw2 +ready .* 0\.0\.9 /);
  assert.match(shown, new RegExp(`\nThe orchestrator is of version ${VERSION}\\.\n$`));
  const { level, found, next } = await doctor();
  assert.deepEqual([level, found], ["warn", "w1 (demo), silent (demo), w2 (demo, rbees 0.0.9)"]);
  assert.match(next, /workers before the orchestrator/);
});

test("a token for a worker is made for its pool, name, address and region, and said to be shown once", async (t) => {
  const { at, rbees } = await setUp(t, GOOD);
  const asked = ["--pool", "attic", "--worker", "w1", "--address", "gateway.lan", "--region", "de"];
  const made = await rbees.run(["rbees", "workers", "invite", ...asked, ...at, "--json"]);
  const { pool, worker_id, address, region } = JoinToken.parse(JSON.parse(made.out));
  assert.deepEqual([pool, worker_id, address, region], ["attic", "w1", "gateway.lan", "de"]);
  assert.match((await rbees.run(["rbees", "workers", "invite", "--pool", "attic", ...at])).out, /^rbj_\S+\n$/);
  assert.match((await rbees.run(["rbees", "workers", "invite", "--region", "de", ...at])).err, /--pool, --worker, or both/);
});

test("an unknown job or worker exits 6", async (t) => {
  const { at, rbees } = await setUp(t, GOOD);
  for (const argv of [
    ["jobs", "show", "no"],
    ["jobs", "follow", "no"],
    ["jobs", "cancel", "no"],
    ["jobs", "why", "no"],
    ["workers", "drain", "no"],
  ]) {
    assert.equal((await rbees.run(["rbees", ...argv, ...at])).exit, 6, argv.join(" "));
  }
});

test("without an orchestrator every verb that needs one exits 5 and says what to do, in one line", async (t) => {
  const rbees = await bench((clean) => t.after(clean));
  const at = ["--orchestrator", `http://127.0.0.1:${await freePort()}`];
  for (const argv of [SUBMIT.slice(1), ["jobs", "list"], ["jobs", "follow", "x"], ["workers", "list"], ["models", "list"]]) {
    const { exit, out, err } = await rbees.run(["rbees", ...argv, ...at]);
    assert.equal(exit, 5, argv.join(" "));
    assert.equal(out, "");
    assert.match(
      err,
      /^rbees: No orchestrator answers at http:\/\/127\.0\.0\.1:\d+ \(ECONNREFUSED\): start one here with `rbees up`[^\n]*\n$/,
    );
  }
});

test("an orchestrator that is taken for a worker, and the other way round, is told as that", async (t) => {
  const { rbees, at, orchestrator } = await setUp(t, GOOD);
  await writeGguf(rbees.programs.demo_model);
  await writeFile(join(rbees.root, "bins"), "");
  const inferred = await rbees.run(["rbees", "infer", "--worker", orchestrator.url, "--prompt", "Hi"]);
  assert.equal(inferred.exit, 6);
  assert.match(inferred.err, /^rbees: What answers at http\S+ is no worker: .*`rbees jobs submit`\.\n$/);
  assert.equal((await rbees.run(["rbees-pool", "worker", "spawn", "cpu", "--model", "demo", ...at])).exit, 0);
  const [worker] = JSON.parse((await rbees.run(["rbees-pool", "worker", "list", "--json"])).out).workers;
  const listed = await rbees.run(["rbees", "jobs", "list", "--orchestrator", `http://127.0.0.1:${worker.port}`]);
  assert.equal(listed.exit, 6);
  assert.match(
    listed.err,
    /^rbees: What answers at http\S+ has no GET \/v2\/tasks: it is a worker of rbees, or .* --orchestrator names the orchestrator\.\n$/,
  );
});

test("a stranger at the orchestrator's address is called one", async (t) => {
  const rbees = await bench((clean) => t.after(clean));
  for (const [status, body] of [
    [200, "<html>"],
    [200, "{}"],
    [404, "not here"],
    [500, '{"error":"no"}'],
  ] as const) {
    const stranger = createServer((_, response) => void response.writeHead(status).end(body));
    await new Promise<void>((resolve) => stranger.listen(0, "127.0.0.1", resolve));
    t.after(() => stranger.close());
    const { port } = stranger.address() as AddressInfo;
    const { exit, err } = await rbees.run(["rbees", "jobs", "list", "--orchestrator", `localhost:${port}`]);
    assert.equal(exit, 5, err);
    assert.match(err, /^rbees: What answers at http:\/\/localhost:\d+ is no orchestrator of rbees; [^\n]+\n$/);
  }
});

test("the orchestrator is that of the flag, before or after the verb, else of RBEES_ and LLORCH_ORCHESTRATOR_URL", async (t) => {
  const { rbees, orchestrator } = await setUp(t, GOOD);
  const dead = `http://127.0.0.1:${await freePort()}`;
  const list = ["jobs", "list", "--quiet"];
  assert.equal((await rbees.run(["rbees", "--orchestrator", orchestrator.url, ...list])).exit, 0);
  assert.equal((await rbees.run(["rbees", ...list], { env: { LLORCH_ORCHESTRATOR_URL: orchestrator.url } })).exit, 0);
  const both = { LLORCH_ORCHESTRATOR_URL: dead, RBEES_ORCHESTRATOR_URL: orchestrator.url };
  assert.equal((await rbees.run(["rbees", ...list], { env: both })).exit, 0);
  assert.equal((await rbees.run(["rbees", ...list, "--orchestrator", dead], { env: both })).exit, 5);
  assert.equal((await rbees.run(["rbees", ...list, "--orchestrator", "ftp://x"])).exit, 2);
});

test("on a terminal the wait is a status line that goes away, and control characters of an answer don't reach it", async (t) => {
  const { at, rbees } = await setUp(t, { events: [queued(2), started, token("a\u001b]0;title\u0007b"), end] });
  const { out, err } = await rbees.run([...SUBMIT, ...at], { tty: true });
  assert.equal(out, "a\uFFFD]0;title\uFFFDb\n");
  assert.match(err, /queued {2}2 jobs ahead/);
  const plain = await rbees.run([...SUBMIT, ...at], { tty: true, env: { NO_COLOR: "1" } });
  assert.doesNotMatch(plain.err.replaceAll("\u001b[2K", ""), ANSI);
});

test("a replay says whether the same came out, where it first differs, and why it can't be", async (t) => {
  const { run } = await bench((clean) => t.after(clean));
  const replayed = async (text: string, again: string, refuse?: RbeesError) => {
    const orchestrator = await fakeOrchestrator({ events: [end], text, replayed: again, ...(refuse === undefined ? {} : { refuse }) });
    t.after(() => orchestrator.close());
    return run(["rbees", "jobs", "replay", JOB, "--orchestrator", orchestrator.url]);
  };
  const same = await replayed("🐝 hums", "🐝 hums");
  assert.deepEqual([same.exit, /job_1 came out the same: 6 characters\. w1, libllama 1, job job_2/.test(same.out)], [0, true]);
  const other = await replayed("🐝 hums\u001b", "🐝 sings");
  assert.equal(other.exit, 1);
  assert.match(
    other.out,
    /came out otherwise from character 2 of 7 on[\s\S]*recorded: "hums\\u001b"\nnow: {6}"sings"[\s\S]*--deterministic/,
  );
  const longer = await replayed("a", "ab");
  assert.match(longer.out, /from character 1 of 1 on[\s\S]*recorded: ""\nnow: {6}"b"/);
  const refused = await replayed(
    "a",
    "a",
    new RbeesError("NO_WORKER", "The job ran with sha256:a on libllama 1, and no worker has that now."),
  );
  assert.deepEqual([refused.exit, /no worker has that now/.test(refused.err)], [3, true]);
});
