/**
 * The system's `ssh`: its configuration, agent, jump hosts and known hosts are the user's, and host keys are checked as they always
 * are. One connection is kept for a burst of commands. Nothing is typed into it: a password prompt would never be answered.
 */
import { type ChildProcessByStdio, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { lstat, mkdir } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Readable, Writable } from "node:stream";
import { RbeesError } from "@rbees/contracts/errors";
import type { World } from "../context.ts";
import { withLock } from "../local/lock.ts";
import { connectionError } from "./ssh-errors.ts";
import type { Target } from "./target.ts";

const CONNECT_MS_MAX = 10_000;
const CONNECT_VARIABLE = "RBEES_SSH_CONNECT_MS_MAX";
/** The connection stays for this long after the last command, for the next one. */
const KEPT_SECONDS = 15;
/** What comes after the TCP connection, keys and authentication, may take this much more. */
const LOGIN_MS_MAX = 10_000;
const CHECK_MS_MAX = 2000;
const STDERR_BYTES_MAX = 65_536;
/** Unix sockets have short names; ssh itself appends 17 characters while it makes one. */
const SOCKET_PATH_MAX = 104 - 18;

export type Child = ChildProcessByStdio<Writable, Readable, Readable>;

export interface ConnectOptions {
  connect_ms_max?: number;
}

/** Starts a command on the target. Throws when there is no way to it, saying why and what to do. */
export async function startThere(world: World, target: Target, command: string, options: ConnectOptions = {}): Promise<Child> {
  const socket = await connect(world, target, options);
  const own = socket === undefined ? ["-o", "ControlPath=none"] : ["-o", "ControlMaster=no", "-o", `ControlPath=${socket}`];
  return spawned("ssh", [...flagsOf(world, target, options), ...own, "--", target.host, command], world);
}

/** Also on this machine, where no SSH is needed. */
export function startHere(world: World, argv: readonly string[]): Child {
  const [program = "", ...args] = argv;
  return spawned(program, args, world);
}

/** In a session of its own: Ctrl-C in a terminal comes to us alone, and the other side ends in good order. */
function spawned(program: string, args: readonly string[], { env }: World): Child {
  return spawn(program, args, { stdio: ["pipe", "pipe", "pipe"], detached: true, windowsHide: true, env });
}

/** How long a machine may take to accept a connection; `RBEES_SSH_CONNECT_MS_MAX` says otherwise. */
function connectMsMax({ env }: World, { connect_ms_max }: ConnectOptions): number {
  const given = env[CONNECT_VARIABLE]?.trim() ?? "";
  if (connect_ms_max !== undefined || given === "") return connect_ms_max ?? CONNECT_MS_MAX;
  if (!/^[1-9]\d{0,6}$/.test(given))
    throw new RbeesError(
      "INVALID_REQUEST",
      `${CONNECT_VARIABLE} must be a whole number of milliseconds from 1 to 9999999, not "${given}".`,
    );
  return Number(given);
}

function flagsOf(world: World, { user, port }: Target, options: ConnectOptions): string[] {
  const settings = [
    "BatchMode=yes",
    `ConnectTimeout=${Math.max(1, Math.ceil(connectMsMax(world, options) / 1000))}`,
    "ServerAliveInterval=5",
    "ServerAliveCountMax=3",
    "LogLevel=ERROR",
    // What a configuration says for people at a terminal is not meant for us.
    "ClearAllForwardings=yes",
    "PermitLocalCommand=no",
    "RemoteCommand=none",
    "RequestTTY=no",
    "ForwardX11=no",
    "ForwardAgent=no",
  ];
  return [
    ...settings.flatMap((option) => ["-o", option]),
    ...(user === undefined ? [] : ["-l", user]),
    ...(port === undefined ? [] : ["-p", String(port)]),
  ];
}

/** The socket of a living connection, made if there is none. Undefined where ssh can't share connections. */
async function connect(world: World, target: Target, options: ConnectOptions): Promise<string | undefined> {
  const folder = process.platform === "win32" ? undefined : await socketFolder(world);
  const socket = folder === undefined ? undefined : join(folder, nameOf(world, target));
  if (socket === undefined || socket.length > SOCKET_PATH_MAX) {
    // Proven by a connection of its own, so that errors of the way and errors of the command stay apart.
    await login(world, target, [...flagsOf(world, target, options), "-o", "ControlPath=none", "--", target.host, "exit 0"], options);
    return undefined;
  }
  const wait_ms_max = 2 * connectMsMax(world, options) + LOGIN_MS_MAX;
  await withLock(`${socket}.lock`, { wait_ms_max, what: `connecting to ${target.name}` }, async () => {
    world.signal.throwIfAborted();
    if (await isAlive(world, target, socket)) return;
    const shared = ["-f", "-N", "-o", "ControlMaster=auto", "-o", `ControlPersist=${KEPT_SECONDS}`, "-o", `ControlPath=${socket}`];
    await login(world, target, [...flagsOf(world, target, options), ...shared, "--", target.host], options);
  });
  return socket;
}

