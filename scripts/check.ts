/** `npm run check`: types, lint and format, dead code. `npm test` is beside it, not in it. */
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const projects = [
  "packages/contracts",
  "packages/core",
  "packages/kit",
  "packages/sim",
  "packages/orcd",
  "packages/workerd",
  "packages/cli",
  ".",
];
const steps: [string, string[]][] = [
  ...projects.map((project): [string, string[]] => ["tsc", ["-p", project]]),
  ["biome", ["ci", "--error-on-warnings", ...(process.stdout.isTTY ? [] : ["--colors=off"]), "."]],
  ["knip", ["--no-progress"]],
];

let failed = 0;
for (const [command, args] of steps) {
  const { status } = spawnSync(command, args, { cwd: root, stdio: ["ignore", "inherit", "inherit"] });
  process.stdout.write(`${status === 0 ? "✔" : "✖"} ${command} ${args.join(" ")}\n`);
  if (status !== 0) failed += 1;
}
process.exit(failed === 0 ? 0 : 1);
