/** The program as it is started: flags, exit codes, what it prints, and what it leaves behind. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { type AddressInfo, createServer } from "node:net";
import { join } from "node:path";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";
import { VERSION } from "@rbees/kit/version";
import { ANSWER, chain } from "../../../models/fixtures/scripted.ts";
import { quickStart } from "../../../test/support/quick-start.ts";
import { BINDING_VERSION } from "../src/node-llama-cpp/binding.ts";
import { FakeOrchestrator } from "./orchestrator.ts";
import { folder, scripted, until } from "./support.ts";

const MAIN = fileURLToPath(new URL("../src/main.ts", import.meta.url));
const model = scripted("tiny", { edges: chain(ANSWER, [" tick", " tock"], "loop") });
const children: ChildProcess[] = [];
after(() => {
  for (const child of children) child.kill("SIGKILL");
});

interface Program {
  child: ChildProcess;
  stdout: () => string;
  stderr: () => string;
  exit: Promise<number | null>;
}

function start(args: readonly string[], env: Record<string, string> = {}): Program {
  const child = spawn(process.execPath, [MAIN, ...args], {
    env: { ...quickStart(), RBEES_HOME: join(folder, "home"), ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  children.push(child);
  let stdout = "";
  let stderr = "";
  child.stdout?.on("data", (chunk) => (stdout += chunk));
  child.stderr?.on("data", (chunk) => (stderr += chunk));
  const exit = new Promise<number | null>((resolve) => child.on("close", (code) => resolve(code)));
  return { child, stdout: () => stdout, stderr: () => stderr, exit };
}

/** The JSON lines of the log. */
function lines(text: string): Record<string, unknown>[] {
  return text.split("\n").flatMap((line) => (line.startsWith("{") ? [JSON.parse(line) as Record<string, unknown>] : []));
}

test("--help and --version print to stdout and exit 0", async () => {
  const help = start(["--help"]);
  assert.equal(await help.exit, 0);
  for (const flag of ["--model", "--slots", "--deterministic", "--orchestrator", "--drain-ms"])
    assert.ok(help.stdout().includes(flag), flag);
  const version = start(["--version"]);
  assert.equal(await version.exit, 0);
  assert.equal(version.stdout(), `rbees-workerd ${VERSION}\n`);
});

test("wrong flags exit 2 with every problem, and a model that is none exits 1 with one line", async () => {
  const nowhere = start(["--model", "x.gguf", "--region", "UE", "--ctx", "1"]);
  assert.equal(await nowhere.exit, 2);
  assert.match(nowhere.stderr(), /region: names no country that there is \(UE\)[\s\S]*ctx: must be 0 or at least/);
  const wrong = start(["--slots", "0", "--nonsense", "--model", "x.gguf"]);
  assert.equal(await wrong.exit, 2);
  assert.match(wrong.stderr(), /slots/);
  assert.match(wrong.stderr(), /nonsense/);
  const none = start([]);
  assert.equal(await none.exit, 2);
  assert.match(none.stderr(), /--model/);
  for (const [layers, says] of [
    ["5", /gpu-layers: 5 layers need a GPU, and --backend cpu has none; leave it out, or choose --backend cuda or metal/],
    ["many", /gpu-layers: must be auto or a whole number up to 9999, not "many"/],
  ] as const) {
    const refused = start(["--model", "x.gguf", "--gpu-layers", layers]);
    assert.equal(await refused.exit, 2);
    assert.match(refused.stderr(), says);
  }
  const gpu = start(["--model", "x.gguf", "--engine", "libllama", "--backend", "cuda"]);
  assert.equal(await gpu.exit, 2);
  assert.match(gpu.stderr(), /engine: libllama computes on a CPU only; leave --engine out/);
  const page = join(folder, "page.gguf");
  writeFileSync(page, `<!DOCTYPE html>${" ".repeat(100)}`);
  for (const path of [page, join(folder, "missing.gguf"), folder]) {
    const program = start(["--model", path, "--model-name", "m", "--orchestrator", "none"]);
    assert.equal(await program.exit, 1);
    assert.match(program.stderr(), /^rbees-workerd: [^\n]+\n$/);
  }
});

test("a port that is taken is told before the model is loaded", async (t) => {
  const other = createServer().listen(0, "127.0.0.1");
  await once(other, "listening");
  t.after(() => other.close());
  const { port } = other.address() as AddressInfo;
  const program = start(["--model", model, "--port", String(port), "--orchestrator", "none", "--log-format", "json"]);
  assert.equal(await program.exit, 1);
  assert.equal(
    program.stderr(),
    `rbees-workerd: 127.0.0.1:${port} is taken by another program. Choose another port, or stop that program.\n`,
  );
});

