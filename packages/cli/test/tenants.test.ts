/** `rbees tenants`: what the verbs send and show. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { fakeOrchestrator } from "./fake-orchestrator.ts";
import { bench } from "./harness.ts";

test("tenants are made, listed, shown, changed and deleted", async (t) => {
  const orchestrator = await fakeOrchestrator({ events: [] });
  t.after(() => orchestrator.close());
  const { run } = await bench((clean) => t.after(clean));
  const rbees = (...words: string[]) => run(["rbees", "tenants", ...words, "--orchestrator", orchestrator.url]);
  assert.match((await rbees("create", "acme", "--weight", "2")).out, /keys create NAME --role submit --tenant acme/);
  assert.match((await rbees("list")).out, /TENANT +WEIGHT +TODAY +KEYS.*\n *acme +2 +0 tokens +0/);
  assert.match((await rbees("set", "acme", "--weight", "0.5")).out, /weight +0\.5/);
  assert.match((await rbees("set", "acme", "--residency", "EU")).out, /stays in +EU/);
  assert.match((await rbees("set", "acme", "--residency", "none")).out, /tenant +acme\nweight +0\.5\ncontent kept/);
  const limited = await rbees("set", "acme", "--tokens-per-minute-max", "20000", "--over-limit", "queue", "--models", "demo,qwen");
  assert.match(limited.out, /tokens a minute +20,000\nover these +queue\nmodels +demo, qwen/);
  assert.match((await rbees("set", "acme", "--tokens-per-minute-max", "0")).out, /weight +0\.5\nmodels +demo, qwen.*\ncontent kept/);
  const said = await rbees("set", "acme", "--jobs-running-max", "3", "--content-keep-days", "7");
  assert.match(said.out, /jobs running +3\nmodels +demo, qwen.*\ncontent kept +7 days/);
  const limits = ["--tokens-per-minute-max", "--over-limit", "--jobs-running-max", "--content-keep-days"];
  const back = await rbees("set", "acme", "--models", "all", ...limits.flatMap((flag) => [flag, "default"]));
  assert.match(back.out, /weight +0\.5\ncontent kept +30 days/);
  for (const flags of [
    ["--over-limit", "ask"],
    ["--jobs-running-max", "-1"],
    ["--tokens-per-day-max", "many"],
  ])
    assert.equal((await rbees("set", "acme", ...flags)).exit, 2);
  assert.equal(JSON.parse((await rbees("show", "acme", "--json")).out).weight, 0.5);
  assert.equal((await rbees("delete", "acme")).out, "acme is no tenant any more.\n");
  const gone = await rbees("show", "acme");
  assert.equal(gone.exit, 6);
  assert.match(gone.err, /There is no tenant acme/);
});
