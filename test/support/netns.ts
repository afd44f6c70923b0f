/** Machines made of network namespaces: each with an address, a name and a cable of its own, all on one switch. */
import { execFileSync, spawnSync } from "node:child_process";

/** Why there can be none here; false when there can. */
export function noNamespaces(): string | false {
  if (process.platform !== "linux") return "network namespaces are a matter of Linux";
  if (process.getuid?.() !== 0) return "making network namespaces takes root";
  const name = `rbees-try-${process.pid}`;
  const made = spawnSync("ip", ["netns", "add", name], { encoding: "utf8" });
  if (made.error !== undefined) return "there is no `ip` here (Debian: apt-get install iproute2)";
  if (made.status !== 0) return `no network namespace can be made here: ${made.stderr.trim()}`;
  const wired = spawnSync("ip", ["netns", "exec", name, "ip", "link", "add", "br0", "type", "bridge"], { encoding: "utf8" });
  spawnSync("ip", ["netns", "del", name]);
  return wired.status === 0 ? false : `no bridge can be made here: ${wired.stderr.trim()}`;
}

export interface Machine {
  readonly name: string;
  readonly address: string;
  /** Words before a command that runs on this machine. */
  readonly prefix: readonly string[];
  /** Pulls the cable, or plugs it in. */
  cable(plugged: boolean): void;
}

/** The first machine holds the switch. `close` ends all that runs on any of them. */
export function machines(names: readonly string[]): { all: Machine[]; close(): void } {
  const spaces = names.map((name) => `rbees-${process.pid}-${name}`);
  const [hub = ""] = spaces;
  const ip = (...words: string[]) => execFileSync("ip", words, { stdio: ["ignore", "ignore", "pipe"] });
  const all = names.map((name, index): Machine => {
    const space = spaces[index] ?? "";
    const address = `10.77.0.${index + 1}`;
    ip("netns", "add", space);
    ip("-n", space, "link", "set", "lo", "up");
    if (index === 0) {
      ip("-n", space, "link", "add", "br0", "type", "bridge");
      ip("-n", space, "addr", "add", `${address}/24`, "dev", "br0");
      ip("-n", space, "link", "set", "br0", "up");
    } else {
      const port = `port${index}`;
      ip("-n", hub, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", space);
      ip("-n", hub, "link", "set", port, "master", "br0", "up");
      ip("-n", space, "addr", "add", `${address}/24`, "dev", "eth0");
      ip("-n", space, "link", "set", "eth0", "up");
    }
    return {
      name,
      address,
      prefix: ["ip", "netns", "exec", space, "unshare", "--uts", "sh", "-c", 'hostname "$0"; exec "$@"', name],
      cable: (plugged) => void ip("-n", hub, "link", "set", `port${index}`, plugged ? "up" : "down"),
    };
  });
  return {
    all,
    close() {
      for (const space of spaces) {
        const pids = spawnSync("ip", ["netns", "pids", space], { encoding: "utf8" }).stdout ?? "";
        for (const pid of pids.split("\n").filter((line) => line !== "")) {
          try {
            process.kill(Number(pid), "SIGKILL");
          } catch {
            // It was quicker.
          }
        }
        spawnSync("ip", ["netns", "del", space]);
      }
    },
  };
}
