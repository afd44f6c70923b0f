/** What all verbs have in common: help, mistakes on the command line, completion, names. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdir, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { ErrorBody } from "@rbees/contracts/error-body";
import { VERSION } from "@rbees/kit/version";
import { age, count, duration, size } from "../src/look.ts";
import { pool } from "../src/pool-verbs.ts";
import { rbees as program } from "../src/rbees-verbs.ts";
import { writeGguf } from "./gguf-file.ts";
import { bench, SRC } from "./harness.ts";

test("every verb has help with examples that call it", async (t) => {
  const { run } = await bench((clean) => t.after(clean));
  for (const { name, verbs } of [program, pool]) {
    for (const { path } of verbs) {
      const { exit, out, err } = await run([name, ...path.split(" "), "--help"]);
      assert.deepEqual([exit, err], [0, ""], path);
      assert.match(out, new RegExp(`^Usage: ${name} ${path} [\\s\\S]*--json[\\s\\S]*\nExamples:\n[\\s\\S]*${name} `));
    }
  }
});

test("help may be asked for as a word too", async (t) => {
  const { run } = await bench((clean) => t.after(clean));
  for (const words of [[], ["jobs"], ["jobs", "submit"], ["up"]]) {
    const asked = await run(["rbees", "help", ...words]);
    assert.equal(asked.exit, 0, asked.err);
    assert.deepEqual(asked, await run(["rbees", ...words, "--help"]));
  }
});

test("a program's help lists every verb, and its version is the project's", async (t) => {
  const { run } = await bench((clean) => t.after(clean));
  for (const { name, verbs } of [program, pool]) {
    const { out } = await run([name, "--help"]);
    for (const { path } of verbs) assert.ok(out.includes(`  ${path}`), path);
    assert.deepEqual(await run([name, "--version"]), { exit: 0, out: `${VERSION}\n`, err: "" });
  }
});

test("mistakes exit 2, name what is wrong, and guess what was meant", async (t) => {
  const { run } = await bench((clean) => t.after(clean));
  const cases = [
    ["rbees jbs list", /unknown command 'jbs' \(Did you mean jobs\?\) See rbees --help\.\n$/],
    ["rbees jobs lits", /unknown command 'lits' \(Did you mean list\?\) See rbees jobs --help\.\n$/],
    ["rbees nope --help", /unknown command 'nope'\. See rbees --help\.\n$/],
    ["rbees --orchestrator x jobs nope -h", /unknown command 'nope'\. See rbees jobs --help\.\n$/],
    ["rbees help nope", /unknown command 'nope'\. See rbees --help\.\n$/],
    ["rbees jobs list --limt 3", /unknown option '--limt' \(Did you mean --limit\?\) See rbees jobs list --help\.\n$/],
    ["rbees completion", /missing required argument 'shell'\. See rbees completion --help\.\n$/],
    ["rbees jobs show", /missing required argument 'id'\. See rbees jobs show --help\.\n$/],
    ["rbees jobs show a b", /too many arguments/],
    ["rbees jobs list --limit 0", /Give a whole number from 1 to 200\. See rbees jobs list --help\.\n$/],
    ["rbees jobs", /^Usage: rbees jobs/],
    ["rbees", /^Usage: rbees/],
  ] as const;
  for (const [line, says] of cases) {
    const { exit, out, err } = await run(line.split(" "));
    assert.deepEqual([exit, out], [2, ""], line);
    assert.match(err, says, line);
  }
  const json = await run(["rbees", "jobs", "show", "--json"]);
  assert.equal(ErrorBody.parse(JSON.parse(json.out)).error.code, "INVALID_REQUEST");
});

test("llorch is the same program under its own name", async (t) => {
  const { root, env } = await bench((clean) => t.after(clean));
  const link = join(root, "llorch");
  await symlink(join(SRC, "rbees.ts"), link);
  const { status, stdout } = spawnSync(process.execPath, [link, "jobs", "--help"], { env, encoding: "utf8" });
  assert.equal(status, 0);
  assert.match(stdout, /^Usage: llorch jobs/);
});

test("a relative RBEES_HOME means the same folder to whatever is started", async (t) => {
  const { root, env } = await bench((clean) => t.after(clean));
  const argv = [join(SRC, "rbees-pool.ts"), "info", "--json"];
  const { stdout } = spawnSync(process.execPath, argv, { env: { ...env, RBEES_HOME: "home" }, cwd: root, encoding: "utf8" });
  assert.equal(JSON.parse(stdout).folders.data, join(root, "home", "data"));
});

test("completion scripts are valid and the programs answer what they ask", async (t) => {
  const { start, programs, root } = await bench((clean) => t.after(clean));
  await writeGguf(programs.demo_model);
  for (const [name, shell] of [
    ["rbees", "bash"],
    ["rbees-pool", "bash"],
    ["rbees", "zsh"],
  ] as const) {
    const { exit, out } = await start([name, "completion", shell]).ended;
    assert.equal(exit, 0);
    assert.ok(out.includes(name));
    if (shell === "bash") assert.equal(spawnSync("bash", ["-n"], { input: out }).status, 0);
  }
  const asked = async (...words: string[]) => (await start(["rbees-pool", "complete", "--", ...words]).ended).out;
  assert.match(await asked("worker", "spawn", ""), /^cpu\t/m);
  assert.match(await asked("worker", "spawn", "cpu", "--model", ""), /^tinyllama\t/m);
  assert.match(await asked("worker", "spawn", "cpu", "--sl"), /^--slots\t/m);
  assert.match(await asked("models", "info", ""), /^qwen\t/m);
  const attic = { host: "attic.lan", registered_at: "2026-01-01T00:00:00.000Z" };
  await mkdir(join(root, "config"), { recursive: true });
  await writeFile(join(root, "config/pools.json"), JSON.stringify({ version: 1, pools: { attic } }));
  for (const [words, names] of [
    [["simulate", "trace", "--policy", ""], /^round-robin\t/m],
    [["pool", "worker", "list", "--host", ""], /^localhost\tpool\nattic\tpool$/m],
    [["test", "models", "--pools", "at"], /^attic\tpool$/m],
    [["pool", "unregister", ""], /^attic\tpool$/m],
  ] as const)
    assert.match((await start(["rbees", "complete", "--", ...words]).ended).out, names, words.join(" "));
  assert.equal((await start(["rbees", "completion", "tcsh"]).ended).exit, 2);
});

test("numbers look as people write them", () => {
  assert.deepEqual([0, 999, 8_100_000, 99_960, 143_771_000_000].map(size), ["0 B", "999 B", "8.1 MB", "100 kB", "144 GB"]);
  assert.deepEqual([5, 200, 7300, 200_000].map(age), ["5s", "3m", "2h", "2d"]);
  assert.deepEqual([120, 1234, 125_000].map(duration), ["120 ms", "1.2 s", "2m 5s"]);
  assert.deepEqual([32, 1_100_000_000, 135_000_000].map(count), ["32", "1.1 B", "135 M"]);
});
