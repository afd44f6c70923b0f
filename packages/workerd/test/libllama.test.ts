/** The library is called only where it is the one that was meant; else the other engine is used, and says why. */
import assert from "node:assert/strict";
import { copyFileSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { RbeesError } from "@rbees/contracts/errors";
import { environment } from "@rbees/kit/config";
import { type Log, silentLog } from "@rbees/kit/log";
import { ANSWER, chain } from "../../../models/fixtures/scripted.ts";
import type { StepReport } from "../src/engine.ts";
import { chooseEngine } from "../src/engines.ts";
import { HEADER_RELEASE } from "../src/libllama/c-api.ts";
import { KOFFI_VERSION, libraryFolder, NoLibrary, openLibrary } from "../src/libllama/library.ts";
import { loadModel } from "../src/libllama/load.ts";
import { StepPlan } from "../src/libllama/step-plan.ts";
import { LlamaEngine } from "../src/llama/engine.ts";
import { createWorkerd } from "../src/workerd.ts";
import { engineOptions } from "./engine-options.ts";
import { ask, folder, health, scripted, startWorker, testConfig } from "./support.ts";

const METADATA = "_nlcBuildMetadata.json";

/** A folder like the library's, whose metadata say another release. */
function otherRelease(): string {
  const other = join(folder, "other-release");
  mkdirSync(other, { recursive: true });
  for (const name of readdirSync(libraryFolder()))
    if (name.startsWith("libllama.")) copyFileSync(join(libraryFolder(), name), join(other, name));
  const metadata = readFileSync(join(libraryFolder(), METADATA), "utf8");
  writeFileSync(join(other, METADATA), metadata.replace(HEADER_RELEASE, "v0.5.0"));
  return other;
}

test("the pinned versions are those that the code was written for", () => {
  const manifest = JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8")) as {
    dependencies: Record<string, string>;
  };
  assert.equal(manifest.dependencies["koffi"], KOFFI_VERSION);
  assert.match(readFileSync(join(libraryFolder(), METADATA), "utf8"), new RegExp(`"release":"${HEADER_RELEASE}"`));
});

test("a library of another release is not called: the other engine is used, unless this one was asked for by name", async () => {
  const other = otherRelease();
  await assert.rejects(openLibrary(other), (error: Error) => error instanceof NoLibrary && /v0\.5\.0.*v0\.4\.0/.test(error.message));
  const { engine, instead_of } = await chooseEngine({ engine: "auto", backend: "cpu" }, other);
  assert.ok(engine !== undefined);
  assert.match(instead_of ?? "", /libllama can't be called here: .*v0\.5\.0/);
  await assert.rejects(
    chooseEngine({ engine: "libllama", backend: "cpu" }, other),
    (error: Error) => error instanceof RbeesError && /--engine libllama does not work here.*node-llama-cpp/.test(error.message),
  );
  const empty = join(folder, "empty");
  mkdirSync(empty, { recursive: true });
  await assert.rejects(openLibrary(empty), /of release unknown/);
});

test("a worker that can't call the library says so in its log, and answers all the same", async () => {
  const hook = "import{registerHooks as r}from'node:module';r({resolve(s,c,n){if(s==='koffi')throw new Error('not here');return n(s,c)}})";
  const env = { ...environment(), NODE_OPTIONS: `--import=data:text/javascript,${encodeURIComponent(hook)}` };
  const warnings: string[] = [];
  const log = {
    ...silentLog(),
    info() {},
    error() {},
    warn: (what: { reason: string }) => void warnings.push(what.reason),
  } as unknown as Log;
  const config = testConfig({ model: scripted("without", { edges: chain(ANSWER, [" still", " here"]) }), ctx: 256 });
  const worker = await createWorkerd(config, log, env, { on_shutdown() {}, on_fatal() {} });
  const [name, { text }] = [(await health(worker)).engine.name, await ask(worker, { prompt: "hello", max_tokens: 5 })];
  await worker.stop();
  assert.deepEqual([name, text], ["node-llama-cpp", " still here"]);
  assert.match(warnings.join(), /libllama can't be called here: koffi can't be loaded: not here/);
});

test("a library that is not the one its metadata say is refused before anything is computed", async () => {
  const false_name = join(folder, "false-name");
  mkdirSync(false_name, { recursive: true });
  copyFileSync(join(libraryFolder(), METADATA), join(false_name, METADATA));
  await assert.rejects(openLibrary(false_name), NoLibrary);
});

test("on a CPU the library is used without being asked for, on a GPU the binding is", async () => {
  assert.equal((await chooseEngine({ engine: "auto", backend: "cpu" })).instead_of, undefined);
  const worker = await startWorker({ model: scripted("named", { edges: chain(ANSWER, [" a"]) }), ctx: 256 });
  assert.equal((await health(worker)).engine.name, "libllama");
});

test("a step that is cut gives each answer its own tokens", async (t) => {
  const cut = t.mock.method(StepPlan.prototype, "sizes", (rows: number) => (rows === 3 ? [2, 1] : [rows]));
  const said = { A: "Hello, world!", B: "keep the story", C: "so it goes" };
  const edges = [
    ...chain("A", ["Hello", ", ", "world", "!"]),
    ...chain("B", ["keep ", "the", " st", "ory"]),
    ...chain("C", ["so", " it", " go", "es"]),
  ];
  const engine = new LlamaEngine(loadModel);
  const texts = ["", "", ""];
  const { promise: over, resolve } = Promise.withResolvers<void>();
  let running = 3;
  const step = (reports: readonly StepReport[]) => {
    for (const { run, token, end } of reports) {
      texts[run] += token?.t ?? "";
      if (end !== undefined && --running === 0) resolve();
    }
  };
  await engine.load(engineOptions(scripted("three", { template: null, edges }), { slots: 3 }), { progress() {}, step });
  const request = { raw: true, max_tokens: 20, fit_context: false, temperature: 0, seed: 1, stop: [], continue_tokens: [] };
  for (const [run, prompt] of Object.keys(said).entries()) await engine.start(run, { ...request, prompt });
  await over;
  assert.deepEqual(texts, Object.values(said));
  assert.ok(cut.mock.calls.some(({ arguments: [rows] }) => rows === 3));
});

test("the engine asks for huge pages, beside what the operator has set", { skip: process.platform !== "linux" }, async () => {
  const model = scripted("pages", { edges: chain(ANSWER, [" tick"]) });
  const tunables = async (given: string) => {
    const env = { ...environment(), GLIBC_TUNABLES: given };
    const worker = await createWorkerd(testConfig({ model }), silentLog(), env, { on_shutdown() {}, on_fatal() {} });
    try {
      // The C library cuts what it has read into its parts.
      return readFileSync(`/proc/${worker.engine_pid}/environ`, "utf8").match(/glibc\.malloc\.\w+=\d/g);
    } finally {
      await worker.stop();
    }
  };
  assert.deepEqual(await tunables(""), ["glibc.malloc.hugetlb=1"]);
  assert.deepEqual(await tunables("glibc.malloc.arena_max=2"), ["glibc.malloc.arena_max=2", "glibc.malloc.hugetlb=1"]);
  assert.deepEqual(await tunables("glibc.malloc.hugetlb=0"), ["glibc.malloc.hugetlb=0"]);
});
