/** Whatever is typed arrives as it is: through every shell that is here, and in the command that goes to another machine. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";
import fc from "fast-check";
import { poolCommand, wordsOf } from "../src/remote/errand.ts";
import { commandLine } from "../src/remote/quote.ts";
import { parseTarget } from "../src/remote/target.ts";
import { hostileWords } from "./hostile-words.ts";

/** Prints its arguments with a NUL after each. Itself a shell, as rbees-pool's launcher is. */
const ECHO = ["/bin/sh", "-c", 'printf "%s\\0" "$@"', "echo"];

for (const shell of ["/bin/sh", "dash", "bash", "zsh", "ksh", "fish", "busybox"]) {
  const argv = shell === "busybox" ? ["busybox", "sh"] : [shell];
  const there = spawnSync(argv[0] ?? "", [...argv.slice(1), "-c", "exit 0"]).status === 0;
  test(`words arrive as they are through ${shell}`, { skip: there ? false : `there is no ${shell} here` }, () => {
    fc.assert(
      fc.property(hostileWords, (words) => {
        const { status, stdout } = spawnSync(argv[0] ?? "", [...argv.slice(1), "-c", `exec ${commandLine([...ECHO, ...words])}`]);
        assert.equal(status, 0);
        assert.equal(stdout.toString("utf8"), words.map((word) => `${word}\0`).join(""));
      }),
      { numRuns: 150 },
    );
  });
}

test("a NUL, which no argument can hold, is refused", () => {
  assert.throws(() => poolCommand(["models", "info", "a\0b"]), TypeError);
});

test("values that begin with a dash and names that look like flags stay what they are", () => {
  const errand = {
    words: ["models", "info"],
    flags: [["--format", "-x=y"] as const, ["--now", undefined] as const],
    args: ["--help", "-n"],
  };
  assert.deepEqual(wordsOf(errand, true), ["models", "info", "--json", "--format=-x=y", "--now", "--", "--help", "-n"]);
});

test("a --host is a name or an address, never a flag of ssh", () => {
  assert.deepEqual(parseTarget("me@atlas:2222"), { name: "me@atlas:2222", host: "atlas", user: "me", port: 2222, here: false });
  assert.deepEqual(parseTarget("me@[::1]:22"), { name: "me@[::1]:22", host: "::1", user: "me", port: 22, here: false });
  assert.deepEqual([parseTarget("fe80::1").host, parseTarget("fe80::1").port], ["fe80::1", undefined]);
  assert.equal(parseTarget("localhost").here, true);
  for (const bad of [
    "-oProxyCommand=touch x",
    "a b",
    "",
    "me@",
    "@atlas",
    "a@b@c",
    "atlas:0",
    "atlas:70000",
    "$(id)",
    "a;b",
    "a\nb",
    "`id`",
    "-x@h",
  ]) {
    assert.throws(() => parseTarget(bad), { code: "INVALID_REQUEST" }, bad);
  }
});
