/** Files of rules: what is refused and how that is said, what rules say of jobs and workers, and what they can cost. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import type { JobFacts, WorkerFacts } from "../src/policy/facts.ts";
import { UNRULED } from "../src/policy/policy.ts";
import { readPolicy } from "../src/policy/rule-file.ts";

type Facts = Partial<Omit<JobFacts, "job">> & { job?: Partial<JobFacts["job"]> };
const job = ({ job: more, ...facts }: Facts = {}): JobFacts => ({
  tenant: "acme",
  key: { id: "k1", name: "app" },
  model: "demo",
  at_ms: Date.UTC(2026, 10, 26, 22, 30),
  ...facts,
  job: { priority: "interactive", prompt_tokens: 100, max_tokens: 100, deadline_ms: 0, metadata: {}, labels: {}, ...more },
});
const worker = (more: Partial<WorkerFacts> = {}): WorkerFacts => ({
  id: "w1",
  region: "",
  backend: "cpu",
  pool: "",
  trust: "joined",
  slots: 1,
  context_size: 0,
  labels: {},
  ...more,
});
const rule = (name: string, when: string, effect: string) => `[[rule]]\nname = "${name}"\nwhen = '${when}'\n${effect}\n`;
const policy = (...rules: string[]) => readPolicy("policy.toml", rules.join("\n"));
const refused = (text: string): string => {
  try {
    readPolicy("policy.toml", text);
  } catch (error) {
    assert.equal((error as { code: string }).code, "INVALID_REQUEST");
    return (error as Error).message;
  }
  return assert.fail(`this was not refused: ${text}`);
};

test("every example of docs/policy.md is a file of rules", () => {
  const page = readFileSync(new URL("../../../docs/policy.md", import.meta.url), "utf8");
  const examples = [...page.matchAll(/```toml\n([\s\S]*?)```/g)].map(([, text = ""]) => text);
  assert.ok(examples.length >= 4);
  for (const example of examples) assert.ok(readPolicy("policy.toml", example).rules.length > 0);
  const shown = /```\n(policy\.toml:3:9: [\s\S]*?)\n```/.exec(page)?.[1] ?? "";
  assert.ok(refused((examples[0] ?? "").replace("tenant ==", "tennant ==")).includes(shown), "the refusal on the page");
});

for (const [what, when, expected] of [
  [
    "an unknown name",
    'tennant == "x"',
    /policy\.toml:3:9: rule "r", column 1 of when: Unknown variable: tennant\n {2}tennant == "x"\n {2}\^/,
  ],
  ["an unknown field", "job.promt_tokens > 1", /policy\.toml:3:13: rule "r", column 5 of when: No such key: promt_tokens\n.*\n {6}\^/],
  ["a wrong type", 'job.max_tokens > "x"', /no such overload: int > string/],
  ["no truth value", "tenant", /this is of type string/],
  ["bad syntax", "tenant ==", /column 10 of when: Unexpected token: EOF/],
  ["an unknown function", "shout(tenant)", /Rules know no function shout; there are /],
  ["an area that there is not", '!within(worker.region, "UE")', /:\d+:32: .*within: names no area or country that there is \(UE\)/],
  ["a way around types", "dyn(job).x == 1", /Rules know no function dyn/],
] as const) {
  test(`${what} is refused with file, line, rule, column and a caret`, () =>
    assert.match(refused(rule("r", when, "log = true")), expected));
}

test("everything that is wrong with a file is said at once", () => {
  const said = refused(
    [
      'timezone = "Mars/Olympus"',
      rule("a", 'tennant == "x"', "log = true"),
      rule("a", "true", ""),
      rule("b", "true", 'allow = true\ndeny = "no"'),
      rule("c", 'worker.region == "de"', 'require = { region = "de" }'),
      rule("d", "true", "prefer = 5"),
      rule("e", "has(worker.labels.a)", "set = { max_tokens = 5 }"),
    ].join("\n"),
  );
  for (const problem of [
    /timezone: there is no Mars\/Olympus/,
    /Unknown variable: tennant/,
    /:7: rule "a": another rule has this name/,
    /rule "a": it does nothing/,
    /rule "b": allow and deny stand alone/,
    /rule "c": require says itself what the worker must have/,
    /rule "d": it prefers all workers alike/,
    /rule "e": set is done when the job comes/,
  ])
    assert.match(said, problem);
  assert.match(refused("[[rule]]\nname = 'x'\nwhen = 'true'\ndenny = 'no'"), /policy\.toml:1: rule "x": denny: unknown field/);
  assert.match(
    refused(rule("r", "true", 'require = { region = "UE" }')),
    /rule "r": require\.region: names no area or country that there is \(UE\)/,
  );
  assert.match(refused("mode = 'maybe'"), /policy\.toml: mode: /);
  assert.match(refused("a = ["), /policy\.toml:1:\d+: /);
  assert.match(refused("#".repeat(262_145)), /more than 262144 bytes/);
});

test("what the form of a file refuses does not hide what else is wrong with its rules, each of which is looked at by itself", () => {
  const said = refused(
    [
      'mode = "maybe"',
      'timezone = "Mars/Olympus"',
      rule("a", 'tennant == "x"', 'denny = "no"'),
      rule("a", "tenant", "prefer = 0"),
      rule("b", "true", 'allow = true\ndeny = "no"'),
      '[[rule]]\nwhen = "model > 5"\nlog = true\n',
      '[[rule]]\nname = "c"\nwhen = 5\nlog = true\n',
    ].join("\n"),
  );
  const problems = said.split("\n").filter((line) => line.startsWith("policy.toml:"));
  assert.deepEqual(
    problems.map((line) => line.replace(/^policy\.toml:/, "").replace(/(unknown field|Invalid|Too small|no such overload).*/, "$1")),
    [
      " mode: Invalid",
      " timezone: there is no Mars/Olympus; write it as Europe/Berlin",
      '3: rule "a": denny: unknown field',
      '5:9: rule "a", column 1 of when: Unknown variable: tennant',
      '8: rule "a": prefer: Too small',
      '8: rule "a": another rule has this name',
      '10:9: rule "a", column 1 of when: A condition is true or false, and this is of type string',
      '13: rule "b": allow and deny stand alone, or with log',
      "19: rule 4: name: is required (string)",
      "20:9: rule 4, column 1 of when: no such overload",
      '23: rule "c": when: Invalid',
    ],
  );
  for (const text of ["rule = 5", "rule = [5]", "timezone = 5", "[rule]\nname = 'x'"]) assert.match(refused(text), /policy\.toml/);
});

