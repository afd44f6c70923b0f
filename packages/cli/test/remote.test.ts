/** `rbees pool … --host`, over a real sshd on this machine, to a far side with a home of its own. */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { test } from "node:test";
import fc from "fast-check";
import { createIo } from "../src/io.ts";
import { pool } from "../src/pool-verbs.ts";
import { rbees as program } from "../src/rbees-verbs.ts";
import { commandLine } from "../src/remote/quote.ts";
import { startThere } from "../src/remote/ssh.ts";
import { parseTarget } from "../src/remote/target.ts";
import { REAL } from "./harness.ts";
import { hostileWords } from "./hostile-words.ts";
import { setUp, skip } from "./remote-setup.ts";
import { startSshd } from "./sshd.ts";

const { far, near, onAtlas } = skip === false ? await setUp() : ({} as Awaited<ReturnType<typeof setUp>>);

test("every verb of rbees-pool is a verb of rbees pool", () => {
  const carried = program.verbs.flatMap(({ path }) => (path.startsWith("pool ") ? [path.slice("pool ".length)] : []));
  for (const { path } of pool.verbs) assert.ok(carried.includes(path), path);
});

test("help and mistakes are told at once, without SSH", { skip }, async () => {
  const without_ssh = { env: { PATH: "/nowhere" } };
  const run = (line: string) => near.run(["rbees", "pool", ...line.split(" ")], without_ssh);
  assert.match(
    (await run("worker spawn --help")).out,
    /^Usage: rbees pool worker spawn[\s\S]*--host <host>[\s\S]*rbees pool worker spawn cpu --model demo --host atlas/,
  );
  for (const [line, exit, says] of [
    ["worker spawn cpu --host atlas", 2, /required option '--model <model>'/],
    ["worker spwan --host atlas", 2, /Did you mean spawn\?/],
    ["worker spawn cpu --model demo --port 70000 --host atlas", 2, /from 1 to 65535/],
    ["worker list", 2, /Say where: rbees pool worker list --host HOST/],
    ["worker list --host -oProxyCommand=x", 2, /no host/],
    ["worker list --host=-oProxyCommand=x", 2, /is no host/],
    ["worker list --host atlas", 6, /There is no `ssh` on this machine/],
  ] as const) {
    const ran = await run(line);
    assert.equal(ran.exit, exit, `${line}: ${ran.err}`);
    assert.match(ran.err, says);
  }
});

test("words arrive as they are through a real sshd", { skip }, async () => {
  const streams = { stdin: process.stdin, stdout: process.stdout, stderr: process.stderr };
  const world = {
    io: createIo(streams, near.env),
    env: near.env,
    home: { config: near.root, data: "", state: "" },
    programs: REAL,
    signal: new AbortController().signal,
  };
  await fc.assert(
    fc.asyncProperty(hostileWords, async (words) => {
      const child = await startThere(
        world,
        parseTarget("atlas"),
        `exec ${commandLine(["/bin/sh", "-c", 'printf "%s\\0" "$@"', "echo", ...words])}`,
      );
      child.stdin.end();
      const chunks: Buffer[] = [];
      for await (const chunk of child.stdout) chunks.push(chunk as Buffer);
      assert.equal(Buffer.concat(chunks).toString("utf8"), words.map((word) => `${word}\0`).join(""));
    }),
    { numRuns: 40 },
  );
});

test("a burst of commands shares one connection", { skip }, async () => {
  const logins = () => far.log().split("Accepted publickey").length - 1;
  await onAtlas("models", "list");
  const before = logins();
  await Promise.all([onAtlas("models", "list"), onAtlas("worker", "list"), onAtlas("backends", "list"), onAtlas("info")]);
  assert.equal(logins(), before);
});

