/** A real sshd for tests: a random port of loopback, keys of its own, and a home folder of its own for whoever comes in. */
import { execFileSync, spawn } from "node:child_process";
import { accessSync, chmodSync, constants, existsSync, mkdirSync, writeFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { userInfo } from "node:os";
import { dirname, join } from "node:path";
import { quickStart } from "../../../test/support/quick-start.ts";
import { freePort } from "./harness.ts";

const SSHD = ["/usr/sbin/sshd", "/usr/local/sbin/sshd"].find((path) => existsSync(path));
const SSH = ["/usr/bin/ssh", "/usr/local/bin/ssh"].find((path) => existsSync(path));

/** Why there can be no sshd here; false when there can. */
export function noSshd(): string | false {
  if (process.platform === "win32") return "no sshd on Windows";
  if (SSHD === undefined) return "no sshd on this machine (Debian: apt-get install openssh-server)";
  if (SSH === undefined) return "no ssh on this machine (Debian: apt-get install openssh-client)";
  try {
    // Where sshd, started by root, locks away the part of it that talks to strangers.
    if (process.getuid?.() === 0) mkdirSync("/run/sshd", { recursive: true, mode: 0o755 });
    accessSync(SSHD, constants.X_OK);
  } catch (error) {
    return `sshd can't be started: ${(error as Error).message}`;
  }
  return false;
}

export interface Sshd {
  readonly port: number;
  /** What lies in this folder is the other machine's. */
  readonly home: string;
  /** Environment for a client: its `ssh` knows the host `atlas`, this sshd. */
  readonly env: { PATH: string; XDG_RUNTIME_DIR: string };
  readonly known_hosts: string;
  readonly folder: string;
  readonly pid: number;
  /** What sshd has said. */
  log(): string;
  /** Puts a program where `rbees pool install` would. */
  installPool(program: readonly string[]): void;
  stop(): Promise<void>;
  /** Starts it again at the same port. */
  start(): Promise<void>;
}

export interface SshdOptions {
  /** `PATH` of the far side; this process's Node first, and no rbees, unless told otherwise. */
  path?: string;
  address?: string;
  port?: number;
  /** Words before the command, such as those that enter a network namespace. */
  prefix?: readonly string[];
  more_config?: readonly string[];
  /** In place of the user's home. */
  env?: Record<string, string>;
}

export async function startSshd(after: (clean: () => Promise<void>) => void, options: SshdOptions = {}): Promise<Sshd> {
  const folder = await mkdtemp("/tmp/rbees-ssh-");
  const home = join(folder, "home");
  const run = join(folder, "run");
  const bin = join(folder, "bin");
  for (const made of [home, run, bin]) mkdirSync(made, { mode: 0o700 });
  for (const key of ["host_key", "key"])
    execFileSync("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-C", "rbees-test", "-f", join(folder, key)]);
  const { address = "127.0.0.1", port = await freePort(), prefix = [], more_config = [], path, env = {} } = options;
  const far_env = { HOME: home, PATH: path ?? `${dirname(process.execPath)}:/usr/bin:/bin`, ...quickStart(), ...env };
  execFileSync("cp", [join(folder, "key.pub"), join(folder, "authorized_keys")]);
  const config = join(folder, "sshd_config");
  writeFileSync(
    config,
    `${[
      `Port ${port}`,
      `ListenAddress ${address}`,
      `HostKey ${join(folder, "host_key")}`,
      `AuthorizedKeysFile ${join(folder, "authorized_keys")}`,
      "PidFile none",
      "StrictModes no",
      "UsePAM no",
      "PasswordAuthentication no",
      "KbdInteractiveAuthentication no",
      "PermitRootLogin prohibit-password",
      "MaxStartups 100",
      `SetEnv ${Object.entries(far_env)
        .map((pair) => `"${pair.join("=")}"`)
        .join(" ")}`,
      ...more_config,
    ].join("\n")}\n`,
  );
  const known_hosts = join(folder, "known_hosts");
  const host_key = execFileSync("cat", [join(folder, "host_key.pub")], { encoding: "utf8" });
  writeFileSync(known_hosts, `${port === 22 ? address : `[${address}]:${port}`} ${host_key}`);
  writeFileSync(
    join(folder, "ssh_config"),
    `Host atlas
  HostName ${address}
  Port ${port}
  User ${userInfo().username}
Host *
  IdentityFile ${join(folder, "key")}
  IdentitiesOnly yes
  IdentityAgent none
  UserKnownHostsFile ${known_hosts}
  GlobalKnownHostsFile /dev/null
`,
  );
  writeFileSync(join(bin, "ssh"), `#!/bin/sh\nexec ${SSH} -F ${join(folder, "ssh_config")} "$@"\n`);
  chmodSync(join(bin, "ssh"), 0o755);

  let log = "";
  let child: ReturnType<typeof spawn> | undefined;
  const start = async () => {
    const [program = "", ...args] = [...prefix, SSHD ?? "sshd", "-D", "-e", "-f", config];
    let said = "";
    const started = spawn(program, args, { stdio: ["ignore", "ignore", "pipe"] });
    child = started;
    await new Promise<void>((resolve, reject) => {
      started.stderr?.setEncoding("utf8").on("data", (chunk: string) => {
        said += chunk;
        log += chunk;
        if (said.includes("Server listening")) resolve();
      });
      started.once("error", reject);
      started.once("exit", () => reject(new Error(`sshd ended: ${said}`)));
    });
  };
  const stop = async () => {
    const running = child;
    if (running === undefined || running.exitCode !== null || running.signalCode !== null) return;
    const ended = new Promise((resolve) => running.once("exit", resolve));
    running.kill("SIGKILL");
    await ended;
  };
  after(async () => {
    // Connections outlive their listener; each has its command line to be known by.
    await stop();
    for (const line of processes()) if (line.args.includes(folder)) kill(line.pid);
    await rm(folder, { recursive: true, force: true });
  });
  await start();
  return {
    port,
    home,
    env: { PATH: `${bin}:${dirname(process.execPath)}:/usr/bin:/bin`, XDG_RUNTIME_DIR: run },
    known_hosts,
    folder,
    log: () => log,
    installPool(program) {
      const launcher = join(home, ".local/share/rbees/bin");
      mkdirSync(launcher, { recursive: true });
      writeFileSync(join(launcher, "rbees-pool"), `#!/bin/sh\nexec ${program.join(" ")} "$@"\n`);
      chmodSync(join(launcher, "rbees-pool"), 0o755);
    },
    get pid() {
      return child?.pid ?? 0;
    },
    stop,
    start,
  };
}

export function processes(what: "args" | "ppid" = "args"): { pid: number; args: string }[] {
  return execFileSync("ps", ["-A", "-ww", "-o", `pid=,${what}=`], { encoding: "utf8" })
    .split("\n")
    .map((line) => /^\s*(\d+) +(.*)$/.exec(line))
    .filter((found) => found !== null)
    .map((found) => ({ pid: Number(found[1]), args: found[2] ?? "" }));
}

function kill(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // It was quicker.
  }
}
