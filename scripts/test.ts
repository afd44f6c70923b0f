/** `npm test`: every test, or those whose path contains one of the arguments. Ends with the line `N passed, N failed`. */
import { spawn } from "node:child_process";
import { globSync } from "node:fs";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const wanted = process.argv.slice(2);
const files = globSync(["packages/*/test/**/*.test.ts", "models/**/*.test.ts", "test/**/*.test.ts"], { cwd: root })
  .filter((file) => !file.includes("node_modules") && (wanted.length === 0 || wanted.some((part) => file.includes(part))))
  .sort();
if (files.length === 0) {
  process.stderr.write(`No test file has ${wanted.join(" or ")} in its path.\n`);
  process.exit(2);
}
const reporter = new URL("./test-reporter.ts", import.meta.url).href;
const child = spawn(
  process.execPath,
  ["--test", "--test-concurrency=2", "--test-timeout=120000", `--test-reporter=${reporter}`, ...files],
  {
    cwd: root,
    stdio: "inherit",
  },
);
child.on("exit", (code) => process.exit(code ?? 1));
