/**
 * Each wall of the house is held by a machine; each test here runs into one and expects it to hold. The violations are put
 * into a copy of the repository's configuration, so that nothing is ever written into the tree.
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { cpSync, globSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const copy = mkdtempSync(join(tmpdir(), "rbees-walls-"));
after(() => rmSync(copy, { recursive: true, force: true }));

const config = JSON.parse(readFileSync(join(root, "biome.json"), "utf8"));
writeFileSync(join(copy, "biome.json"), JSON.stringify({ ...config, vcs: { enabled: false }, formatter: { enabled: false } }));
cpSync(join(root, "scripts", "lint"), join(copy, "scripts", "lint"), { recursive: true });
for (const manifest of ["package.json", "tsconfig.base.json", ...globSync("packages/*/{package,tsconfig}.json", { cwd: root })]) {
  mkdirSync(dirname(join(copy, manifest)), { recursive: true });
  cpSync(join(root, manifest), join(copy, manifest));
}
symlinkSync(join(root, "node_modules"), join(copy, "node_modules"));

function lint(path: string, source: string): string {
  const file = join(copy, path);
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, source);
  const { stdout, stderr } = spawnSync(join(root, "node_modules", ".bin", "biome"), ["lint", "--colors=off", path], {
    cwd: copy,
    encoding: "utf8",
  });
  rmSync(file);
  return stdout + stderr;
}

function bites(wall: string, path: string, source: string, expected: RegExp): void {
  test(`wall: ${wall}`, () => {
    assert.match(lint(path, source), expected);
  });
}

function lets(what: string, path: string, source: string, forbidden: RegExp): void {
  test(`no wall: ${what}`, () => {
    assert.doesNotMatch(lint(path, source), forbidden);
  });
}

bites(
  "no import outside a package's dependencies",
  "packages/orcd/src/x.ts",
  'import pc from "picocolors";\nexport const x = pc;\n',
  /noUndeclaredDependencies/,
);
bites("core imports nothing", "packages/core/src/x.ts", 'import { z } from "zod";\nexport const x = z;\n', /noUndeclaredDependencies/);
bites("core reads no clock (Date.now)", "packages/core/src/x.ts", "export const x = Date.now();\n", /time comes in with the event/);
bites("core reads no clock (new Date)", "packages/core/src/x.ts", "export const x = new Date();\n", /time comes in with the event/);
bites(
  "core draws no random numbers",
  "packages/core/src/x.ts",
  "export const x = Math.random();\n",
  /ids and seeds come in with the event/,
);
bites(
  "core waits for nothing",
  "packages/core/src/x.ts",
  "export const x = async (y: Promise<1>) => {\n  await y;\n};\n",
  /waits for nothing/,
);
bites("a simulation reads no clock", "packages/sim/src/x.ts", "export const x = performance.now();\n", /time is what the trace says/);
bites("a simulation draws no random numbers", "packages/sim/src/x.ts", "export const x = Math.random();\n", /gives the same result/);
bites(
  "a simulation knows nothing of the wire",
  "packages/sim/src/x.ts",
  'import { EXIT } from "@rbees/contracts/errors";\nexport const x = EXIT;\n',
  /noUndeclaredDependencies/,
);
bites("process.env only in kit/config", "packages/orcd/src/x.ts", "export const x = process.env.HOME;\n", /noProcessEnv/);
lets("kit/config reads process.env", "packages/kit/src/config.ts", "export const x = process.env.HOME;\n", /noProcessEnv/);
bites("process.exit only in a main", "packages/orcd/src/x.ts", "export const x = () => process.exit(1);\n", /only a main ends the process/);
lets("a main ends the process", "packages/orcd/src/main.ts", "export const x = () => process.exit(1);\n", /only a main ends the process/);
bites(
  "the web framework only in kit/http",
  "packages/kit/src/x.ts",
  'import { fastify } from "fastify";\nexport const x = fastify;\n',
  /serve a route table/,
);
lets(
  "kit/http uses the web framework",
  "packages/kit/src/http.ts",
  'import { fastify } from "fastify";\nexport const x = fastify;\n',
  /noRestrictedImports/,
);
bites(
  "the inference binding only behind the engine port",
  "packages/workerd/src/x.ts",
  'import { getLlama } from "node-llama-cpp";\nexport const x = getLlama;\n',
  /behind the engine port/,
);
lets(
  "its adapter uses the binding",
  "packages/workerd/src/node-llama-cpp/x.ts",
  'import { getLlama } from "node-llama-cpp";\nexport const x = getLlama;\n',
  /noRestrictedImports/,
);
bites("SQL only in store/", "packages/orcd/src/x.ts", 'import { Kysely } from "kysely";\nexport const x = Kysely;\n', /SQL lives in/);
lets(
  "store/ speaks SQL",
  "packages/orcd/src/store/x.ts",
  'import { Kysely } from "kysely";\nexport const x = Kysely;\n',
  /noRestrictedImports/,
);
bites(
  "no shell string by import",
  "packages/cli/src/x.ts",
  'import { exec } from "node:child_process";\nexport const x = exec;\n',
  /no shell strings/,
);
bites(
  "no shell string by option",
  "packages/cli/src/x.ts",
  'import { spawn } from "node:child_process";\nspawn("ls", [], { cwd: ".", shell: true });\n',
  /no shell: start processes/,
);
bites(
  "one SQLite a process",
  "packages/orcd/test/x.ts",
  'import { DatabaseSync } from "node:sqlite";\nexport const x = DatabaseSync;\n',
  /one SQLite a process/,
);
bites("console only nowhere", "packages/cli/src/x.ts", 'console.log("x");\n', /noConsole/);

for (const [what, source] of [
  ["node modules", 'import { readFileSync } from "node:fs";\nexport const x = readFileSync;\n'],
  ["timers", "export const x = setTimeout;\n"],
  ["process", "export const x = process.pid;\n"],
  ["fetch", 'export const x = fetch("http://a");\n'],
  ["console", "export const x = console;\n"],
] as const) {
  test(`wall: core does not compile with ${what}`, () => {
    const file = join(copy, "packages", "core", "src", "x.ts");
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, source);
    const { status, stdout } = spawnSync(join(root, "node_modules", ".bin", "tsc"), ["-p", join(copy, "packages", "core")], {
      encoding: "utf8",
    });
    rmSync(file);
    assert.notEqual(status, 0, stdout);
    assert.match(stdout, /Cannot find|TS2591|TS2304/);
  });
}

test("the manifests allow each room only what house rules say", () => {
  const allowed: Record<string, string[]> = {
    contracts: [],
    core: [],
    kit: ["contracts"],
    orcd: ["contracts", "core", "kit"],
    workerd: ["contracts", "kit"],
    sim: ["core"],
    cli: ["contracts", "kit", "sim"],
  };
  for (const [room, others] of Object.entries(allowed)) {
    const { dependencies } = JSON.parse(readFileSync(join(root, "packages", room, "package.json"), "utf8")) as {
      dependencies: Record<string, string>;
    };
    const ours = Object.keys(dependencies).filter((name) => name.startsWith("@rbees/"));
    assert.deepEqual(ours.sort(), others.map((name) => `@rbees/${name}`).sort(), room);
  }
});

test("the command lines carry neither the web framework nor the engine", () => {
  for (const file of globSync("packages/cli/src/**/*.ts", { cwd: root })) {
    const source = readFileSync(join(root, file), "utf8");
    assert.doesNotMatch(source, /@rbees\/kit\/(http|event-stream)"/, file);
  }
});
