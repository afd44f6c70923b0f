/** `rbees-pool models …`: the catalogue with company, crashes and damage, and what a model's file says. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdir, readdir, readFile, truncate, unlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { ErrorBody } from "@rbees/contracts/error-body";
import { PoolModel, PoolModels } from "@rbees/contracts/pool";
import { z } from "zod";
import { withLock } from "../src/local/lock.ts";
import { identify } from "../src/local/process-identity.ts";
import { ModelFacts } from "../src/pool/model-file.ts";
import { writeGguf } from "./gguf-file.ts";
import { type Bench, bench } from "./harness.ts";

async function setUp(t: TestContext): Promise<{ pool: Bench; file: string; models: (...verb: string[]) => ReturnType<Bench["run"]> }> {
  const pool = await bench((clean) => t.after(clean));
  await writeGguf(pool.programs.demo_model);
  const file = join(pool.root, "mine.gguf");
  await writeGguf(file, { filler: 1 });
  return { pool, file, models: (...verb) => pool.run(["rbees-pool", "models", ...verb]) };
}

test("the demo model is always here, and the catalogue names what everyone knows", async (t) => {
  const { models } = await setUp(t);
  const list = PoolModels.parse(JSON.parse((await models("list", "--json")).out)).models;
  assert.deepEqual(
    list.map(({ name }) => name),
    ["demo"],
  );
  const all = PoolModels.parse(JSON.parse((await models("catalog", "--json")).out)).models;
  assert.deepEqual(
    all.map(({ name, present }) => [name, present]),
    [
      ["demo", true],
      ["tinyllama", false],
      ["qwen-0.5b", false],
      ["phi3", false],
      ["mistral", false],
    ],
  );
  assert.match(
    (await models("catalog")).out,
    /qwen-0\.5b, qwen +no +– +– +– +– +hf:Qwen\/Qwen2\.5-0\.5B-Instruct-GGUF::file=qwen2\.5-0\.5b-instruct-q4_k_m\.gguf/,
  );
});

test("register records the absolute path, the hash and what the header says; unregister forgets, the file stays", async (t) => {
  const { models, file } = await setUp(t);
  const registered = PoolModel.parse(JSON.parse((await models("register", "mine", file, "--json")).out));
  const sha256 = createHash("sha256")
    .update(await readFile(file))
    .digest("hex");
  assert.partialDeepStrictEqual(registered, {
    name: "mine",
    path: file,
    present: true,
    sha256,
    architecture: "llama",
    quantisation: "Q8_0",
    context_size: 512,
  });
  assert.match((await models("list")).out, /\nmine +\d+ B +llama Q8_0 +512 +apache-2\.0 +\/.*mine\.gguf\n$/);
  assert.equal((await models("register", "mine", file)).exit, 0, "once more with the same file");
  assert.equal((await models("unregister", "mine")).out, `mine is forgotten; ${file} stays.\n`);
  assert.equal((await models("unregister", "mine")).exit, 6);
  assert.ok((await readFile(file)).length > 0);
  await models("register", "mine", file);
  await unlink(file);
  assert.equal((await models("unregister", "mine")).out, `mine is forgotten; ${file} was gone already.\n`);
});

test("a name stands for one file until --replace says otherwise", async (t) => {
  const { models, file, pool } = await setUp(t);
  await models("register", "qwen", file);
  const other = join(pool.root, "other.gguf");
  await writeGguf(other, { filler: 2 });
  const refused = await models("register", "qwen-0.5b", other, "--json");
  assert.equal(refused.exit, 1);
  assert.equal(ErrorBody.parse(JSON.parse(refused.out)).error.code, "CONFLICT");
  assert.equal((await models("register", "qwen", other, "--replace")).exit, 0);
  assert.equal((await models("register", "demo", other)).exit, 1);
  assert.equal((await models("register", "-x y", other)).exit, 2);
});

test("a file that is no model, a truncated one and a missing one are refused with the reason", async (t) => {
  const { models, file, pool } = await setUp(t);
  await writeFile(join(pool.root, "page.gguf"), "<!DOCTYPE html><html></html>");
  const page = await models("register", "page", join(pool.root, "page.gguf"));
  assert.equal(page.exit, 2);
  assert.match(page.err, /no GGUF file/);
  await truncate(file, 600);
  assert.match((await models("register", "short", file)).err, /truncated/);
  assert.equal((await models("register", "none", join(pool.root, "none.gguf"))).exit, 6);
});

test("info tells what the header says, by name and by path", async (t) => {
  const { models, file } = await setUp(t);
  for (const model of ["demo", file]) {
    const facts = ModelFacts.extend({ sha256: z.string().nullable() }).parse(JSON.parse((await models("info", model, "--json")).out));
    assert.partialDeepStrictEqual(facts, {
      architecture: "llama",
      parameters: 32,
      layers: 2,
      tokenizer: "llama",
      vocabulary: 2,
      chat_template: "{{ messages }}",
      license: "apache-2.0",
    });
  }
  assert.match((await models("info", "demo")).out, /quantisation +Q8_0\ncontext +512 tokens\n/);
  assert.equal((await models("info", "nobody")).exit, 6);
});

test("two processes that register at once lose nothing", async (t) => {
  const { pool, models, file } = await setUp(t);
  const names = Array.from({ length: 6 }, (_, i) => `m${i}`);
  const ran = await Promise.all(names.map((name) => pool.start(["rbees-pool", "models", "register", name, file]).ended));
  assert.deepEqual(
    ran.map(({ exit, err }) => [exit, err]).filter(([exit]) => exit !== 0),
    [],
  );
  const { models: list } = JSON.parse((await models("list", "--json")).out);
  assert.deepEqual(
    list.map(({ name }: { name: string }) => name),
    ["demo", ...names],
  );
  assert.deepEqual((await readdir(join(pool.root, "data"))).sort(), ["catalogue.json"]);
});

test("a corrupt catalogue is set aside with a notice, and work goes on", async (t) => {
  const { pool, models, file } = await setUp(t);
  await mkdir(join(pool.root, "data"), { recursive: true });
  await writeFile(join(pool.root, "data", "catalogue.json"), '{"version":1,"models":{"half');
  const { exit, out, err } = await models("list", "--json");
  assert.equal(exit, 0);
  assert.equal(JSON.parse(out).models.length, 1);
  assert.match(err, /is damaged; it is set aside as .*catalogue\.json\.corrupt-/);
  assert.equal((await models("register", "mine", file)).err, "hashing ".concat(file, "\n"));
  assert.equal((await readdir(join(pool.root, "data"))).length, 2);
});

test("a registered model whose file is gone is not here any more", async (t) => {
  const { models, file } = await setUp(t);
  await models("register", "mine", file);
  await unlink(file);
  assert.doesNotMatch((await models("list")).out, /mine/);
  assert.match((await models("info", "mine")).err, /The file of "mine" is gone/);
});

test("a lock of a process that died is taken over by one of those who wait, a living one's is waited for", async (t) => {
  const { pool } = await setUp(t);
  const path = join(pool.root, "some.lock");
  const self = await identify(process.pid);
  await writeFile(path, JSON.stringify({ ...self, started_ticks: "1" }));
  let inside = 0;
  let most = 0;
  let done = 0;
  const work = async () => {
    inside += 1;
    most = Math.max(most, inside);
    await new Promise((resolve) => setImmediate(resolve));
    inside -= 1;
    done += 1;
  };
  await Promise.all(Array.from({ length: 8 }, () => withLock(path, { wait_ms_max: 10_000, what: "testing" }, work)));
  assert.deepEqual({ most, done }, { most: 1, done: 8 });
  await writeFile(path, JSON.stringify(self));
  await assert.rejects(withLock(path, { wait_ms_max: 50, what: "testing" }, work), /Another rbees command \(pid \d+\) is testing/);
});
