/** `rbees pool install` and `upgrade`: rbees for a machine that has only Node.js, over the SSH connection alone. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { createGzip } from "node:zlib";
import { RbeesError } from "@rbees/contracts/errors";
import { NODE_MIN, nodeTooOld, VERSION } from "@rbees/kit/version";
import type { Context } from "../context.ts";
import { percent, size } from "../look.ts";
import { type Cargo, cargoFor } from "./cargo.ts";
import { lastLine } from "./errand.ts";
import { type FarNode, probe, script } from "./probe.ts";
import { type TarEntry, tar } from "./tar.ts";
import type { Target } from "./target.ts";

/** For the old version beside the new one, and what a worker writes. */
const SPARE_BYTES = 50_000_000;
const TRANSFER_MS_MAX = 3_600_000;
/** The last file of an archive: what was cut off lacks it. */
const COMPLETE = ".complete";

/** Arguments: version, node. Says whether that version is there, whole, and starts. */
const IS_THERE = `
new=$HOME/.local/share/rbees/versions/$1
[ -f "$new/${COMPLETE}" ] && "$2" "$new/rbees-pool.mjs" info --json >/dev/null 2>&1 && echo yes || echo no
`;

/** Arguments: version. Unpacks stdin beside the other versions; nothing of an attempt that failed is left. */
const UNPACK = `
set -eu
umask 022
versions=$HOME/.local/share/rbees/versions
mkdir -p "$versions"
new=$versions/.incoming-$$
trap 'rm -rf "$new"' EXIT
trap 'exit 1' HUP INT TERM
mkdir "$new"
tar -xzf - -C "$new"
[ -f "$new/${COMPLETE}" ] || { echo 'the archive arrived cut off' >&2; exit 1; }
rm -rf "$versions/$1"
mv "$new" "$versions/$1"
`;

/** Arguments: version, node. A version that does not even start is not made the current one; what a power cut left of an attempt goes. */
const ACTIVATE = `
set -eu
umask 022
root=$HOME/.local/share/rbees
new=$root/versions/$1
"$2" "$new/rbees-pool.mjs" info --json >/dev/null
old=$(readlink "$root/current" || true)
mkdir -p "$root/bin"
cat > "$root/bin/.rbees-pool-$$" <<END
#!/bin/sh
# Made by rbees pool install.
node='$2'
[ -x "\\$node" ] || node=node
exec "\\$node" "$root/current/rbees-pool.mjs" "\\$@"
END
chmod 755 "$root/bin/.rbees-pool-$$"
mv -f "$root/bin/.rbees-pool-$$" "$root/bin/rbees-pool"
rm -f "$root/.current-$$"
ln -s "versions/$1" "$root/.current-$$"
"$2" -e 'fs.renameSync(process.argv[1], process.argv[2])' "$root/.current-$$" "$root/current"
for left in "$root"/versions/.incoming-*; do
  kill -0 "\${left##*-}" 2>/dev/null || rm -rf "$left"
done
units=$(cat "\${XDG_CONFIG_HOME:-$HOME/.config}"/systemd/user/rbees-worker-*.service 2>/dev/null || true)
if running=$(ps -A -o args= 2>/dev/null); then
  for version in "$root"/versions/*; do
    [ "$version" = "$new" ] || [ "versions/\${version##*/}" = "$old" ] && continue
    case $running$units in *"$version/"*) ;; *) rm -rf "$version" ;; esac
  done
fi
"$root/bin/rbees-pool" backends list --json
`;

export interface Installed {
  host: string;
  version: string;
  before: string | null;
  node: string;
  platform: string;
  /** Bytes that went over the wire; null: the same version was there already. */
  sent_bytes: number | null;
  unpacked_bytes: number;
  ms: number;
  /** Backends that work there now. */
  backends: string[];
}

export interface InstallOptions {
  cuda: boolean;
  /** Only over an earlier installation. */
  upgrade: boolean;
}

export async function install(context: Context, target: Target, { cuda, upgrade }: InstallOptions): Promise<Installed> {
  if (target.here) throw new RbeesError("CONFLICT", "rbees is on this machine already: this is it.");
  const began = performance.now();
  context.progress(`looking at ${target.name}`);
  const found = await probe(context, target);
  const node = usableNode(target, found.node);
  if (upgrade && found.pool === undefined) {
    throw new RbeesError(
      "NOT_FOUND",
      `There is no rbees-pool on ${target.name} to bring up to date: \`rbees pool install --host ${target.name}\`.`,
    );
  }
  const scratch = await mkdtemp(join(tmpdir(), "rbees-cargo-"));
  try {
    const cargo = await cargoFor(context, node, { cuda, scratch });
    const there = lastLine(await script(context, target, IS_THERE, [cargo.version, node.path])) === "yes";
    const sent_bytes = there ? null : await send(context, target, cargo, found.disk_bytes);
    context.progress(`starting rbees on ${target.name}`);
    const answer = await script(context, target, ACTIVATE, [cargo.version, node.path]);
    context.progress(undefined);
    const { backends } = JSON.parse(lastLine(answer)) as { backends: { backend: string; works: boolean }[] };
    return {
      host: target.name,
      version: cargo.version,
      before: found.pool ?? null,
      node: node.version,
      platform: `${node.platform} ${node.arch}`,
      sent_bytes,
      unpacked_bytes: cargo.bytes,
      ms: Math.round(performance.now() - began),
      backends: backends.filter(({ works }) => works).map(({ backend }) => backend),
    };
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}

function usableNode({ name }: Target, node: FarNode | undefined): FarNode {
  const how = "install Node.js 24 LTS there (nodejs.org, or its package manager), then try again.";
  if (node === undefined) throw new RbeesError("CONFLICT", `There is no Node.js on ${name}; rbees needs ${NODE_MIN} or newer: ${how}`);
  if (nodeTooOld(node.version) !== undefined)
    throw new RbeesError(
      "CONFLICT",
      `The newest Node.js on ${name} is ${node.version} (${node.path}); rbees needs ${NODE_MIN} or newer: ${how}`,
    );
  return node;
}

async function send(context: Context, target: Target, { entries, bytes, version }: Cargo, disk_bytes: number | null): Promise<number> {
  const needed = bytes + SPARE_BYTES;
  if (disk_bytes !== null && disk_bytes < needed) {
    throw new RbeesError(
      "CONFLICT",
      `The disk of ${target.name} has ${size(disk_bytes)} free, and ${size(needed)} are needed: make room there, then try again.`,
    );
  }
  let read = 0;
  let sent = 0;
  const complete: TarEntry = { path: COMPLETE, mode: 0o644, bytes: 0, from: { content: Buffer.alloc(0) } };
  async function* counted() {
    for await (const chunk of tar([...entries, complete])) {
      read += chunk.length;
      context.progress(`sending rbees ${VERSION} to ${target.name}`, `${percent(Math.min(read, bytes), bytes)} of ${size(bytes)}`);
      yield chunk;
    }
  }
  // Most of it is machine code that gets little smaller: a higher level takes half as long again for 3 % less.
  const gzip = createGzip({ level: 1 });
  gzip.on("data", (chunk: Buffer) => {
    sent += chunk.length;
  });
  await script(context, target, UNPACK, [version], {
    ms_max: TRANSFER_MS_MAX,
    input: (stdin) => pipeline(Readable.from(counted()), gzip, stdin).catch(() => {}),
  });
  return sent;
}
