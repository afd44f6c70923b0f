/** `rbees policy`: files of rules checked and tried without an orchestrator, and the rules of one. */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { temporaryFolder } from "../../../test/support/cluster.ts";
import { fakeOrchestrator } from "./fake-orchestrator.ts";
import { bench } from "./harness.ts";

const RULES = `
[[rule]]
name = "clinic stays"
when = 'tenant == "clinic"'
require = { region = "EU" }
[[rule]]
name = "cap"
when = 'job.max_tokens > 500'
deny = "500 at most."
[[rule]]
name = "gpu first"
when = 'worker.backend == "cuda"'
prefer = 7
[[rule]]
name = "kept a day"
when = 'model == "clinic-7b"'
set = { content_keep_ms = 86400000 }
`;

test("a file of rules is checked, and tried on jobs and workers that are made up", async (t) => {
  const { run } = await bench((clean) => t.after(clean));
  const file = join(temporaryFolder(t, "policy"), "policy.toml");
  writeFileSync(file, RULES);
  const policy = (...words: string[]) => run(["rbees", "policy", ...words]);
  assert.match((await policy("check", file)).out, /policy\.toml is valid: 4 rules, mode enforce/);
  const tried = async (job: object, worker?: object) => {
    const words = [
      "test",
      file,
      "--job",
      JSON.stringify(job),
      ...(worker === undefined ? [] : ["--worker", JSON.stringify(worker)]),
      "--json",
    ];
    const { exit, out } = await policy(...words);
    return { exit, ...JSON.parse(out) };
  };
  const abroad = await tried({ tenant: "clinic" }, { region: "us" });
  assert.deepEqual([abroad.exit, abroad.outcome, abroad.rule], [4, "not on this worker", "clinic stays"]);
  const home = await tried({ tenant: "clinic" }, { region: "de", backend: "cuda" });
  assert.deepEqual([home.exit, home.outcome, home.preference, home.rules], [0, "allowed", 7, ["clinic stays", "gpu first"]]);
  const large = await tried({ max_tokens: 501 });
  assert.deepEqual([large.exit, large.outcome, large.rule, large.message], [4, "denied", "cap", "500 at most."]);
  assert.deepEqual([large.content_keep_ms, (await tried({ model: "clinic-7b" })).content_keep_ms], [null, 86_400_000]);
  assert.match((await policy("test", file, "--job", '{"model":"clinic-7b"}')).out, /outcome +allowed[\s\S]*content_keep_ms +86400000/);

  for (const [words, expected] of [
    [["test", file, "--job", "tenant=x"], /--job must be JSON/],
    [["test", file, "--job", '{"tennant":"x"}'], /tennant: unknown field/],
    [["test", file, "--worker", '{"backend":"abacus"}'], /backend: /],
    [["check", `${file}.none`], /can't be read/],
  ] as const) {
    const refused = await policy(...words);
    assert.equal(refused.exit, 2);
    assert.match(refused.err, expected);
  }
  writeFileSync(file, RULES.replace("tenant ==", "tennant =="));
  const wrong = await policy("check", file);
  assert.equal(wrong.exit, 2);
  assert.match(
    wrong.err,
    /policy\.toml:4:9: rule "clinic stays", column 1 of when: Unknown variable: tennant\n {2}tennant == "clinic"\n {2}\^/,
  );
});

test("the rules of an orchestrator are shown and loaded again", async (t) => {
  const orchestrator = await fakeOrchestrator({ events: [] });
  t.after(() => orchestrator.close());
  const { run } = await bench((clean) => t.after(clean));
  const policy = (...words: string[]) => run(["rbees", "policy", ...words, "--orchestrator", orchestrator.url]);
  const shown = (await policy("show")).out;
  assert.match(shown, /file +\/etc\/rbees\/policy\.toml/);
  assert.match(shown, /eu-only +require +3 +tenant == "acme"/);
  assert.match((await policy("reload")).out, /1 rule of \/etc\/rbees\/policy\.toml is in force, mode enforce/);
});
