/** `rbees test models` and `worker check`, with real workers and the real model where they are here; and the page. */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { PoolBackends, PoolWorkers } from "@rbees/contracts/pool";
import { type Metadata, writeGguf } from "../../../models/fixtures/write-gguf.ts";
import { contentOf, FakeHub } from "../../../test/support/fake-hub.ts";
import { compared, listen } from "../src/pool/check.ts";
import { merged, readPage, writePage } from "../src/support/page.ts";
import type { PoolResult } from "../src/support/result.ts";
import { end, started, token } from "./fake-orchestrator.ts";
import { writeGguf as writeBroken } from "./gguf-file.ts";
import { type Bench, bench, REAL } from "./harness.ts";
import { skip as no_sshd, setUp } from "./remote-setup.ts";

const missing = [REAL.workerd.at(-1), REAL.demo_model].find((path) => !existsSync(path ?? ""));
const skip = missing === undefined ? false : `there is no ${missing}`;

const BEES = "hf:example/bees-GGUF";
const HUGE = "hf:example/huge-GGUF";

const results = (out: string): PoolResult[] => JSON.parse(out).results;

async function workersLeft({ run }: Pick<Bench, "run">): Promise<unknown[]> {
  return PoolWorkers.parse(JSON.parse((await run(["rbees-pool", "worker", "list", "--json"])).out)).workers;
}

/** The demo model under another name, and one that fits no machine: what its header asks for is 8.6 TB of context. */
async function hubWith(t: TestContext, { root }: Bench): Promise<FakeHub> {
  const hub = await FakeHub.start();
  t.after(() => hub.stop());
  const huge = join(root, "made-huge.gguf");
  const u32 = (value: number) => ({ u32: value });
  const facts: Metadata = [
    ["general.architecture", { string: "llama" }],
    ["llama.context_length", u32(8192)],
    ["llama.block_count", u32(1000)],
    ["llama.embedding_length", u32(65_536)],
    ["llama.attention.head_count", u32(512)],
  ];
  writeGguf(huge, facts, [{ name: "token_embd.weight", shape: [64, 8192], type: "f32" }]);
  for (const [name, path] of [
    ["bees", REAL.demo_model],
    ["huge", huge],
  ] as const)
    hub.repos.set(`example/${name}-GGUF`, { commit: "3f".repeat(20), files: { [`${name}-Q8_0.gguf`]: contentOf(await readFile(path)) } });
  return hub;
}

