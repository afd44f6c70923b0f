/** Names that would be paths: of workers, of models, and of files in what is fetched. They lead nowhere but into rbees' own folders. */
import assert from "node:assert/strict";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { bench } from "./harness.ts";

const SECRET = "nobody else's business";
const NAMES = [
  "../../secret",
  "../secret",
  "..",
  "../../secret.log",
  "./../../secret",
  "..\\..\\secret",
  "a/../../../secret",
  "%2e%2e/%2e%2e/secret",
  "secret\0",
];

test("no name leads out of the folders: of workers for their log and to stop them, of models to register and remove them", async (t) => {
  const { run, root } = await bench((clean) => t.after(clean));
  for (const name of ["secret", "secret.log", "secret.json", "secret.gguf"]) writeFileSync(join(root, name), SECRET);
  mkdirSync(join(root, "state", "logs"), { recursive: true });
  mkdirSync(join(root, "state", "workers"), { recursive: true });
  const absolute = join(root, "secret");
  for (const name of [...NAMES, absolute, `${absolute}.log`])
    for (const words of [
      ["worker", "logs", name],
      ["worker", "stop", name],
      ["models", "unregister", name],
      ["models", "register", name, join(root, "secret.gguf")],
      ["worker", "spawn", "cpu", "--model", name],
    ]) {
      const { exit, out, err } = await run(["rbees-pool", ...words]);
      const said = `${words.join(" ")}: ${exit} ${out} ${err}`;
      assert.notEqual(exit, 0, said);
      assert.ok(!said.includes(SECRET), said);
    }
  for (const name of ["secret", "secret.log", "secret.json", "secret.gguf"]) assert.equal(readFileSync(join(root, name), "utf8"), SECRET);
  assert.deepEqual(readdirSync(join(root, "state", "workers")), []);
});
