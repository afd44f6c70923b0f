/**
 * `npm run demo`: the main job, once, on a real model: up, a haiku streamed to the terminal, the list of jobs, down. It runs
 * the commands a user would type, in a folder and on ports of its own, and leaves nothing behind.
 */
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { styleText } from "node:util";

const rbees = fileURLToPath(new URL("../packages/cli/src/rbees.ts", import.meta.url));
const home = mkdtempSync(join(tmpdir(), "rbees-demo-"));
const port = (await isFree(8080)) ? 8080 : await freePort();
const worker_port = (await isFree(8001)) ? 8001 : await freePort();
const env = { ...process.env, RBEES_HOME: home, RBEES_ORCHESTRATOR_URL: `http://127.0.0.1:${port}` };

let interrupted = false;
process.on("SIGINT", () => {
  interrupted = true;
});
process.on("SIGTERM", () => {
  interrupted = true;
});

const code = await demo();
process.exit(interrupted ? 130 : code);

async function demo(): Promise<number> {
  const ports = [
    ...(port === 8080 ? [] : ["--port", String(port)]),
    ...(worker_port === 8001 ? [] : ["--worker-port", String(worker_port)]),
  ];
  try {
    for (const args of [
      ["up", "--model", "demo", ...ports],
      ["jobs", "submit", "--model", "demo", "--prompt", "Write a haiku about Rust"],
      ["jobs", "list"],
    ]) {
      if (interrupted) return 130;
      const failed = await run(args);
      if (failed !== 0) return failed;
    }
    return 0;
  } finally {
    await run(["down"]);
    rmSync(home, { recursive: true, force: true });
  }
}

/** Runs one command as a user would, and shows it. */
function run(args: readonly string[]): Promise<number> {
  const typed = args.map((arg) => (/^[\w./:-]+$/.test(arg) ? arg : JSON.stringify(arg))).join(" ");
  process.stdout.write(`\n${styleText("bold", `$ rbees ${typed}`, { stream: process.stdout })}\n`);
  const child = spawn(process.execPath, [rbees, ...args], { stdio: "inherit", env });
  return new Promise((resolve) => child.on("exit", (exit_code) => resolve(exit_code ?? 1)));
}

function isFree(wanted: number): Promise<boolean> {
  return listen(wanted).then(
    () => true,
    () => false,
  );
}

function freePort(): Promise<number> {
  return listen(0);
}

function listen(wanted: number): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.on("error", reject);
    server.listen(wanted, "127.0.0.1", () => {
      const address = server.address();
      server.close(() => resolve(typeof address === "object" && address !== null ? address.port : wanted));
    });
  });
}
