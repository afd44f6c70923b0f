/** The systemd of this user (`systemctl --user`): units that it keeps, and their processes. */
import { existsSync } from "node:fs";
import { rm } from "node:fs/promises";
import { homedir, userInfo } from "node:os";
import { dirname, join } from "node:path";
import { RbeesError } from "@rbees/contracts/errors";
import { environment } from "@rbees/kit/config";
import { writeWhole } from "./json-file.ts";
import { identify, type ProcessIdentity } from "./process-identity.ts";

const ANSWER_MS_MAX = 10_000;
/** Longer than a worker may drain. */
const STOP_MS_MAX = 60_000;
const UNIT_MODE = 0o600;
/** What starts when the user's systemd does. */
export const WANTED_BY = "default.target";
const STATES = ["running", "degraded", "starting", "initializing", "maintenance"];

interface Answer {
  ok: boolean;
  out: string;
  err: string;
}

async function call(program: "systemctl" | "loginctl", args: readonly string[], ms_max = ANSWER_MS_MAX): Promise<Answer> {
  const { execa } = await import("execa");
  const env = environment();
  // Over SSH without PAM nobody sets it, and yet it may be there.
  const runtime = env["XDG_RUNTIME_DIR"] ?? `/run/user/${process.getuid?.() ?? 0}`;
  const { failed, stdout, stderr, code } = await execa(program, args, {
    reject: false,
    timeout: ms_max,
    env: { XDG_RUNTIME_DIR: runtime },
  });
  return { ok: !failed, out: stdout?.trim() ?? "", err: code === "ENOENT" ? `${program} is not there` : (stderr?.trim() ?? "") };
}

const systemctl = (args: readonly string[], ms_max?: number) => call("systemctl", ["--user", ...args], ms_max);

async function required(args: readonly string[], ms_max?: number): Promise<void> {
  const { ok, err } = await systemctl(args, ms_max);
  if (!ok) throw new RbeesError("CONFLICT", `systemd refuses \`systemctl --user ${args.join(" ")}\`: ${err || "it does not say why"}`);
}

/** Throws a sentence with what to do where no systemd keeps this user's units. */
export async function requireUserSystemd(platform: NodeJS.Platform = process.platform): Promise<void> {
  const instead = "Leave out --systemd: a worker outlives the command and the SSH session that started it, but no reboot.";
  if (platform === "darwin")
    throw new RbeesError("CONFLICT", `On a Mac launchd would keep a worker over a reboot, and rbees does not do that yet. ${instead}`);
  if (platform !== "linux") throw new RbeesError("CONFLICT", `--systemd needs Linux with systemd. ${instead}`);
  const { out, err } = await systemctl(["is-system-running"]);
  if (STATES.includes(out)) return;
  const why = out === "offline" || out === "" ? err.split("\n")[0] || "this machine was not started by systemd, as in a container" : out;
  throw new RbeesError("CONFLICT", `There is no systemd of this user here (${why}). ${instead}`);
}

export function unitFile(unit: string): string {
  const { XDG_CONFIG_HOME } = environment();
  return join(XDG_CONFIG_HOME || join(homedir(), ".config"), "systemd", "user", unit);
}

export async function writeUnit(unit: string, text: string): Promise<void> {
  await writeWhole(unitFile(unit), text, UNIT_MODE);
  await required(["daemon-reload"]);
}

/** Starts it now and at each start of the user's systemd. */
export async function startUnit(unit: string): Promise<ProcessIdentity> {
  await required(["enable", unit]);
  await required(["restart", unit]);
  return (await processOf(unit)) ?? { pid: 1, started_ticks: "ended", boot_id: "" };
}

/** The process that the unit has now, which is another one after a reboot. */
export async function processOf(unit: string): Promise<ProcessIdentity | undefined> {
  const { out } = await systemctl(["show", "--property=MainPID", "--value", unit]);
  const pid = Number(out);
  return Number.isSafeInteger(pid) && pid > 0 ? identify(pid) : undefined;
}

/** From now on it is not started again; whoever asks need not wait for its end. */
export async function releaseUnit(unit: string): Promise<void> {
  await systemctl(["stop", "--no-block", unit]);
}

/** It is as if it had never been. */
export async function dropUnit(unit: string): Promise<void> {
  await systemctl(["disable", "--now", unit], STOP_MS_MAX);
  // Where systemd can't be asked, as after `su`, it finds nothing to start at its next look.
  for (const file of [unitFile(unit), join(dirname(unitFile(unit)), `${WANTED_BY}.wants`, unit)]) await rm(file, { force: true });
  await systemctl(["daemon-reload"]);
  await systemctl(["reset-failed", unit]);
}

export function isUnit(unit: string): boolean {
  return existsSync(unitFile(unit));
}

/** Without lingering, systemd starts a user's units when they log in, and ends them when they leave. */
export async function lingers(): Promise<boolean> {
  return (await call("loginctl", ["show-user", userInfo().username, "--property=Linger", "--value"])).out === "yes";
}
