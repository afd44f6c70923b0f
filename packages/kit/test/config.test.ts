/** Configuration: four sources, one precedence, every problem in one report. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { RbeesError } from "@rbees/contracts/errors";
import { describeConfig, describeFlags, flag, loadConfig, number, pairs, text } from "../src/config.ts";

const settings = {
  port: number({ default: 8080, max: 65_535, help: "Port" }),
  host: text({ default: "127.0.0.1", help: "Address" }),
  orchestrator_url: text({ default: "http://localhost:8080", help: "Where", env: ["LLORCH_ORCHESTRATOR_URL"] }),
  level: text({ default: "info", one_of: ["info", "debug"], help: "Level" }),
  open_network: flag({ default: false, help: "Open" }),
  share: number({ default: 0.5, max: 1, whole: false, help: "Share" }),
  labels: pairs({ default: {}, help: "Labels" }),
  token: text({ default: "", help: "Token", secret: true, matches: /^[a-z0-9-]*$/ }),
} as const;

function load(sources: { argv?: string[]; env?: Record<string, string>; file?: string; file_required?: boolean } = {}) {
  return loadConfig(settings, { section: "orcd", argv: [], env: {}, ...sources });
}

function toml(t: TestContext, content: string): string {
  const folder = mkdtempSync(join(tmpdir(), "rbees-config-"));
  t.after(() => rmSync(folder, { recursive: true }));
  const file = join(folder, "config.toml");
  writeFileSync(file, content);
  return file;
}

/** The problems of a refusal, as `field: problem`. */
function problems(act: () => unknown): string[] {
  try {
    act();
  } catch (error) {
    assert.ok(error instanceof RbeesError && error.code === "INVALID_REQUEST", String(error));
    return (error.details as { field: string; problem: string }[]).map(({ field, problem }) => `${field}: ${problem}`);
  }
  return assert.fail("nothing was refused");
}

test("a flag beats the environment, the environment the file, the file the default, and each value tells its source", (t) => {
  const file = toml(t, "[orcd]\nport = 1\nhost = 'file'\nlevel = 'debug'\n");
  const { config, source } = load({ file, env: { RBEES_PORT: "2", RBEES_HOST: "env" }, argv: ["--port", "3"] });
  assert.deepEqual([config.port, config.host, config.level, config.open_network], [3, "env", "debug", false]);
  assert.deepEqual(
    [source.port, source.host, source.level, source.open_network],
    ["flag --port", "env RBEES_HOST", `file ${file}`, "default"],
  );
});

test("the earlier project's names are read too, and the new name beats the old one", () => {
  const old = load({ env: { LLORCH_ORCHESTRATOR_URL: "http://old" } });
  assert.deepEqual([old.config.orchestrator_url, old.source.orchestrator_url], ["http://old", "env LLORCH_ORCHESTRATOR_URL"]);
  const both = load({ env: { LLORCH_ORCHESTRATOR_URL: "http://old", RBEES_ORCHESTRATOR_URL: "http://new" } });
  assert.equal(both.config.orchestrator_url, "http://new");
});

test("an empty environment variable is one that was not set", () => {
  assert.equal(load({ env: { RBEES_PORT: "", RBEES_HOST: "" } }).config.port, 8080);
});

test("every problem of every source comes in one report, each with where it came from", (t) => {
  const file = toml(t, "[orcd]\nport = 'eighty'\nlevl = 'debug'\n");
  const found = problems(() =>
    load({
      file,
      env: { RBEES_SHARE: "2", RBEES_LABELS: "a" },
      argv: ["--level", "loud", "--colour", "red", "--open-network=perhaps", "--host"],
    }),
  );
  assert.deepEqual(found, [
    "--colour: unknown flag; --help lists them",
    "--host: needs a value",
    `${file} [orcd] levl: unknown setting`,
    `port (file ${file}): must be a whole number`,
    "level (flag --level): must be one of info, debug",
    "open-network (flag --open-network): must be true or false",
    "share (env RBEES_SHARE): must be from 0 to 1",
    "labels (env RBEES_LABELS): must be key=value,key=value",
  ]);
});

test("a bad value in a weaker source is reported even when a stronger one is good", () => {
  assert.deepEqual(
    problems(() => load({ env: { RBEES_PORT: "x" }, argv: ["--port", "1"] })),
    ["port (env RBEES_PORT): must be a whole number"],
  );
});

test("a flag whose value was forgotten does not swallow the next flag", () => {
  assert.deepEqual(
    problems(() => load({ argv: ["--host", "--port", "80"] })),
    ["--host: needs a value"],
  );
  assert.equal(load({ argv: ["--host=--odd"] }).config.host, "--odd");
});

test("names that every object has are unknown settings and flags like any other", (t) => {
  const file = toml(t, "[orcd]\nconstructor = 1\ntoString = 2\n");
  assert.deepEqual(
    problems(() => load({ file, argv: ["--constructor", "--to-string"] })).map((line) => line.split(": ").pop()),
    ["unknown flag; --help lists them", "unknown flag; --help lists them", "unknown setting", "unknown setting"],
  );
});

