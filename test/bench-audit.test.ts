/** `bench:audit` compares the orchestrator with one from which it takes the record, by words of the source that must be there. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";

test("what bench:audit takes out of the orchestrator is there to be taken out", () => {
  const at = (path: string) => new URL(path, import.meta.url).href;
  const load = `await import(${JSON.stringify(at("../packages/orcd/src/record.ts"))})`;
  const hook = at("../bench/audit/without-record.ts");
  const { status, stderr } = spawnSync(process.execPath, ["--import", hook, "--input-type=module", "-e", load], { encoding: "utf8" });
  assert.equal(status, 0, stderr);
});
