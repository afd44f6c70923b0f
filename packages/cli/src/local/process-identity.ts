/**
 * Which process is meant: a pid together with when it started, so that a reused pid is never mistaken for the process that
 * was recorded. Owns looking, signalling and waiting; it never signals a process whose start does not match.
 */
import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { z } from "zod";

export const ProcessIdentity = z.object({
  pid: z.int().positive(),
  /** Linux: field 22 of /proc/PID/stat, clock ticks since boot. Elsewhere: the start as `ps` prints it. */
  started_ticks: z.string(),
  /** Ticks count from boot, so they mean something only within one. Empty where `ps` gives a date. */
  boot_id: z.string(),
});
export type ProcessIdentity = z.infer<typeof ProcessIdentity>;

/** The process that has this pid now; undefined when there is none, or only a zombie. */
export async function identify(pid: number): Promise<ProcessIdentity | undefined> {
  const started_ticks = process.platform === "linux" ? ticksOf(pid) : await startOf(pid);
  return started_ticks === undefined ? undefined : { pid, started_ticks, boot_id: bootId() };
}

export async function isAlive(recorded: ProcessIdentity): Promise<boolean> {
  const now = await identify(recorded.pid);
  return now !== undefined && now.started_ticks === recorded.started_ticks && now.boot_id === recorded.boot_id;
}

/** Signals the recorded process and what it started, when it still is that process. */
export async function signal(recorded: ProcessIdentity, name: NodeJS.Signals): Promise<boolean> {
  if (!(await isAlive(recorded))) return false;
  // SIGKILL goes to all of its group, which is its own, as it leads a session. Any other signal is for the leader alone: it
  // still needs its children to stop in order.
  return (name === "SIGKILL" && send(-recorded.pid, name)) || send(recorded.pid, name);
}

/** True once it has ended, false when `ms` passed first. */
export async function ended(recorded: ProcessIdentity, ms: number, look_ms = 50): Promise<boolean> {
  const until = performance.now() + ms;
  while (await isAlive(recorded)) {
    if (performance.now() >= until) return false;
    await sleep(look_ms);
  }
  return true;
}

function send(target: number, name: NodeJS.Signals): boolean {
  try {
    return process.kill(target, name);
  } catch {
    return false;
  }
}

function ticksOf(pid: number): string | undefined {
  let stat: string;
  try {
    stat = readFileSync(`/proc/${pid}/stat`, "latin1");
  } catch {
    return undefined;
  }
  // The second field is the program's name in parentheses and may hold anything, also parentheses.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return fields[0] === "Z" || fields[0] === "X" ? undefined : fields[19];
}

async function startOf(pid: number): Promise<string | undefined> {
  try {
    const { stdout } = await promisify(execFile)("ps", ["-o", "stat=,lstart=", "-p", String(pid)], { env: { LC_ALL: "C", TZ: "UTC" } });
    const [state = "", ...start] = stdout.trim().split(/\s+/);
    return state.startsWith("Z") || start.length === 0 ? undefined : start.join(" ");
  } catch {
    return undefined;
  }
}

function bootId(): string {
  if (process.platform !== "linux") return "";
  try {
    return readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
  } catch {
    return "";
  }
}
