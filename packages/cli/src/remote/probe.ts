/** What a machine has and lacks, asked with nothing but its `/bin/sh`. */
import { RbeesError } from "@rbees/contracts/errors";
import { PoolStatus } from "@rbees/contracts/pool";
import { NODE_MIN, nodeTooOld, VERSION } from "@rbees/kit/version";
import { z } from "zod";
import type { Context } from "../context.ts";
import { size } from "../look.ts";
import { call, LAUNCHER, lastLine, lastWords } from "./errand.ts";
import { commandLine } from "./quote.ts";
import { type ConnectOptions, startThere } from "./ssh.ts";
import { connectionError } from "./ssh-errors.ts";
import type { Target } from "./target.ts";

const SCRIPT_MS_MAX = 30_000;
const SSH_FAILED = 255;

/**
 * `sshd` gives commands a short path, so Node is looked for where it is usually installed too; the newest counts. The script is for
 * `/bin/sh`; each line of its answer is a key and a value.
 */
const PROBE = `
printf 'system %s\\n' "$(uname -s)"
printf 'machine %s\\n' "$(uname -m)"
printf 'home %s\\n' "$HOME"
printf 'disk_kb %s\\n' "$(df -Pk "$HOME" | awk 'NR==2 {print $4}')"
for n in "$(command -v node 2>/dev/null)" /opt/homebrew/bin/node /usr/local/bin/node /usr/bin/node "$HOME"/.local/bin/node "$HOME"/.volta/bin/node "$HOME"/.nvm/versions/node/*/bin/node "$HOME"/.local/share/fnm/node-versions/*/installation/bin/node "$HOME"/.local/share/mise/installs/node/*/bin/node "$HOME"/.asdf/installs/nodejs/*/bin/node; do
  [ -x "$n" ] && printf 'node %s %s\\n' "$("$n" -p '[process.versions.node, process.platform, process.arch, process.platform !== "linux" ? "none" : process.report.getReport().header.glibcVersionRuntime ? "glibc" : "musl"].join(" ")' 2>/dev/null)" "$n"
done
p=$(command -v rbees-pool) || p=${LAUNCHER}
[ -x "$p" ] && printf 'pool %s\\n' "$p"
exit 0
`;

export const FarNode = z.object({ version: z.string(), platform: z.string(), arch: z.string(), libc: z.string(), path: z.string() });
export type FarNode = z.infer<typeof FarNode>;

export interface Probe {
  system: string;
  home: string;
  disk_bytes: number | null;
  /** The newest Node.js there, whether it will do or not. */
  node: FarNode | undefined;
  /** Where rbees-pool is. */
  pool: string | undefined;
}

export async function probe(context: Context, target: Target, options: ConnectOptions = {}): Promise<Probe> {
  const lines = (await script(context, target, PROBE, [], options)).split("\n");
  const value = (key: string) => lines.find((line) => line.startsWith(`${key} `))?.slice(key.length + 1);
  const nodes = lines
    .map((line) => /^node (\S+) (\S+) (\S+) (\S+) (.+)$/.exec(line))
    .filter((found) => found !== null)
    .map(([, version = "", platform = "", arch = "", libc = "", path = ""]) => ({ version, platform, arch, libc, path }));
  const kilobytes = Number(value("disk_kb"));
  return {
    system: `${value("system")} ${value("machine")}`,
    home: value("home") ?? "",
    disk_bytes: Number.isFinite(kilobytes) ? kilobytes * 1024 : null,
    node: nodes.sort((a, b) => b.version.localeCompare(a.version, undefined, { numeric: true }))[0],
    pool: value("pool"),
  };
}

/** Runs a script for `/bin/sh` there and gives what it printed. Its stdin is `input`. */
export async function script(
  context: Context,
  target: Target,
  text: string,
  args: readonly string[],
  options: ConnectOptions & { input?: (stdin: NodeJS.WritableStream) => Promise<void>; ms_max?: number } = {},
): Promise<string> {
  const child = await startThere(context, target, `exec ${commandLine(["/bin/sh", "-c", text, "sh", ...args])}`, options);
  let out = "";
  let err = "";
  child.stdout.setEncoding("utf8").on("data", (chunk: string) => {
    out += chunk;
  });
  child.stderr.setEncoding("utf8").on("data", (chunk: string) => {
    err = (err + chunk).slice(-65_536);
  });
  // When the other side ends before it has read everything, its words and its exit code say why.
  child.stdin.on("error", () => {});
  const end = () => child.kill("SIGKILL");
  const timer = setTimeout(end, options.ms_max ?? SCRIPT_MS_MAX);
  context.signal.addEventListener("abort", end, { once: true });
  try {
    const closed = new Promise<number | null>((resolve, reject) => {
      child.once("error", reject);
      child.once("close", resolve);
    });
    if (options.input === undefined) child.stdin.end();
    else await Promise.race([options.input(child.stdin), closed]);
    const exit = await closed;
    context.signal.throwIfAborted();
    if (exit === 0) return out;
    if (exit === SSH_FAILED || exit === null) throw connectionError(target, exit === null ? "timed out" : err);
    throw new RbeesError("CONFLICT", `${target.name}: ${refusal(err) ?? `a command ended with exit code ${exit}`}`);
  } finally {
    clearTimeout(timer);
    context.signal.removeEventListener("abort", end);
  }
}

