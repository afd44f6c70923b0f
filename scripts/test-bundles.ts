/**
 * What every program and thread that a test starts would load anew, module by module, comes as one file each for the time of the tests: that was
 * a third of what they cost. Libraries are made one file once for each version of them; programs, their threads and child processes are built from
 * the sources as they are now, as for a release, and so are those that tests put in their place. What a test imports runs from source.
 */
import { execFileSync } from "node:child_process";
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

/** What a test starts → the bundle that runs in its place. */
const PROGRAMS = {
  "packages/orcd/src/main.ts": "rbees-orcd.mjs",
  "packages/orcd/src/store/thread.ts": "thread.mjs",
  "packages/workerd/src/main.ts": "rbees-workerd.mjs",
  "packages/workerd/src/engine-child.ts": "engine-child.mjs",
  "packages/cli/src/rbees.ts": "rbees.mjs",
  "packages/cli/src/rbees-pool.ts": "rbees-pool.mjs",
} as const;

/** The same of programs that are only for tests. */
const FAKES = {
  "packages/cli/test/fake-orcd.ts": "fake-orcd.mjs",
  "packages/cli/test/fake-workerd.ts": "fake-workerd.mjs",
} as const;

const AS_MODULES = {
  bundle: true,
  format: "esm",
  platform: "node",
  target: "node22.18",
  outExtension: { ".js": ".mjs" },
  logLevel: "warning",
} as const;

/** The flags with which Node takes those files; `root`: of the repository. */
export async function testFlags(root: string): Promise<string> {
  return `${await libraryFlags(root)} ${await programFlags(root)}`;
}

async function libraryFlags(root: string): Promise<string> {
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
    ...AS_MODULES,
    outdir: made,
    splitting: true,
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

async function programFlags(root: string): Promise<string> {
  const folder = join(root, "node_modules/.cache/programs");
  const made = `${folder}.${process.pid}`;
  execFileSync(process.execPath, [join(root, "scripts/build.ts"), made], { stdio: ["ignore", "ignore", "inherit"] });
  await build({
    entryPoints: Object.entries(FAKES).map(([source, bundle]) => ({ in: join(root, source), out: bundle.replace(".mjs", "") })),
    ...AS_MODULES,
    outdir: made,
    // Of libraries that are CommonJS.
    banner: { js: 'import { createRequire } from "node:module"; const require = createRequire(import.meta.url);' },
  });
  const places = Object.fromEntries(
    Object.entries({ ...PROGRAMS, ...FAKES }).map(([source, bundle]) => [
      pathToFileURL(join(root, source)).href,
      pathToFileURL(join(folder, bundle)).href,
    ]),
  );
  const hook = "hook.mjs";
  writeFileSync(join(made, hook), programHook(places));
  rmSync(folder, { recursive: true, force: true });
  renameSync(made, folder);
  return `--import ${pathToFileURL(join(folder, hook)).href}`;
}

/** Only what is started is replaced, not what a test imports. */
function programHook(places: Readonly<Record<string, string>>): string {
  return `import { registerHooks } from "node:module";
const places = ${JSON.stringify(places)};
registerHooks({
  resolve(name, context, next) {
    const found = next(name, context);
    const url = context.parentURL === undefined && Object.hasOwn(places, found.url) ? places[found.url] : undefined;
    return url === undefined ? found : { ...found, url, format: "module", shortCircuit: true };
  },
});
`;
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
