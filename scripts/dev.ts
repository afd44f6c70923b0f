/**
 * `npm run dev`: an orchestrator and a worker from source, started again whenever a source file changes, with readable logs;
 * one Ctrl-C ends both. Their files live in `.rbees/dev`. Arguments go to the worker: `npm run dev -- --slots 2`.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const more = process.argv.slice(2);
const env = { ...process.env, RBEES_HOME: `${root}.rbees/dev`, RBEES_LOG_FORMAT: "pretty", FORCE_COLOR: process.stdout.isTTY ? "1" : "0" };
const programs = [
  ["packages/orcd/src/main.ts"],
  ["packages/workerd/src/main.ts", "--model", "models/demo/demo.gguf", "--model-name", "demo", "--worker-id", "dev", ...more],
];

const children: ChildProcess[] = programs.map((args) =>
  // In groups of their own: a terminal's Ctrl-C comes to this process alone, which then ends each once and in order.
  spawn(process.execPath, ["--watch", "--watch-preserve-output", "--no-warnings", ...args], {
    cwd: root,
    env,
    stdio: "inherit",
    detached: true,
  }),
);
process.stdout.write("Orchestrator and worker run from source and start again when a file is saved. Ctrl-C ends both.\n");

let ending = false;
function end(): void {
  if (ending) return;
  ending = true;
  for (const child of children) child.kill("SIGTERM");
}
process.on("SIGINT", end);
process.on("SIGTERM", end);
await Promise.all(children.map((child) => new Promise((resolve) => child.on("exit", resolve))));