function refusal(err: string): string | undefined {
  if (/No space left on device/i.test(err)) return "its disk is full: make room there, then try again.";
  if (/quota exceeded/i.test(err)) return "your share of its disk is used up: make room there, then try again.";
  if (/Read-only file system/i.test(err)) return "its disk can't be written (Read-only file system).";
  return lastWords(err.split("\n"));
}

export interface Check {
  name: string;
  ok: boolean;
  /** What is wrong with it, in two words; where that is not said, there is none. */
  wrong?: string;
  found: string;
  /** What to do about it. */
  next?: string;
}

export interface Examination {
  ready: boolean;
  checks: Check[];
  status: PoolStatus | null;
  version: string | null;
}

/** Everything that a pool's machine needs, each with what is there and the next step. */
export async function examine(context: Context, target: Target, options: ConnectOptions = {}): Promise<Examination> {
  const found = await probe(context, target, options);
  const checks: Check[] = [{ name: "SSH", ok: true, found: `in, to ${found.system}` }, nodeCheck(target, found.node)];
  const { check, version } = await poolCheck(context, target, found, options);
  checks.push(check);
  const answer = check.ok ? await call(context, target, ["status", "--json"], { ...options, silent: true }) : undefined;
  const status = answer === undefined ? null : PoolStatus.parse(JSON.parse(lastLine(answer.out)));
  const devices = status === null ? undefined : devicesOf(status);
  if (devices !== undefined) checks.push(devices);
  const disk_bytes = status?.disk.available_bytes ?? found.disk_bytes;
  if (disk_bytes !== null) checks.push({ name: "disk", ok: true, found: `${size(disk_bytes)} free` });
  return { ready: checks.every(({ ok }) => ok), checks, status, version };
}

function nodeCheck({ name }: Target, node: FarNode | undefined): Check {
  const next = `install Node.js 24 LTS there (nodejs.org, or its package manager), then: rbees pool install --host ${name}`;
  if (node === undefined) return { name: "Node.js", ok: false, found: `none; rbees needs ${NODE_MIN} or newer`, next };
  const old = nodeTooOld(node.version) !== undefined;
  return {
    name: "Node.js",
    ok: !old,
    found: `${node.version} at ${node.path}${old ? `; rbees needs ${NODE_MIN} or newer` : ""}`,
    ...(old ? { wrong: "too old", next } : {}),
  };
}

async function poolCheck(
  context: Context,
  target: Target,
  { pool, node }: Probe,
  options: ConnectOptions,
): Promise<{ check: Check; version: string | null }> {
  const install = `rbees pool install --host ${target.name}`;
  const works = node !== undefined && nodeTooOld(node.version) === undefined;
  if (pool === undefined)
    return { check: { name: "rbees-pool", ok: false, found: "not there", ...(works ? { next: install } : {}) }, version: null };
  try {
    const { out } = await call(context, target, ["info", "--json"], { ...options, silent: true });
    const version = String(JSON.parse(lastLine(out)).version);
    const same = version === VERSION;
    const found = `${version} at ${pool}${same ? "" : `; here is ${VERSION}`}`;
    return {
      check: {
        name: "rbees-pool",
        ok: same,
        found,
        ...(same ? {} : { wrong: "other version", next: `rbees pool upgrade --host ${target.name}` }),
      },
      version,
    };
  } catch (error) {
    if (!(error instanceof RbeesError)) throw error;
    return { check: { name: "rbees-pool", ok: false, wrong: "broken", found: error.message, next: install }, version: null };
  }
}

function devicesOf({ backends, cpu }: PoolStatus): Check {
  const working = backends.filter(({ works }) => works);
  const found = working
    .map(({ backend, devices }) =>
      backend === "cpu" ? `cpu (${cpu.cores} cores)` : `${backend} (${devices.map(({ name }) => name).join(", ")})`,
    )
    .join(", ");
  const missing = backends.find(({ backend }) => backend === "cpu")?.reason ?? "";
  return working.length > 0 ? { name: "devices", ok: true, found } : { name: "devices", ok: false, wrong: "unusable", found: missing };
}
