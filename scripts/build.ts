/**
 * `npm run build`: one bundle a program in `dist/` (or the folder named), what command lines load later in `dist/cli`, the demo model beside
 * them. Native parts (the engine, the database) stay packages; `dist/package.json` names them, pinned, so that `npm install` in that folder makes it whole.
 */
import { chmodSync, copyFileSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { type BuildOptions, build, type Plugin } from "esbuild";

const root = fileURLToPath(new URL("..", import.meta.url));
const out = resolve(process.argv[2] ?? join(root, "dist"));
const external = ["better-sqlite3", "koffi", "node-llama-cpp"];
/** Bundle → its entry. Threads and child processes are bundles of their own, found beside the program by name. */
const daemons: Record<string, string> = {
  "rbees-orcd": "packages/orcd/src/main.ts",
  thread: "packages/orcd/src/store/thread.ts",
  "rbees-workerd": "packages/workerd/src/main.ts",
  "engine-child": "packages/workerd/src/engine-child.ts",
};
/** A command line is started again and again, and needs little of itself each time: what it loads later lies in files of its own. */
const command_lines: Record<string, string> = {
  rbees: "packages/cli/src/rbees.ts",
  "rbees-pool": "packages/cli/src/rbees-pool.ts",
};

/** Zod carries its messages in fifty languages, a quarter of a program's start. Nobody asks for them. */
const english_only: Plugin = {
  name: "english-only",
  setup: ({ onLoad }) =>
    onLoad({ filter: /zod[\\/]v4[\\/]locales[\\/]index\.js$/ }, () => ({ contents: 'export { default as en } from "./en.js";' })),
};

rmSync(out, { recursive: true, force: true });
mkdirSync(out, { recursive: true });
const options = (bundles: Record<string, string>): BuildOptions => ({
  entryPoints: Object.entries(bundles).map(([name, entry]) => ({ in: join(root, entry), out: name })),
  // Bundles name their sources: the same wherever this is called from, or a pool's machine would get them again.
  absWorkingDir: root,
  outdir: out,
  outExtension: { ".js": ".mjs" },
  bundle: true,
  platform: "node",
  format: "esm",
  target: "node22.18",
  external,
  plugins: [english_only],
  minifySyntax: true,
  legalComments: "linked",
  // Some of the libraries inside are CommonJS and expect these.
  banner: {
    js: 'import { createRequire as __createRequire } from "node:module"; const require = __createRequire(import.meta.url); const __filename = import.meta.filename; const __dirname = import.meta.dirname;',
  },
  logLevel: "warning",
});
await build(options(daemons));
await build({ ...options(command_lines), splitting: true, chunkNames: "cli/[name]-[hash]" });
mkdirSync(join(out, "models/demo"), { recursive: true });
copyFileSync(join(root, "models/demo/demo.gguf"), join(out, "models/demo/demo.gguf"));
copyFileSync(join(root, "LICENSE"), join(out, "LICENSE"));
for (const program of ["rbees-orcd", "rbees-workerd", "rbees", "rbees-pool"]) chmodSync(join(out, `${program}.mjs`), 0o755);

const { version, license, description, engines } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
const pinned = Object.fromEntries(
  external.map((name) => [name, JSON.parse(readFileSync(join(root, "node_modules", name, "package.json"), "utf8")).version]),
);
const manifest = {
  name: "rbees",
  version,
  description,
  license,
  engines,
  type: "module",
  bin: {
    rbees: "rbees.mjs",
    llorch: "rbees.mjs",
    "rbees-pool": "rbees-pool.mjs",
    "rbees-orcd": "rbees-orcd.mjs",
    "rbees-workerd": "rbees-workerd.mjs",
  },
  dependencies: pinned,
};
writeFileSync(join(out, "package.json"), `${JSON.stringify(manifest, null, 2)}\n`);
process.stdout.write(`Built ${Object.keys({ ...daemons, ...command_lines }).length} programs in ${out}\n`);
