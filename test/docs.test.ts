/** What the documents say is what the code does. */
import assert from "node:assert/strict";
import { existsSync, globSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { VERSION } from "@rbees/kit/version";
import { generatedDocs } from "../scripts/docs.ts";

const root = fileURLToPath(new URL("..", import.meta.url));
const read = (path: string) => readFileSync(join(root, path), "utf8");

test("docs/ is what `npm run docs` writes", () => {
  for (const [name, content] of Object.entries(generatedDocs()))
    assert.equal(read(`docs/${name}`), content, `run npm run docs: docs/${name}`);
});

test("one version everywhere", () => {
  for (const manifest of ["package.json", ...globSync("packages/*/package.json", { cwd: root })])
    assert.equal(JSON.parse(read(manifest)).version, VERSION, manifest);
  assert.match(read("CHANGELOG.md"), new RegExp(`^## ${VERSION.replaceAll(".", "\\.")}`, "m"));
});

test("every npm script that README.md and CONTRIBUTING.md name exists", () => {
  const { scripts } = JSON.parse(read("package.json"));
  for (const page of ["README.md", "CONTRIBUTING.md"]) {
    for (const [, name] of read(page).matchAll(/npm (?:run )?((?:run )?[a-z]+(?::[a-z]+)?)/g)) {
      if (name === undefined || name === "ci" || name === "install") continue;
      assert.ok(name in scripts, `${page}: npm run ${name}`);
    }
  }
});

test("every file that ARCHITECTURE.md and README.md name exists", () => {
  for (const page of ["ARCHITECTURE.md", "README.md", "CONTRIBUTING.md"]) {
    for (const [, path] of read(page).matchAll(/`((?:packages|docs|models|bench|test|scripts)\/[\w./-]*)`/g)) {
      assert.ok(path !== undefined && existsSync(join(root, path)), `${page}: ${path}`);
    }
  }
});

test("the lock file names no registry, and no file names a folder of the machine it was made on", () => {
  assert.doesNotMatch(read("package-lock.json"), /"resolved": "https?:/);
});
