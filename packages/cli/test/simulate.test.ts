/** `rbees simulate`: table, JSON, fleets, and what it says when something is wrong. */
import assert from "node:assert/strict";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { gzipSync } from "node:zlib";
import type { Simulation } from "../src/simulate/simulate.ts";
import { bench } from "./harness.ts";

const TRACE = Array.from(
  { length: 60 },
  (_, at) => `{"timestamp":${at * 200},"input_length":${600 + 40 * at},"output_length":20,"hash_ids":[1,${at + 2}]}\n`,
).join("");

const POLICY_NAMES = ["round-robin", "least-loaded", "most-free-memory", "lmetric", "eta"];

test("a table with a row for each policy, and what it means", async (t) => {
  const { root, run } = await bench((clean) => t.after(clean));
  writeFileSync(join(root, "trace"), gzipSync(TRACE));
  const { exit, out, err } = await run(["rbees", "simulate", join(root, "trace"), "--workers", "2", "--speeds", "1,0.25"]);
  assert.deepEqual([exit, err], [0, ""]);
  assert.deepEqual(
    out
      .split("\n")
      .slice(0, 6)
      .map((line) => line.split(" ")[0]),
    ["POLICY", ...POLICY_NAMES],
  );
  assert.equal(out.match(/← first token soonest/g)?.length, 1);
  assert.match(out, /\n60 requests on 2 machines: [a-z-]+ answers first, mean [\d.]+ s against [\d.]+ s with round-robin\.\n$/);
  assert.equal((await run(["rbees", "simulate", join(root, "trace"), "--workers", "2", "--speeds", "1,0.25"])).out, out);
});

test("of several tenants, in the trace or dealt out, it says how far apart they got; of one it says nothing", async (t) => {
  const { root, run } = await bench((clean) => t.after(clean));
  const trace = join(root, "trace");
  writeFileSync(
    trace,
    TRACE.replaceAll(/"timestamp":(\d+)/g, (line, at) => `${line},"tenant":"${Number(at) % 400 === 0 ? "a" : "b"}"`),
  );
  const line = ["rbees", "simulate", trace, "--workers", "1", "--slots", "1", "--policy", "eta"];
  const { out } = await run(line);
  assert.match(out, /FAIR +GAP\n.* +[1-9]\d+\n/);
  assert.match(out, /GAP: by how many tokens two of the 2 tenants were apart/);
  const dealt = JSON.parse((await run([...line, "--tenants", "3", "--json"])).out) as Simulation;
  assert.equal(dealt.policies[0]?.tenants.count, 3);
  writeFileSync(trace, TRACE.replace('"timestamp"', '"tenant":7,"timestamp"'));
  assert.match((await run(line)).err, /line 1: tenant must be text/);
  writeFileSync(trace, TRACE);
  assert.doesNotMatch((await run(line)).out, /GAP/);
});

test("--json prints one value; a file says what the machines are", async (t) => {
  const { root, run } = await bench((clean) => t.after(clean));
  const [trace, fleet] = [join(root, "trace"), join(root, "pool.toml")];
  writeFileSync(trace, TRACE);
  writeFileSync(fleet, '[defaults]\nslots = 4\n\n[[worker]]\nid = "gpu"\n\n[[worker]]\nid = "mac"\ncount = 2\nspeed = 0.25\n');
  const line = ["rbees", "simulate", trace, "--fleet", fleet, "--policy", "eta", "--rate", "2", "--limit", "50", "--json"];
  const { exit, out, err } = await run(line, { tty: false });
  assert.deepEqual([exit, err], [0, ""]);
  const found = JSON.parse(out) as Simulation;
  assert.deepEqual(
    found.fleet.map(({ id, slots }) => [id, slots]),
    [
      ["gpu", 4],
      ["mac-1", 4],
      ["mac-2", 4],
    ],
  );
  assert.deepEqual([found.best, found.trace.requests, found.trace.duration_s], ["eta", 50, 4.9]);
  assert.deepEqual([found.policies.length, found.policies[0]?.finished], [1, 50]);
});

test("a terminal sees how far it is", async (t) => {
  const { root, run } = await bench((clean) => t.after(clean));
  writeFileSync(join(root, "trace"), TRACE.repeat(5));
  const { err } = await run(["rbees", "simulate", join(root, "trace"), "--policy", "eta"], { tty: true });
  assert.match(err, /replaying with eta {2}\d+ %/);
});

test("what is wrong is said in one line, with the exit code that means it", async (t) => {
  const { root, run } = await bench((clean) => t.after(clean));
  const at = (name: string, content: string) => {
    writeFileSync(join(root, name), content);
    return join(root, name);
  };
  const trace = at("trace", TRACE);
  mkdirSync(join(root, "folder"));
  const cases: [string[], number, RegExp][] = [
    [[join(root, "absent")], 6, /There is no file .*absent; give the path of the trace\.$/],
    [[join(root, "folder")], 2, /folder is a folder; give the path of the trace in it\.$/],
    [[at("text", "hello\n")], 2, /text can't be read: line 1: "hello" is neither a JSON object nor the header TIMESTAMP/],
    [[at("bad", `${TRACE}{"timestamp":0}\n`)], 2, /line 61: input_length must be a whole number from 1\.$/],
    [[trace, "--policy", "fastest"], 2, /'fastest' is invalid\. Give one of round-robin, .*See rbees simulate --help\.$/],
    [[trace, "--speeds", "1,,2"], 2, /Give a number/],
    [[trace, "--speeds", "1,0"], 2, /Give a number above 0/],
    [[trace, "--speeds", "5000"], 2, /The fleet of --speeds is not valid: \[\[worker\]\] speed: must be a number from 0\.001 to 1000/],
    [[trace, "--fleet", join(root, "absent.toml")], 6, /There is no file .*absent\.toml; give the path of the fleet\.$/],
    [[trace, "--fleet", at("broken.toml", "a = \n")], 2, /broken\.toml is not TOML: line 1: /],
    [[trace, "--fleet", at("odd.toml", "[[worker]]\nspeed = -1\ncores = 4\n")], 2, /speed: must be .*; \[\[worker\]\] cores: unknown/],
    [[trace, "--fleet", at("ok.toml", "[[worker]]\n"), "--slots", "3"], 2, /leave out --workers, --speeds, --slots/],
  ];
  for (const [argv, code, says] of cases) {
    const { exit, out, err } = await run(["rbees", "simulate", ...argv]);
    assert.deepEqual([exit, out, err.split("\n").length], [code, "", 2], `${argv.join(" ")}: ${err}`);
    assert.match(err.trim(), says);
  }
});

test("where there is nothing to choose no policy is called the best", async (t) => {
  const { root, run } = await bench((clean) => t.after(clean));
  writeFileSync(join(root, "trace"), TRACE);
  const { out } = await run(["rbees", "simulate", join(root, "trace"), "--workers", "1"]);
  assert.doesNotMatch(out, /soonest/);
  assert.match(out, /60 requests on 1 machine: with any policy the first token comes after [\d.]+ s in the mean\.\n$/);
});

test("a pool that can't keep up is called so", async (t) => {
  const { root, run } = await bench((clean) => t.after(clean));
  writeFileSync(join(root, "trace"), TRACE.repeat(3));
  const { out } = await run(["rbees", "simulate", join(root, "trace"), "--speeds", "0.02", "--policy", "eta"]);
  assert.match(out, /1 machine: with eta the first token comes after .* The machines can't keep up: the last answer ends /);
});
