/** Starting a program that outlives us: its own session, output to a log file, known by pid and start time. */
import { spawn } from "node:child_process";
import { type FileHandle, mkdir, open, rename } from "node:fs/promises";
import { dirname } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { RbeesError } from "@rbees/contracts/errors";
import type { Environment } from "@rbees/kit/config";
import { KEY_VARIABLE } from "../orchestrator.ts";
import { identify, type ProcessIdentity } from "./process-identity.ts";

export interface Exit {
  code: number | null;
  signal: NodeJS.Signals | null;
}

export interface Started {
  readonly process: ProcessIdentity;
  /** How it ended, asked when it has; undefined when the system does not say. */
  readonly exit: () => Promise<Exit | undefined>;
}

/** The news of an end can come a moment after the end. */
const LOG_MODE = 0o600;
const EXIT_MS_MAX = 1000;

/** An empty log; that of an earlier run is kept as `….1`. */
export async function newLog(log: string): Promise<FileHandle> {
  await mkdir(dirname(log), { recursive: true });
  await rename(log, `${log}.1`).catch(() => {});
  return open(log, "a", LOG_MODE);
}

export async function startDetached(argv: readonly string[], log: string, env: Environment): Promise<Started> {
  const [command = "", ...args] = argv;
  const { [KEY_VARIABLE]: _, ...own } = env;
  const file = await newLog(log);
  try {
    const child = spawn(command, args, { detached: true, stdio: ["ignore", file.fd, file.fd], cwd: dirname(log), env: own });
    const exited = new Promise<Exit>((resolve) => {
      child.once("exit", (code, signal) => resolve({ code, signal }));
    });
    await new Promise<void>((resolve, reject) => {
      child.once("spawn", resolve);
      child.once("error", (error) =>
        reject(new RbeesError("NOT_FOUND", `${command} can't be started: ${error.message}`, { cause: error })),
      );
    });
    child.unref();
    const { pid = 0 } = child;
    const process = (await identify(pid)) ?? { pid, started_ticks: "ended", boot_id: "" };
    return { process, exit: () => Promise.race([exited, sleep(EXIT_MS_MAX, undefined)]) };
  } finally {
    await file.close();
  }
}
