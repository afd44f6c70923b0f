/**
 * Opens the libllama that node-llama-cpp ships, through koffi. Nothing that computes is called before the library has shown that it
 * is of the release whose header `c-api.ts` was written from, that the structs have the sizes the C compiler gave them, and that
 * the defaults read as they should. Where it doesn't, that is a `NoLibrary` with the reason, and another engine is used.
 */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { DEFAULTS, FUNCTIONS, HEADER_RELEASE, LIBRARY_VERSION, type LlamaFunctions, type Pointer, STRUCT_BYTES, STRUCTS } from "./c-api.ts";

/** koffi is pinned, and a test holds this equal to its version. */
export const KOFFI_VERSION = "3.3.4";

type Koffi = typeof import("koffi")["default"];

/** `enum ggml_log_level`. */
const LOG_LEVEL = { error: 4, continued: 5 } as const;

export interface LlamaLibrary extends LlamaFunctions {
  readonly koffi: Koffi;
  /** Where the shared objects are. */
  readonly folder: string;
  /** An empty list of pointers. As devices: nothing but the CPU computes. */
  readonly no_devices: Pointer;
  /** Who hears the errors in the library's log, a line at a time; undefined: they go to stderr. */
  hearErrors(listener: ((line: string) => void) | undefined): void;
  /** A function that the library calls while it loads; `release` when it has loaded. */
  progressCallback(listener: (fraction: number) => void): { callback: unknown; release: () => void };
  /** Memory of the library as an array that can be read and written, good for as long as that memory is. */
  ints(at: Pointer, length: number): Int32Array;
  bytes(at: Pointer, length: number): Int8Array;
  floats(at: Pointer, length: number): Float32Array;
  /** A list of pointers in the library's memory. */
  pointers(at: Pointer, length: number): Pointer[];
}

/** Why the library can't be used here: another engine then has to do. */
export class NoLibrary extends Error {}

/** The folder of the shared objects that compute on this machine's CPU. */
export function libraryFolder(): string {
  const { platform, arch } = process;
  const system = platform === "darwin" ? "mac" : platform === "win32" ? "win" : platform;
  const name = `${system}-${arch === "arm" ? "armv7l" : arch}${platform === "darwin" && arch === "arm64" ? "-metal" : ""}`;
  // The package has no entry that could be resolved by name.
  for (const modules of createRequire(import.meta.url).resolve.paths("node-llama-cpp") ?? []) {
    const folder = join(modules, "@node-llama-cpp", name, "bins", name);
    if (existsSync(folder)) return folder;
  }
  throw new NoLibrary(`@node-llama-cpp/${name} is not installed`);
}

let opened: LlamaLibrary | undefined;

/** Opens the library, once in a process. Throws `NoLibrary` with the reason where it can't be used. */
export async function openLibrary(folder = libraryFolder()): Promise<LlamaLibrary> {
  try {
    opened ??= await open(folder);
    return opened;
  } catch (error) {
    if (error instanceof NoLibrary) throw error;
    throw new NoLibrary(`${folder} can't be used: ${(error as Error).message}`, { cause: error });
  }
}

async function open(folder: string): Promise<LlamaLibrary> {
  const release = /"release":"([^"]+)"/.exec(readOr(join(folder, "_nlcBuildMetadata.json"), ""))?.[1] ?? "unknown";
  if (release !== HEADER_RELEASE) {
    throw new NoLibrary(`its libllama is of release ${release}, and this version of rbees knows the functions of ${HEADER_RELEASE}`);
  }
  const [llama, ggml] = [sharedObject(folder, "libllama"), sharedObject(folder, "libggml")];
  const koffi = await loadKoffi();
  defineTypes(koffi);
  loadBackends(koffi, ggml, folder);
  const functions = bind(koffi, llama);
  functions.backend_init();
  const library: LlamaLibrary = {
    ...functions,
    koffi,
    folder,
    no_devices: emptyList(koffi),
    hearErrors: errorListener(koffi, functions.log_set),
    progressCallback: (listener) => progressCallback(koffi, listener),
    ints: (at, length) => new Int32Array(koffi.view(at, 4 * length)),
    bytes: (at, length) => new Int8Array(koffi.view(at, length)),
    floats: (at, length) => new Float32Array(koffi.view(at, 4 * length)),
    pointers: (at, length) => koffi.decode(at, "void *", length) as Pointer[],
  };
  return library;
}

