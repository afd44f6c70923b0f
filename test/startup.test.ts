/** What a command line loads before it knows what is asked of it. People wait for that at every start (`npm run bench:startup`). */
import assert from "node:assert/strict";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const CLI = fileURLToPath(new URL("../packages/cli/src/", import.meta.url));
const ORCD = fileURLToPath(new URL("../packages/orcd/src/orcd.ts", import.meta.url));
/** For parsing, colours, folders and the configuration file. The rest is loaded where a verb needs it. */
const AT_ONCE = ["@bomb.sh", "@commander-js/extra-typings", "commander", "env-paths", "picocolors", "smol-toml"];

/** Which of the project's files, and which packages, are there once these are: what only an `import()` names is not. */
async function loadedWith(entryPoints: readonly string[]): Promise<{ files: Set<string>; packages: Set<string> }> {
  const { metafile } = await build({
    entryPoints: [...entryPoints],
    bundle: true,
    write: false,
    outdir: "out",
    metafile: true,
    format: "esm",
    platform: "node",
    plugins: [
      {
        name: "packages stay outside",
        setup: ({ onResolve }) =>
          onResolve({ filter: /^[a-z@]/ }, ({ path, kind }) =>
            kind === "entry-point" || path.startsWith("@rbees/") ? undefined : { path, external: true },
          ),
      },
    ],
  });
  const files = new Set<string>();
  const packages = new Set<string>();
  const visit = (file: string): void => {
    if (files.has(file)) return;
    files.add(file);
    for (const { path, kind, external } of metafile.inputs[file]?.imports ?? []) {
      if (kind !== "import-statement") continue;
      if (!external) visit(path);
      else if (!path.startsWith("node:")) packages.add(path);
    }
  };
  for (const file of Object.keys(metafile.inputs))
    if (entryPoints.some((entry) => entry.endsWith(file.replace(/^(\.\.\/)+/, "")))) visit(file);
  assert.ok(files.size > 20, `the walk found the program: ${[...files]}`);
  return { files, packages };
}

for (const [program, verbs] of [
  ["rbees", "rbees-verbs.ts"],
  ["rbees-pool", "pool-verbs.ts"],
] as const) {
  test(`${program} --help loads no schema, no table and no HTTP client`, async () => {
    const { packages } = await loadedWith([`${program}.ts`, verbs, "program.ts", "context.ts"].map((file) => CLI + file));
    assert.deepEqual(
      [...packages].filter((name) => !AT_ONCE.includes(name)),
      [],
    );
  });
}

test("an orchestrator that was told of no issuer loads nothing that checks tokens", async () => {
  const { files, packages } = await loadedWith([ORCD]);
  assert.ok([...files].some((file) => file.endsWith("orcd/src/oidc.ts")));
  assert.ok(packages.has("fastify") && !packages.has("jose"), [...packages].join(", "));
});
