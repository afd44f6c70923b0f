/** A release as `npm run build` makes it, for one test. */
import { execFileSync } from "node:child_process";
import { symlinkSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { type Lifetime, temporaryFolder } from "./cluster.ts";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));

/** Its folder. What `npm install` in there would fetch is here already. */
export function builtRelease(t: Lifetime): string {
  const out = temporaryFolder(t, "release");
  execFileSync(process.execPath, [join(ROOT, "scripts/build.ts"), out], { stdio: ["ignore", "ignore", "inherit"] });
  symlinkSync(join(ROOT, "node_modules"), join(out, "node_modules"));
  return out;
}