async function isAlive(world: World, target: Target, socket: string): Promise<boolean> {
  return (await quiet(world, ["-o", `ControlPath=${socket}`, "-O", "check", "--", target.host])) === 0;
}

function quiet({ env }: World, args: readonly string[]): Promise<number | null> {
  const child = spawn("ssh", args, { stdio: "ignore", timeout: CHECK_MS_MAX, env });
  return new Promise((resolve) => {
    child.once("error", () => resolve(null));
    child.once("exit", resolve);
  });
}

/** Runs `ssh` until it has logged in; it then ends or goes to the background. */
async function login(world: World, target: Target, args: readonly string[], options: ConnectOptions): Promise<void> {
  const connect_ms_max = connectMsMax(world, options);
  world.signal.throwIfAborted();
  const child = spawn("ssh", args, { stdio: ["ignore", "ignore", "pipe"], detached: true, windowsHide: true, env: world.env });
  let said = "";
  child.stderr.setEncoding("utf8").on("data", (chunk: string) => {
    if (said.length < STDERR_BYTES_MAX) said += chunk;
  });
  let late = false;
  const end = () => child.kill("SIGKILL");
  const timer = setTimeout(() => {
    late = true;
    end();
  }, connect_ms_max + LOGIN_MS_MAX);
  world.signal.addEventListener("abort", end, { once: true });
  try {
    const code = await new Promise<number | null>((resolve, reject) => {
      child.once("error", (error: NodeJS.ErrnoException) => reject(sshMissing(error)));
      // The background process may keep the pipe: success is known before it closes.
      child.once("exit", (status) => status === 0 && resolve(0));
      child.once("close", resolve);
    });
    world.signal.throwIfAborted();
    if (code !== 0) throw connectionError(target, late ? `${said}\ntimed out` : said);
  } finally {
    clearTimeout(timer);
    world.signal.removeEventListener("abort", end);
    child.stderr.destroy();
    child.unref();
  }
}

export function sshMissing(error: NodeJS.ErrnoException): unknown {
  if (error.code !== "ENOENT") return error;
  return new RbeesError("NOT_FOUND", "There is no `ssh` on this machine: install OpenSSH's client, then try again.", { cause: error });
}

/** What `ssh` makes of the target, such as the address behind an alias. Asks nobody but its own configuration. */
export async function resolved(world: World, target: Target): Promise<{ hostname: string; user: string; port: string }> {
  const args = ["-G", ...flagsOf(world, target, {}), "--", target.host];
  const child = spawn("ssh", args, { stdio: ["ignore", "pipe", "ignore"], timeout: CHECK_MS_MAX, env: world.env });
  let out = "";
  child.stdout.setEncoding("utf8").on("data", (chunk: string) => {
    out += chunk;
  });
  await new Promise<void>((resolve, reject) => {
    child.once("error", (error: NodeJS.ErrnoException) => reject(sshMissing(error)));
    child.once("close", () => resolve());
  });
  const value = (key: string) => new RegExp(`^${key} (.+)$`, "m").exec(out)?.[1];
  return { hostname: value("hostname") ?? target.host, user: value("user") ?? "", port: value("port") ?? "22" };
}

/** Only we may enter it: whoever can open a socket in there can use the connection. */
async function socketFolder({ env }: World): Promise<string | undefined> {
  const uid = process.getuid?.() ?? 0;
  const runtime = env["XDG_RUNTIME_DIR"];
  const folder = runtime === undefined || runtime === "" ? join(tmpdir(), `rbees-${uid}`) : join(runtime, "rbees");
  try {
    await mkdir(folder, { mode: 0o700, recursive: runtime !== undefined && runtime !== "" });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST") return undefined;
  }
  const found = await lstat(folder);
  return found.isDirectory() && found.uid === uid && (found.mode & 0o077) === 0 ? folder : undefined;
}

function nameOf({ home }: World, { host, user, port }: Target): string {
  return createHash("sha256")
    .update(JSON.stringify([home.config, host, user, port]))
    .digest("hex")
    .slice(0, 12);
}
