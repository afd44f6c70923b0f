/** What docs/compliance.md claims is shown by tests that exist, each claim by one at least. */
import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { settings } from "../packages/orcd/src/config.ts";

const root = fileURLToPath(new URL("..", import.meta.url));
const read = (path: string) => readFileSync(join(root, path), "utf8");
const page = read("docs/compliance.md");
const DAY_MS = 86_400_000;

/** The rows of its tables, without the heads. */
const rows = page
  .split("\n")
  .filter((line) => line.startsWith("| ") && !line.startsWith("| article"))
  .map((line) => line.slice(2, -2).split(" | "));

/** By the word that stands for it: where each test is. */
const proofs = new Map(
  page.split("\n").flatMap((line) => {
    const [, words = "", file = "", title = ""] = /^- ((?:\*\*[\w-]+\*\*(?:, )?)+): `([^`]+)`: (.+)$/.exec(line) ?? [];
    return [...words.matchAll(/[\w-]+/g)].map(([word]) => [word, { file, title }] as const);
  }),
);

test("every article that somebody has to answer for is there", () => {
  const articles = rows.map(([article = ""]) => /^\d+/.exec(article)?.[0]);
  assert.deepEqual([...new Set(articles)], ["5", "15", "17", "25", "30", "32", "12", "19", "26"]);
  for (const row of rows) assert.equal(row.length, 4, row[0]);
});

test("every sentence about what rbees does names its test, and no test is listed for nothing", () => {
  const named = new Set<string>();
  for (const [article, does = ""] of rows) {
    if (does === "See article 32.") continue;
    for (const sentence of does.split(/(?<=\.) (?=[A-Z])/)) {
      assert.match(sentence, / \[[\w-]+\]\.$/, `${article}: ${sentence}`);
      for (const [, word = ""] of sentence.matchAll(/\[([\w-]+)\](?!\()/g)) named.add(word);
    }
  }
  assert.deepEqual([...named].sort(), [...proofs.keys()].sort());
});

test("every test that it names is there, under its title", () => {
  assert.ok(proofs.size > 0);
  for (const [word, { file, title }] of proofs) {
    assert.ok(file.endsWith(".test.ts") && existsSync(join(root, file)), `${word}: there is no ${file}`);
    assert.ok(read(file).includes(`test("${title}"`), `${word}: ${file} has no test "${title}"`);
  }
});

test("the times that docs/compliance.md names are the defaults, and the trail's is longer than six months", () => {
  for (const name of ["content_keep_ms", "batch_file_keep_ms", "audit_keep_ms"] as const) {
    const days = settings[name].default / DAY_MS;
    assert.ok(page.includes(`\`${name}\` (${days} days`), `${name} is ${days} days`);
  }
  assert.ok(settings.audit_keep_ms.default > 184 * DAY_MS);
});