test("a model is fetched and passes, what does not fit is not fetched, a backend that is not here is skipped, and the page says all", {
  skip,
}, async (t) => {
  const here = await bench((clean) => t.after(clean), REAL);
  const hub = await hubWith(t, here);
  const { backends } = PoolBackends.parse(JSON.parse((await here.run(["rbees-pool", "backends", "list", "--json"])).out));
  const absent = backends.find(({ works }) => !works);
  assert.ok(absent, "no host has both a Mac's and an NVIDIA GPU");
  const page = join(here.root, "PAGE.md");
  const line = [
    "rbees",
    "test",
    "models",
    "--models",
    `${BEES},${HUGE},nosuch`,
    "--backends",
    `cpu,${absent.backend}`,
    "--write",
    page,
    "--json",
  ];
  const { exit, out, err } = await here.run(line, { env: { HF_ENDPOINT: hub.url } });
  assert.equal(exit, 0, err);
  const found = results(out);
  assert.deepEqual(
    found.map(({ model, pool, backend, outcome }) => [model, pool, backend, outcome]),
    [
      [BEES, "localhost", "cpu", "passed"],
      [BEES, "localhost", absent.backend, "skipped"],
      [HUGE, "localhost", "cpu", "skipped"],
      [HUGE, "localhost", absent.backend, "skipped"],
      ["nosuch", "localhost", "cpu", "skipped"],
      ["nosuch", "localhost", absent.backend, "skipped"],
    ],
  );
  const figures = found[0]?.figures;
  assert.ok(figures && figures.load_ms > 0 && Number(figures.tokens_per_second) > 0 && figures.memory_bytes > 1_000_000);
  assert.deepEqual(figures.stop_reasons, ["EOS", "EOS", "MAX_TOKENS"]);
  assert.ok(found[1]?.reason?.endsWith(absent.reason), String(found[1]?.reason));
  assert.match(String(found[4]?.reason), /^the model can't be had: There is no model "nosuch" here/);
  assert.match(
    err,
    /\[1\/6\] hf:\S+ on cpu of localhost: question 2 of 3\n[\s\S]*\[1\/6\] hf:\S+ on cpu of localhost: passed, [\d.]+ tokens\/s\n/,
  );
  assert.deepEqual(await workersLeft(here), []);
  assert.match(String(found[2]?.reason), /^does not fit: it needs 8\.\d TB of memory, and there are [\d.]+ [GM]B$/);
  const { models } = JSON.parse((await here.run(["rbees-pool", "models", "list", "--json"])).out);
  assert.deepEqual(
    models.map(({ name }: { name: string }) => name),
    ["demo", "bees-Q8_0"],
  );

  const text = await readFile(page, "utf8");
  assert.match(text, /\n\| hf:example\/bees-GGUF \| cpu \| passed \| [\d.]+ \|/);
  assert.ok(text.includes(`\n| hf:example/bees-GGUF | ${absent.backend} | not run | `));
  assert.match(text, /\n\| mistral \| cpu \| not run \| never tried \|/);
  assert.ok(!text.includes(here.root) && !text.includes("localhost"));
});

test("a worker that can't load is a failure with its reason, and the exit code says so", { skip }, async (t) => {
  const here = await bench((clean) => t.after(clean), REAL);
  await writeBroken(join(here.root, "broken.gguf"));
  assert.equal((await here.run(["rbees-pool", "models", "register", "broken", join(here.root, "broken.gguf")])).exit, 0);
  const page = join(here.root, "PAGE.md");
  const { exit, out } = await here.run(["rbees", "test", "models", "--models", "broken", "--backends", "cpu", "--write", page]);
  assert.equal(exit, 1);
  assert.match(out, /\nbroken +localhost +cpu +failed .* Worker test-\w+ ended before it was ready .*\n0 passed, 1 failed, 0 skipped\n$/);
  assert.deepEqual(await workersLeft(here), []);
  const text = await readFile(page, "utf8");
  assert.match(text, /\n\| broken \| cpu \| failed: Worker under test ended before it was ready/);
  assert.ok(!text.includes(here.root));
});

test("Ctrl-C in the middle of the questions stops the worker", { skip }, async (t) => {
  const here = await bench((clean) => t.after(clean), REAL);
  const stop = new AbortController();
  let workers_then = 0;
  const { exit } = await here.run(["rbees", "test", "models", "--models", "demo", "--backends", "cpu", "--no-write"], {
    signal: stop.signal,
    onErr(err) {
      if (!err.includes("question 1") || stop.signal.aborted) return;
      workers_then += 1;
      stop.abort(new DOMException("interrupted", "AbortError"));
    },
  });
  assert.deepEqual([exit, workers_then], [130, 1]);
  assert.deepEqual(await workersLeft(here), []);
});

test("a pool is tested over SSH, and the page does not name it", { skip: skip || no_sshd }, async () => {
  const { near, onAtlas } = await setUp();
  assert.equal((await near.run(["rbees", "pool", "register", "attic", "--host", "atlas"])).exit, 0);
  const page = join(near.root, "PAGE.md");
  const line = ["rbees", "test", "models", "--models", "demo", "--backends", "cpu", "--pools", "attic", "--write", page, "--json"];
  const { exit, out, err } = await near.run(line);
  assert.equal(exit, 0, err);
  assert.deepEqual(
    results(out).map(({ pool, outcome }) => [pool, outcome]),
    [["attic", "passed"]],
  );
  assert.deepEqual(JSON.parse((await onAtlas("worker", "list", "--json")).out), { workers: [] });
  assert.doesNotMatch(await readFile(page, "utf8"), /attic|atlas/);
});

test("when nothing at all could be run, the exit code says so and a line says why", async (t) => {
  const here = await bench((clean) => t.after(clean));
  const page = join(here.root, "PAGE.md");
  const line = ["rbees", "test", "models", "--models", "demo", "--pools", "atlas", "--backends", "cpu", "--write", page, "--json"];
  const { exit, out, err } = await here.run(line, { env: { PATH: "/nowhere" } });
  assert.equal(exit, 1);
  assert.match(err, /\nNothing was run, so nothing is known: the pool does not answer: There is no `ssh` on this machine.*\n$/);
  assert.match(String(results(out)[0]?.reason), /^the pool does not answer: There is no `ssh` on this machine/);
  assert.match(await readFile(page, "utf8"), /\n\| demo \| cpu \| not run \| never tried \|/);
});

test("what can't be meant is refused before anything is done", async (t) => {
  const here = await bench((clean) => t.after(clean));
  const page = join(here.root, "NOTES.md");
  await writeFile(page, "# My notes\n");
  for (const [flags, exit, says] of [
    [["--backends", "cpu,gpu"], 2, /Give some of cpu, cuda, metal/],
    [["--models", "demo,"], 2, /Give one or more, with commas between/],
    [["--models", "./mine.gguf"], 2, /give \.\/mine\.gguf a name first/],
    [["--models", "demo", "--write", page], 1, /holds no results of earlier runs .* is left as it is/],
  ] as const) {
    const ran = await here.run(["rbees", "test", "models", ...flags]);
    assert.equal(ran.exit, exit, ran.err);
    assert.match(ran.err, says);
  }
  assert.equal(await readFile(page, "utf8"), "# My notes\n");
});

test("the page keeps what was measured elsewhere, renews what was measured here, and a skip takes nothing away", async (t) => {
  const { root } = await bench((clean) => t.after(clean));
  const page = join(root, "PAGE.md");
  const host = { processor: "A", cores: 2, system: "linux 6.1", device: null };
  const figures = {
    ...{ load_ms: 1200, tokens_per_second: 10, first_token_ms: 5, memory_bytes: 1_000_000, context_size: 512 },
    ...{ stop_reasons: ["EOS" as const], model_digest: "sha256:00", engine: "fake 1" },
  };
  const one: PoolResult = {
    ...{ pool: "attic", model: "m-->|x", backend: "cpu", outcome: "passed", reason: null, host, figures, rbees: "0.1.0" },
    at: "2026-01-01T00:00:00.000Z",
  };
  const skipped: PoolResult = { ...one, outcome: "skipped", reason: "does not fit", figures: null };
  const failed = { ...one, outcome: "failed" as const, reason: "attic: /home/me/x.log says 10.1.2.3 is gone", figures: null };
  await writePage(page, merged([], [one, { ...one, host: { ...host, processor: "B" } }], []), ["demo"]);
  const after_skip = merged(await readPage(page), [skipped], []);
  assert.deepEqual(
    after_skip.map(({ outcome, host: at }) => [outcome, at?.processor]),
    [
      ["passed", "A"],
      ["passed", "B"],
    ],
  );
  const renewed = merged(after_skip, [{ ...failed, host: { ...host, system: "linux 6.2" } }], ["attic"]);
  assert.deepEqual(
    renewed.map(({ outcome, reason }) => [outcome, reason]),
    [
      ["failed", "the pool: … says … is gone"],
      ["passed", null],
    ],
  );
});

async function heard(...events: object[]) {
  async function* stream() {
    for (const event of events) yield { data: JSON.stringify(event) };
  }
  return listen(stream(), 2, performance.now());
}

test("a stream with anything wrong in it is found out", async () => {
  const good = await heard(started, token("Hello"), token(" there", 1), { ...end, tokens_out: 2 });
  assert.deepEqual([good.problems, good.text], [[], "Hello there"]);
  assert.deepEqual(compared("?", good, good).problems, []);
  const ended = { ...end, tokens_out: 2 };
  for (const [events, problem] of [
    [[started, token("a"), token("b", 2), ended], /^token 2 where 1 was due$/],
    [[token("a"), token("b", 1), ended], /^token came first, not started$/],
    [[started, token("a"), token("b", 1)], /^the stream broke off before its end$/],
    [[started, token("a"), token("b", 1), ended, token("c", 2)], /^token after the end$/],
    [[started, token("a"), ended], /^the end counts 2 tokens and 1 came$/],
    [[started, token("a"), { ...end, tokens_out: 1, stop_reason: "MAX_TOKENS" }], /^MAX_TOKENS after 1 of 2 tokens$/],
    [[started, token(" "), token(" ", 1), ended], /^an answer without text$/],
    [[started, { type: "error", code: "ENGINE_FAILED", message: "gone", retriable: true }], /^ENGINE_FAILED: gone$/],
    [[started, { type: "surprise" }, token("a"), token("b", 1), ended], /none of the contract's$/],
  ] as const) {
    const { problems } = await heard(...events);
    assert.ok(
      problems.some((one) => problem.test(one)),
      `${problem}: ${problems.join("; ")}`,
    );
  }
  const other = await heard(started, token("Hello"), token(" you", 1), ended);
  assert.deepEqual(compared("?", good, other).problems, ["the second run came out otherwise"]);
});
