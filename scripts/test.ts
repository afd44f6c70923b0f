/**
 * `npm test`: every test, or those whose path contains one of the arguments. Ends with the line `N passed, N failed`.
 * `npm run test:cluster`: those that need machines of their own, made of network namespaces.
 * `npm run test:whole`: long property tests with all their cases.
 */
import { spawn } from "node:child_process";
import { globSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { WHOLE } from "../test/support/cases.ts";
import { testFlags } from "./test-bundles.ts";

const root = fileURLToPath(new URL("..", import.meta.url));
const cluster = process.argv.includes("--cluster");
const whole = process.argv.includes("--whole");
const wanted = process.argv.slice(2).filter((word) => !word.startsWith("--"));
const places = cluster ? ["test/cluster/*.cluster.ts"] : ["packages/*/test/**/*.test.ts", "models/**/*.test.ts", "test/**/*.test.ts"];
const files = globSync(places, { cwd: root })
  .filter((file) => !file.includes("node_modules") && (wanted.length === 0 || wanted.some((part) => file.includes(part))))
  .sort();
if (files.length === 0) {
  process.stderr.write(`No test file has ${wanted.join(" or ")} in its path.\n`);
  process.exit(2);
}
/** Every program that a test starts comes from source: with what V8 made of it the last time it starts in half the time. */
const compiled = join(root, "node_modules/.cache/compiled");
const { NODE_OPTIONS: flags = "", ...inherited } = process.env;
const node_options = `${flags} ${await testFlags(root)}`.trim();
const reporter = new URL("./test-reporter.ts", import.meta.url).href;
const child = spawn(
  process.execPath,
  ["--test", "--test-concurrency=3", `--test-timeout=${cluster || whole ? 600_000 : 120_000}`, `--test-reporter=${reporter}`, ...files],
  {
    cwd: root,
    stdio: "inherit",
    env: { ...inherited, NODE_OPTIONS: node_options, NODE_COMPILE_CACHE: compiled, ...(whole ? { [WHOLE]: "1" } : {}) },
  },
);
child.on("exit", (code) => process.exit(code ?? 1));
