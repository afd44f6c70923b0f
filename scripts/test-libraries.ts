/**
 * Libraries that are hundreds of small modules, as one file each, for the time of the tests: every program and thread that a test starts
 * loads them anew, and that was a fifth of what the tests cost. Made once for each version of them.
 */
import { existsSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { build } from "esbuild";

/** What is imported → where it begins in its package. */
const LIBRARIES = {
  zod: "index.js",
  kysely: "dist/index.js",
  "kysely/migration": "dist/migration/index.js",
} as const;

/** The flag with which Node takes those files; `root`: of the repository. */
export async function libraryFlags(root: string): Promise<string> {
  const packages = [...new Set(Object.keys(LIBRARIES).map((name) => name.split("/")[0] ?? ""))];
  const versions = packages.map(
    (name) => `${name}-${JSON.parse(readFileSync(join(root, "node_modules", name, "package.json"), "utf8")).version}`,
  );
  const folder = join(root, "node_modules/.cache/libraries", versions.join("+"));
  const hook = join(folder, "hook.mjs");
  if (!existsSync(hook)) await make(root, folder);
  return `--import ${pathToFileURL(hook).href}`;
}

async function make(root: string, folder: string): Promise<void> {
  const made = `${folder}.${process.pid}`;
  const file = (name: string) => name.replace("/", "-");
  await build({
    entryPoints: Object.entries(LIBRARIES).map(([name, begins]) => ({
      in: join(root, "node_modules", name.split("/")[0] ?? "", begins),
      out: file(name),
    })),
    outdir: made,
    outExtension: { ".js": ".mjs" },
    bundle: true,
    splitting: true,
    format: "esm",
    platform: "node",
    target: "node22.18",
    logLevel: "warning",
  });
  const places = Object.fromEntries(Object.keys(LIBRARIES).map((name) => [name, pathToFileURL(join(folder, `${file(name)}.mjs`)).href]));
  writeFileSync(join(made, "hook.mjs"), hookSource(places));
  try {
    renameSync(made, folder);
  } catch (error) {
    // Another run was quicker.
    rmSync(made, { recursive: true });
    if (!existsSync(join(folder, "hook.mjs"))) throw error;
  }
}

/** What other libraries import stays theirs: they may have another version. */
function hookSource(places: Readonly<Record<string, string>>): string {
  return `import { registerHooks } from "node:module";
const places = ${JSON.stringify(places)};
registerHooks({
  resolve(name, context, next) {
    const url = Object.hasOwn(places, name) ? places[name] : undefined;
    return url === undefined || (context.parentURL ?? "").includes("/node_modules/") ? next(name, context) : { url, shortCircuit: true };
  },
});
`;
}
