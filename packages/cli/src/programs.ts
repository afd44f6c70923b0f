/**
 * Where the other programs and the demo model are: in a checkout the TypeScript sources, in a release the bundles beside
 * this one.
 */
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

/**
 * Node lets the young generation grow to 128 MB, and with a thousand open streams it does. This much, in MB, gives the same speed for
 * less than half the memory.
 */
const ORCD_NODE_FLAGS = ["--max-semi-space-size=16"];

export interface Programs {
  /** Command and first arguments that start `rbees-workerd`. */
  readonly workerd: readonly string[];
  readonly orcd: readonly string[];
  readonly pool: readonly string[];
  /** The folder of the checkout that this program runs from; undefined in a release. */
  readonly checkout: string | undefined;
  /** The model that ships with the project; its file may be missing in a damaged installation. */
  readonly demo_model: string;
  /** The folder of a package that rbees-workerd could load, or undefined. */
  readonly workerPackage: (name: string) => string | undefined;
}

/** `from` is the URL of the file that was started. */
export function findPrograms(from: string): Programs {
  const here = dirname(fileURLToPath(from));
  const source = from.endsWith(".ts");
  const root = source ? join(here, "../../..") : here;
  const workerd = source ? join(root, "packages/workerd/src/main.ts") : join(here, "rbees-workerd.mjs");
  const orcd = source ? join(root, "packages/orcd/src/main.ts") : join(here, "rbees-orcd.mjs");
  const pool = source ? join(root, "packages/cli/src/rbees-pool.ts") : join(here, "rbees-pool.mjs");
  return {
    pool: [process.execPath, pool],
    checkout: source ? root : undefined,
    workerd: [process.execPath, workerd],
    orcd: [process.execPath, ...ORCD_NODE_FLAGS, orcd],
    demo_model: join(root, "models/demo/demo.gguf"),
    workerPackage: (name) => packageFolder(workerd, name),
  };
}

function packageFolder(program: string, name: string): string | undefined {
  for (const folder of createRequire(program).resolve.paths(name) ?? []) {
    const at = join(folder, name);
    if (existsSync(join(at, "package.json"))) return at;
  }
  return undefined;
}