test("numbers are read strictly and within their bounds", () => {
  for (const bad of ["1.5", "80 80", "0x", "-1", "65536", "Infinity", "NaN", " "]) {
    assert.equal(problems(() => load({ env: { RBEES_PORT: bad } })).length, 1, bad);
  }
  assert.equal(load({ argv: ["--port", "0"] }).config.port, 0);
  assert.equal(load({ argv: ["--share", "0.25"] }).config.share, 0.25);
  assert.deepEqual(
    problems(() => load({ argv: ["--port", "-1"] })),
    ["port (flag --port): must be from 0 to 65535"],
  );
});

test("a switch is on when it is named, and can be said in words everywhere", (t) => {
  assert.equal(load({ argv: ["--open-network"] }).config.open_network, true);
  for (const [word, value] of [
    ["yes", true],
    ["1", true],
    ["false", false],
    ["0", false],
  ] as const) {
    assert.equal(load({ env: { RBEES_OPEN_NETWORK: word } }).config.open_network, value, word);
    assert.equal(load({ argv: [`--open-network=${word}`] }).config.open_network, value, word);
  }
  assert.equal(load({ file: toml(t, "[orcd]\nopen_network = true\n"), argv: ["--open-network=false"] }).config.open_network, false);
});

test("a table within the program's table says the same as a name with an underscore; what is no setting is told", (t) => {
  assert.equal(load({ file: toml(t, "[orcd.open]\nnetwork = true\n") }).config.open_network, true);
  assert.throws(() => load({ file: toml(t, "[orcd.open]\nnetworks = true\n") }), /open_networks: unknown setting/);
});

test("pairs come as text or as a table, and a value may hold an equals sign", (t) => {
  assert.deepEqual(load({ argv: ["--labels", "zone=a,key=abc==,"] }).config.labels, { zone: "a", key: "abc==" });
  assert.deepEqual(load({ file: toml(t, "[orcd.labels]\nzone = 'b'\nrack = 7\n") }).config.labels, { zone: "b", rack: "7" });
  for (const bad of ["zone", "=a"]) assert.equal(problems(() => load({ argv: ["--labels", bad] })).length, 1, bad);
});

test("secrets are masked when the configuration is printed, and never in a report", () => {
  const loaded = load({ env: { RBEES_TOKEN: "hunter2" } });
  assert.equal(loaded.config.token, "hunter2");
  const printed = describeConfig(settings, loaded);
  assert.match(printed, /^token = "\*\*\*" {2}# env RBEES_TOKEN$/m);
  assert.match(printed, /^port = 8080 {2}# default$/m);
  assert.doesNotMatch(printed, /hunter2/);
  assert.match(describeConfig(settings, load()), /^token = "" {2}# default$/m);
  assert.doesNotMatch(problems(() => load({ env: { RBEES_TOKEN: "HUNTER TWO" } })).join(), /HUNTER/);
});

test("a TOML mistake is reported with its line, without the text around it", (t) => {
  const file = toml(t, "[orcd]\nport = 8080\ntoken = 'hunter2' oops\n");
  const [found = ""] = problems(() => load({ file }));
  assert.ok(found.startsWith(`${file}:3:`), found);
  assert.doesNotMatch(found, /hunter2|\n/);
});

test("a missing file is fine unless it was asked for; one that can't be read is a problem", (t) => {
  const missing = join(tmpdir(), "rbees-no-such-folder", "config.toml");
  assert.equal(load({ file: missing }).config.port, 8080);
  assert.deepEqual(
    problems(() => load({ file: missing, file_required: true })),
    [`${missing}: there is no such file`],
  );
  const folder = join(toml(t, ""), "..");
  assert.match(problems(() => load({ file: folder }))[0] ?? "", /EISDIR/);
});

test("another program's section in the same file is left alone", (t) => {
  assert.equal(load({ file: toml(t, "[workerd]\nslots = 4\n[orcd]\nport = 9\n") }).config.port, 9);
});

test("what stands in the file outside every program's table is a problem, not silence", (t) => {
  const file = toml(t, "auth_required = true\n[orchestrator]\nport = 1\n[orcd]\nport = 9\n");
  assert.deepEqual(
    problems(() => load({ file })),
    ["auth_required", "orchestrator"].map((name) => `${file} ${name}: belongs to no program; settings stand below [orcd] or [workerd]`),
  );
});

test("a program's section that is no table is a problem", (t) => {
  const file = toml(t, "orcd = 5\n");
  assert.deepEqual(
    problems(() => load({ file })),
    [`${file} [orcd]: must be a table`],
  );
});

test("what is not a flag is kept for the program, and the configuration can't be changed", () => {
  const { rest, config } = load({ argv: ["config", "--port", "1", "more"] });
  assert.deepEqual(rest, ["config", "more"]);
  assert.throws(() => Object.assign(config, { port: 2 }), TypeError);
});

test("the help shows each flag with what it takes and its default, but no secret", () => {
  const lines = describeFlags(settings).split("\n");
  assert.equal(lines.length, Object.keys(settings).length);
  assert.match(lines[0] ?? "", /^ {2}--port <number> +Port \(default 8080\)$/);
  assert.match(lines[4] ?? "", /^ {2}--open-network +Open \(default false\)$/);
  assert.match(lines[6] ?? "", /^ {2}--labels <k=v,…>/);
  assert.match(lines[7] ?? "", /Token$/);
});