test("the first of allow and deny that holds decides, and what can't be evaluated denies", () => {
  const rules = policy(
    rule("ops", 'key.name == "ops"', "allow = true"),
    rule("class", 'job.metadata.class == "secret"', 'deny = "not here"'),
    rule("cap", "job.max_tokens > 500", 'deny = "too many"'),
  );
  const denied = (facts: Facts) => rules.rule(job(facts)).denied;
  assert.deepEqual(denied({ job: { metadata: { class: "secret" } } }), { rule: "class", message: "not here" });
  assert.deepEqual(denied({ job: { metadata: { class: "open" }, max_tokens: 501 } }), { rule: "cap", message: "too many" });
  assert.equal(denied({ job: { metadata: { class: "open" } } }), null);
  assert.match(denied({})?.message ?? "", /could not be evaluated, and so denies \(No such key: class/);
  assert.equal(denied({ key: { id: "k", name: "ops" }, job: { max_tokens: 501, metadata: { class: "secret" } } }), null);
  assert.notEqual(denied({ key: { id: "k", name: "ops" } }), null, "an allowed job that no rule can judge is denied all the same");
});

test("rules that ask about workers decide for each of them; a job is refused only where no rule before may allow it", () => {
  const rules = policy(
    rule("home", 'within(worker.region, "EU")', "allow = true"),
    rule("clinic", 'tenant == "clinic"', 'deny = "not abroad"'),
    rule("slow", 'worker.labels.disk == "slow"', 'deny = "slow"'),
  );
  const clinic = job({ tenant: "clinic" });
  assert.equal(rules.rule(clinic).denied, null);
  assert.equal(rules.judge(clinic, worker({ region: "de" })).barred?.rule, "slow", "that can't be evaluated there");
  assert.equal(rules.judge(clinic, worker({ region: "de", labels: { disk: "slow" } })).barred, null);
  assert.deepEqual(rules.judge(clinic, worker({ region: "us", labels: { disk: "fast" } })).barred, {
    rule: "clinic",
    message: "not abroad",
  });
  assert.deepEqual(rules.judge(job(), worker({ labels: { disk: "slow" } })).barred, { rule: "slow", message: "slow" });
});

test("require, prefer and set add up, and every rule that holds is named", () => {
  const rules = policy(
    rule("eu", 'tenant == "acme"', 'require = { region = "eu", backend = ["cuda", "metal"], pool = "box", labels = { disk = "nvme" } }'),
    rule("gpu", "job.prompt_tokens > 50", 'prefer = { weight = 20, backend = "cuda" }'),
    rule("near", 'has(worker.labels.rack) && worker.labels.rack == "1"', "prefer = 5"),
    rule("cap", "true", 'set = { max_tokens = 50, priority = "batch", content_keep_ms = 9 }'),
    rule("more", "true", 'set = { max_tokens = 80, priority = "interactive" }'),
    rule("kept", "true", "set = { content_keep_ms = 0 }"),
    rule("longer", "true", "set = { content_keep_ms = 7 }"),
    rule("seen", 'model == "demo"', "log = true"),
    rule("other", 'model == "x"', "log = true"),
  );
  const ruling = rules.rule(job());
  assert.deepEqual(ruling.demands, [
    { by: "rule eu", areas: ["EU"], backends: ["cuda", "metal"], labels: { disk: "nvme", "rbees.pool": "box" } },
  ]);
  assert.deepEqual([ruling.priority, ruling.max_tokens, ruling.content_keep_ms], ["interactive", 50, 0]);
  assert.deepEqual(ruling.rules, ["eu", "gpu", "cap", "more", "kept", "longer", "seen"]);
  assert.deepEqual(rules.judge(job(), worker({ backend: "cuda", labels: { rack: "1" } })), {
    barred: null,
    preference: 25,
    rules: ["gpu", "near"],
  });
  assert.deepEqual(rules.judge(job(), worker()), { barred: null, preference: 0, rules: [] });
});

test("log_only names what would have held and does nothing", () => {
  const rules = readPolicy(
    "p",
    `mode = "log_only"\n${rule("no", "true", 'deny = "no"')}${rule("w", "has(worker.labels.x)", 'deny = "no"')}`,
  );
  assert.deepEqual(rules.rule(job()), { ...UNRULED, rules: ["log_only:no"] });
  assert.deepEqual(rules.judge(job(), worker({ labels: { x: "" } })), { barred: null, preference: 0, rules: ["log_only:w"] });
});

test("time is that of the file's time zone, also when the clocks are changed", () => {
  const at = (text: string, when: string, timezone = "Europe/Berlin") =>
    readPolicy("p", `timezone = "${timezone}"\n${rule("t", when, "log = true")}`).rule(job({ at_ms: Date.parse(text) })).rules.length === 1;
  assert.ok(at("2026-11-26T22:30:00Z", 'time.hour == 23 && time.minute == 30 && time.weekday == "thu" && time.date == "2026-11-26"'));
  assert.ok(at("2026-11-26T23:30:00Z", 'time.hour == 0 && time.weekday == "fri" && time.date == "2026-11-27"'));
  assert.ok(at("2026-10-25T00:30:00Z", "time.hour == 2") && at("2026-10-25T01:30:00Z", "time.hour == 2"), "the hour that is there twice");
  assert.ok(at("2026-03-29T01:30:00Z", "time.hour == 3"), "after the hour that is not there");
  assert.ok(at("2026-03-29T01:30:00Z", "time.hour == 1", "UTC"));
});

test("no rule can take long: neither regular expressions nor loops in loops nor what doubles", () => {
  const list = `[${Array.from({ length: 64 }, (_, n) => n).join(",")}]`;
  const doubled = Array.from({ length: 20 }, (_, n) => `cel.bind(x${n + 1}, x${n} + x${n}, `).join("");
  for (const [what, when, expected] of [
    ["a regular expression", 'model.matches("(a+)+$")', /Rules know no regular expressions/],
    ["one made of metadata", "tenant.matches(job.metadata.x)", /Rules know no regular expressions/],
    [
      "loops in loops",
      `${list}.all(a, ${list}.all(b, ${list}.all(c, a + b + c > 0)))`,
      /more|It may take \d+ steps, and 10000 are allowed|exceed/i,
    ],
    ["loops over maps in loops", "job.metadata.all(a, job.labels.all(b, job.metadata.all(c, a == b || b == c)))", /It may take \d+ steps/],
    ["bindings that double", `cel.bind(x0, "aa", ${doubled}size(x20) > 0${")".repeat(21)}`, /Rules know no function bind|exceed/i],
    ["pieces of pieces", 'job.metadata.x.split("").map(a, job.metadata.x).join("").split("").size() > 0', /Rules know no function/],
    ["long lists", `1 in [${"1,".repeat(70)}1]`, /exceed/i],
    ["deep nesting", `${"(".repeat(60)}true${")".repeat(60)}`, /exceed|depth/i],
  ] as const) {
    assert.match(refused(rule("r", when, "log = true")), expected, what);
  }
  assert.match(refused(`[[rule]]\nname = "r"\nwhen = '${"x".repeat(4097)}'\nlog = true`), /when: /);
  assert.match(refused(Array.from({ length: 257 }, (_, n) => rule(`r${n}`, "true", "log = true")).join("")), /rule: .*256/);
  const dear = "job.metadata.all(a, worker.labels.exists(b, a == b))";
  assert.match(
    refused(Array.from({ length: 12 }, (_, n) => rule(`r${n}`, dear, "log = true")).join("")),
    /all rules together may take \d+ steps/,
  );
});

test("the dearest file that is let in is evaluated within its steps", () => {
  const dear = "job.metadata.all(a, job.labels.exists(b, a == b))";
  const rules = policy(rule("r", dear, "log = true"), rule("s", dear.replace("==", "<"), "log = true"));
  const [first] = rules.rules;
  assert.ok(first !== undefined && first.condition.cost <= 10_000);
  const many = Object.fromEntries(Array.from({ length: 16 }, (_, n) => [`${"k".repeat(60)}${n}`, "v".repeat(512)]));
  assert.deepEqual(rules.rule(job({ job: { metadata: many, labels: many } })).rules, ["r"]);
});

test("names that every object has are no facts of a job or a worker", () => {
  const rules = policy(rule("a", "has(job.metadata.constructor)", "log = true"), rule("b", '"__proto__" in worker.labels', 'deny = "x"'));
  assert.deepEqual(rules.rule(job()).rules, []);
  assert.equal(rules.judge(job(), worker()).barred, null);
  const odd = policy(rule("a", 'job.metadata.toString == "x"', "log = true"));
  assert.match(odd.rule(job()).denied?.message ?? "", /No such key: toString/);
});
