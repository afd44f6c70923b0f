/** What `rbees pool install` brings: the bundles of a pool's machine, and the engine's packages for that machine's platform. */
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdir, readdir, readFile, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import { RbeesError } from "@rbees/contracts/errors";
import { VERSION } from "@rbees/kit/version";
import type { Context } from "../context.ts";
import { enginePackage } from "../pool/backends.ts";
import type { FarNode } from "./probe.ts";
import type { TarEntry } from "./tar.ts";

/** The engine's library with its binding, and what calls C functions: it lets the worker go to the library directly. */
const [ENGINE, FFI] = ["node-llama-cpp", "koffi"];
/** Native parts come as packages of their own, one for each platform. */
const NATIVE = /^@(node-llama-cpp|koromix)\//;
/** Of a pool's machine; a folder stands for all that is in it. The orchestrator and its database stay away. */
const BUNDLES = ["rbees-pool.mjs", "cli", "rbees-workerd.mjs", "engine-child.mjs", "models/demo/demo.gguf", "package.json", "LICENSE"];
/** The engine's source code, for those who compile it: 35 MB that a prebuilt engine does not need. */
const LEFT_OUT = new Set(["gitRelease.bundle", "node_modules"]);
const BUILD_MS_MAX = 120_000;
const FETCH_MS_MAX = 600_000;

export interface Cargo {
  readonly entries: TarEntry[];
  readonly bytes: number;
  /** Of this content: the same name, the same files. */
  readonly version: string;
}

export interface CargoOptions {
  readonly cuda: boolean;
  /** A folder for what has to be built or fetched; removed by the caller. */
  readonly scratch: string;
}

export async function cargoFor(context: Context, node: FarNode, { cuda, scratch }: CargoOptions): Promise<Cargo> {
  const release = await releaseFolder(context, scratch);
  const entries: TarEntry[] = [];
  for (const path of BUNDLES) entries.push(...(await entriesAt(join(release, path), path)));
  const names = createHash("sha256");
  for (const { from } of entries) if ("file" in from) names.update(await readFile(from.file));
  for (const { folder, path, id } of await enginePackages(context, node, { cuda, scratch })) {
    names.update(`${path} ${id}\n`);
    entries.push(...(await folderEntries(folder, path)));
  }
  return {
    entries,
    bytes: entries.reduce((sum, { bytes }) => sum + bytes, 0),
    version: `${VERSION}-${names.digest("hex").slice(0, 8)}`,
  };
}

async function releaseFolder({ programs, signal, progress }: Context, scratch: string): Promise<string> {
  const { checkout } = programs;
  if (checkout === undefined) return dirname(programs.pool.at(-1) ?? "");
  progress("building the release");
  const { execa } = await import("execa");
  const out = join(scratch, "release");
  await execa(process.execPath, [join(checkout, "scripts/build.ts"), out], { cancelSignal: signal, timeout: BUILD_MS_MAX });
  return out;
}

interface Package {
  folder: string;
  /** Where it goes, such as `node_modules/a/node_modules/b`. */
  path: string;
  id: string;
}

interface Manifest {
  name: string;
  version: string;
  dependencies?: Record<string, string>;
  optionalDependencies?: Record<string, string>;
  os?: string[];
  cpu?: string[];
  libc?: string[];
}

/** All that the engine needs at run time: what is JavaScript from here, what is native for the platform over there. */
async function enginePackages(context: Context, node: FarNode, options: CargoOptions): Promise<Package[]> {
  const engine = programPackage(context, ENGINE);
  const ffi = programPackage(context, FFI);
  const top = dirname(engine);
  const found = new Map<string, Package>();
  const visit = async (folder: string): Promise<void> => {
    if (found.has(folder)) return;
    const manifest = await manifestOf(folder);
    if (!suits(manifest, node)) return;
    const path = folder.startsWith(top)
      ? `node_modules${folder.slice(top.length)}`
      : folder.slice(folder.lastIndexOf("/node_modules/") + 1);
    found.set(folder, { folder, path: path.replaceAll("\\", "/"), id: `${manifest.name}@${manifest.version}` });
    const optional = manifest.optionalDependencies ?? {};
    for (const name of Object.keys({ ...manifest.dependencies, ...optional })) {
      if (NATIVE.test(name)) continue;
      const needed = packageFolder(folder, name);
      if (needed !== undefined) await visit(needed);
      else if (optional[name] === undefined)
        throw new RbeesError("NOT_FOUND", `${name}, which the engine needs, is not installed here: \`npm install\` first.`);
    }
  };
  await visit(engine);
  await visit(ffi);
  const native = async (parent: string, name: string): Promise<boolean> => {
    const version = (await manifestOf(parent)).optionalDependencies?.[name];
    if (version === undefined) return false;
    const folder = packageFolder(parent, name);
    // npm may have put something empty in its place, to save space here.
    const usable = folder !== undefined && (await manifestOf(folder)).name === name;
    const from = usable ? folder : await fetched(context, `${name}@${version}`, options.scratch);
    found.set(from, { folder: from, path: `node_modules/${name}`, id: `${name}@${version}` });
    return true;
  };
  for (const name of nativePackages(node, options.cuda)) if (!(await native(engine, name))) throw noEngine(node);
  try {
    await native(ffi, `@koromix/koffi-${node.platform}-${node.arch}`);
  } catch (error) {
    if (!(error instanceof RbeesError && error.code === "UNREACHABLE")) throw error;
    // Without it, or where there is none for the platform, the worker goes through the engine's own binding.
    context.progress("koffi for that machine can't be fetched: its workers will use node-llama-cpp, which is slower");
  }
  return [...found.values()];
}

