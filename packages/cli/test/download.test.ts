/** `rbees-pool models download` against a hub that answers well: what is fetched, what is recorded, and what workers make of it. */
import assert from "node:assert/strict";
import { open, readdir, readFile, writeFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { test } from "node:test";
import { ModelFit, PoolDownloaded, PoolDownloadProgress, PoolModels } from "@rbees/contracts/pool";
import type { WorkerHealth } from "@rbees/contracts/worker";
import { fingerprint } from "@rbees/kit/fingerprint";
import { Gguf, type GgufValue } from "@rbees/kit/gguf";
import { readModel } from "@rbees/kit/gguf-split";
import { homeOf } from "@rbees/kit/home";
import { writeGguf as writeParts } from "../../../models/fixtures/write-gguf.ts";
import { contentOf, hashOf } from "../../../test/support/fake-hub.ts";
import { fitOf, fitOnDevices } from "../src/download/fit.ts";
import { remember } from "../src/pool/measured.ts";
import { COMMIT, FILE, modelOf, REPO, setUp } from "./download-setup.ts";
import { ANSI } from "./harness.ts";

test("an alias is fetched at a commit, checked, named and recorded", async (t) => {
  const { download, models, hub, model, root } = await setUp(t);
  const ran = await download("qwen", "--json");
  assert.equal(ran.exit, 0, ran.err);
  const lines = ran.out
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
  const done = PoolDownloaded.parse(lines.pop());
  for (const line of lines) PoolDownloadProgress.parse(line);
  const { path = "" } = done.model as { path: string };
  assert.partialDeepStrictEqual(done, {
    how: "downloaded",
    model: {
      name: "qwen-0.5b",
      reference: `hf:${REPO}@${COMMIT}::file=${FILE}`,
      revision: COMMIT,
      bytes: model.length,
      sha256: hashOf({ bytes: model.length, slice: (from, to) => model.subarray(from, to) }),
      present: true,
      aliases: ["qwen"],
      license: "apache-2.0",
      quantisation: "Q8_0",
    },
  });
  assert.ok(path.startsWith(join(root, "data", "models")) && path.endsWith(FILE));
  assert.deepEqual(await readFile(path), model);
  assert.deepEqual((await readdir(dirname(path))).sort(), ["model.json", FILE].sort());
  assert.ok(hub.requests.filter(({ at }) => at === "storage").length > 2, "over several connections");
  const list = PoolModels.parse(JSON.parse((await models("list", "--json")).out)).models;
  assert.deepEqual(
    list.map(({ name }) => name),
    ["demo", "qwen-0.5b"],
  );
  assert.match((await models("list")).out, /qwen-0\.5b, qwen +3\.0 MB +llama Q8_0 +512 +apache-2\.0 +\//);
  const before = hub.requests.length;
  const again = await download("qwen");
  assert.match(again.out, /qwen-0\.5b is here already/);
  assert.equal(hub.requests.length, before, "nobody was asked");
});

test("a quantisation, a file, a revision and a name can be chosen; the known file keeps its known name", async (t) => {
  const pool = await setUp(t);
  const other = contentOf(await modelOf(pool, 1_000_000, 9));
  pool.repo.files["sub folder/qwen2.5-0.5b-instruct-q5_k_m.gguf"] = other;
  pool.repo.revisions = ["v1.0", "refs/pr/1"];
  const name = async (...rest: string[]) => {
    const { exit, out, err } = await pool.download(...rest, "--json");
    assert.equal(exit, 0, err);
    return PoolDownloaded.parse(JSON.parse(out.trim().split("\n").at(-1) ?? "")).model.name;
  };
  assert.equal(await name(`hf:${REPO}`), "qwen-0.5b");
  assert.equal(await name(`hf:${REPO}:q5_k_m`), "qwen2.5-0.5b-instruct-q5_k_m");
  assert.equal(await name(`hf:${REPO}@v1.0:Q5_K_M`, "--name", "mine"), "mine");
  assert.equal(await name(`hf:${REPO}@refs/pr/1::file=sub folder/qwen2.5-0.5b-instruct-q5_k_m.gguf`, "--name", "pr"), "pr");
  assert.equal((await pool.download("qwen", "--name", "mine")).exit, 1, "that name stands for another model");
  const refused = await pool.download(`hf:${REPO}:Q2_K`);
  assert.equal(refused.exit, 6);
  assert.match(
    refused.err,
    /not exactly one file of that quantisation\. Name one: hf:.*::file=PATH\. There are: .*q4_k_m\.gguf \(3\.0 MB\), sub folder/,
  );
  const taken = await pool.download(`hf:${REPO}:Q5_K_M`, "--name", "qwen");
  assert.equal(taken.exit, 1);
  assert.match(taken.err, /"qwen-0\.5b" is another model here already, .*: choose a name with --name, or add --force/);
  assert.match((await pool.models("info", `hf:${REPO}::file=${FILE}`)).out, /^file +\/.*qwen2\.5-0\.5b-instruct-q4_k_m\.gguf\nfrom +hf:/);
});

test("a model in parts is one model: all parts come, the first is what a worker loads", async (t) => {
  const pool = await setUp(t);
  const parts = ["big-Q4_K_M-00001-of-00002.gguf", "big-Q4_K_M-00002-of-00002.gguf"];
  writeParts(
    join(pool.root, parts[0] ?? ""),
    [["general.architecture", { string: "llama" }]],
    [
      { name: "a", shape: [64, 64], type: "f32" },
      { name: "b", shape: [32, 64], type: "f32" },
    ],
  );
  for (const part of parts) pool.repo.files[part] = contentOf(await readFile(join(pool.root, part)));
  const reference = `hf:${REPO}::file=${parts[0]}`;
  const dry = JSON.parse((await pool.models("download", reference, "--dry-run", "--json")).out);
  pool.hub.fault = ({ path }) => (path.includes("-00002-") ? { status: 502 } : undefined);
  assert.equal((await pool.download(reference)).exit, 5, "the second part does not come");
  pool.hub.fault = () => undefined;
  pool.hub.requests.length = 0;
  const { out, exit, err } = await pool.download(reference, "--json");
  assert.equal(exit, 0, err);
  const { model } = PoolDownloaded.parse(JSON.parse(out.trim().split("\n").at(-1) ?? ""));
  assert.ok(!pool.hub.requests.some(({ at, path }) => at === "storage" && path.includes("-00001-")), "the first part is not fetched twice");
  assert.equal(model.name, "big-Q4_K_M");
  assert.deepEqual(
    model.files.map(({ path }) => basename(path)),
    parts,
  );
  assert.deepEqual([basename(model.path ?? ""), model.sha256], [parts[0], null]);
  assert.equal(
    model.bytes,
    model.files.reduce((sum, { bytes }) => sum + bytes, 0),
  );
  assert.deepEqual([dry.bytes, dry.parts, dry.parameters], [model.bytes, 2, 64 * 64 + 32 * 64]);
  assert.equal((await pool.models("verify", "big-Q4_K_M")).exit, 0);
  await writeFile(model.files[1]?.path ?? "", "short");
  assert.match((await pool.models("verify", "big-Q4_K_M")).out, /big-Q4_K_M-00002-of-00002\.gguf has 5 bytes instead of/);
  assert.doesNotMatch((await pool.models("list")).out, /big/, "half a model is no model");
  delete pool.repo.files[parts[1] ?? ""];
  assert.match((await pool.download(reference, "--force")).err, /has no file .*, or not all of its parts/);
});

test("--dry-run and info of a reference read the header alone, and say whether it fits", async (t) => {
  const pool = await setUp(t, { bytes: 40_000_000 });
  const dry = await pool.download("qwen", "--dry-run", "--ctx", "256", "--slots", "2", "--json");
  assert.equal(dry.exit, 0, dry.err);
  const facts = JSON.parse(dry.out);
  const fit = ModelFit.parse(facts.fit);
  assert.partialDeepStrictEqual(fit, { slots: 2, context_size: 256, weights_bytes: 40_000_000, fits: true });
  assert.equal(fit.needed_bytes, fit.weights_bytes + fit.context_bytes + fit.overhead_bytes);
  assert.equal(facts.bytes, 40_000_000);
  assert.ok(pool.hub.sent < 4_000_000, `${pool.hub.sent} bytes for a header`);
  assert.doesNotMatch((await pool.models("list")).out, /qwen/);
  const { out } = await pool.models("info", `hf:${REPO}`);
  assert.match((await pool.models("info", "qwen")).out, /\nfits +yes: /, "a known name is a reference too");
  assert.match(out, /\nmemory +\d+ MB for 4 slots of 512 tokens\n/);
  assert.match(out, /\nfits +yes: /);
  assert.match(out, /\ntemplate +\{\{ messages \}\}\n/);
  assert.match(
    (await pool.download("qwen", "--dry-run", "--ctx", "1000")).err,
    /--ctx 1000 is more than the model was made for: 512 tokens/,
  );
  const local = JSON.parse((await pool.models("info", "demo", "--slots", "3", "--json")).out);
  assert.equal(ModelFit.parse(local.fit).slots, 3);
  pool.hub.ranges = false;
  assert.match((await pool.models("info", `hf:${REPO}`)).err, /gives no parts of files, so the header can't be read/);
});

test("--dry-run of a model that is here goes by what its worker was seen to take", async (t) => {
  const pool = await setUp(t);
  assert.equal((await pool.download("qwen")).exit, 0);
  const { models } = JSON.parse((await pool.models("list", "--json")).out);
  const { path } = models.find(({ name }: { name: string }) => name === "qwen-0.5b");
  const model_digest = await fingerprint(path, await readModel(path));
  const seen = {
    backend: "cpu",
    memory_bytes: 7_000_000,
    model_digest,
    context_size: 256,
    slots: 2,
    prefix_cache_bytes: 0,
  } as WorkerHealth;
  await remember(homeOf(pool.env), seen, "loaded");
  const fit = async (slots: string) =>
    ModelFit.parse(JSON.parse((await pool.download("qwen", "--dry-run", "--ctx", "256", "--slots", slots, "--json")).out).fit);
  const { measured_bytes, needed_bytes, estimated_bytes } = await fit("2");
  assert.deepEqual([measured_bytes, needed_bytes], [7_000_000, 7_000_000]);
  assert.ok(estimated_bytes > 7_000_000, "the estimate stands beside it");
  assert.equal((await fit("3")).measured_bytes, null);
});

test("what does not fit is said to be so, with how much is missing", async () => {
  const made = new Gguf({ version: 3, metadata: new Map(), tensors: [], data_offset: 0, described_bytes: 0, file_bytes: 5e9 });
  const fit = fitOf(made, { ctx: 512, slots: 1 }, 4e9);
  assert.equal(fit.fits, false);
  assert.ok(fit.needed_bytes > 5e9);
});

test("info says how many layers each GPU that works has room for", async (t) => {
  const pool = await setUp(t);
  await writeFile(join(pool.root, "bins"), "");
  const smi = join(pool.root, "nvidia-smi");
  // A model of 7 GB in 33 layers with next to no context: 212 MB each.
  const metadata = new Map<string, GgufValue>([
    ["general.architecture", "llama"],
    ["llama.block_count", 32],
  ]);
  const made = new Gguf({ version: 3, metadata, tensors: [], data_offset: 0, described_bytes: 0, file_bytes: 7e9 });
  const gpu = (index: number, free_bytes: number | null) => ({ index, name: "GPU", memory_bytes: 8e9, free_bytes });
  const found = fitOnDevices(made, { slots: 1, context_size: 64, available_bytes: 5e9 }, [
    { backend: "cpu", works: true, reason: "", devices: [] },
    { backend: "cuda", works: true, reason: "", devices: [gpu(0, 7.9e9), gpu(1, 3.5e9), gpu(2, 1e6), gpu(3, null)] },
    { backend: "metal", works: false, reason: "", devices: [gpu(0, 8e9)] },
  ]);
  assert.deepEqual(
    found.map(({ index, layers, layers_total }) => [index, layers, layers_total]),
    [
      [0, 33, 33],
      [1, 16, 33],
      [2, 0, 33],
      [3, 33, 33],
    ],
  );
  await writeFile(smi, '#!/bin/sh\necho "0, NVIDIA T4, 15360, 14000"\n', { mode: 0o755 });
  const shown = await pool.run(["rbees-pool", "models", "info", "demo"], { env: { PATH: `${pool.root}:${pool.env["PATH"]}` } });
  assert.match(shown.out, /\non cuda 0 +all 3 layers, estimated: 14\.7 GB are free on NVIDIA T4\n/);
});

test("verify finds a changed byte; delete is refused while a worker uses the model, and for what was only registered", async (t) => {
  const pool = await setUp(t);
  await writeFile(join(pool.root, "bins"), "");
  await pool.download("qwen");
  assert.match((await pool.models("verify")).out, /qwen-0\.5b +yes +as it came/);
  const spawned = await pool.run(["rbees-pool", "worker", "spawn", "cpu", "--orchestrator", "none", "--model", "qwen", "--name", "w1"]);
  assert.equal(spawned.exit, 0, spawned.err);
  const refused = await pool.models("delete", "qwen");
  assert.equal(refused.exit, 1);
  assert.match(refused.err, /Worker w1 uses "qwen-0\.5b": stop it first \(rbees-pool worker stop w1\), or add --force/);
  const { path = "" } = JSON.parse((await pool.models("info", "qwen", "--json")).out);
  const file = await open(path, "r+");
  await file.write(Buffer.from("x"), 0, 1, 2_000_000);
  await file.close();
  const bad = await pool.models("verify", "qwen", "--json");
  assert.equal(bad.exit, 1);
  assert.match(JSON.parse(bad.out).models[0].reason, /has changed: its SHA-256 is/);
  await pool.run(["rbees-pool", "worker", "stop", "w1", "--now"]);
  assert.match((await pool.models("delete", "qwen")).out, /qwen-0\.5b is deleted; 3\.0 MB are free again/);
  assert.deepEqual(await readdir(join(pool.root, "data", "models")), []);
  assert.equal((await pool.models("delete", "qwen")).exit, 6);
  assert.equal((await pool.models("delete", "demo")).exit, 1);
  await pool.models("register", "mine", pool.programs.demo_model);
  assert.match((await pool.models("delete", "mine")).err, /was not downloaded but registered: `rbees-pool models unregister mine`/);
  assert.equal((await pool.models("verify", "nobody")).exit, 6);
});

test("spawn says how to get a model that is known but not here, and loads a downloaded one by name or reference", async (t) => {
  const pool = await setUp(t);
  await writeFile(join(pool.root, "bins"), "");
  const spawn = (model: string) => pool.run(["rbees-pool", "worker", "spawn", "cpu", "--orchestrator", "none", "--model", model, "--json"]);
  const absent = await spawn("qwen");
  assert.equal(absent.exit, 6);
  assert.match(absent.err, /"qwen-0\.5b" is known, but not on this host\. Download it: rbees-pool models download qwen-0\.5b/);
  assert.match((await spawn(`hf:${REPO}`)).err, new RegExp(`Download it: rbees-pool models download hf:${REPO}`));
  await pool.download("qwen");
  for (const model of ["qwen", "qwen-0.5b", `hf:${REPO}@${COMMIT}::file=${FILE}`]) {
    const { exit, out, err } = await spawn(model);
    assert.equal(exit, 0, err);
    assert.equal(JSON.parse(out).model, "qwen-0.5b");
  }
});

test("a corrupt catalogue is rebuilt from the models on disk", async (t) => {
  const pool = await setUp(t);
  await pool.download("qwen");
  const path = join(pool.root, "data", "catalogue.json");
  const [before] = PoolModels.parse(JSON.parse((await pool.models("list", "--json")).out)).models.slice(1);
  await writeFile(path, '{"version":1,"mod');
  const { out, err } = await pool.models("list", "--json");
  assert.match(err, /is damaged; it is set aside/);
  assert.deepEqual(PoolModels.parse(JSON.parse(out)).models[1], before);
  await pool.models("register", "mine", pool.programs.demo_model);
  const names = PoolModels.parse(JSON.parse((await pool.models("list", "--json")).out)).models.map(({ name }) => name);
  assert.deepEqual(names, ["demo", "mine", "qwen-0.5b"]);
});

test("file: is registered where it is; --force fetches again what main has become", async (t) => {
  const pool = await setUp(t);
  const path = pool.programs.demo_model;
  const { out } = await pool.download(`file:${path}`, "--name", "mine", "--json");
  assert.partialDeepStrictEqual(PoolDownloaded.parse(JSON.parse(out)).model, { name: "mine", path, files: [] });
  await pool.download("qwen");
  pool.repo.commit = "6b".repeat(20);
  pool.repo.files[FILE] = contentOf(await modelOf(pool, 2_000_000, 3));
  const again = await pool.download("qwen", "--force", "--json");
  const { model } = PoolDownloaded.parse(JSON.parse(again.out.trim().split("\n").at(-1) ?? ""));
  assert.deepEqual([model.revision, model.bytes], [pool.repo.commit, 2_000_000]);
  assert.equal((await readdir(join(pool.root, "data", "models"))).length, 1, "the old one makes room");
});

test("a terminal gets a bar with size, speed and time left; a pipe gets lines; --quiet nothing", async (t) => {
  const pool = await setUp(t, { bytes: 12_000_000 });
  pool.hub.pace_bytes_per_second = 8_000_000;
  const env = { HF_ENDPOINT: pool.hub.url };
  const terminal = await pool.run(["rbees-pool", "models", "download", "qwen"], { env, tty: true });
  assert.match(terminal.err, /qwen-0\.5b {2}█+░+ +\d+ % {2}[\d.]+ MB of 12\.0 MB {2}[\d.]+ [kM]B\/s {2}[\d.]+ m?s left/);
  const piped = await pool.run(["rbees-pool", "models", "download", "qwen", "--force"], { env });
  assert.match(piped.err, /^qwen-0\.5b +\d+ % {2}\d[\d.]* [kM]?B of 12\.0 MB/m);
  assert.doesNotMatch(piped.err + piped.out, ANSI);
  assert.ok(piped.err.split("\n").length < 16);
  const quiet = await pool.run(["rbees-pool", "models", "download", "qwen", "--force", "--quiet"], { env });
  assert.equal(quiet.err, "");
});

test("what was downloaded is counted for the metrics", async (t) => {
  const pool = await setUp(t);
  await pool.download("qwen");
  await pool.download("mistral");
  const { out } = await pool.run(["rbees-pool", "status", "--format", "prometheus"]);
  assert.match(out, /pool_mgr_model_downloads_total\{outcome="done"\} 1/);
  assert.match(out, /pool_mgr_model_downloads_total\{outcome="failed"\} 1/);
});

test("two names for the same files: the files stay until the last name goes; what a broken download left can be deleted too", async (t) => {
  const pool = await setUp(t, { bytes: 6_000_000 });
  await pool.download("qwen");
  await pool.download(`hf:${REPO}`, "--name", "mine");
  assert.match((await pool.models("delete", "qwen")).out, /qwen-0\.5b is forgotten; its files stay for mine/);
  assert.equal((await pool.models("verify", "mine")).exit, 0);
  assert.match((await pool.models("delete", "mine")).out, /mine is deleted; 6\.0 MB are free again/);
  pool.hub.fault = ({ range }) => (range?.startsWith("bytes=0-") ? undefined : { status: 502 });
  assert.equal((await pool.download("qwen")).exit, 5);
  assert.match((await pool.models("delete", "qwen")).out, /qwen-0\.5b is deleted; [\d.]+ [kM]B are free again/);
  assert.deepEqual(await readdir(join(pool.root, "data", "models")), []);
});

test("pieces of a file come over kept connections: no more of them than were asked for", async (t) => {
  const pool = await setUp(t, { bytes: 40_000_000 });
  assert.equal((await pool.download("qwen", "--connections", "3")).exit, 0);
  assert.ok(pool.hub.requests.filter(({ at }) => at === "storage").length >= 12);
  assert.ok(pool.hub.storage_connections <= 4, `${pool.hub.storage_connections} connections`);
  assert.equal(
    pool.hub.requests.filter(({ at, path }) => at === "hub" && path.includes("/resolve/")).length,
    1,
    "the hub is asked once where the file is",
  );
});