test("tables, JSON, talk and exit codes are those of the far rbees-pool", { skip }, async () => {
  assert.match((await onAtlas("models", "list")).out, /^MODEL +SIZE[^\n]*\ndemo /);
  const json = await onAtlas("models", "catalog", "--json");
  assert.deepEqual(JSON.parse(json.out).models[0].name, "demo");
  assert.match((await onAtlas("worker", "list")).out, /rbees pool worker spawn cpu --model demo --host atlas/);
  assert.match((await onAtlas("status", "--format", "prometheus")).out, /^# HELP pool_mgr_gpus_total/);
  assert.equal(JSON.parse((await onAtlas("info", "--json")).out).folders.data, `${far.home}/.local/share/rbees`);
  for (const [words, exit, says] of [
    [["worker", "stop", "nobody"], 6, /^rbees: atlas: There is no worker "nobody" on this host; there are none\.\n$/],
    [["worker", "logs", "nobody"], 6, /^rbees: atlas: There is no worker "nobody"/],
    [["models", "info", "$(touch pwned); `x`"], 6, /There is no model "\$\(touch pwned\); `x`" here/],
  ] as const) {
    const ran = await onAtlas(...words);
    assert.deepEqual([ran.exit, ran.out], [exit, ""], ran.err);
    assert.match(ran.err, says);
  }
  const failed = await onAtlas("worker", "stop", "nobody", "--json");
  assert.equal(failed.exit, 6);
  assert.equal(JSON.parse(failed.out).error.code, "NOT_FOUND");
});

test("a result that means other than done is shown, and its exit code kept; what a login shell says is no result", { skip }, async (t) => {
  const other = await startSshd((clean) => t.after(clean));
  const program = `${other.folder}/program`;
  const result = JSON.stringify({ models: [] });
  const talk = [
    '{"rbees":"hello","version":"9.9.9"}',
    '{"rbees":"say","line":"It is \\u0027so\\u0027."}',
    '{"rbees":"progress","step":"looking","detail":"3 %"}',
    "not of rbees",
  ];
  const say = (exit: number, out: string) =>
    writeFileSync(program, `printf '%s\\n' ${commandLine(talk)} >&2\nprintf '%s\\n' ${commandLine(["Welcome!", out])}\nexit ${exit}\n`);
  other.installPool(["/bin/sh", program]);
  say(1, result);
  const list = (...flags: string[]) => near.run(["rbees", "pool", "models", "list", "--host", "atlas", ...flags], { env: other.env });
  assert.deepEqual(await list("--json"), { exit: 1, out: `${result}\n`, err: "It is 'so'.\nlooking\n" });
  assert.match((await list()).out, /^No model is on this host\. Download one: rbees pool models download qwen --host atlas\n$/);
  assert.equal((await list("--quiet")).err, "");
  // A far rbees of another version that does not know the verb.
  say(
    2,
    JSON.stringify({
      error: { code: "INVALID_REQUEST", message: "unknown command 'list'", type: "x", param: null, retriable: false, correlation_id: "" },
    }),
  );
  const { exit, err } = await list("--quiet");
  assert.equal(exit, 2);
  assert.match(
    err,
    /^rbees: atlas: unknown command 'list'\. rbees is 9\.9\.9 there and 0\.1\.0 here; `rbees pool upgrade --host atlas` makes them the same\.\n$/,
  );
  say(0, JSON.stringify({ version: "9.9.9", ...(JSON.parse((await onAtlas("status", "--json")).out) as object) }));
  const registered = await near.run(["rbees", "pool", "register", "other", "--host", "atlas"], { env: other.env });
  assert.match(registered.out, /other version +rbees-pool +9\.9\.9 at .*; here is 0\.1\.0[\s\S]*Next: rbees pool upgrade --host other/);
});

test("localhost needs no SSH", { skip }, async () => {
  const ran = await near.run(["rbees", "pool", "info", "--host", "localhost", "--json"], { env: { PATH: "/nowhere" } });
  assert.equal(ran.exit, 0, ran.err);
  assert.equal(JSON.parse(ran.out).folders.data, `${near.root}/data`);
});