function programPackage({ programs }: Context, name: string): string {
  const folder = programs.workerPackage(name);
  if (folder !== undefined) return folder;
  throw new RbeesError("NOT_FOUND", `The engine (${name}) is not installed here, so it can't be brought there: \`npm install\` first.`);
}

function nativePackages(node: FarNode, cuda: boolean): string[] {
  if (node.libc === "musl") throw noEngine(node);
  const host = { platform: node.platform as NodeJS.Platform, arch: node.arch };
  const plain = enginePackage(host, node.platform === "darwin" && node.arch === "arm64" ? "-metal" : "");
  return cuda ? [plain, enginePackage(host, "-cuda"), enginePackage(host, "-cuda-ext")] : [plain];
}

function noEngine({ platform, arch, libc }: FarNode): RbeesError {
  const what = `${platform} ${arch}${libc === "musl" ? " with musl (Alpine)" : ""}`;
  return new RbeesError(
    "CONFLICT",
    `There is no ready-made engine for ${what}; llama.cpp is prebuilt for Linux with glibc (x64, arm64, armv7l), Macs and Windows.`,
  );
}

/** Another platform's package is not installed here: npm gets it from wherever it gets packages. */
async function fetched({ signal, progress, env }: Context, spec: string, scratch: string): Promise<string> {
  progress(`fetching ${spec}`);
  const { execa } = await import("execa");
  const to = join(scratch, spec.replace(/[^\w.-]+/g, "_"));
  await mkdir(to, { recursive: true });
  const run = { cancelSignal: signal, timeout: FETCH_MS_MAX, env, cwd: to };
  try {
    await execa("npm", ["pack", spec, "--loglevel=error"], run);
    const [archive = ""] = (await readdir(to)).filter((name) => name.endsWith(".tgz"));
    await execa("tar", ["-xzf", archive], run);
  } catch (error) {
    signal.throwIfAborted();
    const { stderr = "", message } = error as { stderr?: string; message: string };
    const said = /npm (?:error|ERR!) (?!code|A complete)(.+)/.exec(stderr)?.[1] ?? message.split("\n")[0];
    throw new RbeesError(
      "UNREACHABLE",
      `A part of the engine for that machine, ${spec}, is not on this one and npm could not fetch it (${said}): try again when the network is there, or run \`npm install\` and rbees on that machine itself.`,
      { cause: error },
    );
  }
  return join(to, "package");
}

async function manifestOf(folder: string): Promise<Manifest> {
  return JSON.parse(await readFile(join(folder, "package.json"), "utf8"));
}

/** As Node looks for it: beside, then further up. */
function packageFolder(from: string, name: string): string | undefined {
  for (let at = from; ; at = dirname(at)) {
    const folder = join(at, "node_modules", name);
    if (existsSync(join(folder, "package.json"))) return folder;
    if (dirname(at) === at) return undefined;
  }
}

function suits({ os, cpu, libc }: Manifest, node: FarNode): boolean {
  return (os?.includes(node.platform) ?? true) && (cpu?.includes(node.arch) ?? true) && (libc?.includes(node.libc) ?? true);
}

async function fileEntry(file: string, path: string): Promise<TarEntry> {
  const { size, mode } = await stat(file);
  return { path, bytes: size, mode: mode & 0o111 ? 0o755 : 0o644, from: { file } };
}

async function entriesAt(from: string, path: string): Promise<TarEntry[]> {
  return (await stat(from)).isDirectory() ? folderEntries(from, path) : [await fileEntry(from, path)];
}

async function folderEntries(folder: string, path: string): Promise<TarEntry[]> {
  const entries: TarEntry[] = [];
  for (const item of await readdir(folder, { withFileTypes: true })) {
    const [file, at] = [join(folder, item.name), `${path}/${item.name}`];
    if (LEFT_OUT.has(item.name)) continue;
    if (item.isDirectory()) entries.push(...(await folderEntries(file, at)));
    else if (item.isFile()) entries.push(await fileEntry(file, at));
  }
  return entries;
}