test("says how far it is, that it is ready, registers, and at SIGTERM leaves and exits 0", async () => {
  const orchestrator = new FakeOrchestrator();
  const url = await orchestrator.listen();
  const program = start(["--model", model, "--port", "0", "--threads", "1", "--worker-id", "w7", "--labels", "zone=a"], {
    LLORCH_ORCHESTRATOR_URL: url,
  });
  await until(() => lines(program.stderr()).some(({ msg }) => msg === "ready"), 20_000);
  const log = lines(program.stderr());
  const progress = log.filter(({ msg }) => msg === "loading").map((line) => Number(line["progress"]));
  assert.equal(progress.at(-1), 1);
  assert.ok(progress.every((value) => value >= 0 && value <= 1));
  const ready = log.find(({ msg }) => msg === "ready");
  const health = (await (await fetch(`${ready?.["url"]}/health`)).json()) as { worker_id: string; model: string };
  assert.deepEqual([health.worker_id, health.model], ["w7", "tiny"]);
  await until(() => orchestrator.registrations.length === 1);
  const [registration] = orchestrator.registrations;
  assert.deepEqual([registration?.id, registration?.model, registration?.slots, registration?.labels], ["w7", "tiny", 4, { zone: "a" }]);
  program.child.kill("SIGTERM");
  assert.equal(await program.exit, 0);
  assert.deepEqual(orchestrator.removed, ["w7"]);
  await orchestrator.close();
});

test("after SIGTERM the next life goes on with what this one had computed", async () => {
  const dir = join(folder, "prefixes");
  const life = async () => {
    const program = start([
      ...["--model", model, "--port", "0", "--threads", "1", "--orchestrator", "none", "--slots", "1"],
      ...["--worker-id", "w8", "--prefix-cache-dir", dir],
    ]);
    await until(() => lines(program.stderr()).some(({ msg }) => msg === "ready"), 20_000);
    const ready = lines(program.stderr()).find(({ msg }) => msg === "ready");
    const body = JSON.stringify({ job_id: "job-1", prompt: "once more ".repeat(30), max_tokens: 4, temperature: 0 });
    const headers = { "content-type": "application/json" };
    const text = await (await fetch(`${ready?.["url"]}/execute`, { method: "POST", headers, body })).text();
    program.child.kill("SIGTERM");
    assert.equal(await program.exit, 0);
    const end = /event: end\ndata: (.*)\n/.exec(text)?.[1] ?? "{}";
    return { end: JSON.parse(end) as { tokens_in: number; tokens_cached: number }, log: lines(program.stderr()) };
  };
  assert.equal((await life()).end.tokens_cached, 0);
  assert.deepEqual(readdirSync(dir), ["w8.prefixes"]);
  const { end, log } = await life();
  assert.equal(end.tokens_cached, end.tokens_in - 1);
  assert.ok(log.some(({ msg, prefixes }) => msg === "prefixes of the last life are there again" && prefixes === 1));
});

test("a worker that is killed takes its engine with it", async () => {
  const program = start(["--model", model, "--port", "0", "--threads", "1", "--orchestrator", "none"]);
  await until(() => lines(program.stderr()).some(({ msg }) => msg === "ready"), 20_000);
  const engine = childOf(program.child.pid ?? 0);
  assert.ok(engine !== undefined);
  program.child.kill("SIGKILL");
  await program.exit;
  await until(() => !alive(engine));
});

test("POST /shutdown ends the program with 0", async () => {
  const program = start(["--model", model, "--port", "0", "--threads", "1", "--orchestrator", "none"]);
  await until(() => lines(program.stderr()).some(({ msg }) => msg === "ready"), 20_000);
  const ready = lines(program.stderr()).find(({ msg }) => msg === "ready");
  assert.equal((await fetch(`${ready?.["url"]}/shutdown`, { method: "POST" })).status, 202);
  assert.equal(await program.exit, 0);
});

test("the engine's version in health is the one that is installed", () => {
  const manifest = JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8")) as {
    dependencies: Record<string, string>;
  };
  assert.equal(BINDING_VERSION, manifest.dependencies["node-llama-cpp"]);
});

function alive(pid: number): boolean {
  try {
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
  } catch {
    return false;
  }
}

function childOf(pid: number): number | undefined {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").trim();
  return children === "" ? undefined : Number(children.split(" ")[0]);
}

test("a join token that was named must be there, and only its owner may be able to read it", async () => {
  const file = join(folder, "join.token");
  const refused = (flags: string[] = []) => start(["--model", model, "--port", "0", "--join-token-file", file, ...flags]);
  const missing = refused();
  assert.equal(await missing.exit, 1);
  assert.match(missing.stderr(), /for the join token, can't be read: there is none/);
  writeFileSync(file, `rbj_0123456789ab_${"a".repeat(43)}\n`, { mode: 0o644 });
  const open = refused();
  assert.equal(await open.exit, 1);
  assert.match(open.stderr(), /Others can read .*chmod 600/);
  assert.ok(!open.stderr().includes("a".repeat(43)), "a secret is never said");
});
