/** A real systemd of a user, in mount and cgroup namespaces of its own, so that it can be started and ended like a machine. */
import { type ChildProcess, execFile, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { eventually } from "./cluster.ts";

const MANAGER = "/lib/systemd/systemd";
/** A hierarchy that the manager may divide, and the sign that systemd runs this machine, for what is in the namespace alone. */
const ROOM = `
set -e
if [ "$(stat -f -c %T /sys/fs/cgroup)" != cgroup2fs ]; then
  mount -t tmpfs none /sys/fs/cgroup
  mkdir /sys/fs/cgroup/unified
  mount -t cgroup2 none /sys/fs/cgroup/unified
fi
mkdir -p /run/systemd
mount -t tmpfs none /run/systemd
mkdir /run/systemd/system
`;

/** Why this machine can't have one; false when it can. */
export function noUserSystemd(): string | false {
  if (process.platform !== "linux") return "needs Linux";
  try {
    execFileSync("unshare", ["-m", "-C", "sh", "-c", `${ROOM}\ntest -x ${MANAGER} && command -v systemctl`], { stdio: "ignore" });
    return false;
  } catch {
    return "needs systemd's programs (apt-get install systemd) and the right to make mount and cgroup namespaces, as root has";
  }
}

export class UserSystemd {
  readonly #env: Readonly<Record<string, string | undefined>>;
  readonly #room: ChildProcess;
  #manager: ChildProcess | undefined;

  private constructor(room: ChildProcess, env: Readonly<Record<string, string | undefined>>) {
    this.#room = room;
    this.#env = env;
  }

  /** `folder` becomes the user's home. */
  static async open(folder: string, env: Readonly<Record<string, string | undefined>>): Promise<UserSystemd> {
    const [config, runtime] = [join(folder, "config"), join(folder, "runtime")];
    for (const made of [config, runtime]) mkdirSync(made, { recursive: true, mode: 0o700 });
    const room = spawn("unshare", ["-m", "-C", "sh", "-c", `${ROOM}\necho made\nexec sleep infinity`], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    await once(room.stdout, "data");
    return new UserSystemd(room, { ...env, HOME: folder, XDG_CONFIG_HOME: config, XDG_RUNTIME_DIR: runtime });
  }

  async run(command: string, ...args: string[]): Promise<{ exit: number; out: string; err: string }> {
    const words = ["-t", String(this.#room.pid), "-m", "-C", command, ...args];
    return promisify(execFile)("nsenter", words, { env: this.#env }).then(
      ({ stdout, stderr }) => ({ exit: 0, out: stdout, err: stderr }),
      ({ code, stdout, stderr }) => ({ exit: Number(code), out: String(stdout), err: String(stderr) }),
    );
  }

  async boot(): Promise<void> {
    const words = ["-t", String(this.#room.pid), "-m", "-C", MANAGER, "--user"];
    this.#manager = spawn("nsenter", words, { env: this.#env, stdio: "ignore" });
    await eventually(async () => /^(running|degraded)/.test((await this.run("systemctl", "--user", "is-system-running")).out));
  }

  /** As at the end of a machine: what it keeps is stopped. */
  async shutDown(): Promise<void> {
    const manager = this.#manager;
    if (manager === undefined || manager.exitCode !== null) return;
    const gone = once(manager, "exit");
    manager.kill("SIGTERM");
    await gone;
  }

  async close(): Promise<void> {
    await this.shutDown();
    this.#room.kill("SIGKILL");
  }
}