async function loadKoffi(): Promise<Koffi> {
  let koffi: Koffi;
  try {
    // Loaded here and not above: in a bundle that would be at the program's start, where nobody could do without it.
    koffi = (await import("koffi")).default;
  } catch (error) {
    throw new NoLibrary(`koffi can't be loaded: ${(error as Error).message.split("\n", 1)[0]}`);
  }
  if (koffi.version !== KOFFI_VERSION) throw new NoLibrary(`koffi is ${koffi.version}, not ${KOFFI_VERSION}`);
  return koffi;
}

function readOr(file: string, otherwise: string): string {
  return existsSync(file) ? readFileSync(file, "utf8") : otherwise;
}

/** The shared object of that name, with its variant and version: `libllama.v0.4.0.so`, `libllama.metal.v0.4.0.dylib`. */
function sharedObject(folder: string, name: string): string {
  const form = new RegExp(`^${name}\\.(\\w+\\.)?${HEADER_RELEASE.replaceAll(".", "\\.")}\\.(so|dylib)$`);
  const file = readdirSync(folder).find((found) => form.test(found));
  if (file === undefined) throw new NoLibrary(`${folder} holds no ${name} ${HEADER_RELEASE}`);
  return join(folder, file);
}

function defineTypes(koffi: Koffi): void {
  koffi.proto("void log_callback(int level, const char *text, void *data)");
  koffi.proto("bool progress_callback(float progress, void *data)");
  for (const [name, members] of Object.entries(STRUCTS)) {
    koffi.struct(name, members);
    const bytes = STRUCT_BYTES[name as keyof typeof STRUCTS];
    const found = koffi.sizeof(name);
    if (found !== bytes) throw new NoLibrary(`${name} has ${found} bytes on this machine, not ${bytes}`);
  }
}

/** As node-llama-cpp does it: the backends that are linked in, and if there are none, those that lie beside the library. */
function loadBackends(koffi: Koffi, path: string, folder: string): void {
  const ggml = koffi.load(path);
  const count = ggml.func("size_t ggml_backend_reg_count()") as () => number;
  if (count() > 0) return;
  const silent = koffi.register(() => {}, koffi.pointer("log_callback"));
  const setLog = ggml.func("void ggml_log_set(log_callback *callback, void *data)") as (callback: unknown, data: null) => void;
  setLog(silent, null);
  (ggml.func("void ggml_backend_load_all_from_path(const char *path)") as (path: string) => void)(folder);
  setLog(null, null);
  koffi.unregister(silent);
  if (count() === 0) throw new NoLibrary(`${folder} holds no backend that runs on this processor`);
}

type LogSet = (callback: unknown, data: null) => void;
type Bound = LlamaFunctions & { version(): string; backend_init(): void; log_set: LogSet };

function bind(koffi: Koffi, path: string): Bound {
  const library = koffi.load(path);
  const functions = Object.fromEntries(Object.entries(FUNCTIONS).map(([name, c]) => [name, library.func(c)])) as unknown as Bound;
  const version = functions.version();
  if (version !== LIBRARY_VERSION) throw new NoLibrary(`${path} says that it is ${version}, not ${LIBRARY_VERSION}`);
  for (const [name, expected] of Object.entries(DEFAULTS)) {
    const found = functions[name as keyof typeof DEFAULTS]() as unknown as Record<string, unknown>;
    for (const [field, value] of Object.entries(expected)) {
      const same = value === null ? found[field] === null : Number(found[field]) === Number(value);
      if (!same) throw new NoLibrary(`${path}: ${name}().${field} is ${found[field]}, not ${value}`);
    }
  }
  return functions;
}

function emptyList(koffi: Koffi): Pointer {
  const list = koffi.alloc("void *", 1);
  koffi.encode(list, "void *", null);
  return list as Pointer;
}

function errorListener(koffi: Koffi, logSet: LogSet): LlamaLibrary["hearErrors"] {
  let registered: bigint | undefined;
  return (listener) => {
    const old = registered;
    registered = undefined;
    if (listener === undefined) logSet(null, null);
    else {
      let heard = false;
      let line = "";
      const callback = (level: number, text: string) => {
        heard = level === LOG_LEVEL.continued ? heard : level === LOG_LEVEL.error;
        if (!heard) return;
        line += text;
        if (!line.endsWith("\n")) return;
        if (line.trim() !== "") listener(line.trim());
        line = "";
      };
      registered = koffi.register(callback, koffi.pointer("log_callback"));
      logSet(registered, null);
    }
    if (old !== undefined) koffi.unregister(old);
  };
}

function progressCallback(koffi: Koffi, listener: (fraction: number) => void): ReturnType<LlamaLibrary["progressCallback"]> {
  const callback = koffi.register((fraction: number) => {
    listener(fraction);
    return true;
  }, koffi.pointer("progress_callback"));
  return { callback, release: () => koffi.unregister(callback) };
}
