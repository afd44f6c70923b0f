/** What a command line loads before it knows what is asked of it. People wait for that at every start (`npm run bench:startup`). */
import assert from "node:assert/strict";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const CLI = fileURLToPath(new URL("../packages/cli/src/", import.meta.url));
/** For parsing, colours, folders and the configuration file. The rest is loaded where a verb needs it. */
const AT_ONCE = ["@bomb.sh", "@commander-js/extra-typings", "commander", "env-paths", "picocolors", "smol-toml"];

for (const [program, verbs] of [
  ["rbees", "rbees-verbs.ts"],
  ["rbees-pool", "pool-verbs.ts"],
] as const) {
  test(`${program} --help loads no schema, no table and no HTTP client`, async () => {
    const entryPoints = [`${program}.ts`, verbs, "program.ts", "context.ts"].map((file) => CLI + file);
    const { metafile } = await build({
      entryPoints,
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
    const loaded = new Set<string>();
    const packages = new Set<string>();
    const visit = (file: string): void => {
      if (loaded.has(file)) return;
      loaded.add(file);
      for (const { path, kind, external } of metafile.inputs[file]?.imports ?? []) {
        if (kind !== "import-statement") continue;
        if (!external) visit(path);
        else if (!path.startsWith("node:")) packages.add(path);
      }
    };
    for (const file of Object.keys(metafile.inputs))
      if (entryPoints.some((entry) => entry.endsWith(file.replace(/^(\.\.\/)+/, "")))) visit(file);
    assert.ok(loaded.size > 20, `the walk found the program: ${[...loaded]}`);
    const heavy = [...packages].filter((name) => !AT_ONCE.includes(name));
    assert.deepEqual(heavy, []);
  });
}
